"""Whether a judgement that lies on disk is the one that its evidence gives: made once more, it must say the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from day0.base.numbers import is_number
from day0.decision.quoting import short
from day0.records.verdict import Verdict

# What decide.py adds to the decision: when, where and with what it was made.
ADDED_TO_A_VERDICT = ("versions", "durations", "gpu", "mlflow", "git_commit", "created")
PLACES_NAMED = 5
CLOSE = 1e-9  # another build of a library may sum in another order


def decided(verdict: Verdict) -> dict[str, Any]:
    """What a verdict says, without when, where and with what it was made."""
    return {key: value for key, value in verdict.as_plain().items() if key not in ADDED_TO_A_VERDICT}


def differences(path: Path, recorded: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """A sentence where a file says something else than what is made of its evidence now."""
    found = list(_differing(recorded, made, ""))
    if not found:
        return []
    more = f", and in {len(found) - PLACES_NAMED} more places" if len(found) > PLACES_NAMED else ""
    places = "; ".join(f"{place} is {short(old)}, made again {short(new)}" for place, old, new in found[:PLACES_NAMED])
    return [f"{path} is not what its evidence gives: {places}{more}; remove it, which makes it anew"]


def _differing(old: Any, new: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differing(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _differing(*pair, f"{place}[{number}]")
    elif is_number(old) and is_number(new):
        if not math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE):
            yield place, old, new
    elif old != new:
        yield place, old, new
