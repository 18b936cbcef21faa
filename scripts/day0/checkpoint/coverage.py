"""Which matrices are quantized: by family in figures, and by layer as rows of a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from day0.checkpoint.names import FAMILIES, NUMBER
from day0.checkpoint.summary import Layer, distinct


def coverage_by_family(
    layers: Mapping[str, Layer], expected: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """For each family: its matrices, those quantized and intended, its bits per weight and how far it is covered.

    With the bytes that are ``expected`` of each, the bits per weight of these, too.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind, count in distinct(layers):
        entry = found.setdefault(
            kind.family, {"layers": 0, "quantized": 0, "intended": 0, "coverage": None, "elements": 0, "bytes": 0}
        )
        entry["layers"] += count
        entry["quantized"] += count * kind.is_quantized
        entry["intended"] += count * (bool(kind.intended) and kind.is_linear)
        entry["elements"] += count * kind.elements
        entry["bytes"] += count * kind.bytes
    for name, entry in found.items():
        elements, size = entry.pop("elements"), entry.pop("bytes")
        entry["bits_per_weight"] = size * 8 / elements if elements else None
        if expected is not None:
            entry["expected_bits_per_weight"] = expected.get(name, 0) * 8 / elements if elements else None
        wanted = entry["intended"] or entry["layers"]
        entry["coverage"] = "none" if not entry["quantized"] else "whole" if entry["quantized"] >= wanted else "partial"
    order = [name for name, _ in FAMILIES] + ["other"]
    return {name: found[name] for name in sorted(found, key=order.index)}


def layer_map(layers: Mapping[str, Layer]) -> list[dict[str, Any]]:
    """Precision by kind of module and layer, for a picture: runs of layers that hold the same, experts taken together.

    Returns:
        for each kind ``{"module", "family", "runs": [[first layer, last layer, precision, matrices], ...]}``; the layer
        of a module outside the stack is null.
    """
    cells: dict[tuple[str, str], dict[int, Counter]] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    for name, layer in layers.items():
        head, experts, tail = name.partition(".experts.")
        number, _, leaf = tail.partition(".") if experts else ("", "", "")
        counts[(head, leaf, id(layer)) if number.isdigit() else (name, "", id(layer))] += 1
    by_id = {id(layer): layer for layer, _ in distinct(layers)}
    for (head, leaf, key), count in counts.items():
        layer, name = by_id[key], f"{head}.experts.*.{leaf}" if leaf else head
        found = NUMBER.search(name)
        kind = f"{name[: found.start()]}*{name[found.end() :]}" if found else name
        place = int(found[0]) if found else -1
        held = layer.precision if layer.problem is None else f"{layer.precision}, broken"
        cells.setdefault((kind, layer.family), {}).setdefault(place, Counter())[held] += count
    rows = []
    for (kind, family), places in cells.items():
        runs: list[list[Any]] = []
        for place in sorted(places):
            held = " + ".join(sorted(places[place]))
            count = sum(places[place].values())
            if runs and place >= 0 and runs[-1][1] == place - 1 and runs[-1][2] == held:
                runs[-1][1], runs[-1][3] = place, runs[-1][3] + count
            else:
                runs.append([None if place < 0 else place, None if place < 0 else place, held, count])
        rows.append({"module": kind, "family": family, "runs": runs})
    order = [name for name, _ in FAMILIES] + ["other"]
    return sorted(rows, key=lambda row: (order.index(row["family"]), row["module"]))
