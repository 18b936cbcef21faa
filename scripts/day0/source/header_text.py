"""Read the text of sound safetensors headers and indexes into columns, many entries at a time.

Decoding half a million entries one by one takes longer than all checks of them. Here bytes are only compared: a few
positions of each entry are found, and eight bytes are looked at for all entries at once. Names that differ in their
numbers alone, and entries of one dtype and shape, are the same bytes then, of which each kind is decoded once. Whatever
is not exactly as safetensors writes it gives None, and is decoded, or refused, by slower means.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from day0.source.safetensors_headers import bytes_of
from day0.source.tensors import MOST_NUMBERS, NUMBER_BITS, NUMBER_DIGITS, Entries, Forms, Ints, Kinds, split_name

Words = NDArray[numpy.uint64]

_LONGEST = 256  # bytes of a name or a form
_PADDING = _LONGEST + 8  # bytes behind a text, so that eight can be read wherever a name may end
_METADATA = re.compile(rb'\{"__metadata__":(\{[^{}\[\]\\]*\})(?:,|(?=\}))')
_FORM = re.compile(
    rb'"dtype":"([A-Z0-9_]+)","shape":\[((?:(?:0|[1-9]\d{0,17})(?:,(?:0|[1-9]\d{0,17}))*)?)\],"data_offsets":\['
)
_BLANKS = b" \t\r\n"
_PART = 1 << 21  # bytes of text that are worked on at once, which stay in a core's cache
_LARGEST = 1 << 48  # bytes of a tensor, so that the sum over a header is exact
_POWERS = 10 ** numpy.arange(1, 18, dtype=numpy.int64)
_ZEROS, _TO_TEN = numpy.uint64(0x3030303030303030), numpy.uint64(0x7676767676767676)
_HALF, _UPPER = numpy.uint64(31), numpy.uint64(48)
_RANDOM = random.Random(1)
_FACTORS = numpy.array([_RANDOM.getrandbits(64) | 1 for _ in range(_LONGEST // 8)], numpy.uint64)
_TOPS = numpy.uint64(0x8080808080808080)


def _u(value: int) -> numpy.uint64:
    return numpy.uint64(value)


class _Slots(threading.local):
    """A table of places for each thread, kept since making one takes longer than using it."""

    def __init__(self) -> None:
        self.table = numpy.empty(1 << 16, numpy.int64)


_SLOTS = _Slots()


@functools.cache
def _masks(size: int) -> Words:
    """For each number of bytes that count, a row of so many words that keeps them."""
    kept = numpy.arange(8 * size) < numpy.arange(8 * size + 1)[:, None]
    return (kept * numpy.uint8(255)).view(numpy.uint64)


class _Text:
    """Bytes of which eight can be read at once, from any place on."""

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self.raw = bytearray().join([*parts, bytes(_PADDING)])
        self.size = len(self.raw) - _PADDING
        self.bytes = numpy.frombuffer(self.raw, numpy.uint8)
        self.words = numpy.ndarray((len(self.raw) - 7,), numpy.uint64, self.raw, 0, (1,))

    def holds(self, places: Ints, expected: bytes) -> bool:
        """Whether at most eight bytes stand at each place."""
        mask = _u((1 << 8 * len(expected)) - 1)
        return bool(((self.words[places] & mask) == int.from_bytes(expected, "little")).all())

    def distinct(self, starts: Ints, ends: Ints) -> tuple[Ints, list[bytes]] | None:
        """Which of the different texts each span holds, and these texts; None where a span is too long for it."""
        lengths = ends - starts
        longest = int(lengths.max())
        if longest > _LONGEST or lengths.min() < 0:
            return None
        size = max(-(-longest // 8), 1)
        rows = numpy.ndarray((self.size + 1,), f"V{8 * size}", self.raw, 0, (1,))[starts]
        words = rows.view(numpy.uint64).reshape(-1, size)
        words &= _masks(size).take(lengths, axis=0)
        mixed = numpy.vecdot(words, _FACTORS[:size]) + lengths.view(numpy.uint64)
        mixed ^= mixed >> _HALF
        mixed *= _FACTORS[0]
        slots = (mixed >> _UPPER).view(numpy.int64)
        table = _SLOTS.table
        ids, texts = numpy.empty(len(starts), numpy.int64), list[bytes]()
        left = numpy.arange(len(starts))
        while left.size:  # of the texts that share a slot one is found in each round
            table[slots] = left
            first = table.take(slots)
            new = left[first == left]
            ids[new] = numpy.arange(len(texts), len(texts) + len(new))
            texts += [bytes(self.raw[a:b]) for a, b in zip(starts[new].tolist(), ends[new].tolist(), strict=True)]
            ids[left] = ids.take(first)
            likes = words.take(first, axis=0)
            if left.size == len(words) and numpy.array_equal(likes, words) and (lengths.take(first) == lengths).all():
                break
            other = (likes != words[left]).any(1) | (lengths[left] != lengths[first])
            left, slots = left[other], slots[other]
        return ids, texts

    def is_decimal(self, starts: Ints, lengths: Ints, values: Ints) -> bool:
        """Whether spans hold the digits of numbers, of which each has so many."""
        padded = numpy.clip(lengths, 0, 8)
        low = self._digits(starts + lengths - padded, padded)
        return bool((low + 100_000_000 * self._digits(starts, lengths - padded) == values).all())

    def _digits(self, starts: Ints, lengths: Ints) -> Ints:
        """Values of spans of at most 8 digits; a huge one where another byte stands in it."""
        shift = (8 * (8 - lengths)).astype(numpy.uint64)
        digits = numpy.where(lengths > 0, (self.words[starts] ^ _ZEROS) << shift, 0)
        return numpy.where((digits + _TO_TEN) & _TOPS, 1 << 60, _value(digits).astype(numpy.int64))


def _value(digits: Words) -> Words:
    """Value of eight digits, each a byte from 0 to 9, the first in the lowest; changes them."""
    digits = (digits * _u(2561)) >> _u(8)
    digits = ((digits & _u(0x00FF00FF00FF00FF)) * _u(6553601)) >> _u(16)
    return ((digits & _u(0x0000FFFF0000FFFF)) * _u(42949672960001)) >> _u(32)


class Header(NamedTuple):
    """Text of a header, number of its file, place of the payload and its bytes."""

    text: bytes
    file: int
    origin: int
    payload: int


def _entries_of(text: bytes) -> memoryview | None:
    """The entries of a header, a comma behind each; None where it is not as safetensors writes it, or empty."""
    end = len(text)
    while text[end - 1 : end] == b" ":
        end -= 1
    if text[end - 3 : end] != b"]}}" or text[:1] != b"{" or not text.isascii():
        return None
    start = 1
    if (match := _METADATA.match(text)) is not None:
        try:
            json.loads(match[1])
        except ValueError:
            return None
        start = match.end()
    return memoryview(text)[start : end - 1]


def _form_of(text: bytes, forms: Forms) -> int | None:
    """Number of the form that an entry's text up to its span says; None where it says none."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    dtype, shape = match[1].decode(), tuple(map(int, match[2].split(b","))) if match[2] else ()
    size = bytes_of(dtype, shape)
    return forms.of(dtype, shape, size) if size is not None and size < _LARGEST else None


