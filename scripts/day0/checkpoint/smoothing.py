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
from day0.checkpoint.values import Compared, Pair, Part, Sums, read_part, whole

# Matrices whose outputs another one takes channel by channel.
PAIRED = (("v_proj", "o_proj"), ("up_proj", "down_proj"), ("w3", "w2"), ("fc1", "fc2"))
# How near two fits of a vector are to agree, and in which share of its elements; rows that columns are fitted to.
AGREEMENT, MOST, FITTED_ROWS = 0.3, 0.9, 256
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


def undo_pairs(
    off: Sequence[Part], changed: Mapping[str, tuple[Values, Values]], compared: Compared, files: Files
) -> list[Part]:
    """The parts that are off whatever is undone between a matrix and the one that takes its outputs.

    Tools such as llm-compressor's AWQ multiply the columns of o_proj and down_proj by a vector and divide the rows of
    v_proj and up_proj, whose outputs these take channel by channel, by the same. The vector is fitted to both, and
    counts only where the two fits agree: wrong scales of one of them stay what they are.

    Args:
        off, changed, compared, files: as for :func:`undo_smoothing`.
    """
    known: dict[str, bool] = {}
    left = []
    for part in off:
        parent, _, leaf = part.pair.module.rpartition(".")
        pairs = [(f"{parent}.{one}", f"{parent}.{other}") for one, other in PAIRED if leaf in (one, other)]
        for giver, taker in pairs:
            if taker not in known:
                norms = [norm for name, norm in changed.items() if _layer_of(name) == _layer_of(giver)]
                known[taker] = _agree(giver, taker, norms, compared, files)
        if not any(known[taker] for _, taker in pairs):
            left.append(part)
    return left


def _agree(giver: str, taker: str, norms: Sequence[tuple[Values, Values]], compared: Compared, files: Files) -> bool:
    """Whether one vector explains what is off in the rows of one matrix and in the columns of the other."""
    if any(module not in compared.layers for module in (giver, taker)):
        return False
    rows, columns = compared.pairs(giver), compared.pairs(taker)
    if len(rows) != 1 or len(columns) != 1 or rows[0].held.rows != columns[0].held.columns:
        return False
    of_columns = _fitted(columns[0], files, axis=0)
    if of_columns is None:
        return False
    smoothed = [factors for norm in norms if norm[0].size == rows[0].held.columns for factors in _factors(*norm)]
    undone = (replace(rows[0], held=replace(rows[0].held, smoothing=factors)) for factors in smoothed)
    for pair in (rows[0], *undone):
        of_rows = _fitted(pair, files, axis=1)
        if of_rows is not None and (numpy.abs(of_rows * of_columns - 1) <= AGREEMENT).mean() >= MOST:
            return True
    return False


def _fitted(pair: Pair, files: Files, axis: int) -> Values | None:
    """By what the source's rows (axis 1) or columns are multiplied to give those held; None where nothing does."""
    top = pair.held.rows if axis == 1 else FITTED_ROWS
    parts = [part for part in whole(pair) if part.first < top]
    sums = []
    for part in parts:
        held, before = read_part(part, files)
        sums.append(((held * before).sum(axis), (before * before).sum(axis)))
    both, left = (numpy.concatenate(each) if axis == 1 else numpy.sum(each, axis=0) for each in zip(*sums, strict=True))
    with numpy.errstate(divide="ignore", invalid="ignore"):
        factors = both / left
    if not (factors > 0).all():
        return None
    held, before = read_part(parts[0], files)
    own = factors[: parts[0].count, None] if axis == 1 else factors
    return factors if Sums.of(held, before * own).error() <= pair.bounds.limit else None


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
