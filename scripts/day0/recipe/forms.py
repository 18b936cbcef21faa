"""The forms of recipes that are made of others: formats chosen by sensitivity, and layers of a recipe protected."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from day0.base.mistakes import PositiveInteger, Strict, nearest, or_bare_text

Protection = Literal["fp8", "bf16"]
FAMILY_NAMES = ("attention", "mlp", "experts", "lm_head")


class BySensitivity(Strict):
    """A format for each group of layers, so that the weights take a given number of bits on average."""

    formats: list[str] = Field(
        min_length=1, description="presets of ModelOpt to choose from, such as nvfp4 and fp8; 16 bits are one too"
    )
    bits: Annotated[float, Field(gt=0, lt=16, strict=True, allow_inf_nan=False)] = Field(
        description="most bits of a weight on average, over the linear layers that are chosen for"
    )
    lm_head: bool = Field(False, strict=True, description="choose a format for lm_head too; else it is left alone")

    @model_validator(mode="after")
    def _each_once(self) -> BySensitivity:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats: found {', '.join(self.formats)}; name each once")
        return self


class Protected(Strict):
    """Layers that a recipe is to protect: by name, by sensitivity or by block; a bare text is ``modules``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=or_bare_text("modules"))

    modules: str | None = Field(
        None,
        description=f"a family ({', '.join(FAMILY_NAMES)}), or a pattern of modules' names, such as *.layers.0.*",
    )
    groups: PositiveInteger | None = Field(None, description="that many of the most sensitive groups of layers")
    first: PositiveInteger | None = Field(None, description="that many blocks from the first one on")
    last: PositiveInteger | None = Field(None, description="that many blocks up to the last one")

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        return {"modules": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_kind(self) -> Protected:
        kinds = (self.modules is not None, self.groups is not None, self.first is not None or self.last is not None)
        if sum(kinds) != 1:
            raise ValueError(
                f"expected a family ({', '.join(FAMILY_NAMES)}), a pattern of modules' names, {{groups: 4}}, "
                "or {first: 3, last: 2}"
            )
        if self.modules is not None and self.modules not in FAMILY_NAMES and not set(self.modules) & set("*?[."):
            raise ValueError(
                f"found {self.modules!r}{nearest(self.modules, FAMILY_NAMES)}; expected one of the families "
                f"{', '.join(FAMILY_NAMES)}, or a pattern of modules' names, such as *.layers.0.*"
            )
        return self

    def __str__(self) -> str:
        if self.modules is not None:
            return repr(self.modules)
        given = {name: getattr(self, name) for name in ("groups", "first", "last")}
        return "{" + ", ".join(f"{name}: {value}" for name, value in given.items() if value is not None) + "}"
