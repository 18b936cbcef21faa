"""Undo what a recipe that smooths has moved from the weights into the norms before them.

AWQ, SmoothQuant and SVDQuant divide the columns of a weight by a vector and multiply the inputs by it: kept beside the
weight as pre_quant_scale, which :class:`day0.checkpoint.dequantize.Matrix` undoes, or multiplied into the norm. Then
the norm's own change gives the vector: of its weight, or of its weight plus one for norms that add one.

Source: nvidia-modelopt 0.47.0, modelopt/torch/export/quant_utils.py:1457 (fuse_prequant_layernorm).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy

from day0.checkpoint.dequantize import Files, Values
from day0.checkpoint.names import NUMBER
from day0.checkpoint.values import Compared, Part, Sums, read_part, whole

# Modules behind a norm that are looked at to see whether its change is undone in them.
LOOKED_AT = 16


def undo_smoothing(
    off: Sequence[Part], changed: Mapping[str, tuple[Values, Values]], compared: Compared, files: Files
) -> tuple[list[Part], set[str]]:
    """The parts that are off whatever is undone, and the norms whose change the weights behind them undo.

    Args:
        off: parts that differ from the source as they are.
        changed: by name, what a norm holds in the source and in the checkpoint.
        compared: the quantized matrices.
        files: to read from.
    """
    norms: dict[str, list[str]] = defaultdict(list)
    for name in changed:
        norms[_layer_of(name)].append(name)
    explained: set[str] = set()
    left = []
    for part in off:
        names = norms.get(_layer_of(part.pair.module), [])
        matching = [name for name in names if _is_undone(part, changed[name], files, is_off=True)]
        explained.update(matching)
        if not matching:
            left.append(part)
    modules: dict[str, list[str]] = defaultdict(list)
    for module in compared.modules if set(changed) - explained else ():
        modules[_layer_of(module)].append(module)
    for name in set(changed) - explained:
        behind = (pair for module in modules.get(_layer_of(name), ())[:LOOKED_AT] for pair in compared.pairs(module))
        if any(_is_undone(next(whole(pair)), changed[name], files, is_off=False) for pair in behind):
            explained.add(name)
    return left, explained


def _layer_of(name: str) -> str:
    """Name of the layer that a tensor or module belongs to: up to its first number."""
    found = NUMBER.search(name)
    return name[: found.end()] if found else ""


def _is_undone(part: Part, norm: tuple[Values, Values], files: Files, is_off: bool) -> bool:
    """Whether a part is sound, and nearer to the source, once a norm's change is undone in its columns."""
    pair = part.pair
    if norm[0].size != pair.held.columns:
        return False
    before = Sums.of(*read_part(part, files))
    for factors in _factors(*norm):
        undone = replace(pair, held=replace(pair.held, smoothing=factors))
        after = Sums.of(*read_part(replace(part, pair=undone), files))
        is_sound = not after.is_off(pair.bounds.limit).any()
        if is_sound and (is_off or after.error() < before.error()):
            return True
    return False


def _factors(before: Values, after: Values) -> Iterator[Values]:
    """What the inputs are multiplied by, for norms that hold their factor and for those that add one to it."""
    for offset in (0.0, 1.0):
        with numpy.errstate(divide="ignore", invalid="ignore"):
            factors = (after + offset) / (before + offset)
        if numpy.isfinite(factors).all() and (factors > 0).all():
            yield factors.astype(numpy.float32)
