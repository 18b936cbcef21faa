"""What counts as a number or a mapping in what other tools write: one meaning for every reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; a bool and a text are none, nor is an integer beyond any float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number of 0 or more, written as such: 3.0 and true are none."""
    return isinstance(value, int) and is_number(value) and value >= 0


def mapping_or_empty(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def float_or_none(value: Any) -> float | None:
    """A value as a number; None where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
