"""Compare the tensors of a checkpoint with those of its source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from day0.checkpoint.formats import logical_shapes
from day0.checkpoint.layers import SortedTensors
from day0.checkpoint.names import BUFFERS, KV_PART, PART
from day0.checkpoint.summary import Layer
from day0.source.safetensors_headers import Tensor


def compare_inventory(
    source: Mapping[str, Tensor],
    output: Mapping[str, Tensor],
    names: SortedTensors,
    is_tied: bool,
    layers: Mapping[str, Layer],
) -> tuple[list[str], list[str], list[str]]:
    """Names of the source's tensors that are missing, of new tensors that are no scales, and of misshapen ones.

    The shape of a layer with a problem of its own is not judged.
    """

    def is_part(name: str) -> bool:
        return bool(PART.fullmatch(name) or KV_PART.fullmatch(name) or BUFFERS.search(name))

    def is_tied_head(name: str) -> bool:
        return is_tied and name.endswith("lm_head.weight")

    lost = [name for name in source if name not in output]
    new = [name for name in (*names.weights.values(), *names.others) if name not in source]
    converted = _converted(source, output, [*lost, *new])

    def is_converted(name: str) -> bool:
        return ".experts." in name and _experts_of(name) in converted

    missing = [n for n in lost if not (is_part(n) or is_tied_head(n) or is_converted(n))]
    unknown = [n for n in new if not (is_part(n) or is_tied_head(n) or is_converted(n))]
    misshapen = []
    sound: set[tuple] = set()  # forms seen before: a large model repeats a few of them
    for name, before in source.items():
        after = output.get(name)
        if after is None or after[1] == before[1]:
            continue
        layer = layers.get(name.removesuffix(".weight")) or layers.get(name)
        if layer is None:
            misshapen.append(name)
            continue
        form = id(layer), before[1], after[1]
        if form in sound or layer.problem is not None:
            continue
        if before.shape in logical_shapes(layer.precision, after.shape):
            sound.add(form)
        else:
            misshapen.append(name)
    return sorted(missing), sorted(unknown), sorted(misshapen)


def _converted(source: Mapping[str, Tensor], output: Mapping[str, Tensor], changed: Iterable[str]) -> set[str]:
    """Layers whose experts are fused on one side and apart on the other, as many of them on both."""
    found = set()
    for place in {_experts_of(name) for name in changed if ".experts." in name}:
        sides = []
        for side in (source, output):
            names = [n for n in side if n.startswith(f"{place}.experts.") and not PART.fullmatch(n)]
            fused = {side[n].shape[0] for n in names if _is_fused(n) and len(side[n].shape) == 3}
            apart = {n.removeprefix(f"{place}.experts.").partition(".")[0] for n in names if not _is_fused(n)}
            sides.append((bool(fused), max(fused, default=len(apart))))
        if sides[0][0] != sides[1][0] and sides[0][1] == sides[1][1] > 0:
            found.add(place)
    return found


def _experts_of(name: str) -> str:
    return name.partition(".experts.")[0]


def _is_fused(name: str) -> bool:
    return re.search(r"\.experts\.\d+\.", name) is None
