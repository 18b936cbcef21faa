"""The forms of recipes that choose formats by layer or are made of others; ModelOpt's own search of formats is one."""

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


# A format in the keys of ModelOpt's class of that name, or the name of an imported one. Patterns of layers are texts or
# imported lists.
QuantizeConfig = dict[Literal["quant_cfg", "algorithm", "effective_bits", "$import"], Any]
LayerPatterns = list[str | dict[Literal["$import"], str]]


class SearchCost(Strict):
    """What else the budget of a search of formats depends on."""

    active_moe_expert_ratio: Annotated[float, Field(gt=0, le=1, strict=True, allow_inf_nan=False)] | None = Field(
        None, description="share of the routed experts that a token uses, for the cost model active_moe"
    )


class SearchConstraints(Strict):
    """The budget of a search of formats."""

    effective_bits: Annotated[float, Field(gt=0, le=16, strict=True, allow_inf_nan=False)] = Field(
        4.8, description="most bits of a weight on average"
    )
    cost_model: Literal["weight", "active_moe"] = Field(
        "weight", description="weight: all weights count alike; active_moe: routed experts by the share in use"
    )
    cost: SearchCost | None = None


class SearchSpace(Strict):
    """The formats that a search may choose for modules by their names."""

    module_name_patterns: LayerPatterns = Field(min_length=1, description="patterns of modules' names")
    candidate_formats: list[QuantizeConfig] = Field(min_length=1, description="formats to choose from for these")
    allow_no_quant: bool = Field(True, strict=True, description="16 bits may be chosen for these too")


class AutoQuantize(Strict):
    """ModelOpt's search of a format for each layer, as in its recipe files (modelopt/recipe/config.py, 0.47)."""

    constraints: SearchConstraints
    candidate_formats: list[QuantizeConfig] = Field([], description="formats to choose from; 16 bits are one too")
    module_search_spaces: list[SearchSpace] = Field([], description="formats to choose from by modules' names")
    auto_quantize_method: Literal["gradient", "kl_div"] = Field(
        "gradient", description="how layers are scored; gradient needs a backward pass, kl_div does not"
    )
    score_size: PositiveInteger = Field(128, description="calibration texts that layers are scored on")
    disabled_layers: LayerPatterns = Field([], description="patterns of layers that stay in 16 bits")
    cost_excluded_layers: LayerPatterns = Field([], description="patterns of layers that do not count for the budget")
    kv_cache: QuantizeConfig | None = Field(None, description="format of the KV cache, set after the search")

    @model_validator(mode="after")
    def _something_to_choose(self) -> AutoQuantize:
        if not self.candidate_formats and not self.module_search_spaces:
            raise ValueError("a search needs candidate_formats, or module_search_spaces; found neither")
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
