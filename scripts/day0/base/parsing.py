"""Parse JSON and YAML that others wrote: in seconds, within stated limits, and never to something that it does not say.

What the parsers of Python and PyYAML take silently, or break at, is refused here with its line: a key that stands
twice, nesting without end, aliases that multiply, half of a surrogate pair. A byte order mark is no part of the text.
A date in YAML stays the text that it is. NaN and infinities are values like any other, for the judges to find, unless
``finite`` is asked for.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

MAX_DEPTH = 100  # mappings and lists within one another
MAX_JSON_BYTES = 256 << 20  # tokenizers and indices of large models have 30 MiB
MAX_LINE_BYTES = 64 << 20  # of a file of JSON lines
MAX_YAML_BYTES = 16 << 20
MAX_YAML_NODES = 300_000  # with aliases written out

Tagged = Callable[[str, Any], Any]


class Unparsable(ValueError):
    """A text that is no JSON or YAML, or that is beyond the limits of this module; its message says what and where."""


def decode(data: bytes, most_bytes: int) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        Unparsable: it is too large, or not in UTF-8.
    """
    if len(data) > most_bytes:
        raise Unparsable(f"it has {len(data)} bytes; the largest that is read has {most_bytes}")
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unparsable(f"it is not in UTF-8: {error}") from None


# --- JSON -------------------------------------------------------------------------------------------------------------


class _TwiceTheSameKey(ValueError):
    """Found by a hook that does not know where it is."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _TwiceTheSameKey
    return content


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise Unparsable(f"{text} is beyond the range of a float")
    return number


def _no_constant(text: str) -> NoReturn:
    raise Unparsable(f"{text} is no number of JSON")


# A decoder is made once: json.loads makes one for each call that has a hook.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
_FINITE_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
_CONTAINERS = frozenset({dict, list})
_SURROGATES = re.compile(r"\\u[dD](?:[89abAB]..\\u[dD][c-fC-F]..|[89a-fA-F])")  # a pair, or a half alone
_HALF = len(r"\uDC")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]', re.DOTALL)


def parse_json(text: str, *, finite: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: without a byte order mark, as :func:`decode` gives it.
        finite: refuse NaN and infinities.

    Raises:
        Unparsable: it is no JSON, repeats a key, nests too deep, or holds half of a surrogate pair.
    """
    try:
        content = (_FINITE_DECODER if finite else _DECODER).decode(text)
    except Unparsable:
        raise
    except _TwiceTheSameKey:
        raise Unparsable(_repeated_key(text)) from None
    except RecursionError:
        raise Unparsable(f"it nests deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # of the decoder, or an integer of more than 4,300 digits
        raise Unparsable(str(error)) from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(content)
    if "\\u" in text:
        _check_surrogates(text, content)
    return content


def _check_depth(content: Any) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level = [content] if type(content) in _CONTAINERS else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise Unparsable(f"it nests deeper than {MAX_DEPTH} levels")
        level = [
            inner
            for value in level
            for inner in (value.values() if type(value) is dict else value)
            if type(inner) in _CONTAINERS
        ]


def _check_surrogates(text: str, content: Any) -> None:
    if all(len(escape) > _HALF for escape in _SURROGATES.findall(text)):
        return
    try:  # the backslash of what was found may itself be escaped
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("unicode-escape").decode()
        raise Unparsable(f"it holds {half}, half of a surrogate pair, which no text can hold") from None


def _repeated_key(text: str) -> str:
    """Where a JSON text has the same key twice; read once more, as the decoder does not say where it is."""
    objects: list[dict[str, int] | None] = []  # the keys of those that are open, with their places; None for a list
    is_key = False
    for token in _TOKEN.finditer(text):
        sign = token[0]
        if sign in "{[":
            objects.append({} if sign == "{" else None)
        elif sign in "}]" and objects:
            objects.pop()
        is_first = sign in "{,"
        if sign[0] == '"' and is_key and objects and (keys := objects[-1]) is not None:
            key = json.loads(sign)
            if key in keys:
                lines = [text.count("\n", 0, place) + 1 for place in (keys[key], token.start())]
                return said_twice(key, *lines)
            keys[key] = token.start()
        is_key = is_first
    return "it has the same key twice in one object"


def said_twice(key: Any, first: int, second: int) -> str:
    """What is wrong with a key that stands in two lines."""
    where = f"twice in line {first}" if first == second else f"in lines {first} and {second}"
    return f"key {repr(key)[:80]} stands {where}; which of the two counts would be a guess, so remove one"


# --- YAML -------------------------------------------------------------------------------------------------------------

DATE = "tag:yaml.org,2002:timestamp"


def parse_yaml(text: str, tagged: Tagged | None = None) -> Any:
    """The value of a YAML text of at most one document; None of an empty one.

    Args:
        text: without a byte order mark, as :func:`decode` gives it.
        tagged: makes the value of a node with a tag of its own, such as ``!function``, from the tag's name and the
            node's text, list or mapping, and that of a date, whose tag is ``DATE``; without it such tags are refused,
            and a date is a text.

    Raises:
        Unparsable: it is no YAML, repeats a key, nests too deep, or has too many values with its aliases written out.
    """
    documents = parse_yaml_documents(text, tagged)
    if len(documents) > 1:
        raise Unparsable(f"expected a single document, found {len(documents)}")
    return documents[0] if documents else None


def parse_yaml_documents(text: str, tagged: Tagged | None = None) -> list[Any]:
    """The value of each document of a YAML text; see :func:`parse_yaml`."""
    from day0.base.composing import Composer  # imported late, since most who import this module read no YAML

    return list(Composer(text, tagged).documents())
