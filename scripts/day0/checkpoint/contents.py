"""Compare all that a checkpoint holds with its source: quantized matrices by value, everything else by bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy

from day0.checkpoint.blocks import Blocks, BlockScan
from day0.checkpoint.dequantize import open_files
from day0.checkpoint.diagnosis import causes_of
from day0.checkpoint.formats import FORMATS
from day0.checkpoint.intentions import Patterns
from day0.checkpoint.layers import SortedTensors
from day0.checkpoint.names import PART
from day0.checkpoint.smoothing import undo_pairs, undo_smoothing
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.summary import Layers, distinct
from day0.checkpoint.unquantized import compare_unquantized
from day0.checkpoint.values import OF_UNKNOWN_MAKING, Compared, Errors, compare_values
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Scalars

_SMOOTHING = ("awq", "smoothquant", "svdquant")


class Contents(NamedTuple):
    """Outcome of :func:`compare_contents`.

    ``off`` are the quantized modules that differ, ``changed`` the other tensors that do, each with what is wrong as the
    end of a sentence; ``unrelated`` those of ``off`` whose values have nothing to do with the source's; ``trained``
    tensors that differ no more than further training explains. ``errors`` are by algorithm; ``not_compared`` modules by
    the reason, as the end of a sentence. ``blocks`` is None where not all was read; ``seed`` is None where it was.
    """

    off: dict[str, str]
    unrelated: list[str]
    compared: int
    matrices: int
    errors: dict[str, Errors]
    not_compared: dict[str, list[str]]
    changed: dict[str, str]
    trained: list[str]
    cast: dict[str, list[str]]
    kept: int
    kept_compared: int
    bytes_read: int
    blocks: Blocks | None
    seed: int | None


def compare_contents(
    layers: Layers,
    names: SortedTensors,
    tensors: Mapping[str, Tensor],
    source: SourceWeights,
    scalars: Mapping[str, float],
    config: Mapping[str, Any],
    patterns: Patterns | None,
    scan: BlockScan | None = None,
    seed: int = 0,
    is_foreign: bool = False,
) -> Contents:
    """Compare what a checkpoint holds with its source.

    Args:
        layers: the checkpoint's, by module.
        names: of its tensors.
        tensors: the checkpoint's.
        source: the source's tensors.
        scalars: values of the checkpoint's scalar scales.
        config: the checkpoint's config.json.
        patterns: of the recipe; they say whether it smooths or rotates.
        scan: where given, everything is read, and the blocks of scales and weights are looked at, too; what is found
            there is not found again in the values.
        seed: chooses what is read otherwise.
        is_foreign: it was made elsewhere by what is not known, which may smooth, move weights (GPTQ) or train (QAD).

    Raises:
        BrokenSafetensors: a file became shorter since its header was read.
    """
    every = scan is not None
    held = Scalars.of(scalars)
    skipped = _modules_of(held.where(~(numpy.isfinite(held.column) & (held.column > 0))))
    slack = OF_UNKNOWN_MAKING if is_foreign else 1.0
    compared = Compared(layers, names, tensors, source, scalars, skipped, slack)
    if _rotates(patterns):
        compared.leave_out("are rotated by the recipe, which cannot be undone here")
    smooths = is_foreign or _smooths(patterns, names, layers)
    with open_files() as files:
        kept = compare_unquantized(compared, config, files, every, seed, is_foreign)
        outcome = compare_values(compared, files, scan, seed)
        blocks = scan.finish(outcome.handed) if scan is not None else None
        broken = _modules_of(blocks.problems if blocks is not None else ())
        off = [part for part in outcome.off if part.pair.module.partition("[")[0] not in broken]
        explained: set[str] = set()
        if smooths:
            off, explained = undo_smoothing(off, kept.changed, compared, files)
        if is_foreign:
            off = undo_pairs(off, kept.changed, compared, files)
        causes = causes_of(off, source, scalars, files)
        return Contents(
            off={module: cause.sentence for module, cause in causes.items()},
            unrelated=[module for module, cause in causes.items() if cause.is_unrelated],
            compared=outcome.compared,
            matrices=outcome.matrices,
            errors=outcome.errors,
            not_compared=dict(compared.unread),
            changed={name: problem for name, problem in kept.problems.items() if name not in explained},
            trained=kept.trained,
            cast=kept.cast,
            kept=kept.tensors,
            kept_compared=kept.compared,
            bytes_read=files.bytes_read,
            blocks=blocks,
            seed=None if every else seed,
        )


def _modules_of(names: Iterable[str]) -> set[str]:
    """The modules that tensors belong to, and the tensors, which are the modules of fused experts."""
    found = set(names)
    return (
        found
        | {match["module"] for name in found if (match := PART.fullmatch(name))}
        | {name.removesuffix(".weight") for name in found}
    )


def _smooths(patterns: Patterns | None, names: SortedTensors, layers: Layers) -> bool:
    """Whether the recipe divides weights by what it multiplies the norms by; without one, whether its format may."""
    if patterns is not None:
        return patterns.method.startswith(_SMOOTHING)
    kinds = {layer.precision for layer, _ in distinct(layers) if layer.precision in FORMATS}
    return any("pre_quant_scale" in FORMATS[kind].optional for kind in kinds) and any(
        one.part == "pre_quant_scale" for one in names.parts
    )


def _rotates(patterns: Patterns | None) -> bool:
    settings = (entry.get("cfg") for entry in patterns.entries) if patterns is not None else ()
    return any(isinstance(cfg, Mapping) and cfg.get("rotate") for cfg in settings)
