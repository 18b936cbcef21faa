"""The tensors of a checkpoint as columns, which reads as a mapping from names to :class:`Tensor`.

A large checkpoint has half a million tensors and a few hundred kinds of them: names that differ in the numbers of
layers and experts alone. Names are held as kind and numbers, dtypes and shapes as the number of a form: what is asked
of all tensors is asked of each kind, and names and objects are made of those alone that are needed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from day0.source.safetensors_headers import Tensor

Ints = NDArray[numpy.int64]

# A number in a name is a part of its own of at most so many digits; the first so many of a name are taken out.
NUMBER_DIGITS, NUMBER_BITS, MOST_NUMBERS = 5, 17, 3
# Stands in a stem where a number was.
HOLE = "\0"
_NUMBER = re.compile(rf"(?<=[.])(0|[1-9]\d{{0,{NUMBER_DIGITS - 1}}})(?=[.]|\Z)", re.ASCII)
_EXPERT = re.compile(rf"[.]experts[.]{HOLE}(?=[.]|\Z)")
_CODE_BITS = 63 - NUMBER_BITS * MOST_NUMBERS
_NONE = numpy.empty(0, numpy.int64)


class Kind(NamedTuple):
    """Names that differ in their numbers alone: the name with :data:`HOLE` for each, and how many there are."""

    stem: str
    numbers: int

    @property
    def sample(self) -> str:
        """A name of this kind."""
        return self.stem.replace(HOLE, "0") if self.numbers else self.stem

    @property
    def same_layer(self) -> int:
        """Bits of a key that all experts of a layer share."""
        expert = _EXPERT.search(self.stem) if self.numbers else None
        if expert is None:
            return -1
        place = self.numbers - 1 - self.stem.count(HOLE, 0, expert.start())
        return ~(((1 << NUMBER_BITS) - 1) << NUMBER_BITS * place)

    def name(self, key: int) -> str:
        """The name with the numbers that a key holds."""
        return self.names(numpy.array([key]))[0]

    def names(self, keys: Ints) -> list[str]:
        """The names with the numbers that keys hold."""
        if not self.numbers:
            return [self.stem] * len(keys)
        mask = (1 << NUMBER_BITS) - 1
        columns = [(keys >> NUMBER_BITS * place & mask).tolist() for place in reversed(range(self.numbers))]
        text = self.stem.replace("%", "%%").replace(HOLE, "%d")
        return [text % numbers for numbers in zip(*columns, strict=True)]


def split_name(name: str) -> tuple[str, int, int]:
    """Stem of a name, how many numbers were taken out of it, and the key that holds these."""
    if HOLE in name:
        return name, 0, 0
    parts = _NUMBER.split(name, MOST_NUMBERS)
    key = 0
    for number in parts[1::2]:
        key = key << NUMBER_BITS | int(number)
    return HOLE.join(parts[::2]), len(parts) // 2, key


class Kinds:
    """The kinds of names of a checkpoint by their numbers, from 0 on."""

    def __init__(self) -> None:
        self.list: list[Kind] = []
        self._numbers: dict[tuple[str, int], int] = {}
        self._templates: dict[bytes, int] = {}

    def find(self, stem: str, numbers: int) -> int:
        """Number of a kind; -1: there is none."""
        return self._numbers.get((stem, numbers), -1)

    def of(self, stem: str, numbers: int) -> int:
        """Number of a kind, which is new where it is not known."""
        found = self._numbers.get((stem, numbers))
        if found is None:
            found = self._numbers[stem, numbers] = len(self.list)
            self.list.append(Kind(stem, numbers))
        return found

    def of_template(self, template: bytes) -> int:
        """Number of the kind of a name whose numbers' digits are zero bytes."""
        found = self._templates.get(template)
        if found is None:
            stem = re.sub(f"{HOLE}+", HOLE, template.decode("ascii"))
            found = self._templates[template] = self.of(stem, stem.count(HOLE))
        return found


class Forms:
    """Dtypes and shapes, each with its bytes, by their numbers, from 0 on."""

    def __init__(self) -> None:
        self.list: list[tuple[str, tuple[int, ...], int]] = []
        self._numbers: dict[tuple[str, tuple[int, ...], int], int] = {}

    def of(self, dtype: str, shape: tuple[int, ...], size: int) -> int:
        """Number of a form, which is new where it is not known."""
        form = dtype, shape, size
        found = self._numbers.get(form)
        if found is None:
            found = self._numbers[form] = len(self.list)
            self.list.append(form)
        return found

    def column(self, of_form: Callable[[tuple[str, tuple[int, ...], int]], int]) -> Ints:
        """What a function gives for each form."""
        return numpy.array([of_form(form) for form in self.list], numpy.int64)


