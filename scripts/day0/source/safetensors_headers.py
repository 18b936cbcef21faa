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
import operator
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from day0.base.cli import UnusableInput

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
    path = Path(path)
    try:
        with open(path, "rb") as stream:
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
    except OSError as error:
        raise BrokenSafetensors(f"{path}: cannot be read: {error}") from error
    tensors = _decoded(str(path), text, 8 + length, size)
    return _tensors(path, text, 8 + length, size) if tensors is None else tensors


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
            known = forms[form] = (*form, _bytes_of(*form))
        dtype, shape, bytes_ = known  # held once: of hundreds of thousands of tensors that is a third of the memory
        if first != end or last - first != bytes_:
            return None
        end = last
        tensors[name] = new(Tensor, (dtype, shape, file, origin + first, bytes_))
    return tensors if origin + end == size else None


def _bytes_of(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a form; None where it is none."""
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

    tensors: dict[str, Tensor]
    unindexed: list[str]


def read_tensors(folder: str | os.PathLike) -> dict[str, Tensor]:
    """Tensors of a source model; see :func:`read_headers`."""
    return read_headers(folder).tensors


def read_headers(folder: str | os.PathLike, alone: bool = False) -> Headers:
    """Read the headers of a checkpoint: the shards that its index names, or every safetensors file where it has none.

    With ``alone`` the folder must hold nothing but these: a shard that no index names is an error. Without it the
    ``consolidated*.safetensors`` of Mistral's own format, which hold the same weights again, are left aside.

    An index may lack scales: engines read the whole of the files that it names (vLLM 0.32.0, model_executor/
    model_loader/weight_utils.py:609). One that lacks weights is an error.

    Raises:
        BrokenSafetensors: no safetensors file, a broken one, or an index and shards that name different tensors.
    """
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
                    "(model_loader/default_loader.py:171); a file of the source? remove it"
                )
            present = [name for name in present if name not in second]
        return Headers(_merged([folder / name for name in present]), [])
    weight_map, shards = _read_index(index, present)
    stray = [name for name in present if name not in set(shards) and alone and read_header(folder / name)]
    if stray:
        raise BrokenSafetensors(f"{index}: does not name {', '.join(stray)}; a file of another export? remove it")
    tensors = _merged([folder / name for name in shards])
    paths = {str(folder / name): name for name in shards}
    places = map(paths.get, map(operator.itemgetter(2), tensors.values()))
    if len(tensors) == len(weight_map) and all(map(operator.eq, places, map(weight_map.get, tensors))):
        return Headers(tensors, [])
    held = {name: paths[tensor.file] for name, tensor in tensors.items()}
    misplaced = [name for name, shard in weight_map.items() if held.get(name) != shard]
    if misplaced:
        first = {weight_map[name]: name for name in reversed(misplaced)}
        shown = ", ".join(f"{name!r} in {shard}" for shard, name in list(first.items())[:10])
        raise BrokenSafetensors(f"{index}: {len(misplaced)} tensors are not where it says, first {shown}")
    left_out = tensors.keys() - weight_map.keys()
    weights = [name for name in left_out if not name.endswith(_SCALES)]
    if weights:
        name = min(weights)
        raise BrokenSafetensors(
            f"{index}: {len(weights)} tensors are not in it, first {name!r} of {tensors[name].file}"
        )
    return Headers(tensors, sorted(left_out))


def _read_index(index: Path, present: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The names of tensors with those of their files, and the names of the files, sorted."""
    import msgspec

    try:
        content = index.read_bytes()
    except OSError as error:
        raise BrokenSafetensors(f"{index}: cannot be read: {error}") from error

    def decode(file: Any) -> dict[str, str]:
        read: Any = msgspec.json.decode(content, type=msgspec.defstruct("Index", [("weight_map", dict[str, file])]))
        return read.weight_map

    try:
        # Names of files that are there are each held once; others may be there, too, and are found to be missing.
        weight_map = None
        with contextlib.suppress(msgspec.ValidationError, UnicodeEncodeError):
            weight_map = decode(Literal[tuple(present)]) if present else None
        weight_map = decode(str) if weight_map is None else weight_map
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(
            f"{index}: expected a JSON object; its 'weight_map' must map names of tensors to file names: {error}"
        ) from error
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BrokenSafetensors(f"{index}: names {shard!r}; expected a *.safetensors file of its own folder")
    return weight_map, shards


def _merged(files: Iterable[Path]) -> dict[str, Tensor]:
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
    return sum(map(operator.itemgetter(4), tensors.values()))


def read_scalars(
    tensors: Mapping[str, Tensor], is_wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, float]:
    """Read the values of one-element tensors of a floating type, those of a file and a type together.

    Args:
        tensors: by name.
        is_wanted: whether to read the one of a name.

    Raises:
        BrokenSafetensors: a file went away or became shorter since its header was read.
    """
    chosen: dict[tuple[str, str], tuple[list[str], list[int]]] = {}
    last = None
    for name, (dtype, shape, file, start, _) in tensors.items():
        if (shape and math.prod(shape) != 1) or not is_wanted(name):
            continue
        if (file, dtype) != last:  # most follow one of their own kind
            last = file, dtype
            names, starts = chosen.setdefault(last, ([], []))
        names.append(name)
        starts.append(start)
    values: dict[str, float] = {}
    for (file, dtype), (names, starts) in chosen.items():
        if dtype not in _SCALAR_FORMATS:
            continue
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                values.update(zip(names, _scalars(dtype, handle, starts), strict=True))
            finally:
                os.close(handle)
        except (OSError, ValueError) as error:
            raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return values


def _scalars(dtype: str, handle: int, starts: list[int]) -> list[float]:
    """Values of one type at their places in a file; neighbours no more than a page apart are read together."""
    import numpy

    size, places = BITS[dtype] // 8, numpy.array(starts)
    order = numpy.argsort(places)
    ordered = places[order]
    first = numpy.flatnonzero(numpy.diff(ordered, prepend=-(1 << 20)) > 4096)
    origins = ordered[first]
    lengths = ordered[numpy.append(first[1:], len(ordered)) - 1] + size - origins
    blocks = list(map(os.pread, itertools.repeat(handle), lengths.tolist(), origins.tolist()))
    if sum(map(len, blocks)) != lengths.sum():
        raise ValueError("the file became shorter")
    run = numpy.repeat(numpy.arange(len(first)), numpy.diff(numpy.append(first, len(ordered))))
    within = numpy.empty_like(places)
    within[order] = ordered - origins[run] + (numpy.cumsum(lengths) - lengths)[run]
    raw = numpy.frombuffer(b"".join(blocks), numpy.uint8)[within[:, None] + numpy.arange(size)].tobytes()
    if dtype == "F32":
        return numpy.frombuffer(raw, "<f4").tolist()
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
