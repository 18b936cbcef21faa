"""Parse JSON and YAML that others wrote: in seconds, within stated limits, and never to something that it does not say.

What the parsers of Python and PyYAML take silently, or break at, is refused here with its line: a key that stands
twice, nesting without end, aliases that multiply, half of a surrogate pair. A byte order mark is no part of the text.
A date in YAML stays the text that it is. NaN and infinities are values like any other, for the judges to find, unless
``finite`` is asked for.

YAML is composed here from libyaml's events and not by PyYAML, whose composer calls itself for each level (100,000
levels end the process), takes the last of two keys, and does not know how much its aliases stand for.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

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
                return _said_twice(key, *lines)
            keys[key] = token.start()
        is_key = is_first
    return "it has the same key twice in one object"


def _said_twice(key: Any, first: int, second: int) -> str:
    where = f"twice in line {first}" if first == second else f"in lines {first} and {second}"
    return f"key {repr(key)[:80]} stands {where}; which of the two counts would be a guess, so remove one"


# --- YAML -------------------------------------------------------------------------------------------------------------

_CLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXT = frozenset(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))
DATE = f"{_TAG}timestamp"
_SCALARS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float"))
_NO_KEY = object()


@dataclass
class _Open:
    """A mapping or list whose end was not read yet."""

    content: Any
    tag: str | None
    anchor: str | None
    nodes_before: int
    line: int
    height: int = 1  # levels below it and its own
    key: Any = _NO_KEY
    is_merge: bool = False
    lines: dict[Any, int] = field(default_factory=dict)  # of the keys
    merged: list[dict[Any, Any]] = field(default_factory=list)


class _Composer:
    """Makes the values of a YAML text from its events, without calling itself."""

    def __init__(self, text: str, tagged: Tagged | None) -> None:
        self._loader = _CLoader(text)
        self._tagged = tagged
        self._plain: dict[str, Any] = {}
        self._nodes = 0

    def documents(self) -> Iterator[Any]:
        """The value of each document."""
        loader = self._loader
        try:
            while not loader.check_event(yaml.StreamEndEvent):
                if isinstance(event := loader.get_event(), yaml.DocumentStartEvent):
                    yield self._document()
                elif not isinstance(event, yaml.StreamStartEvent):
                    raise Unparsable("it holds something between two documents")
        except yaml.YAMLError as error:
            raise Unparsable(str(error)) from None
        except RecursionError:
            raise Unparsable(f"it nests deeper than {MAX_DEPTH} levels") from None
        finally:
            loader.dispose()

    def _document(self) -> Any:
        get_event = self._loader.get_event
        anchors: dict[str, tuple[Any, int, int]] = {}  # value, nodes, height
        stack: list[_Open] = []
        result: Any = None
        while True:
            event = get_event()
            kind = type(event)
            height, anchor = 0, None
            if kind is yaml.ScalarEvent:
                self._nodes += 1
                value, anchor, nodes = self._scalar(event), event.anchor, 1
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._nodes += 1
                line = event.start_mark.line + 1
                if len(stack) >= MAX_DEPTH:
                    raise Unparsable(f"line {line}: it nests deeper than {MAX_DEPTH} levels")
                content: Any = {} if kind is yaml.MappingStartEvent else []
                stack.append(_Open(content, event.tag, event.anchor, self._nodes, line))
                anchors.pop(event.anchor, None)
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                closed = stack.pop()
                value, anchor, height = self._whole(closed), closed.anchor, closed.height
                nodes = self._nodes - closed.nodes_before + 1
            elif kind is yaml.AliasEvent:
                line = event.start_mark.line + 1
                if event.anchor not in anchors:
                    inside = any(entry.anchor == event.anchor for entry in stack)
                    problem = "stands within itself" if inside else "is not defined before it"
                    raise Unparsable(f"line {line}: what the alias *{event.anchor} stands for {problem}")
                value, nodes, height = anchors[event.anchor]
                self._nodes += nodes
                if len(stack) + height > MAX_DEPTH:
                    raise Unparsable(f"line {line}: with its aliases, it nests deeper than {MAX_DEPTH} levels")
            else:  # the document's end
                return result
            if self._nodes > MAX_YAML_NODES:
                line = event.start_mark.line + 1
                raise Unparsable(f"line {line}: with its aliases, it has more than {MAX_YAML_NODES} values")
            if anchor is not None:
                anchors[anchor] = (value, nodes, height)
            if stack:
                self._put(stack[-1], value, height, event)
            else:
                result = value

    def _put(self, parent: _Open, value: Any, height: int, event: Any) -> None:
        """Put a value in the mapping or list that it stands in: there it is a key, the value of a key, or an entry."""
        if height >= parent.height:
            parent.height = height + 1
        if isinstance(parent.content, list):
            parent.content.append(value)
        elif parent.key is _NO_KEY:
            line = event.start_mark.line + 1
            if value == "<<" and type(event) is yaml.ScalarEvent and event.implicit[0]:
                parent.key, parent.is_merge = value, True
                return
            try:
                first = parent.lines.setdefault(value, line)
            except TypeError:
                raise Unparsable(f"line {line}: a mapping or list is the key of a mapping; expected a text") from None
            if value in parent.content:
                raise Unparsable(_said_twice(value, first, line))
            parent.content[value] = None  # its place in the order
            parent.key = value
        else:
            if parent.is_merge:
                entries = value if isinstance(value, list) else [value]
                if not all(isinstance(entry, dict) for entry in entries):
                    raise Unparsable(f"line {event.start_mark.line + 1}: '<<' expects a mapping or a list of them")
                parent.merged = [*entries, *parent.merged]  # the first of a list precedes, as in PyYAML
                parent.is_merge = False
            else:
                parent.content[parent.key] = value
            parent.key = _NO_KEY

    def _whole(self, closed: _Open) -> Any:
        value = closed.content
        if closed.merged:
            value = {}
            for entry in reversed(closed.merged):
                value |= entry
            value |= closed.content
        if closed.tag is None or closed.tag in ("!", f"{_TAG}map", f"{_TAG}seq"):
            return value
        return self._of_tag(closed.tag, value, closed.line)

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.tag is None or event.tag == "!":
            if not event.implicit[0]:
                return text
            if text in self._plain:
                return self._plain[text]
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
            value = self._plain[text] = self._construct(tag, text, event)
            return value
        if event.tag in _TEXT or event.tag in _SCALARS:
            return self._construct(event.tag, text, event)
        return self._of_tag(event.tag, text, event.start_mark.line + 1)

    def _construct(self, tag: str, text: str, event: Any) -> Any:
        if tag == DATE and self._tagged is not None:
            return self._tagged(DATE, text)
        if tag in _TEXT:
            return text
        construct = yaml.SafeLoader.yaml_constructors[tag]
        try:
            return construct(self._loader, yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, IndexError) as error:
            name = tag.removeprefix(_TAG)
            raise Unparsable(f"line {event.start_mark.line + 1}: {text[:40]!r} is no {name}: {error}") from None

    def _of_tag(self, tag: str, value: Any, line: int) -> Any:
        if self._tagged is None or tag.startswith(f"{_TAG}python/"):
            raise Unparsable(f"line {line}: the tag {tag[:80]!r} is not known here")
        return self._tagged(tag.removeprefix("!"), value)


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
    return list(_Composer(text, tagged).documents())
