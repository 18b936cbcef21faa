"""Compare the values of a checkpoint's quantized matrices with its source's.

Each is dequantized and compared by the relative error of its rows, ``|held - source| / |source|``, which the number
format bounds. By default some rows of some matrices are read, chosen by a seed; ``every`` reads all rows of all.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from day0.base.processes import cores, in_processes
from day0.checkpoint.blocks import BlockScan, Seen
from day0.checkpoint.dequantize import Files, Look, Matrix, Values, read_alike
from day0.checkpoint.formats import FORMATS, FULL_PRECISION
from day0.checkpoint.layers import SortedTensors
from day0.checkpoint.matrices import PARTS_OF_MATRICES, matrices_of, source_matrices, source_matrices_as_held
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.summary import Layer, Layers, modules_where
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Ints, Kind, Scalars


class Bounds(NamedTuple):
    """Relative error of a number format: of a sound matrix, and the largest that a row may have."""

    typical: float
    limit: float


# Measured on 2,700 matrices of real exports (ModelOpt 0.47.0, weights of a normal distribution): see the table in
# docs/checkpoint.md. A wrong scale gives 0.3 and more, weights of another place 1.4.
BOUNDS = {
    "FP8": Bounds(0.027, 0.08),
    "FP8 per channel": Bounds(0.026, 0.08),
    "FP8 blocks": Bounds(0.027, 0.08),
    "MXFP8": Bounds(0.027, 0.08),
    "NVFP4": Bounds(0.095, 0.25),
    "MXFP4": Bounds(0.119, 0.31),
    "INT4": Bounds(0.125, 0.36),
    "INT8": Bounds(0.008, 0.12),
    "16 bits": Bounds(0.002, 0.01),
}
# What the limits are multiplied by for a checkpoint that was made elsewhere by what is not known: GPTQ moves a row of
# INT4 as far as 0.39 (llm-compressor 0.14.0 on the embedded model), and QAD trains the weights further.
OF_UNKNOWN_MAKING = 2.0
# Columns from which on a row is judged alone: the error of fewer values varies too much.
LEAST_COLUMNS = 64
# Matrices that are read by default, elements of a part of one that is read, and parts of a matrix where it has few.
MATRICES, ELEMENTS, MOST_PARTS = 2000, 8192, 4
EXPERTS_OF_FUSED = 4
# Elements that are read at once, and of those that are worked on at once; and from which on processes share the work.
LONG_ELEMENTS, CHUNK_ELEMENTS, MANY_ELEMENTS = 1 << 22, 1 << 18, 1 << 26
# Largest values of E4M3 and E2M1, and half of E4M3's smallest step: what a scale of a whole matrix cannot resolve.
_E4M3_MAX, _E2M1_MAX, _HALF_STEP = 448.0, 6.0, 2.0**-10
# How far a scale may be above what the matrix alone needs: those that are fused with it may need more.
_SHARED_SCALE = 16.0


@dataclass(frozen=True, eq=False)
class Pair:
    """A quantized matrix and the source's that it was made from."""

    module: str
    tensor: str
    precision: str
    held: Matrix
    source: Matrix
    slack: float = 1.0

    @property
    def kind(self) -> str:
        """Key of :data:`BOUNDS`."""
        return kind_of(self.precision)

    @property
    def bounds(self) -> Bounds:
        """How large its relative error may be."""
        typical, limit = BOUNDS[self.kind]
        return Bounds(typical, limit * self.slack)


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a pair."""

    pair: Pair
    first: int
    count: int


class _Found(NamedTuple):
    """What was found of a part: the sums over all its rows, shape (3,), and whether one of its rows is off."""

    part: Part
    total: NDArray[numpy.float64]
    is_off: bool


class Sums(NamedTuple):
    """Of each row: sum of squares as held and of the source, and of their products, shape (rows,)."""

    held: Values
    source: Values
    both: Values

    @classmethod
    def of(cls, held: Values, source: Values, parts: int = 1) -> Sums:
        """The sums of two matrices of equal shape, which have so many parts; of few columns a part counts as a row."""
        if held.shape[1] < LEAST_COLUMNS:
            held, source = held.reshape(parts, -1), source.reshape(parts, -1)
        return cls(*(numpy.vecdot(a, b) for a, b in ((held, held), (source, source), (held, source))))

    def total(self) -> NDArray[numpy.float64]:
        """The three sums over all rows, shape (3,)."""
        return numpy.array([part.sum(dtype=numpy.float64) for part in self])

    def error(self) -> float:
        """Relative error of all rows together; NaN where a value is none."""
        return relative_error(self.total())

    def is_off(self, limit: float, floor: float = 0.0, columns: int = 1) -> numpy.ndarray:
        """Rows whose error is beyond ``limit`` of the source's values and ``floor`` for each element."""
        allowed = (limit * numpy.sqrt(self.source) + floor * math.sqrt(columns)) ** 2
        with numpy.errstate(invalid="ignore"):
            return ~(self.held - 2 * self.both + self.source <= allowed + 1e-30)

    def factor(self) -> float:
        """What the held values are to be multiplied by to come nearest to the source's."""
        left, _, both = self.total().tolist()
        return both / left if left > 0 else math.nan


