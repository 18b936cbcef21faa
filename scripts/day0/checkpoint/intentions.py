"""Which modules a recipe's quantizer patterns quantize, and to what, by the names of the modules alone."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from day0.checkpoint.formats import FORMATS, algorithm_of_quantizers, number_format
from day0.checkpoint.names import MUST_BE_NAMED
from day0.recipe.modules import family_of, stems_of
from day0.records.quantization import ModelOptConfiguration


class Intention(NamedTuple):
    """What a weight is to become: number format (:attr:`Format.kind`), group size, algorithm; None where not known."""

    kind: str | None = None
    group: int | None = None
    algorithm: str | None = None


@dataclass(frozen=True)
class Patterns:
    """A recipe's resolved patterns in their order, and its calibration algorithm, such as max or awq_lite."""

    entries: tuple[Mapping[str, Any], ...]
    method: str = "max"

    @classmethod
    def of_configuration(cls, configuration: ModelOptConfiguration | None) -> Patterns | None:
        """The patterns of a configuration; None where there are none, as where a search decides in their place."""
        if configuration is None or configuration.auto_quantize is not None or configuration.quantize is None:
            return None
        return cls.of_settings(configuration.quantize)

    @classmethod
    def of_settings(cls, settings: Any) -> Patterns | None:
        """The patterns of ``quantize``, or of a format that a search chooses from; None where there are none."""
        entries = settings.get("quant_cfg") if isinstance(settings, Mapping) else None
        if not isinstance(entries, list):
            return None
        patterns = tuple(entry for entry in entries if isinstance(entry, Mapping))
        return cls(patterns, _method(settings.get("algorithm")))

    @property
    def names_experts(self) -> bool:
        """Whether a pattern treats one expert of a layer differently from another."""
        return any(re.search(r"experts[.]\d", str(entry.get("quantizer_name", ""))) for entry in self.entries)

    @property
    def names_mtp(self) -> bool:
        """Whether a pattern names layers of multi-token prediction to quantize them; wide ones match them by chance."""
        names = (str(entry.get("quantizer_name", "")) for entry in self.entries if _enables(entry))
        return any(re.search(r"mtp|nextn|eh_proj|layers[.]\d", name) for name in names)

    @property
    def tells_numbers_apart(self) -> bool:
        """Whether the number of a layer may matter to a pattern; a digit within a word, as in conv1d, is none."""
        names = (str(entry.get("quantizer_name", "")) for entry in self.entries)
        return any(re.search(r"[?[]|(?<![^\W\d])(?<!\d)\d+(?!\w)", name) for name in names)

    def essence(self) -> tuple[str, ...]:
        """What decides the weights, as a line for each entry, whatever way it is spelled."""
        lines = []
        for entry in self.entries:
            kind, group = number_format(entry.get("cfg"))
            setting = f"{kind or 'as before'}{f' in groups of {group}' if group else ''}" if _enables(entry) else "off"
            of_class = f" of {entry['parent_class']}" if entry.get("parent_class") else ""
            lines.append(f"{entry.get('quantizer_name')}{of_class}: {setting}")
        return tuple(lines)

    def intention(self, module: str) -> bool | Intention | None:
        """What becomes of a linear module's weight. ModelOpt applies the patterns in order, the last match decides.

        A fused expert's quantizer has another name than its module in the checkpoint.

        Returns:
            False: left alone; None: not known, as its names in memory and in the checkpoint lead to different answers.
        """
        stems = stems_of(module)
        answers = [self._setting(f"{stem}weight_quantizer") for stem in stems]
        named = MUST_BE_NAMED.get(family_of(module))
        if named is not None and not any(one.is_enabled and named.search(one.pattern) for one in answers):
            return False
        if not all(one.is_enabled for one in answers):
            return None if any(one.is_enabled for one in answers) else False
        inputs = {self._setting(f"{stem}input_quantizer").input_kind for stem in stems}
        if len({(one.kind, one.group) for one in answers}) > 1 or len(inputs) > 1:
            return Intention()
        kind, group = answers[0].kind, answers[0].group
        algorithm = algorithm_of_quantizers(kind, inputs.pop(), self.method)
        return Intention(kind, group, algorithm if algorithm in FORMATS else None)

    def may_quantize(self, module: str) -> bool:
        """Whether a weight quantizer is on, by any of the names that it may have; wide patterns count everywhere."""
        return any(self._setting(f"{stem}weight_quantizer").is_enabled for stem in stems_of(module))

    def input_kind(self, module: str) -> str | None:
        """Number format of a linear module's inputs, "none" where they stay as they are; None where not known."""
        found = {self._setting(f"{stem}input_quantizer").input_kind for stem in stems_of(module)}
        return found.pop() if len(found) == 1 else None

    def _setting(self, quantizer: str) -> _Setting:
        found = _Setting(True, None, None, "")
        for entry in self.entries:
            name = str(entry.get("quantizer_name", ""))
            if entry.get("parent_class") in (None, "nn.Linear") and fnmatch.fnmatchcase(quantizer, name):
                kind, group = number_format(entry["cfg"]) if entry.get("cfg") else (found.kind, found.group)
                found = _Setting(_enables(entry), kind, group, name)
        return found