class Entries(NamedTuple):
    """Columns of tensors: kind of the name and key of its numbers, form, file and place of the bytes."""

    kind: Ints
    key: Ints
    form: Ints
    file: Ints
    start: Ints

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], kinds: Kinds, forms: Forms, files: dict[str, int]) -> Entries:
        """Columns of a mapping; what is new is added to kinds, forms and files."""
        rows = []
        for name, (dtype, shape, file, start, size) in tensors.items():
            stem, count, key = split_name(name)
            place = files.setdefault(file, len(files))
            rows.append((kinds.of(stem, count), key, forms.of(dtype, shape, size), place, start))
        return cls(*numpy.array(rows, numpy.int64).reshape(-1, 5).T.copy())

    @classmethod
    def joined(cls, parts: Iterable[Entries]) -> Entries:
        """The same one below the other."""
        return cls(*(numpy.concatenate(columns) for columns in zip(*parts, strict=True)))


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, in the order of the files; see the module's description.

    Attributes:
        kinds, forms, files: what the numbers in the columns stand for.
        kind, key, form, file, start: the columns, a row for each tensor.
        has_twins: whether a name is there twice.
    """

    def __init__(self, kinds: Kinds, forms: Forms, files: list[str], entries: Entries) -> None:
        self.kinds, self.forms, self.files = kinds, forms, files
        self.kind, self.key, self.form, self.file, self.start = entries
        self._order, kind, key = sorted_names(self.kind, self.key)
        self.has_twins = bool(((kind[1:] == kind[:-1]) & (key[1:] == key[:-1])).any())
        self._keys = key
        self._bounds = numpy.searchsorted(kind, numpy.arange(len(kinds.list) + 1)).tolist()

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Tensors:
        """The same tensors as columns."""
        if isinstance(tensors, Tensors):
            return tensors
        kinds, forms, files = Kinds(), Forms(), dict[str, int]()
        entries = Entries.of(tensors, kinds, forms, files)
        return cls(kinds, forms, list(files), entries)

    def __len__(self) -> int:
        return len(self.kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.row(name) >= 0

    def __getitem__(self, name: str) -> Tensor:
        row = self.row(name)
        if row < 0:
            raise KeyError(name)
        return self.tensor(row)

    def items(self) -> ItemsView[str, Tensor]:
        """Names and tensors."""
        return dict(zip(self.names(), self.tensors(), strict=True)).items()

    def values(self) -> ValuesView[Tensor]:
        """The tensors."""
        return dict(enumerate(self.tensors())).values()

    def tensors(self, rows: Ints | None = None) -> Iterator[Tensor]:
        """Tensors of rows, in their order; of all where none are given."""
        columns = (self.form, self.file, self.start)
        some = (column if rows is None else column[rows] for column in columns)
        for form, file, start in zip(*(column.tolist() for column in some), strict=True):
            dtype, shape, size = self.forms.list[form]
            yield Tensor(dtype, shape, self.files[file], start, size)

    def tensor(self, row: int) -> Tensor:
        """The tensor of a row."""
        dtype, shape, size = self.forms.list[self.form[row]]
        return Tensor(dtype, shape, self.files[self.file[row]], int(self.start[row]), size)

    def found(self, rows: Ints) -> list[Tensor | None]:
        """Tensors of rows as :meth:`find` gives them; None for the row -1."""
        there = self.tensors(rows[rows >= 0])
        return [next(there) if is_there else None for is_there in (rows >= 0).tolist()]

    def row(self, name: str) -> int:
        """Row of a name; -1: there is none."""
        stem, count, key = split_name(name)
        kind = self.kinds.find(stem, count)
        return self._row(kind, key) if kind >= 0 else -1

    def _row(self, kind: int, key: int) -> int:
        first, last = self._bounds[kind : kind + 2]
        place = first + int(self._keys[first:last].searchsorted(key))
        return int(self._order[place]) if place < last and self._keys[place] == key else -1

    def name(self, row: int) -> str:
        """Name of a row."""
        return self.kinds.list[self.kind[row]].name(int(self.key[row]))

    def names(self, rows: Ints | None = None) -> list[str]:
        """Names of rows, in their order; of all where none are given."""
        kind, key = (self.kind, self.key) if rows is None else (self.kind[rows], self.key[rows])
        if not len(kind):
            return []
        if kind[0] == kind[-1] and (kind == kind[0]).all():
            return self.kinds.list[kind[0]].names(key)
        found = numpy.empty(len(kind), object)
        order = numpy.argsort(kind, kind="stable")
        for some in numpy.split(order, numpy.flatnonzero(numpy.diff(kind[order])) + 1):
            found[some] = self.kinds.list[kind[some[0]]].names(key[some])
        return found.tolist()

    def rows_of(self, kind: int) -> Ints:
        """Rows of a kind, in the order of their keys."""
        return self._order[self._bounds[kind] : self._bounds[kind + 1]]

    def keys_of(self, kind: int) -> Ints:
        """The keys of a kind, sorted."""
        return self._keys[self._bounds[kind] : self._bounds[kind + 1]]

    def find(self, kind: Kind, keys: Ints) -> Ints:
        """Rows of names of a kind, which may be another checkpoint's; -1 where there is none.

        Args:
            kind: of the names.
            keys: of their numbers, sorted.
        """
        number = self.kinds.find(*kind)
        held = self.keys_of(number) if number >= 0 else _NONE
        if not len(held):
            return numpy.full(len(keys), -1)
        rows = self.rows_of(number)
        if len(held) == len(keys) and (held == keys).all():
            return rows
        places = numpy.minimum(held.searchsorted(keys), len(held) - 1)
        return numpy.where(held[places] == keys, rows[places], -1)

    def are_in(self, kind: Ints, key: Ints, file: Ints) -> bool:
        """Whether these are the names of all tensors, in the order of :func:`sorted_names`, and their files."""
        is_same = (kind == self.kind[self._order]).all() and (key == self._keys).all()
        return bool(is_same and (file == self.file[self._order]).all())

    def present(self) -> Iterator[tuple[int, Kind]]:
        """The kinds that there are names of, by their numbers."""
        bounds = self._bounds
        return ((n, kind) for n, kind in enumerate(self.kinds.list) if bounds[n] < bounds[n + 1])

    def rows_where(self, is_wanted: Callable[[str], bool]) -> Ints:
        """Rows of the kinds that are wanted by a sample of their names, in order."""
        parts = [self.rows_of(number) for number, kind in self.present() if is_wanted(kind.sample)]
        return numpy.sort(numpy.concatenate(parts)) if parts else _NONE

    @functools.cached_property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return self.total(lambda form: form[2], self.form)

    def total(self, of_form: Callable[[tuple[str, tuple[int, ...], int]], int], form: Ints) -> int:
        """Sum over forms of rows; numbers of any size."""
        counts = numpy.bincount(form, minlength=len(self.forms.list)).tolist()
        return sum(count * of_form(one) for count, one in zip(counts, self.forms.list, strict=True))


def sorted_names(kind: Ints, key: Ints) -> tuple[Ints, Ints, Ints]:
    """The order of names by kind and key, and both in that order."""
    if int(kind.max(initial=0)) < 1 << _CODE_BITS:
        order = numpy.argsort(kind << NUMBER_BITS * MOST_NUMBERS | key, kind="stable")
    else:
        order = numpy.lexsort((key, kind))
    return order, kind[order], key[order]


def rows_named(tensors: Mapping[str, Tensor], is_wanted: Callable[[str], bool]) -> list[str]:
    """Names that a question, whose answer does not depend on the numbers in a name, is answered with yes for."""
    if isinstance(tensors, Tensors):
        return tensors.names(tensors.rows_where(is_wanted))
    return [name for name in tensors if is_wanted(name)]


class Scalars(Mapping[str, float]):
    """Values of one-element tensors by name.

    Attributes:
        tensors: that the values belong to.
        rows: of the tensors that have one, in order.
        values_of: the values, one for each row of the tensors; NaN where there is none.
    """

    def __init__(self, tensors: Tensors, rows: Ints, values: NDArray[numpy.float64]) -> None:
        self.tensors, self.rows = tensors, rows
        self.values_of = numpy.full(len(tensors), numpy.nan)
        self.values_of[rows] = values
        self._is_held = numpy.zeros(len(tensors), bool)
        self._is_held[rows] = True

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Scalars:
        """The same values as columns."""
        if isinstance(values, Scalars):
            return values
        tensors = Tensors.of({name: Tensor("F32", (), "", 0, 4) for name in values})
        return cls(tensors, numpy.arange(len(tensors)), numpy.array(list(values.values()), numpy.float64))

    @property
    def column(self) -> NDArray[numpy.float64]:
        """The values, in order."""
        return self.values_of[self.rows]

    def where(self, is_wanted: NDArray[numpy.bool_]) -> dict[str, float]:
        """Those of which a column like :attr:`column` says so."""
        rows = self.rows[is_wanted]
        return dict(zip(self.tensors.names(rows), self.values_of[rows].tolist(), strict=True))

    def of_kind(self, kind: Kind, keys: Ints) -> NDArray[numpy.float64]:
        """Values of names of a kind with the numbers of sorted keys; NaN where there is none."""
        rows = self.tensors.find(kind, keys)
        return numpy.where(rows < 0, numpy.nan, self.values_of[rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors.names(self.rows))

    def __getitem__(self, name: str) -> float:
        row = self.tensors.row(name)
        if row < 0 or not self._is_held[row]:
            raise KeyError(name)
        return float(self.values_of[row])

    def get(self, name: str, default: Any = None) -> Any:
        """Value of a name, or the default."""
        row = self.tensors.row(name)
        return default if row < 0 or not self._is_held[row] else float(self.values_of[row])

    def items(self) -> ItemsView[str, float]:
        """Names and values."""
        return dict(zip(self, self.values_of[self.rows].tolist(), strict=True)).items()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapping) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment]