def relative_error(total: NDArray[numpy.float64]) -> float:
    """Relative error by the sums of squares as held and of the source, and of their products; NaN where one is none."""
    left, right, both = total.tolist()
    return math.sqrt(max(left - 2 * both + right, 0.0) / right) if right > 0 else (0.0 if left == 0 else math.inf)


class Errors(NamedTuple):
    """Relative errors of an algorithm's matrices: their number, median and largest (None: infinite), a row's limit."""

    matrices: int
    median: float | None
    largest: float | None
    limit: float


class Comparison(NamedTuple):
    """Outcome of :func:`compare_values`; ``off`` are the parts that differ by more than the format explains.

    ``handed`` are the weights whose bytes a scan of blocks was given.
    """

    compared: int
    matrices: int
    off: list[Part]
    errors: dict[str, Errors]
    handed: set[str]


class Compared:
    """The pairs of a checkpoint, made where they are asked for."""

    def __init__(
        self,
        layers: Layers,
        names: SortedTensors,
        tensors: Mapping[str, Tensor],
        source: SourceWeights,
        scalars: Mapping[str, float],
        skipped: Iterable[str] = (),
        slack: float = 1.0,
    ) -> None:
        """Take what finds the matrices.

        Args:
            layers, names, tensors, source, scalars: see :func:`day0.checkpoint.contents.compare_contents`.
            skipped: modules that other checks found at fault.
            slack: what the limits of the errors are multiplied by.
        """
        self.slack = slack
        self.layers = layers
        self.names, self.tensors, self.source, self.scalars = names, names.tensors, source, Scalars.of(scalars)
        self.rows = self.layers.rows_where(self._may_be_compared)
        if source.quantized:  # of what is in full precision: what was quantized in the source; else bytes are compared
            plain = set(modules_where(layers, lambda layer: layer.precision in FULL_PRECISION))
            self._keep(lambda module: module not in plain or names.weight_of(module) in source.quantized)
        left_out = set(skipped)
        if left_out:
            self._keep(lambda module: module not in left_out)
        self.unread: dict[str, list[str]] = defaultdict(list)

    @property
    def modules(self) -> list[str]:
        """The modules whose matrices are compared."""
        return self.layers.modules(self.rows)

    def _keep(self, is_kept: Callable[[str], bool]) -> None:
        self.rows = self.rows[numpy.array([is_kept(module) for module in self.modules], bool)]

    def _may_be_compared(self, layer: Layer) -> bool:
        """Whether the matrices of a layer are quantized, or may have been in the source."""
        if layer.precision in FORMATS:
            return layer.problem is None and not layer.is_unwanted
        return layer.precision in FULL_PRECISION and bool(self.source.quantized)

    def leave_out(self, reason: str) -> None:
        """Compare none of the modules, for a reason that is the end of a sentence."""
        self.unread[reason] += self.modules
        self.rows = self.rows[:0]

    def pairs(self, module: str) -> list[Pair]:
        """The pairs of a module, one for each expert where it has fused ones; none where they cannot be compared."""
        return next(self.pairs_of(self.layers.rows[[self.layers.place(module)]]))

    def pairs_of(self, rows: Ints) -> Iterator[list[Pair]]:
        """The same for each of some weights, in their order.

        Args:
            rows: of the weights' tensors.
        """
        tensors, found = self.tensors, dict[int, list[Pair]]()
        for number in numpy.unique(tensors.kind[rows]).tolist():
            some = rows[tensors.kind[rows] == number]
            some = some[numpy.argsort(tensors.key[some])]
            found |= zip(some.tolist(), self._pairs_of_kind(tensors.kinds.list[number], some), strict=True)
        return map(found.__getitem__, rows.tolist())

    def _pairs_of_kind(self, kind: Kind, rows: Ints) -> Iterator[list[Pair]]:
        """The pairs of weights whose names differ in numbers alone, in the order of these."""
        tensors, keys = self.tensors, self.tensors.key[rows]
        stem, is_fused = kind.stem, not kind.stem.endswith(".weight")
        starts = (f"{stem}_", f"{stem}.") if is_fused else (stem.removesuffix("weight"),)
        parts: list[dict[str, Tensor]] = [{} for _ in keys]
        values: list[dict[str, float]] = [{} for _ in keys]
        for part in PARTS_OF_MATRICES:
            for one in (Kind(f"{start}{part}", kind.numbers) for start in starts):
                found = tensors.found(tensors.find(one, keys))
                for tensor, value, own, scalars in zip(
                    found, self.scalars.of_kind(one, keys).tolist(), parts, values, strict=True
                ):
                    if tensor is not None:
                        own[part] = tensor
                    if not math.isnan(value):
                        scalars[part] = value
        before = self.source.tensors.found(self.source.rows_as_held(kind, keys))
        layers = map(self.layers.distinct.__getitem__, self.layers.which[self.layers.places[rows]].tolist())
        precisions = (layer.precision for layer in layers)
        return map(self._pairs, kind.names(keys), tensors.tensors(rows), precisions, parts, values, before)

    def _pairs(
        self,
        name: str,
        weight: Tensor,
        precision: str,
        parts: Mapping[str, Tensor],
        values: Mapping[str, float],
        before: Tensor | None,
    ) -> list[Pair]:
        """The pairs of a weight; ``before``: the source's tensor, where that is plain and of the same name."""
        module = name.removesuffix(".weight")
        held, source = matrices_of(weight, precision, parts, values), None
        if held is not None and before is not None:
            source = source_matrices_as_held(before, held)
        elif held is not None:
            source = source_matrices(module, held, self.source)
        if held is None or source is None:
            reason = "have scales that could not be read as their format's" if held is None else "are not in the source"
            self.unread[reason].append(module)
            return []
        each = enumerate(zip(held, source, strict=True))
        return [
            Pair(f"{module}[{n}]" if len(held) > 1 else module, name, precision, a, b, self.slack) for n, (a, b) in each
        ]


