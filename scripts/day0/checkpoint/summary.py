"""What the checks of a checkpoint look at: its layers and all else that was read of it, or given by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from day0.base.cli import UnusableInput
from day0.checkpoint.configs import Change, is_expected
from day0.checkpoint.formats import FULL_PRECISION
from day0.checkpoint.intentions import Intention
from day0.checkpoint.vllm_rules import DEFAULT_NVFP4_GROUP
from day0.records.failure_class import FailureClass

if TYPE_CHECKING:
    from day0.checkpoint.contents import Contents

# Ends the precision of a layer that holds the source's own quantized weights.
KEPT = ", as in the source"
# What the original design's summaries count beside precisions: layers left alone, and layers with two kinds of faults.
LEFT_ALONE, LEFT_OUT, MISDECLARED = "BF16_or_excluded", "unexpected_unquantized", "declaration_mismatch"
_PRECISIONS = {LEFT_ALONE: "BF16", "INT4": "W4A16_AWQ"}  # by the names that declarations have for them
_LARGEST = 2**63
COUNT = Annotated[int, Field(ge=0, lt=_LARGEST, strict=True)]
BYTES = Annotated[int, Field(gt=0, lt=_LARGEST, strict=True)]


class _GivenSummary(BaseModel):
    """A summary as given by hand."""

    model_config = ConfigDict(extra="ignore", defer_build=True)

    source_bytes: BYTES
    output_bytes: BYTES
    recipe: Annotated[str, Field(min_length=1, strict=True)]
    layer_precision_counts: Annotated[dict[str, COUNT], Field(min_length=1)]
    metadata_diffs: list[dict[str, Any] | str]
    parameters: BYTES | None = None

    @field_validator("layer_precision_counts")
    @classmethod
    def _counts_are_whole(cls, counts: dict[str, int]) -> dict[str, int]:
        missing = sorted({LEFT_OUT, MISDECLARED} - counts.keys())
        if missing and counts.keys() & {LEFT_ALONE, LEFT_OUT, MISDECLARED}:
            raise ValueError(f"lacks {' and '.join(missing)}; what was not counted is not 0")
        return counts


class Layer(NamedTuple):
    """A weight matrix of the checkpoint; matrices that are alike share one object.

    ``precision`` is what its tensors say, ``declared`` the algorithm that the checkpoint declares for it (None: full
    precision or undeclared), ``intended`` what the recipe's patterns ask for (False: nothing, None: they do not
    decide it). ``problem`` is what is wrong with its tensors taken alone. ``elements`` are those of the weight before,
    ``bytes`` what it takes with its scales, ``expected`` what it should take: by the recipe where it gives one, else by
    the format it holds, None for one that stays as the source has it. ``inputs`` are its in-features (0: not
    known); ``group`` the values per scale (0: not in groups);
    ``scale`` the short name of the scales' tensor.
    """

    precision: str
    declared: str | None = None
    is_excluded: bool = False
    is_linear: bool = True
    intended: bool | Intention | None = None
    problem: str | None = None
    family: str = "other"
    elements: int = 0
    bytes: int = 0
    expected: int | None = None
    inputs: int = 0
    group: int = 0
    scale: str = ""

    @property
    def is_quantized(self) -> bool:
        """Whether its weight is held in another format than full precision, and than the source's own."""
        return self.precision not in FULL_PRECISION and not self.precision.endswith(KEPT)

    @property
    def is_unwanted(self) -> bool:
        """Whether it is quantized though the recipe leaves it alone: then how it is quantized is no finding."""
        return self.intended is False and self.is_quantized


def distinct(layers: Mapping[str, Layer]) -> list[tuple[Layer, int]]:
    """Each layer once with its count; matrices that are alike share one object, of which a large model has few."""
    keys = list(map(id, layers.values()))
    counts = Counter(keys)
    return [(layer, counts[key]) for key, layer in dict(zip(keys, layers.values(), strict=True)).items()]


