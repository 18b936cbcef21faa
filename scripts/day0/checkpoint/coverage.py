"""Which matrices are quantized: by family in figures, and by layer as rows of a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from day0.checkpoint.names import NUMBER
from day0.checkpoint.summary import Layers, distinct
from day0.recipe.modules import FAMILIES
from day0.records.validation import FamilyCoverage


@dataclass
class _Totals:
    layers: int = 0
    quantized: int = 0
    intended: int = 0
    elements: int = 0
    bytes: int = 0


class LayerRuns(NamedTuple):
    """A row of the layer map, see :class:`day0.records.validation.LayerRow`; ``module`` is any text."""

    module: str
    family: str
    runs: list[tuple[int | None, int | None, str, int]]


def coverage_by_family(layers: Layers, expected: Mapping[str, int] | None = None) -> dict[str, FamilyCoverage]:
    """For each family: its matrices, those quantized and intended, its bits per weight and how far it is covered.

    Args:
        layers: by module.
        expected: bytes that the matrices of each family should take; where given, as bits per weight in the result too.
    """
    found: dict[str, _Totals] = {}
    for kind, count in distinct(layers):
        totals = found.setdefault(kind.family, _Totals())
        totals.layers += count
        totals.quantized += count * kind.is_quantized
        totals.intended += count * (bool(kind.intended) and kind.is_linear)
        totals.elements += count * kind.elements
        totals.bytes += count * kind.bytes
    order = [name for name, _ in FAMILIES] + ["other"]
    return {
        name: _coverage(found[name], None if expected is None else expected.get(name, 0))
        for name in sorted(found, key=order.index)
    }


def _coverage(totals: _Totals, expected: int | None) -> FamilyCoverage:
    wanted = totals.intended or totals.layers
    return FamilyCoverage(
        layers=totals.layers,
        quantized=totals.quantized,
        intended=totals.intended,
        coverage="none" if not totals.quantized else "whole" if totals.quantized >= wanted else "partial",
        bits_per_weight=totals.bytes * 8 / totals.elements if totals.elements else None,
        expected_bits_per_weight=expected * 8 / totals.elements if totals.elements and expected is not None else None,
    )


def layer_map(layers: Layers) -> list[LayerRuns]:
    """Precision by kind of module and layer, for a picture: runs of layers that hold the same, experts taken together.

    A run is the first layer, the last layer, the precision and the number of matrices; the layers of a module outside
    the stack are None.
    """
    found_in: dict[tuple[str, str], dict[int, Counter[str]]] = {}
    for module, layer, count in layers.cells():
        head, experts, tail = module.partition(".experts.")
        number, _, leaf = tail.partition(".") if experts else ("", "", "")
        name = (f"{head}.experts.*.{leaf}" if leaf else head) if number.isdigit() else module
        found = NUMBER.search(name)
        kind = f"{name[: found.start()]}*{name[found.end() :]}" if found else name
        place = int(found[0]) if found else -1
        held = layer.precision if layer.problem is None else f"{layer.precision}, broken"
        found_in.setdefault((kind, layer.family), {}).setdefault(place, Counter())[held] += count
    rows = []
    for (kind, family), places in found_in.items():
        runs: list[tuple[int | None, int | None, str, int]] = []
        for place in sorted(places):
            held = " + ".join(sorted(places[place]))
            count = sum(places[place].values())
            layer_number = None if place < 0 else place
            if runs and place > 0 and runs[-1][1:3] == (place - 1, held):
                runs[-1] = (runs[-1][0], layer_number, held, runs[-1][3] + count)
            else:
                runs.append((layer_number, layer_number, held, count))
        rows.append(LayerRuns(kind, family, runs))
    order = [name for name, _ in FAMILIES] + ["other"]
    return sorted(rows, key=lambda row: (order.index(row.family), row.module))