def kind_of(precision: str) -> str:
    """Key of :data:`BOUNDS` for the precision of a layer."""
    return FORMATS[precision].kind if precision in FORMATS else "16 bits"


def compare_values(compared: Compared, files: Files, scan: BlockScan | None = None, seed: int = 0) -> Comparison:
    """Compare quantized matrices with the source's.

    Args:
        compared: the matrices.
        files: to read from.
        scan: where given, all rows of all matrices are read, and their bytes handed to it.
        seed: chooses what is read otherwise.

    Raises:
        BrokenSafetensors: a file became shorter since its header was read.
    """
    pairs: list[Pair] = []
    if scan is not None:
        pairs += itertools.chain.from_iterable(compared.pairs_of(compared.rows))
        pairs.sort(key=lambda pair: pair.held.codes[1:])
        parts = [part for pair in pairs for part in whole(pair, LONG_ELEMENTS)]
        found = _read_all(files, parts, compared, scan)
    else:
        parts = _some_parts(compared, random.Random(seed))
        _announce(parts, files)
        found = iter(_read_some(files, parts))
    totals: dict[str, NDArray[numpy.float64]] = {}
    errors: dict[str, list[str]] = defaultdict(list)
    off: list[Part] = []
    for part, total, is_off in found:
        module = part.pair.module
        if module in totals:
            totals[module] += total
        else:
            totals[module] = total
            errors[part.pair.precision].append(module)
        if is_off:
            off.append(part)
    largest: dict[str, float] = {}
    return Comparison(
        compared=len({module.partition("[")[0] for module in totals}),
        matrices=len(compared.rows),
        off=[part for part in off if not _is_range(part, files, largest)],
        errors={
            algorithm: _errors(algorithm, [totals[module] for module in modules], compared.slack)
            for algorithm, modules in sorted(errors.items())
        },
        handed={pair.tensor for pair in pairs},
    )


