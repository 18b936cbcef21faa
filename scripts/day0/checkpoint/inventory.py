"""Compare the tensors of a checkpoint with those of its source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy

from day0.checkpoint.formats import logical_shapes
from day0.checkpoint.layers import SortedTensors
from day0.checkpoint.names import BUFFERS, KV_PART, PART
from day0.checkpoint.source_weights import PARTS_OF_FUSED, SourceWeights
from day0.checkpoint.summary import Layer, Layers
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Ints, Tensors


class Inventory(NamedTuple):
    """Names of the source's tensors that are missing, of new tensors that are no scales, and of misshapen ones."""

    missing: list[str]
    unknown: list[str]
    misshapen: list[str]


def compare_inventory(
    source: SourceWeights,
    output: Mapping[str, Tensor],
    names: SortedTensors,
    is_tied: bool,
    layers: Layers,
    kept: Mapping[str, int],
) -> Inventory:
    """Compare what the source's tensors are with those of the checkpoint, whichever way either of them is stored.

    The shape of a layer with a problem of its own is not judged. ``kept``: quantized weights that may be as the source
    stores them.
    """

    def is_part(name: str) -> bool:
        return bool(PART.fullmatch(name) or KV_PART.fullmatch(name) or BUFFERS.search(name))

    def is_tied_head(name: str) -> bool:
        return is_tied and name.endswith("lm_head.weight")

    before, after = source.logical, names.tensors
    as_stored = {part for name in kept for part in source.parts[name]}
    lost = [name for name in before.names(_without(before, after)) if name not in kept]
    is_part_of_weight = numpy.zeros(len(after), bool)
    for one in names.parts:
        is_part_of_weight[after.rows_of(one.kind)] = True
    added = _without(after, before)
    new = [name for name in after.names(added[~is_part_of_weight[added]]) if name not in as_stored]
    experts = _Experts(source, output, layers)
    experts.compare(lost, new)
    missing = [n for n in lost if not (n in experts.found or is_part(n) or is_tied_head(n))]
    unknown = [n for n in new if not (n in experts.found or is_part(n) or is_tied_head(n))]
    misshapen = [name for name in _reshaped(before, after, layers, source) if name not in kept]
    return Inventory(sorted([*missing, *experts.missing]), sorted(unknown), sorted([*misshapen, *experts.misshapen]))


def _without(tensors: Tensors, others: Tensors) -> Ints:
    """Rows of the tensors whose names the others lack, in order."""
    lost = [tensors.rows_of(n)[others.find(kind, tensors.keys_of(n)) < 0] for n, kind in tensors.present()]
    return numpy.sort(numpy.concatenate([numpy.empty(0, numpy.int64), *lost]))


def _reshaped(before: Tensors, after: Tensors, layers: Layers, source: SourceWeights) -> Iterator[str]:
    """Names of tensors whose shape is neither the source's nor what its format makes of that; layers at fault aside."""
    shapes = {shape: number for number, (_, shape, _) in enumerate([*before.forms.list, *after.forms.list])}
    of_before, of_after = (one.forms.column(lambda form: shapes[form[1]]) for one in (before, after))
    sound: set[tuple] = set()  # forms seen before: a large model repeats a few of them
    for number, kind in before.present():
        rows, found = before.rows_of(number), after.find(kind, before.keys_of(number))
        rows, found = rows[found >= 0], found[found >= 0]
        first, second = of_before[before.form[rows]], of_after[after.form[found]]
        place = layers.places[found]
        which = numpy.where(place >= 0, layers.which[place], -1)
        columns = [column[first != second] for column in (rows, found, first, second, which)]
        forms = zip(*(column.tolist() for column in columns[2:]), strict=True)
        for row, other, form in zip(columns[0].tolist(), columns[1].tolist(), forms, strict=True):
            if form in sound:
                continue
            layer = layers.distinct[form[2]] if form[2] >= 0 else None
            name = before.name(row)
            if layer is None:
                yield name
            elif layer.problem is not None or _is_of(source, name, layer, after.tensor(other).shape):
                sound.add(form)
            else:
                yield name


def _is_of(source: SourceWeights, name: str, layer: Layer, shape: tuple[int, ...]) -> bool:
    """Whether a matrix of a shape, as it is stored, may hold the source's of a name."""
    module = name.removesuffix(".weight")
    return any(source.weight(module, one) is not None for one in logical_shapes(layer.precision, shape))


