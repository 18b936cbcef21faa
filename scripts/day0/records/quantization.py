"""The data type of quantization.json: how a checkpoint was made, or why it could not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from day0.base.artefacts import read_json
from day0.records.failure_class import FailureClass
from day0.records.files import Files
from day0.records.recipe import Calibration, ResolvedRecipe
from day0.records.record import Artefact, Count, Number, Record, Sha256
from day0.records.source import Source


class ModelOptConfiguration(Record):
    """What ModelOpt was given, in its own terms, with every import filled in; null: the recipe has no such part."""

    quantize: dict[str, Any] | None = None
    auto_quantize: dict[str, Any] | None = None
    kv_cache: dict[str, Any] | None = None


class RecordedRecipe(ResolvedRecipe):
    """The recipe as it was asked for, and what ModelOpt was given for it."""

    quant_cfg: ModelOptConfiguration | None = Field(None, description="null: it was not recorded")


class FormatSearch(Record):
    """What a search of formats by layer found."""

    is_satisfied: bool = Field(description="whether the formats meet the constraints")
    constraints: dict[str, Any] = Field(description="ModelOpt's own, such as effective_bits")


class Quantizers(Record):
    """ModelOpt's quantizers in the quantized model."""

    enabled: Count
    disabled: Count
    summary: list[str] = Field(description="a line each; in a large model those of many layers are folded into one")


class Quantization(Artefact):
    """quantization.json: the record of the quantize stage, or of the import of a checkpoint that was made elsewhere."""

    schema_name: ClassVar[str] = "quantization"

    status: Literal["done", "failed"] = Field(description="failed: a second run would fail again")
    failure_class: FailureClass | None
    detail: str = Field(description="why it failed; empty where it did not")
    model: str
    source_digest: Sha256 | None = Field(description="of the source model; null where only its folder was given")
    recipe: RecordedRecipe
    sensitivity_sha256: Sha256 | None = Field(
        None, description="of the sensitivity.json that the recipe was worked out by; null where it needs none"
    )
    kv_cache: str | None = Field(description="KV-cache preset; none: the cache is left alone; null: as the recipe is")
    calibration: Calibration | None = Field(description="null: not known, as of a checkpoint that was made elsewhere")
    seed: int | None = Field(description="null: not known")
    device: str | None = Field(description="null: not known")
    versions: dict[str, str] = Field(
        description="of Python and the main packages; of a checkpoint that was made elsewhere: as it declares them"
    )
    duration_seconds: dict[str, Number] = Field(description="by step, and in total")
    peak_memory_bytes: Count | None = Field(description="largest resident memory of the process")
    peak_gpu_memory_bytes: Count | None = Field(description="largest allocation on all GPUs together; null: on CPU")
    search: FormatSearch | None = Field(description="null where the recipe searches nothing")
    quantizers: Quantizers | None = Field(description="null where quantizing failed")
    files: Files = Field(description="of the checkpoint, by path relative to its folder")
    checkpoint_digest: Sha256 | None = Field(description="over names and digests of all files; null where it failed")

    @classmethod
    def begun(cls, **known: Any) -> Quantization:
        """The record of a checkpoint of which only what is given is known yet; see the fields."""
        return cls(
            status="done",
            failure_class=None,
            detail="",
            duration_seconds={},
            peak_memory_bytes=None,
            peak_gpu_memory_bytes=None,
            search=None,
            quantizers=None,
            files={},
            checkpoint_digest=None,
            **known,
        )


def read_checkpoint_record(path: Path) -> Source | Quantization:
    """The record of a checkpoint that is served: source.json of a baseline's, quantization.json of a candidate's.

    Raises:
        UnusableInput: it is neither.
    """
    content = read_json(path)
    return Quantization.parse(content, path) if "recipe" in content else Source.parse(content, path)
