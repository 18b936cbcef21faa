"""What a preset of ModelOpt makes of a layer: the settings of its quantizers, and the bits of a weight."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FULL_BITS = 16.0


@dataclass(frozen=True)
class LayerFormat:
    """Settings of the quantizers of a layer's weights and inputs; None: the quantizer is off."""

    weight: Any
    input: Any
    bits: float

    @property
    def is_nvfp4(self) -> bool:
        """Whether weights or inputs are rounded to NVFP4 by ModelOpt's kernel."""
        blocks = [one.get("block_sizes") or {} for one in (self.weight, self.input) if isinstance(one, Mapping)]
        return any(list(one.get("scale_bits") or ()) == [4, 3] for one in blocks)

    def entries(self, patterns: Iterable[str]) -> list[dict[str, Any]]:
        """Entries of a ``quant_cfg`` that give this format to quantizers."""
        found = []
        for pattern in patterns:
            settings = self.weight if pattern.endswith("weight_quantizer") else self.input
            entry = {"quantizer_name": pattern, "enable": settings is not None}
            found.append(entry if settings is None else entry | {"cfg": settings})
        return found


FULL_PRECISION = LayerFormat(None, None, FULL_BITS)


def format_of(body: Mapping[str, Any]) -> LayerFormat:
    """The format that a preset's ``quant_cfg`` gives to any layer, whatever its name; see algorithms.py:205 and :2118.

    Those lines of ModelOpt 0.47.0 read the formats of a search: the last entry that matches a quantizer counts.
    """
    entries = body.get("quant_cfg") or []
    weight, inputs = (setting_of(entries, f"{part}_quantizer", (None,)) for part in ("weight", "input"))
    return LayerFormat(weight, inputs, float(body.get("effective_bits") or bits_of(weight)))


def bits_of(settings: Any) -> float:
    """Bits of a weight by a quantizer's settings; of several quantizers in a row the fewest, as ModelOpt counts."""
    if isinstance(settings, list):
        return min(map(bits_of, settings), default=FULL_BITS)
    if not isinstance(settings, Mapping) or settings.get("enable") is False:
        return FULL_BITS
    if settings.get("effective_bits") is not None:
        return float(settings["effective_bits"])
    bits = settings.get("num_bits", 8)
    return float(sum(bits) + 1 if isinstance(bits, list | tuple) else bits)


def setting_of(
    entries: Iterable[Mapping[str, Any]], quantizer: str, of_classes: Collection[str | None] = (None, "nn.Linear")
) -> Any:
    """Settings that a ``quant_cfg`` gives to a quantizer by its full name, the last match; None: it is off.

    ``of_classes``: the ``parent_class`` that an entry may have.
    """
    found = None
    for entry in entries:
        name = str(entry.get("quantizer_name", ""))
        if entry.get("parent_class") in of_classes and fnmatch.fnmatchcase(quantizer, name):
            found = None if entry.get("enable") is False else entry.get("cfg", found)
    return found
