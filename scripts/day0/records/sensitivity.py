"""The data type of sensitivity.json: what each group of layers loses in each format, measured once for a model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from day0.records.failure_class import FailureClass
from day0.records.recipe import Calibration
from day0.records.record import Artefact, Count, Number, Record, Sha256


class LayerGroup(Record):
    """Linear layers that an engine fuses or serves as one, so that they must share one format."""

    modules: list[str] = Field(description="by their names in memory; a layer's experts that are fused are one module")
    quantizers: list[str] = Field(description="ModelOpt's quantizers of their weights and inputs")
    weights: Count = Field(description="elements of their weights")
    scores: dict[str, Number] = Field(
        description="by format: what the model's answers lose where only this group is quantized, as KL divergence "
        "summed over the scored batches; higher is worse"
    )


class Sensitivity(Artefact):
    """sensitivity.json: what each group of layers loses in each format; of a model and its calibration."""

    schema_name: ClassVar[str] = "sensitivity"

    status: Literal["done", "failed"] = Field(description="failed: a second run would fail again")
    failure_class: FailureClass | None
    detail: str = Field(description="why it failed; empty where it did not")
    model: str
    source_digest: Sha256 | None = Field(description="of the source model; null where only its folder was given")
    calibration: Calibration
    scored_texts: Count = Field(description="calibration texts that the scores are of, the first ones")
    formats: dict[str, Number] = Field(description="bits of a weight by format, ModelOpt's effective bits")
    groups: list[LayerGroup] = Field(description="in the order of the model; only what a recipe may quantize")
    emulated: list[str] = Field(description="formats that were rounded in torch, as ModelOpt's kernels need CUDA")
    seed: int
    device: str
    versions: dict[str, str] = Field(description="of Python and the main packages")
    duration_seconds: dict[str, Number] = Field(description="by step, and in total")
