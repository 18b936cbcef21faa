"""Compose the values of a YAML text; :mod:`day0.base.parsing` is the place to call.

They are composed here from libyaml's events and not by PyYAML, whose composer calls itself for each level (100,000
levels end the process), takes the last of two keys, and does not know how much its aliases stand for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from day0.base.parsing import DATE, MAX_DEPTH, MAX_YAML_NODES, Tagged, Unparsable, said_twice

_CLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXT = frozenset(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))
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


class Composer:
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
            raise Unparsable(str(error).replace('in "<unicode string>", ', "")) from None  # the file is named beside it
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
                raise Unparsable(said_twice(value, first, line))
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
