"""Types of the files that users write: unknown keys are refused, and every mistake is reported with its place."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

MOST_QUOTED = 200
MOST_PART_BYTES, MOST_PATH_BYTES = 255, 4000  # NAME_MAX and, with room for a checkout's own, PATH_MAX of Linux
MOST_NAME_BYTES = 200  # of what endings are added to
_MEMBER_OF_UNION = re.compile(r"(function-\w+|list)\[.*\]$")  # as pydantic writes it into a mistake's place
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _safe_name(name: str) -> str:
    if not SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} becomes a folder's name; it must start with a letter or digit and hold only letters, digits, "
            "'.', '_' and '-'"
        )
    if len(name) > MOST_NAME_BYTES:
        raise ValueError(
            f"a name of {len(name)} characters becomes a folder's name; expected at most {MOST_NAME_BYTES}"
        )
    return name


def _local_path(path: str) -> str:
    if not path.strip() or any(character < " " or character == "\x7f" for character in path):
        raise ValueError("expected a path: not empty, on one line, without control characters")
    for part in path.split("/"):
        if len(os.fsencode(part)) > MOST_PART_BYTES:
            raise ValueError(f"the part {part[:20]}… is too long; file systems take {MOST_PART_BYTES} bytes of a name")
    if len(os.fsencode(path)) > MOST_PATH_BYTES:
        raise ValueError(f"a path of {len(path)} characters; expected at most {MOST_PATH_BYTES}")
    return path


def is_file_name(name: object) -> bool:
    """Whether a name that others gave can be that of a file in a folder of ours, and of nothing outside it."""
    if not isinstance(name, str) or not name or name.startswith(".") or "/" in name or "\0" in name:
        return False
    return len(name.encode("utf-8", "surrogatepass")) <= MOST_NAME_BYTES


Name = Annotated[str, AfterValidator(_safe_name)]
LocalPath = Annotated[str, AfterValidator(_local_path), Field(json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f]+$"})]
PositiveInteger = Annotated[int, Field(gt=0, strict=True)]


class Strict(BaseModel):
    """Refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), defer_build=True)


def or_bare_text(field: str) -> Callable[[dict[str, Any]], None]:
    """For ``json_schema_extra`` of a type that a bare text stands for, as its field of that name."""

    def extend(schema: dict[str, Any]) -> None:
        whole = dict(schema)
        schema.clear()
        schema["anyOf"] = [{"type": "string", "description": whole["properties"][field]["description"]}, whole]

    return extend


class Range(Strict):
    """From the least to the greatest value."""

    min: float = Field(0, allow_inf_nan=False)
    max: float = Field(1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.min >= self.max:
            raise ValueError(f"min must be below max; found min {self.min} and max {self.max}")
        return self


def mistakes_of(error: ValidationError, types: type[BaseModel], place: str = "") -> list[str]:
    """A sentence for each mistake: where, what was found, and what is expected or allowed.

    Args:
        error: pydantic's report on the content.
        types: the type that the content was to have.
        place: where the content stands within its file; empty: it is the whole.
    """
    sentences = []
    seen = set()
    for mistake in error.errors(include_url=False):
        parts = [part for part in mistake["loc"] if not _MEMBER_OF_UNION.match(str(part))]
        location = _dotted([place, *parts] if place else parts)
        if len(parts) < len(mistake["loc"]):
            if location in seen:
                continue  # what another member of the union would have expected
            seen.add(location)
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            allowed = _keys_at(types, mistake["loc"][:-1])
            message = f"unknown key; allowed here: {', '.join(allowed)}{nearest(str(mistake['loc'][-1]), allowed)}"
        elif mistake["type"] == "missing":
            message = "missing"
        elif not isinstance(mistake["input"], dict | list):
            message = f"found {repr(mistake['input'])[:MOST_QUOTED]}; {message[0].lower()}{message[1:]}"
        sentences.append(f"{location}: {message}" if location else message)
    return sentences


def _dotted(location: Iterable[str | int]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _keys_at(types: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    """Keys allowed at a place of a configuration, found by walking the annotations."""
    current: Any = types
    for part in location:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else current  # else a key or an index of what holds it
        current = _model_within(current)
    return sorted(current.model_fields) if current else []


def _model_within(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_within, getattr(annotation, "__args__", ()))), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question for the known names that are like a wrong one, whole or in their last part; empty where none is."""
    choices = {choice.lower(): choice for choice in known}
    near = [choices[match] for match in difflib.get_close_matches(name.lower(), list(choices), n=3)]
    endings = {choice.rsplit("/", 1)[-1]: choice for choice in choices.values() if "/" in choice}
    near += [endings[match] for match in difflib.get_close_matches(name.rsplit("/", 1)[-1], list(endings), 2, 0.7)]
    return f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else ""