def _some_parts(compared: Compared, chance: random.Random) -> list[Part]:
    """Parts of some matrices, in the order of the files."""
    rows = _chosen(compared, chance)
    number = min(MOST_PARTS, max(1, MATRICES // max(len(rows), 1)))
    parts: list[Part] = []
    for pairs in compared.pairs_of(rows):
        some = chance.sample(pairs, EXPERTS_OF_FUSED) if len(pairs) > EXPERTS_OF_FUSED else pairs
        parts += [_some_rows(pair, chance) for pair in some for _ in range(number)]
    return sorted(parts, key=lambda part: (*part.pair.held.codes[1:], part.first))


def _chosen(compared: Compared, chance: random.Random) -> Ints:
    """Rows of the weights to read by default.

    Of experts that share a kind and a layer one, some of those that look alike, and others.
    """
    rows, tensors = compared.rows, compared.tensors
    if len(rows) <= MATRICES:
        return rows
    kind = tensors.kind[rows]
    layer = tensors.key[rows] & numpy.array([one.same_layer for one in tensors.kinds.list])[kind]
    order = numpy.lexsort((layer, kind))
    kind, layer = kind[order], layer[order]
    is_first = numpy.append(True, (kind[1:] != kind[:-1]) | (layer[1:] != layer[:-1]))
    firsts = numpy.flatnonzero(is_first).tolist()
    chosen = {int(order[chance.randrange(a, b)]) for a, b in itertools.pairwise([*firsts, len(rows)])}
    alike = _alike(compared, order, numpy.cumsum(is_first))
    chosen.update(chance.sample(alike, min(len(alike), MATRICES // 4)))
    others = chance.sample(range(len(rows)), MATRICES)
    chosen.update(others[: max(MATRICES - len(chosen), 0)])
    return rows[sorted(chosen)]


def _alike(compared: Compared, order: Ints, cell: Ints) -> list[int]:
    """Places of experts whose scale another one of their layer has too, as copies of it have.

    Args:
        compared: the matrices.
        order: places of its rows, those of a layer's experts one after the other.
        cell: of each of these, the number of its layer.
    """
    values = numpy.full(len(compared.tensors), numpy.nan)
    for one in compared.names.weights:
        module, keys = one.module, compared.tensors.key[one.rows]
        for part in ("weight_scale_2", "weight_scale"):
            values[one.rows] = compared.scalars.of_kind(Kind(f"{module.stem}.{part}", module.numbers), keys)
            if not numpy.isnan(values[one.rows]).all():
                break
    held = values[compared.rows][order]
    by_value = numpy.lexsort((held, cell))
    is_next = (numpy.diff(held[by_value]) == 0) & (numpy.diff(cell[by_value]) == 0)
    is_alike = numpy.append(is_next, False) | numpy.append(False, is_next)
    return numpy.sort(order[by_value[is_alike]]).tolist()


def _some_rows(pair: Pair, chance: random.Random) -> Part:
    rows, unit = pair.held.rows, max(pair.held.unit, pair.source.unit)
    count = -(-ELEMENTS // pair.held.columns)
    count = min(-(-count // unit) * unit, rows)
    first = chance.randrange(rows - count + 1) // unit * unit
    return Part(pair, first, count)


def whole(pair: Pair, elements: int = CHUNK_ELEMENTS) -> Iterator[Part]:
    """All rows of a pair, in parts of about so many elements."""
    return _split(Part(pair, 0, pair.held.rows), elements)


def _split(part: Part, elements: int) -> Iterator[Part]:
    """A part as parts of about so many elements; whole where its source can only be read as a whole."""
    pair, end = part.pair, part.first + part.count
    unit = max(pair.held.unit, pair.source.unit)
    count = max(elements // pair.held.columns // unit, 1) * unit if pair.source.is_whole else pair.held.rows
    for first in range(part.first, end, count):
        yield Part(pair, first, min(count, end - first))


def _announce(parts: Iterable[Part], files: Files) -> None:
    """Have the system read ahead what will be read, all at once: a network file system answers many at a time."""
    for part in parts:
        for matrix in (part.pair.held, part.pair.source):
            files.announce(*matrix.bytes_of(part.first, part.count))


def read_part(part: Part, files: Files, look: Look | None = None) -> tuple[Values, Values]:
    """Values of a part, [rows, columns], as held and of the source, which hold until the thread's next call.

    Smoothed weights are compared as they were when they were rounded: the source's divided by the vector.
    """
    pair = part.pair
    held = pair.held.read(files, part.first, part.count, "held", look)
    return held, read_source(pair.source, part, files)


def read_source(matrix: Matrix, part: Part, files: Files) -> Values:
    """Rows of a matrix of the source, divided by what the checkpoint's was smoothed by."""
    return _smoothed(matrix.read(files, part.first, part.count, "source"), part.pair.held, files)


def _smoothed(values: Values, held: Matrix, files: Files) -> Values:
    """Values of the source divided by what the checkpoint's were smoothed by."""
    vector = held.smoothing_vector(files)
    return values if vector is None else numpy.divide(values, vector, out=values)


class _Read(NamedTuple):
    """What a process found in a long part: the sums of its parts, what a scan saw in its bytes, and their number."""

    sums: list[Sums]
    seen: Seen
    bytes_read: int


def _read_some(files: Files, parts: Sequence[Part]) -> list[_Found]:
    """What is found in short parts, in their order; those that are stored alike are worked on together."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for place, part in enumerate(parts):
        pair, first = part.pair, part.first
        alike[part.count, pair.bounds.limit, pair.held.like(first), pair.source.like(first)].append(place)
    found: dict[int, _Found] = {}
    for places in alike.values():
        part = parts[places[0]]
        at_once = max(CHUNK_ELEMENTS // (part.count * part.pair.held.columns), 1)
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            found |= zip(some, _read_alike([parts[place] for place in some], files), strict=True)
    return [found[place] for place in range(len(parts))]


def _read_alike(parts: Sequence[Part], files: Files) -> Iterator[_Found]:
    """What is found in parts that are stored alike."""
    pair, count = parts[0].pair, parts[0].count
    firsts = [part.first for part in parts]
    held = read_alike([part.pair.held for part in parts], firsts, count, files, "held")
    before = read_alike([part.pair.source for part in parts], firsts, count, files, "source")
    before = _smoothed(before, pair.held, files)
    sums = Sums.of(held, before, len(parts))
    is_off = numpy.any(sums.is_off(pair.bounds.limit).reshape(len(parts), -1), axis=1)
    totals = numpy.stack([part.reshape(len(parts), -1).sum(axis=1, dtype=numpy.float64) for part in sums], axis=1)
    return map(_Found, parts, totals, map(bool, is_off))


def _read_all(files: Files, long_parts: Sequence[Part], compared: Compared, scan: BlockScan) -> Iterator[_Found]:
    """What is found in long parts, in their order: by a few rows at a time, which stay in a core's cache."""

    def read(part: Part) -> _Read:
        name, before = part.pair.tensor, files.bytes_read
        start = compared.tensors[name].start
        for slot, matrix in (("held", part.pair.held), ("source", part.pair.source)):
            if matrix.is_whole:
                files.load(slot, *matrix.bytes_of(part.first, part.count))
        found = [
            Sums.of(*read_part(one, files, lambda place, raw: scan.look(name, place - start, raw)))
            for one in _split(part, CHUNK_ELEMENTS)
        ]
        return _Read(found, scan.seen(), files.bytes_read - before)

    elements = sum(part.count * part.pair.held.columns for part in long_parts)
    count = cores() + 1 if elements >= MANY_ELEMENTS else 1  # while one waits for its bytes the others work
    for part, found in zip(long_parts, in_processes(read, long_parts, count), strict=True):
        scan.add(found.seen)
        if count > 1:
            files.bytes_read += found.bytes_read
        limit = part.pair.bounds.limit
        for one, sums in zip(_split(part, CHUNK_ELEMENTS), found.sums, strict=True):
            yield _Found(one, sums.total(), bool(sums.is_off(limit).any()))


def _is_range(part: Part, files: Files, largest: dict[str, float]) -> bool:
    """Whether what is off are values that are too small for the scale of the whole matrix, as FP8 and NVFP4 have one.

    The scale that the source's largest value needs says so, not the one that is held, which may be wrong. Where not
    even that one explains it, the source is not searched for its largest value.

    Args:
        part: rows that are off.
        files: to read from.
        largest: largest magnitudes of the source's matrices that are known, by module; what is found is added.
    """
    pair = part.pair
    top_code = {"FP8": _E4M3_MAX, "NVFP4": _E4M3_MAX * _E2M1_MAX}.get(pair.kind)
    sums = Sums.of(*read_part(part, files))
    if top_code is None or not all(numpy.isfinite(one).all() for one in sums):
        return False

    def explains(scale: float) -> bool:
        floor = scale * _HALF_STEP * (_E2M1_MAX if pair.kind == "NVFP4" else 1.0)
        return not sums.is_off(pair.bounds.limit, floor, pair.held.columns).any()

    held = abs(pair.held.factor)
    if not explains(held):
        return False
    if pair.module not in largest:
        rows = (pair.source.read(files, one.first, one.count) for one in whole(pair))
        largest[pair.module] = max(float(numpy.abs(each).max()) for each in rows)
    return explains(min(held, _SHARED_SCALE * largest[pair.module] / top_code))


def _errors(algorithm: str, totals: Iterable[NDArray[numpy.float64]], slack: float) -> Errors:
    """Relative errors of an algorithm's matrices by their sums."""
    errors = list(map(relative_error, totals))
    limit = BOUNDS[kind_of(algorithm)].limit * slack
    return Errors(len(errors), _finite(statistics.median(errors)), _finite(max(errors)), limit)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
