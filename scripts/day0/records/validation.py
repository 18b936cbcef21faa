"""The data type of validation.json: whether a checkpoint is what its recipe promises."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from day0.records.assessment import Assessment
from day0.records.record import Count, Number, Record, Sha256

Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FamilyCoverage(Record):
    """The weight matrices of a family (attention, MLP, experts and so on)."""

    layers: Count
    quantized: Count
    intended: Count = Field(description="those that the recipe's patterns quantize")
    coverage: Literal["none", "partial", "whole"]
    bits_per_weight: Ratio | None = Field(description="as held, scales included; null where there are no weights")
    expected_bits_per_weight: Ratio | None = Field(None, description="by the recipe and the source's shapes")


class LayerRow(Record):
    """A row of the layer map: the matrices of one kind of module through the layers."""

    module: str = Field(description="name with * for the numbers of layer and expert")
    family: str
    runs: list[tuple[int | None, int | None, str, Count]] = Field(
        description="first layer, last layer, precision, number of matrices; the layers are null outside the stack"
    )


class MetadataDiff(Record):
    """A change beside the weights."""

    field: str = Field(description="FILE: KEY, or a file")
    source: Any = Field(None, description="value in the source model")
    output: Any = Field(None, description="value in the checkpoint")
    expected: bool = Field(description="whether quantizing is expected to change it")


class ValueErrors(Record):
    """Relative errors of dequantized matrices against the source's, of one algorithm."""

    matrices: Count = Field(description="that were compared")
    median: Ratio | None = Field(description="null where it is infinite")
    largest: Ratio | None
    limit: Ratio = Field(description="largest that a row of a sound matrix may have")


class ValidationCheck(Record):
    """One check; the numbers are there where the check has them."""

    name: str
    passed: bool = Field(alias="pass")
    detail: str
    quantized: Count | None = None
    layers: Count | None = None
    mismatches: Count | None = Field(None, description="layers that are not as they should be")
    families: dict[str, FamilyCoverage] | None = None
    scalars: Count | None = Field(None, description="scalar scales that were read")
    bytes_read: Count | None = None
    compared: Count | None = Field(None, description="matrices or tensors that were compared with the source's")
    matrices: Count | None = Field(None, description="quantized matrices that can be compared")
    tensors: Count | None = Field(None, description="tensors that are not quantized")
    seed: Count | None = Field(None, description="chose what was compared; absent where everything was")
    errors: dict[str, ValueErrors] | None = Field(None, description="by algorithm")
    source_bytes: Count | None = None
    output_bytes: Count | None = None
    size_ratio: Ratio | None = None
    least_ratio: Ratio | None = None
    largest_ratio: Ratio | None = None
    tolerance: Ratio | None = None
    expected_bytes: Count | None = None
    expected_ratio: Ratio | None = None
    bits_per_weight: Ratio | None = None
    expected_bits_per_weight: Ratio | None = None
    engine: str | None = None
    version: str | None = Field(None, description="of the engine")
    version_of_table: str | None = Field(None, description="of the engine whose rules were applied")
    offenders: list[str] = Field(description="names of layers, tensors or files, all of them")

    @model_serializer(mode="wrap")
    def _without_absent_numbers(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Validation(Assessment):
    """validation.json: the assessment of a checkpoint."""

    schema_name: ClassVar[str] = "validation"

    recipe: str = Field(description="name of the recipe")
    checks: list[ValidationCheck]
    source_bytes: Count = Field(description="bytes of the source's tensors")
    output_bytes: Count = Field(description="bytes of the checkpoint's tensors")
    size_ratio: Number | None = Field(description="checkpoint to source; null where the checkpoint could not be read")
    bits_per_weight: Number | None
    layer_precision_counts: dict[str, Count] = Field(description="weight matrices by precision")
    families: dict[str, FamilyCoverage] = Field({}, description="empty where no layer was read")
    layer_map: list[LayerRow] = Field([], description="empty where no layer was read")
    metadata_diffs: list[MetadataDiff]
    offenders: list[str] = Field(description="of all failed checks")
    checkpoint_digest: Sha256 | None = Field(None, description="as the record has it; null without a record")
    source_digest: Sha256 | None = None
    recipe_digest: Sha256 | None = None
