"""How foreign values are taken into a result: as numbers, as text that can be written, as quotes in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from day0.base.numbers import is_number


def number(value: Any) -> float | None:
    """The value as a float, or None where it is no finite number (a bool and a text are none)."""
    return float(value) if is_number(value) else None


def printable(value: Any) -> str:
    """The value's text with every half of a surrogate pair escaped, which UTF-8 cannot hold."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def plain(value: Any) -> str | int | float | bool | None:
    """The value as a JSON artefact can hold it: a text, whole number, bool or finite number, else its text."""
    if value is None or isinstance(value, bool | int) or number(value) is not None:
        return value
    return printable(value) if isinstance(value, str) else printable(repr(value))


def plain_mapping(content: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping as a JSON artefact can hold it, with all that it contains."""

    def within(value: Any) -> Any:
        if isinstance(value, Mapping):
            return plain_mapping(value)
        return [within(entry) for entry in value] if isinstance(value, list | tuple) else plain(value)

    return {printable(key): within(value) for key, value in content.items()}


def short(value: Any, length: int = 60) -> str:
    """A value as it is quoted in a sentence."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