def read_entries(headers: Sequence[Header], kinds: Kinds, forms: Forms) -> Entries | None:
    """Columns of some headers that are sound and in the order of their payload; None: at least one is not.

    Args:
        headers: at least one.
        kinds, forms: what is known; what is new is added.
    """
    parts = [_entries_of(header.text) for header in headers]
    if any(part is None for part in parts):
        return None
    text = _Text(itertools.chain.from_iterable((part, b",") for part in parts if part is not None))
    held = text.bytes[: text.size]
    marks = numpy.flatnonzero((held == 0x5B) | (held > 0x7A))  # the braces and brackets that open, and what closes
    if marks.size % 4 or held.min() < 0x20 or b"\\" in text.raw:
        return None
    marks_of = marks.reshape(-1, 4)
    opened, bracket, closed = marks_of[:, 0], marks_of[:, 2], marks_of[:, 3]
    if (held[marks_of] != (0x7B, 0x5B, 0x5B, 0x7D)).any() or numpy.count_nonzero(held == 0x22) != 10 * len(marks_of):
        return None
    starts = numpy.concatenate([[0], closed[:-1] + 2])
    if (held[starts] != 0x22).any() or not text.holds(opened - 2, b'":{') or not text.holds(closed - 1, b"]},"):
        return None
    found = text.distinct(opened + 1, bracket + 1)
    if found is None:
        return None
    form, texts = found
    of_texts = [_form_of(one, forms) for one in texts]
    if None in of_texts:
        return None
    form = numpy.array(of_texts)[form]
    sizes = forms.column(lambda one: one[2])[form]
    counts = numpy.diff(
        numpy.searchsorted(closed, numpy.cumsum([0, *(len(part) + 1 for part in parts if part is not None)]))
    )
    lasts = counts.cumsum() - 1
    ends = sizes.cumsum()
    payloads = numpy.array([header.payload for header in headers])
    if (ends[lasts] != payloads.cumsum()).any():
        return None
    of_header = numpy.repeat(numpy.arange(len(headers)), counts)
    ends -= (payloads.cumsum() - payloads)[of_header]
    firsts = ends - sizes
    width, further = (1 + _POWERS.searchsorted(one, "right") for one in (firsts, ends))
    if (closed - bracket != width + further + 3).any() or (held[bracket + 1 + width] != 0x2C).any():
        return None
    if not text.is_decimal(bracket + 1, width, firsts) or not text.is_decimal(bracket + width + 2, further, ends):
        return None
    names = read_names(text, starts + 1, opened - 2, kinds)
    if names is None:
        return None
    origins = numpy.array([header.origin for header in headers])
    files = numpy.array([header.file for header in headers])
    return Entries(*names, form, files[of_header], origins[of_header] + firsts)


