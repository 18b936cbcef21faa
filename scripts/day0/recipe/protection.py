"""Recipes that are another one with some layers protected: kept in 16 bits, or in FP8 where the other takes fewer bits.

Layers that an engine fuses are protected together, and so are all experts of a layer. What the other recipe leaves
alone stays as it is.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from day0.base.cli import UnusableInput
from day0.recipe.formats import LayerFormat, bits_of, setting_of
from day0.recipe.forms import Protected
from day0.recipe.modules import block_of, family_of, fused_with, patterns_of, quantizers_of
from day0.recipe.sensitivity import most_sensitive
from day0.records.sensitivity import LayerGroup, Sensitivity


def protecting_entries(
    base: Sequence[Mapping[str, Any]],
    protect: Sequence[Protected],
    by: LayerFormat,
    modules: Sequence[str],
    sensitivity: Sensitivity | None,
    place: str,
) -> list[dict[str, Any]]:
    """Entries that follow those of a ``quant_cfg`` and protect some of its layers.

    Args:
        base: entries of the recipe whose layers are protected.
        protect: the layers.
        by: the format that they get.
        modules: linear modules of the model, by their names in the files.
        sensitivity: of the model; None: it is not known yet, so that what needs it is left out.
        place: the recipe, for messages.

    Raises:
        UnusableInput: what is to be protected is not there, or the recipe takes no fewer bits for it anyway.
        Unsupported: the sensitivity does not hold what is needed.
    """
    lower = {module for module in modules if _bits(base, quantizers_of(module)) < by.bits}
    named: dict[str, None] = {}
    ranked: list[LayerGroup] = []
    for index, item in enumerate(protect):
        where = f"{place}: protect[{index}]"
        if item.groups is None:
            found = _matching(item, modules, where)
            whole = {other for module in found for other in fused_with(module)}
            hit = [module for module in modules if module in whole and module in lower]
            if not hit:
                raise UnusableInput(
                    f"{where}: found {item}; the recipe takes no fewer than {by.bits:g} bits for these layers "
                    f"({found[0]} is one), so that nothing is protected; remove it"
                )
            named |= dict.fromkeys(hit)
        elif sensitivity is not None:
            groups = [g for g in most_sensitive(sensitivity) if _bits(base, g.quantizers) < by.bits]
            if len(groups) < item.groups:
                raise UnusableInput(
                    f"{where}: found {item}; the recipe quantizes {len(groups)} groups of layers to fewer than "
                    f"{by.bits:g} bits; give that number at most"
                )
            ranked += groups[: item.groups]
    of_files = [name for module in modules for name in quantizers_of(module)]
    patterns = patterns_of((name for module in named for name in quantizers_of(module)), of_files)
    if sensitivity is not None:
        of_memory = [name for group in sensitivity.groups for name in group.quantizers]
        patterns += patterns_of((name for group in ranked for name in group.quantizers), of_memory)
    return by.entries(
        dict.fromkeys(name for name in patterns if name.endswith(("weight_quantizer", "input_quantizer")))
    )


def _bits(entries: Sequence[Mapping[str, Any]], quantizers: Sequence[str]) -> float:
    """Fewest bits that a recipe gives to any of a module's weights."""
    settings = [setting_of(entries, name) for name in quantizers if name.endswith("weight_quantizer")]
    return min(map(bits_of, settings), default=bits_of(None))


def _matching(item: Protected, modules: Sequence[str], where: str) -> list[str]:
    """Modules that a family, a pattern or numbers of blocks mean."""
    if item.modules is None:
        blocks = [block_of(module) for module in modules]
        count = 1 + max((block for block in blocks if block is not None), default=-1)
        first, last = item.first or 0, item.last or 0
        if max(first, last) > count:
            raise UnusableInput(f"{where}: found {item}; the model has {count} blocks")
        return [
            m
            for m, block in zip(modules, blocks, strict=True)
            if block is not None and not first <= block < count - last
        ]
    families = sorted({family_of(module).lower() for module in modules})
    if item.modules.isidentifier():
        found = [module for module in modules if family_of(module).lower() == item.modules]
        expected = f"no linear layer of the model is of this family; it has {', '.join(families)}"
    else:
        found = [module for module in modules if fnmatch.fnmatchcase(module, item.modules)]
        expected = f"no linear layer of the model has such a name; the first are {', '.join(modules[:3])}"
    if not found:
        raise UnusableInput(f"{where}: found {item}; {expected}")
    return found
