"""What the checks of a checkpoint look at: its layers and all else that was read of it, or given by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, ItemsView, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from day0.base.cli import UnusableInput
from day0.checkpoint.configs import Change, is_expected
from day0.checkpoint.formats import FULL_PRECISION
from day0.checkpoint.intentions import Intention
from day0.checkpoint.vllm_rules import DEFAULT_NVFP4_GROUP
from day0.records.failure_class import FailureClass
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Ints, Tensors

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


class Layers(Mapping[str, Layer]):
    """Weight matrices by module, in the order of the files; those that are alike share one layer.

    Attributes:
        tensors: of the checkpoint.
        rows: of the weights' tensors, in order.
        which: of ``distinct`` each is, an array like ``rows``.
        distinct: the layers, each once.
    """

    def __init__(self, tensors: Tensors, rows: Ints, which: Ints, distinct: list[Layer]) -> None:
        self.tensors, self.rows, self.which, self.distinct = tensors, rows, which, distinct
        self._numbers = {id(layer): number for number, layer in enumerate(distinct)}
        self.places = numpy.full(len(tensors), -1)
        self.places[rows] = numpy.arange(len(rows))

    @classmethod
    def of(cls, layers: Mapping[str, Layer], tensors: Tensors | None = None, rows: Ints | None = None) -> Layers:
        """Layers by module as columns; of weights that are not there yet without tensors and their ``rows``."""
        if tensors is None or rows is None:
            tensors = Tensors.of({f"{module}.weight": Tensor("", (), "", 0, 0) for module in layers})
            rows = numpy.arange(len(tensors))
        found = cls(tensors, rows, numpy.zeros(len(rows), numpy.int64), [])
        for module, layer in layers.items():
            found[module] = layer
        return found

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules(self.rows))

    def __getitem__(self, module: str) -> Layer:
        place = self.place(module)
        if place < 0:
            raise KeyError(module)
        return self.distinct[self.which[place]]

    def __setitem__(self, module: str, layer: Layer) -> None:
        number = self._numbers.setdefault(id(layer), len(self.distinct))
        if number == len(self.distinct):
            self.distinct.append(layer)
        self.which[self.place(module)] = number

    def place(self, module: str) -> int:
        """Which of the rows a module's weight is; -1: it has none."""
        for name in (f"{module}.weight", module):
            row = self.tensors.row(name)
            if row >= 0 and self.places[row] >= 0:
                return int(self.places[row])
        return -1

    def items(self) -> ItemsView[str, Layer]:
        """Modules and layers."""
        return dict(zip(self, map(self.distinct.__getitem__, self.which.tolist()), strict=True)).items()

    def modules(self, rows: Ints) -> list[str]:
        """Modules of weights by their rows."""
        return [name.removesuffix(".weight") for name in self.tensors.names(rows)]

    def rows_where(self, is_wanted: Callable[[Layer], object]) -> Ints:
        """Rows of the weights whose layers are wanted."""
        wanted = numpy.array([bool(is_wanted(layer)) for layer in self.distinct], bool)
        return self.rows[wanted[self.which]] if wanted.any() else self.rows[:0]

    def counts(self) -> list[int]:
        """How many matrices each of ``distinct`` stands for."""
        return numpy.bincount(self.which, minlength=len(self.distinct)).tolist()

    def cells(self) -> list[tuple[str, Layer, int]]:
        """Matrices one behind the other that differ in the expert alone: the first's module, their layer and number."""
        found: dict[int, tuple[Layer, int]] = {}
        for number, kind in self.tensors.present():
            rows, keys = self.tensors.rows_of(number), self.tensors.keys_of(number)
            is_weight = self.places[rows] >= 0
            rows, cell = rows[is_weight], keys[is_weight] & kind.same_layer
            if not len(rows):
                continue
            which = self.which[self.places[rows]]
            is_first = numpy.append(True, (cell[1:] != cell[:-1]) | (which[1:] != which[:-1]))
            firsts = numpy.flatnonzero(is_first)
            counts = numpy.diff(numpy.append(firsts, len(rows))).tolist()
            layers = map(self.distinct.__getitem__, which[firsts].tolist())
            found |= zip(rows[firsts].tolist(), zip(layers, counts, strict=True), strict=True)
        places = sorted(found)
        modules = self.modules(numpy.array(places, numpy.int64))
        return [(module, *found[place]) for module, place in zip(modules, places, strict=True)]


def distinct(layers: Layers) -> list[tuple[Layer, int]]:
    """Each layer once with its count; matrices that are alike share one object, of which a large model has few."""
    return [(layer, count) for layer, count in zip(layers.distinct, layers.counts(), strict=True) if count]


def first_experts_where(layers: Layers, is_wanted: Callable[[Layer], object]) -> list[str]:
    """Modules whose layers are wanted, in order, but for experts other than number 0."""
    rows, tensors = layers.rows_where(is_wanted), layers.tensors
    of_expert = ~numpy.array([kind.same_layer for kind in tensors.kinds.list], numpy.int64)[tensors.kind[rows]]
    return layers.modules(rows[tensors.key[rows] & of_expert == 0])


def modules_where(layers: Layers, is_wanted: Callable[[Layer], object]) -> list[str]:
    """Modules whose layers are wanted, in order; layers that are alike are asked once."""
    return layers.modules(layers.rows_where(is_wanted))


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
    layers: Layers | None = None
    declaration: str | None = None
    conflicts: list[str] | None = None
    missing: list[str] | None = None
    unknown: list[str] | None = None
    misshapen: list[str] | None = None
    scales: Mapping[str, float] | None = None
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