class _Experts:
    """Experts that are fused on one side and apart on the other, and what is wrong with them.

    ``found`` are names on both sides that are the same experts.
    """

    def __init__(self, source: SourceWeights, output: Mapping[str, Tensor], layers: Mapping[str, Layer]) -> None:
        self.source, self.output, self.layers = source, output, layers
        self.found: set[str] = set()
        self.missing: list[str] = []
        self.misshapen: list[str] = []

    def compare(self, lost: Iterable[str], new: Iterable[str]) -> None:
        """Compare what only the source has with what only the checkpoint has."""
        lost_of, new_of = _by_place(lost), _by_place(new)
        for place in new_of.keys() & lost_of.keys():
            if any(_is_fused(name) for name in lost_of[place]):
                self._compare_apart(place, lost_of[place], new_of[place])
            else:
                self._compare_fused(place, new_of[place])

    def _compare_apart(self, place: str, lost: Iterable[str], new: Iterable[str]) -> None:
        """Compare fused experts of the source with those apart of the checkpoint: all of them, each of its shape."""
        leaves: dict[str, dict[int, str]] = {}  # names by the number of the expert, by matrix, as gate_proj.weight
        shapes: dict[tuple, bool] = {}
        for name in new:
            number, _, leaf = name.removeprefix(f"{place}.").partition(".")
            if not number.isdigit() or not leaf.endswith((".weight", ".bias")):
                continue
            leaves.setdefault(leaf, {})[int(number)] = name
            layer = self.layers.get(name.removesuffix(".weight"))
            if layer is None or layer.problem is not None:
                continue
            form = leaf, self.output[name].shape, id(layer)
            if form not in shapes:
                wanted = logical_shapes(layer.precision, self.output[name].shape)[0]
                shapes[form] = self.source.weight(f"{place}.0.{leaf.removesuffix('.weight')}", wanted) is not None
            if not shapes[form]:
                self.misshapen.append(name)
        for name in lost:
            fused, shape = name.removeprefix(f"{place}.").removesuffix(".weight"), self.source.logical[name].shape
            part, dimensions = ("bias", 2) if fused.endswith("_bias") else ("weight", 3)
            known = PARTS_OF_FUSED.get(fused.removesuffix("_bias"), ())
            held = [leaves_of for leaves_of in known if any(f"{leaf}.{part}" in leaves for leaf in leaves_of)]
            if not held or len(shape) != dimensions:
                continue
            self.found.add(name)
            for leaf in held[0]:
                numbers = leaves.get(f"{leaf}.{part}", {})
                found = {number: one for number, one in numbers.items() if number < shape[0]}
                self.found.update(found.values())
                self.missing.extend(f"{place}.{n}.{leaf}.{part}" for n in range(shape[0]) if n not in found)
                if part == "bias":
                    wanted = (shape[1] // len(held[0]),)
                    self.misshapen.extend(one for one in found.values() if self.output[one].shape != wanted)

    def _compare_fused(self, place: str, new: Iterable[str]) -> None:
        """Compare experts apart in the source with the fused ones of the checkpoint, by their number and elements."""
        for name in new:
            layer, tensor = self.layers.get(name) or self.layers.get(name.removesuffix(".weight")), self.output[name]
            fused = name.removeprefix(f"{place}.").removesuffix(".weight")
            if layer is None or len(tensor.shape) != 3:
                continue
            for parts in PARTS_OF_FUSED.get(fused, ()):
                own = [f"{place}.{n}.{leaf}.weight" for n in range(tensor.shape[0]) for leaf in parts]
                if any(one not in self.source.logical for one in own):
                    continue
                self.found.update([name, *own])
                wanted = math.prod(logical_shapes(layer.precision, tensor.shape)[0])
                if layer.problem is None and sum(math.prod(self.source.logical[one].shape) for one in own) != wanted:
                    self.misshapen.append(name)
                break


def _by_place(names: Iterable[str]) -> dict[str, list[str]]:
    """Names of tensors of experts by the name of these, as ``model.layers.0.mlp.experts``."""
    found: dict[str, list[str]] = {}
    for name in names:
        head, experts, _ = name.partition(".experts.")
        if experts:
            found.setdefault(f"{head}.experts", []).append(name)
    return found


def _is_fused(name: str) -> bool:
    return not name.partition(".experts.")[2].partition(".")[0].isdigit()
