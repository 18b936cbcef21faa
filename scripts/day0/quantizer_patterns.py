"""What a recipe's quantizer patterns make of a module, by its name alone."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

from day0.checkpoint_formats import kind_of_quantizer
from day0.checkpoint_names import MUST_BE_NAMED, family_of


def intended_by(quant_cfg: Iterable[Any], module: str) -> bool | None:
    """Whether a recipe's patterns quantize a linear module's weight. ModelOpt applies them in order, the last one wins.

    A fused expert's quantizer has another name than its module in the checkpoint; None where the two disagree.
    """
    found = intention_of(quant_cfg, module)
    return found if found is None else bool(found)


def intention_of(quant_cfg: Iterable[Any], module: str) -> bool | str | None:
    """As :func:`intended_by`, with the number format (:attr:`Format.kind`) in place of True where it is set."""
    names = {f"{module}.weight_quantizer"}
    expert = re.fullmatch(r"(.+\.experts)\.(?:\d+|\*)\.(\w+)", module)
    if expert:
        fused = "gate_up_proj" if expert[2] in ("gate_proj", "up_proj", "w1", "w3") else "down_proj"
        names.add(f"{expert[1]}.{fused}_weight_quantizer")
    elif ".experts." in module:
        names = {f"{module}_weight_quantizer"}
    entries = [entry for entry in quant_cfg if isinstance(entry, dict)]
    answers = [_setting_of(entries, name) for name in names]
    named = MUST_BE_NAMED.get(family_of(module))
    if named is not None and not any(is_enabled and named.search(pattern) for is_enabled, _, pattern in answers):
        answers = [(False, None, "")]
    if all(is_enabled for is_enabled, _, _ in answers):
        kinds = {kind for _, kind, _ in answers}
        return (kinds.pop() if len(kinds) == 1 else None) or True
    return None if any(is_enabled for is_enabled, _, _ in answers) else False


def _setting_of(entries: Iterable[Mapping[str, Any]], quantizer: str) -> tuple[bool, str | None, str]:
    """Whether a quantizer is enabled, its number format, and the pattern that decided."""
    enabled, kind, decided = True, None, ""
    for entry in entries:
        applies = entry.get("parent_class") in (None, "nn.Linear")
        if applies and fnmatch.fnmatchcase(quantizer, str(entry.get("quantizer_name", ""))):
            settings = entry.get("cfg")
            enabled, decided = entry.get("enable", True) is not False, str(entry.get("quantizer_name", ""))
            if isinstance(settings, dict) and settings.get("enable") is False:
                enabled = False
            kind = kind_of_quantizer(settings) or kind
    return enabled, kind, decided


def patterns_of(record: Mapping[str, Any] | None) -> list[Any] | None:
    """The recipe's resolved patterns; None without a record, and where a search decided instead of the patterns."""
    recipe = record.get("recipe") if record is not None else None
    resolved = recipe.get("quant_cfg") if isinstance(recipe, dict) else None
    if not isinstance(resolved, dict) or resolved.get("auto_quantize") is not None:
        return None
    quantize = resolved.get("quantize")
    patterns = quantize.get("quant_cfg") if isinstance(quantize, dict) else None
    return patterns if isinstance(patterns, list) else None
