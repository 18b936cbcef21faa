"""A recipe in its resolved form, as the plan hands it to the quantize stage, which records it for the gate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from day0.base.mistakes import LocalPath, PositiveInteger, Strict
from day0.records.record import Record, Sha256

Kind = Literal["preset", "modelopt_recipe", "file", "inline", "imported", "search"]
UNKNOWN = "unknown"
LOCAL_DATASET_SUFFIXES = (".jsonl", ".txt")
KV_CACHE_NONE = "none"
NOT_OF_THE_WEIGHTS = frozenset({"description", "calibration", "serving"})


class Calibration(Strict):
    """Texts that the activations are measured on."""

    dataset: LocalPath | None = Field(
        None,
        description="local file (.jsonl: an object a line, .txt: a text a line) or the name of a ModelOpt data set",
    )
    samples: PositiveInteger = Field(
        512, description="texts used, the first ones in the file's order; unless given, 512, and 64 on a CPU"
    )
    sequence_length: PositiveInteger = Field(512, description="tokens at which a text is cut")
    batch_size: PositiveInteger = 8
    text_field: str = Field("text", description="field of a .jsonl file's objects that holds the text")

    @property
    def local_file(self) -> Path | None:
        """The local file meant by ``dataset``, or None for a ModelOpt data set."""
        return Path(self.dataset) if self.dataset and self.dataset.endswith(LOCAL_DATASET_SUFFIXES) else None


class ResolvedRecipe(Record):
    """A recipe found by its name and checked; ``file`` is the recipe file it was read from."""

    model_config = ConfigDict(frozen=True)

    name: str
    kind: Kind
    definition: dict[str, Any] = Field(
        description="the recipe in full, with the keys of a recipe file; of kind imported: the checkpoint's folder; "
        "of kind search: nothing, for none was chosen"
    )
    digest: Sha256 = Field(description="of what decides the weights: all but description, calibration and serving")
    file: SkipJsonSchema[Path | None] = Field(None, exclude=True, repr=False)

    @property
    def checkpoint(self) -> str | None:
        """The folder of a checkpoint that was made elsewhere, or None."""
        return self.definition["checkpoint"] if self.kind == "imported" else None

    @property
    def path_name(self) -> str:
        """The recipe's name as the name of a folder."""
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.name.replace("/", "--"))

    def of_the_weights(self) -> ResolvedRecipe:
        """The recipe without what does not decide the weights, so that a change of that quantizes nothing again."""
        kept = {key: value for key, value in self.definition.items() if key not in NOT_OF_THE_WEIGHTS}
        return self.model_copy(update={"definition": kept})