@dataclass(frozen=True)
class CheckpointSummary:
    """Everything the checks look at. A summary given by hand has the first five fields only; the rest stays None.

    ``remark_on_patterns`` says where the patterns come from, or that they are not those expected; ``engine`` is a name,
    with ``==`` and a version where it is known. ``ratio_bounds``: smallest and largest size ratio that the recipe of a
    summary given by hand can give. ``source_formats``: how the source itself is quantized, empty where it is not;
    ``unindexed``: names of scales that the index lacks. ``misread``: layers that the engine takes for something else
    than their tensors are, by reason; ``engine_answer`` what the engine itself said of the declaration where it was
    asked, ``is_refused`` whether it refused it. ``is_declared_alone``: only hf_quant_config.json declares anything.
    ``faults``: numbers of layers that a summary given by hand counts as faulty, by what is wrong with them.
    ``recipe_problem``: why its recipe is not known. ``sensitivity_problem``: why the recipe was not worked out by the
    model's sensitivity.json.
    """

    source_bytes: int
    output_bytes: int
    recipe: str
    layer_precision_counts: dict[str, int]
    metadata_diffs: list[Change]
    parameters: int | None = None
    failed_before: tuple[FailureClass, str] | None = None
    broken: str | None = None
    layers: dict[str, Layer] | None = None
    declaration: str | None = None
    conflicts: list[str] | None = None
    missing: list[str] | None = None
    unknown: list[str] | None = None
    misshapen: list[str] | None = None
    scales: dict[str, float] | None = None
    kv_problems: dict[str, list[str]] | None = None
    has_patterns: bool = False
    remark_on_patterns: str | None = None
    unindexed: list[str] | None = None
    source_formats: str = ""
    expected_output_bytes: int | None = None
    expected_family_bytes: dict[str, int] | None = None
    ratio_bounds: tuple[float, float] | None = None
    pickles: list[str] | None = None
    links: list[str] | None = None
    engine: str | None = None
    misread: dict[str, list[str]] | None = None
    engine_answer: str | None = None
    is_refused: bool = False
    is_declared_alone: bool = False
    is_tied: bool = False
    is_mixed: bool = False
    is_of_another_tool: bool = False
    engine_group: int = DEFAULT_NVFP4_GROUP
    contents: Contents | None = None
    faults: dict[str, int] | None = None
    recipe_problem: str | None = None
    sensitivity_problem: str | None = None

    @property
    def quantized(self) -> int:
        """Number of quantized layers."""
        return sum(
            count
            for name, count in self.layer_precision_counts.items()
            if name.upper() not in FULL_PRECISION and not name.endswith(KEPT)
        )


def parse_summary(content: Any) -> CheckpointSummary:
    """A summary from JSON-able values.

    Raises:
        UnusableInput: it is none; the message names the fields.
    """
    try:
        given = _GivenSummary.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        sentences = [
            f"{'.'.join(map(str, m['loc'])) or 'it'}: found {m['input']!r:.80}; {m['msg']}" for m in mistakes[:5]
        ]
        raise UnusableInput(
            "expected a summary with source_bytes, output_bytes, recipe, layer_precision_counts and metadata_diffs; "
            + "; ".join(sentences)
        ) from None
    counts = Counter[str]()
    for name, count in given.layer_precision_counts.items():
        if name not in (LEFT_OUT, MISDECLARED):
            counts[_PRECISIONS.get(name, name)] += count
    is_original = LEFT_OUT in given.layer_precision_counts
    faults = {name: given.layer_precision_counts[name] for name in (LEFT_OUT, MISDECLARED)} if is_original else None
    return CheckpointSummary(
        given.source_bytes,
        given.output_bytes,
        given.recipe,
        dict(counts),
        [
            _change(diff if isinstance(diff, dict) else {"field": diff, "expected": False})
            for diff in given.metadata_diffs
        ],
        given.parameters,
        faults=faults,
    )


def _change(given: Mapping[str, Any]) -> Change:
    place = str(given.get("field", "?"))
    expected = given.get("expected", is_expected(place)) is True
    return {"field": place, "source": given.get("source"), "output": given.get("output"), "expected": expected}


def summary_as_dict(summary: CheckpointSummary) -> dict[str, Any]:
    """The part of a summary that another run can be given by hand (``--summary``)."""
    names = ("source_bytes", "output_bytes", "recipe", "layer_precision_counts", "metadata_diffs", "parameters")
    return {name: asdict(summary)[name] for name in names}
