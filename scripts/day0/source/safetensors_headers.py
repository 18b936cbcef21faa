"""Read the headers of safetensors files: which tensors a checkpoint holds, their types, shapes and places, no weights.

A safetensors file is 8 bytes with the header's length (little endian), the header (JSON: name to dtype, shape and the
span of its bytes) and the payload, without a gap. Every mistake is an error that names the file.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from day0.base.cli import UnusableInput

if TYPE_CHECKING:
    from day0.source.header_text import Index
    from day0.source.tensors import Ints, Kinds, Scalars, Tensors

INDEX_FILE = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
CONSOLIDATED = "consolidated"
_AT_ONCE = 1 << 21  # bytes of headers that are worked on at once, which stay in a core's cache
_SCALES = ("_scale", "_scale_2", "_scale_inv")
_SHARD = re.compile(r".+-\d+-of-\d+\.safetensors")
_SCALAR_FORMATS = {"F32": "<f", "F64": "<d", "F16": "<e", "BF16": "<H", "F8_E4M3": "<B"}


class BrokenSafetensors(UnusableInput):
    """A safetensors file, or the index of a checkpoint, that is not what it should be; the message names the file."""


class Tensor(NamedTuple):
    """A tensor as its header declares it; its ``bytes`` begin at the offset ``start`` of ``file``."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read one file's header.

    Raises:
        BrokenSafetensors: unreadable, truncated, no valid header, or spans that do not cover the payload exactly.
    """
    return _read_entries(Path(path), *_read_text(path))


def _read_entries(path: Path, text: bytes, origin: int, size: int) -> dict[str, Tensor]:
    tensors = _decoded(str(path), text, origin, size)
    return _tensors(path, text, origin, size) if tensors is None else tensors


def _read_text(path: str | os.PathLike) -> tuple[bytes, int, int]:
    """Text of a file's header, place of the payload behind it, and bytes of the file."""
    try:
        with open(path, "rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise BrokenSafetensors(f"{path}: {size} bytes are no safetensors file; it is empty or truncated")
            length = int.from_bytes(prefix, "little")
            if length > min(LARGEST_HEADER, size - 8):
                raise BrokenSafetensors(
                    f"{path}: the header should be {length} bytes long, but the file has {size}; "
                    "truncated, or not safetensors"
                )
            text = stream.read(length)
            while 0 < len(text) < length and (more := stream.read(length - len(text))):
                text += more
    except OSError as error:
        raise BrokenSafetensors(f"{path}: cannot be read: {error}") from error
    return text, 8 + length, size


@functools.cache
def _decoder() -> Any:
    """Decoder of a sound header; msgspec is imported late, since some who import this module read no header."""
    import msgspec

    class Entry(msgspec.Struct, gc=False):
        dtype: Literal[tuple(BITS)] = "U8"  # type: ignore[valid-type]
        shape: tuple[int, ...] = ()
        data_offsets: tuple[int, int] = (0, 0)

    return msgspec.json.Decoder(dict[str, Entry])


def _decoded(file: str, text: bytes, origin: int, size: int) -> dict[str, Tensor] | None:
    """Tensors of a header that is sound and in the order of its payload; None for others, which take longer.

    A large header repeats a few forms, so that each is checked once.
    """
    try:
        header = _decoder().decode(text)
    except (ValueError, RecursionError):
        return None
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    forms: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...], int | None]] = {}
    end, new = 0, tuple.__new__
    for name, entry in header.items():
        first, last = entry.data_offsets
        form = entry.dtype, entry.shape
        known = forms.get(form)
        if known is None:
            known = forms[form] = (*form, bytes_of(*form))
        dtype, shape, bytes_ = known  # held once: of hundreds of thousands of tensors that is a third of the memory
        if first != end or last - first != bytes_:
            return None
        end = last
        tensors[name] = new(Tensor, (dtype, shape, file, origin + first, bytes_))
    return tensors if origin + end == size else None


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor of a dtype and shape; None where there is none such."""
    bits = math.prod(shape) * BITS.get(dtype, 0)
    return bits // 8 if dtype in BITS and bits % 8 == 0 and all(extent >= 0 for extent in shape) else None


def _tensors(path: Path, text: bytes, origin: int, size: int) -> dict[str, Tensor]:
    """Tensors of a header of any kind, or what is wrong with it."""
    try:
        header = json.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(f"{path}: the header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise BrokenSafetensors(f"{path}: the header is {type(header).__name__}; expected an object")
    header.pop("__metadata__", None)
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        try:
            shape, first, bytes_ = _form(path, name, entry)
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenSafetensors(f"{path}: tensor {name!r}: {entry!r:.200} is no valid entry: {error!r}") from error
        tensors[name] = Tensor(entry["dtype"], shape, str(path), origin + first, bytes_)
    _check_spans(path, tensors, origin, size - origin)
    return tensors


def _form(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """Shape, place and bytes of an entry, checked."""
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in (first, last, *shape)):
        raise ValueError("shape and data_offsets must hold whole numbers from 0 on")
    expected = math.prod(shape) * BITS[dtype]
    if (last - first) * 8 != expected:
        raise BrokenSafetensors(
            f"{path}: tensor {name!r}: {dtype} of shape {shape} takes {expected // 8} bytes; "
            f"its span has {last - first}"
        )
    return tuple(shape), first, last - first


def _check_spans(path: Path, tensors: Mapping[str, Tensor], origin: int, payload: int) -> None:
    end = origin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if tensor.start != end:
            what = "overlaps the one before it" if tensor.start < end else f"leaves a gap of {tensor.start - end} bytes"
            raise BrokenSafetensors(f"{path}: tensor {name!r} {what}")
        end += tensor.bytes
    if end != origin + payload:
        difference = payload - (end - origin)
        what = f"{difference} bytes too many" if difference > 0 else f"truncated, {-difference} bytes are missing"
        raise BrokenSafetensors(f"{path}: {what}")


class Headers(NamedTuple):
    """Tensors of a checkpoint, and the names of scales among them that its index lacks."""

    tensors: Tensors
    unindexed: list[str]


def read_tensors(folder: str | os.PathLike) -> Tensors:
    """Tensors of a source model; see :func:`read_headers`."""
    return read_headers(folder).tensors


def read_headers(folder: str | os.PathLike, alone: bool = False) -> Headers:
    """Read the headers of a checkpoint: the shards that its index names, or every safetensors file where it has none.

    With ``alone`` the folder must hold nothing but these: a shard that no index names is an error. Without it the
    ``consolidated*.safetensors`` of Mistral's own format, which hold the same weights again, are left aside.

    An index may lack scales: engines read the whole of the files that it names (vLLM,
    filter_duplicate_safetensors_files). One that lacks weights is an error.

    Raises:
        BrokenSafetensors: no safetensors file, a broken one, or an index and shards that name different tensors.
    """
    from day0.source.tensors import Kinds

    folder = Path(folder)
    index = folder / INDEX_FILE
    present = sorted(file.name for file in folder.glob("*.safetensors"))
    if not index.is_file():
        if not present:
            raise BrokenSafetensors(f"{folder}: holds no *.safetensors; expected a Hugging Face checkpoint")
        if alone and any(_SHARD.fullmatch(name) for name in present):
            raise BrokenSafetensors(
                f"{index}: is missing, yet the folder holds shards such as {present[0]}; export the checkpoint anew"
            )
        second = [name for name in present if name.startswith(CONSOLIDATED)]
        if second and len(second) < len(present):
            if alone:
                raise BrokenSafetensors(
                    f"{folder / second[0]}: vLLM loads it in place of {min(set(present) - set(second))} "
                    "(DefaultModelLoader._prepare_weights); a file of the source? remove it"
                )
            present = [name for name in present if name not in second]
        return Headers(_merged([folder / name for name in present], Kinds()), [])
    kinds = Kinds()
    named, shards = _read_index(index, present, kinds)
    stray = [name for name in present if name not in set(shards) and alone and read_header(folder / name)]
    if stray:
        raise BrokenSafetensors(f"{index}: does not name {', '.join(stray)}; a file of another export? remove it")
    tensors = _merged([folder / name for name in shards], kinds)
    return Headers(tensors, [] if _is_as_named(named, shards, tensors) else _compare_names(index, named, tensors))


def _is_as_named(named: Index, shards: Sequence[str], tensors: Tensors) -> bool:
    """Whether an index and the files, which are in the order of ``shards``, name the same tensors once each."""
    import numpy

    from day0.source.tensors import sorted_names

    if len(named.kind) != len(tensors) or not len(tensors):
        return False
    place = {shard: number for number, shard in enumerate(shards)}
    of_name = numpy.array([place[file] for file in named.files])
    order, kind, key = sorted_names(named.kind, named.key)
    return tensors.are_in(kind, key, of_name[named.file][order])


def _compare_names(index: Path, named: Index, tensors: Tensors) -> list[str]:
    """Names of scales that the index lacks.

    Raises:
        BrokenSafetensors: anything else differs.
    """
    weight_map = named.weight_map(tensors.kinds)
    held = {name: Path(tensor.file).name for name, tensor in tensors.items()}
    misplaced = [name for name, shard in weight_map.items() if held.get(name) != shard]
    if misplaced:
        first = {weight_map[name]: name for name in reversed(misplaced)}
        shown = ", ".join(f"{name!r} in {shard}" for shard, name in list(first.items())[:10])
        raise BrokenSafetensors(f"{index}: {len(misplaced)} tensors are not where it says, first {shown}")
    left_out = held.keys() - weight_map.keys()
    weights = [name for name in left_out if not name.endswith(_SCALES)]
    if weights:
        name = min(weights)
        raise BrokenSafetensors(
            f"{index}: {len(weights)} tensors are not in it, first {name!r} of {tensors[name].file}"
        )
    return sorted(left_out)


def _read_index(index: Path, present: Sequence[str], kinds: Kinds) -> tuple[Index, list[str]]:
    """The names of tensors with those of their files, and the names of the files, sorted."""
    from day0.source.header_text import Index, read_index

    try:
        content = index.read_bytes()
    except OSError as error:
        raise BrokenSafetensors(f"{index}: cannot be read: {error}") from error
    named = read_index(content, kinds) or Index.of(_decode_index(index, content, present), kinds)
    shards = sorted(set(named.files))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BrokenSafetensors(f"{index}: names {shard!r}; expected a *.safetensors file of its own folder")
    return named, shards


def _decode_index(index: Path, content: bytes, present: Sequence[str]) -> dict[str, str]:
    """The weight_map of an index of any kind."""
    import msgspec

    def decode(file: Any) -> dict[str, str]:
        read: Any = msgspec.json.decode(content, type=msgspec.defstruct("Index", [("weight_map", dict[str, file])]))
        return read.weight_map

    try:
        # Names of files that are there are each held once; others may be there, too, and are found to be missing.
        weight_map = None
        with contextlib.suppress(msgspec.ValidationError, UnicodeEncodeError):
            weight_map = decode(Literal[tuple(present)]) if present else None
        return decode(str) if weight_map is None else weight_map
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(
            f"{index}: expected a JSON object; its 'weight_map' must map names of tensors to file names: {error}"
        ) from error


def _merged(files: Sequence[Path], kinds: Kinds) -> Tensors:
    """Tensors of all files, each numbered by its place.

    Args:
        files: to read.
        kinds: what is known of names; what is new is added.

    Raises:
        BrokenSafetensors: a file is broken, or two hold a tensor of the same name.
    """
    from day0.source.header_text import Header, read_entries
    from day0.source.tensors import Entries, Forms, Tensors

    forms, numbers = Forms(), {str(file): number for number, file in enumerate(files)}
    found = [Entries.of({}, kinds, forms, numbers)]

    def add(headers: list[Header]) -> None:
        entries = read_entries(headers, kinds, forms) if headers else None
        if entries is not None:
            found.append(entries)
        elif len(headers) == 1:
            (one,) = headers
            tensors = _read_entries(files[one.file], one.text, one.origin, one.origin + one.payload)
            found.append(Entries.of(tensors, kinds, forms, numbers))
        else:
            for one in headers:
                add([one])

    waiting: list[Header] = []
    try:
        for number, file in enumerate(files):
            text, origin, size = _read_text(file)
            waiting.append(Header(text, number, origin, size - origin))
            if sum(len(header.text) for header in waiting) >= _AT_ONCE:
                add(waiting)
                waiting = []
        add(waiting)
        tensors = Tensors(kinds, forms, list(numbers), Entries.joined(found))
    except BrokenSafetensors:
        return Tensors.of(_merged_singly(files))
    return Tensors.of(_merged_singly(files)) if tensors.has_twins else tensors


def _merged_singly(files: Iterable[Path]) -> dict[str, Tensor]:
    """Tensors of all files, read one after the other, or all that is wrong with them."""
    headers, broken, twice = [], [], []
    for file in files:
        try:
            headers.append(read_header(file))
        except BrokenSafetensors as error:
            broken.append(str(error))
    tensors: dict[str, Tensor] = {}
    for header in headers:
        tensors |= header
    if len(tensors) != sum(map(len, headers)):
        first: dict[str, str] = {}
        for header in headers:
            again = header.keys() & first.keys()
            if again:
                name = min(again)
                twice.append(f"{header[name].file}: tensor {name!r} is also in {first[name]}")
            first |= {name: tensor.file for name, tensor in header.items()}
    if broken or twice:
        shown = [*broken, *twice]
        more = f"; and {len(shown) - 10} more files" if len(shown) > 10 else ""
        raise BrokenSafetensors("; ".join(shown[:10]) + more)
    return tensors


def payload_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors, headers not counted."""
    from day0.source.tensors import Tensors

    return Tensors.of(tensors).bytes