def read_names(text: _Text, starts: Ints, ends: Ints, kinds: Kinds) -> tuple[Ints, Ints] | None:
    """Kinds of names and keys of their numbers; changes the text. None where they are not all like that.

    The names must be the only spans of the text with a number behind a dot.
    """
    held = text.bytes[: text.size]
    places = numpy.flatnonzero(held == 0x2E) + 1
    places = places[(text.bytes[places] ^ 0x30) < 10]
    digits = text.words[places] ^ _ZEROS
    others = (digits + _TO_TEN) & _TOPS
    widths = (numpy.bitwise_count((others & (~others + _u(1))) - _u(1)) >> 3).astype(numpy.int64)
    behind = held[numpy.minimum(places + widths, text.size - 1)]
    is_number = ((behind == 0x2E) | (behind == 0x22)) & (widths <= NUMBER_DIGITS)
    is_number &= (widths == 1) | (held[places] != 0x30)
    if not is_number.all():
        places, digits, widths = places[is_number], digits[is_number], widths[is_number]
    values = _value(digits << (64 - 8 * widths).astype(numpy.uint64)).astype(numpy.int64)
    held[places] = 0
    for width in range(1, NUMBER_DIGITS):
        held[places[widths > width] + width] = 0
    found = text.distinct(starts, ends)
    if found is None:
        return None
    template, texts = found
    kind = numpy.array([kinds.of_template(one) for one in texts])[template]
    counts = numpy.array([one.numbers for one in kinds.list])[kind]
    if counts.max() > MOST_NUMBERS or counts.sum() != len(values):
        return None
    first = counts.cumsum() - counts
    values = numpy.concatenate([values, numpy.zeros(MOST_NUMBERS, numpy.int64)])
    key = numpy.where(counts > 0, values[first], 0)
    for place in range(1, int(counts.max(initial=0))):
        key = numpy.where(counts > place, key << NUMBER_BITS | values[first + place], key)
    return kind, key


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