def kv_format_of(configuration: ModelOptConfiguration | None) -> tuple[str | bool | None, bool]:
    """Number format that a configuration gives the KV cache, and whether its scales are measured and so are written.

    The format is False where the cache is left alone, None where the configuration cannot tell.
    """
    if configuration is None:
        return None, False
    of_search = (configuration.auto_quantize or {}).get("kv_cache")
    parts = (configuration.quantize, of_search, configuration.kv_cache)
    lists = [part.get("quant_cfg") for part in parts if isinstance(part, Mapping)]
    entries = [entry for one in lists if isinstance(one, list) for entry in one if isinstance(entry, Mapping)]
    if not entries:
        return None, False
    named = [entry for entry in entries if "bmm_quantizer" in str(entry.get("quantizer_name"))]
    found = Patterns(tuple(named))._setting("model.layers.0.self_attn.k_bmm_quantizer")
    if not found.pattern or not found.is_enabled:
        return False, False
    settings = [entry["cfg"] for entry in named if isinstance(entry.get("cfg"), Mapping)]
    return found.kind, found.kind is not None and not any(one.get("use_constant_amax") for one in settings)


class _Setting(NamedTuple):
    """A quantizer after all entries, and the pattern that decided."""

    is_enabled: bool
    kind: str | None
    group: int | None
    pattern: str

    @property
    def input_kind(self) -> str | None:
        """Its number format, "none" where it is off, None where it is not known."""
        return self.kind if self.is_enabled else "none"


def _enables(entry: Mapping[str, Any]) -> bool:
    settings = entry.get("cfg")
    is_off = isinstance(settings, Mapping) and settings.get("enable") is False
    return entry.get("enable", True) is not False and not is_off


def _method(algorithm: Any) -> str:
    """Name of a calibration algorithm; of several the one that changes the weights' tensors is the last."""
    if isinstance(algorithm, Sequence) and not isinstance(algorithm, str):
        algorithm = algorithm[-1] if algorithm else "max"
    if isinstance(algorithm, Mapping):
        algorithm = algorithm.get("method")
    return str(algorithm or "max")


def differences(one: Patterns, other: Patterns) -> list[str]:
    """Entries that only one of two lists of patterns has; where only the order differs, a sentence on that."""
    first, second = one.essence(), other.essence()
    only = [*(f"only in the first: {line}" for line in _without(first, second))]
    only += [f"only in the second: {line}" for line in _without(second, first)]
    return only or (["the same entries in another order"] if first != second else [])


def _without(lines: Iterable[str], others: Iterable[str]) -> list[str]:
    known = set(others)
    return [line for line in lines if line not in known]