def read_scalars(tensors: Mapping[str, Tensor], is_wanted: Callable[[str], bool] = lambda name: True) -> Scalars:
    """Read the values of one-element tensors of a floating type, those of a file and a type together.

    Args:
        tensors: by name.
        is_wanted: whether to read those of a name, whatever the numbers in it.

    Raises:
        BrokenSafetensors: a file went away or became shorter since its header was read.
    """
    import numpy

    from day0.source.tensors import Scalars, Tensors

    held = Tensors.of(tensors)
    rows = held.rows_where(is_wanted)
    is_scalar = held.forms.column(lambda form: form[0] in _SCALAR_FORMATS and math.prod(form[1]) == 1) > 0
    rows = rows[is_scalar[held.form[rows]]]
    values = numpy.empty(len(rows))
    group = held.file[rows] * len(held.forms.list) + held.form[rows]
    order = numpy.lexsort((held.start[rows], group))
    for some in numpy.split(order, numpy.flatnonzero(numpy.diff(group[order])) + 1) if len(rows) else ():
        file, dtype = held.files[held.file[rows[some[0]]]], held.forms.list[held.form[rows[some[0]]]][0]
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                values[some] = _scalars(dtype, handle, held.start[rows[some]])
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return Scalars(held, rows, values)


def _scalars(dtype: str, handle: int, places: Ints) -> Any:
    """Values of one type at their places in a file, which are sorted; neighbours within a page are read together."""
    import numpy

    size = BITS[dtype] // 8
    first = numpy.flatnonzero(numpy.diff(places, prepend=-(1 << 20)) > 4096)
    origins = places[first]
    lengths = places[numpy.append(first[1:], len(places)) - 1] + size - origins
    blocks = list(map(os.pread, itertools.repeat(handle), lengths.tolist(), origins.tolist()))
    if sum(map(len, blocks)) != lengths.sum():
        raise ValueError("the file became shorter")
    run = numpy.repeat(numpy.arange(len(first)), numpy.diff(numpy.append(first, len(places))))
    within = places - origins[run] + (numpy.cumsum(lengths) - lengths)[run]
    raw = numpy.frombuffer(b"".join(blocks), numpy.uint8)[within[:, None] + numpy.arange(size)].tobytes()
    if dtype == "F32":
        return numpy.frombuffer(raw, "<f4")
    return [_scalar(dtype, raw[place : place + size]) for place in range(0, len(raw), size)]


def _scalar(dtype: str, raw: bytes) -> float:
    (value,) = struct.unpack(_SCALAR_FORMATS[dtype], raw)
    if dtype == "BF16":
        (value,) = struct.unpack("<f", struct.pack("<I", value << 16))
    elif dtype == "F8_E4M3":
        value = e4m3(value)
    return float(value)


def e4m3(code: int) -> float:
    """Value of an FP8 E4M3 code: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, S.1111.111 is NaN."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 0xF, code & 0x7
    if exponent == 0xF and mantissa == 0x7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