class Index(NamedTuple):
    """Columns of an index: kind of each name and key of its numbers, and which of the files it is in."""

    kind: Ints
    key: Ints
    file: Ints
    files: list[str]

    @classmethod
    def of(cls, weight_map: Mapping[str, str], kinds: Kinds) -> Index:
        """Columns of a mapping; kinds get the new ones."""
        files: dict[str, int] = {}
        rows = []
        for name, file in weight_map.items():
            stem, count, key = split_name(name)
            rows.append((kinds.of(stem, count), key, files.setdefault(file, len(files))))
        columns = numpy.array(rows, numpy.int64).reshape(-1, 3).T.copy()
        return cls(columns[0], columns[1], columns[2], list(files))

    def weight_map(self, kinds: Kinds) -> dict[str, str]:
        """The files of the names."""
        pairs = zip(self.kind.tolist(), self.key.tolist(), self.file.tolist(), strict=True)
        return {kinds.list[kind].name(key): self.files[file] for kind, key, file in pairs}


def read_index(content: bytes, kinds: Kinds) -> Index | None:
    """The weight_map of an index; None where it is not plain text of names and files, evenly spaced.

    Args:
        content: of the file.
        kinds: what is known; what is new is added.
    """
    place = content.find(b'"weight_map"')
    start = content.find(b"{", place) + 1
    end = content.find(b"}", start)
    if place < 0 or not start or end < 0 or content.find(b'"weight_map"', place + 1) >= 0 or b"\\" in content:
        return None
    try:
        rest = json.loads(content[:start] + content[end:], parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(rest, dict) or rest.get("weight_map") != {} or not content.isascii():
        return None
    files: dict[bytes, int] = {}
    parts: list[tuple[Ints, Ints, Ints]] = []
    while start < end:
        stop = content.find(b'",', min(start + _PART, end), end) + 2
        stop = stop if stop > 1 else end
        part = _read_part(memoryview(content)[start:stop], stop == end, kinds, files)
        if part is None:
            return None
        parts.append(part)
        start = stop
    if not parts:
        return None
    kinds_of, keys, files_of = (numpy.concatenate(column) for column in zip(*parts, strict=True))
    return Index(kinds_of, keys, files_of, [name.decode("ascii") for name in files])


def _read_part(
    part: memoryview, is_last: bool, kinds: Kinds, files: dict[bytes, int]
) -> tuple[Ints, Ints, Ints] | None:
    """Columns of a part of a weight_map; files get the new ones."""
    text = _Text([part])
    held = text.bytes[: text.size]
    places = numpy.flatnonzero(held == 0x22)
    if not places.size or places.size % 4:
        return None
    quotes = places.reshape(-1, 4)
    before, after = bytes(text.raw[: quotes[0, 0]]), bytes(text.raw[quotes[-1, 3] + 1 : text.size])
    middle = bytes(text.raw[quotes[0, 1] + 1 : quotes[0, 2]])
    between = bytes(text.raw[quotes[0, 3] + 1 : quotes[1, 0]]) if len(quotes) > 1 else b","
    if before.strip(_BLANKS) or after.strip(_BLANKS) != (b"" if is_last else b","):
        return None
    if middle.strip(_BLANKS) != b":" or between.strip(_BLANKS) != b"," or max(len(middle), len(between)) > 8:
        return None
    if (quotes[:, 2] - quotes[:, 1] != len(middle) + 1).any() or not text.holds(quotes[:, 1] + 1, middle):
        return None
    if (quotes[1:, 0] - quotes[:-1, 3] != len(between) + 1).any() or not text.holds(quotes[:-1, 3] + 1, between):
        return None
    blanks = [sum(one < 0x20 for one in gap) for gap in (before, after, middle, between)]
    if numpy.count_nonzero(held < 0x20) != sum(blanks[:2]) + len(quotes) * blanks[2] + (len(quotes) - 1) * blanks[3]:
        return None
    found = text.distinct(quotes[:, 2] + 1, quotes[:, 3])
    if found is None:
        return None
    file, names = found
    of_names = numpy.array([files.setdefault(name, len(files)) for name in names])
    columns = read_names(text, quotes[:, 0] + 1, quotes[:, 1], kinds)
    return (*columns, of_names[file]) if columns is not None else None
