"""Read the headers of safetensors files: which tensors a checkpoint holds, their types, shapes and places, no weights.

A safetensors file is 8 bytes with the header's length (little endian), the header (JSON: name to dtype, shape and the
span of its bytes) and the payload, without a gap. Every mistake is an error that names the file.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from day0.artefacts import UnusableInput

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
_F32 = struct.Struct("<f")
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
    try:
        header = json.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(f"{path}: the header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise BrokenSafetensors(f"{path}: the header is {type(header).__name__}; expected an object")
    header.pop("__metadata__", None)
    return _tensors(path, header, 8 + length, size, is_plain=b"true" not in text and b"false" not in text)


def _tensors(path: Path, header: dict[str, Any], origin: int, size: int, is_plain: bool) -> dict[str, Tensor]:
    """Entries of a header as tensors; forms seen before are looked up, as a large header repeats a few of them."""
    tensors: dict[str, Tensor] = {}
    forms: dict[tuple, tuple[tuple[int, ...], int]] = {}
    file, make, end, is_ordered = str(path), Tensor._make, 0, True
    for name, entry in header.items():
        try:
            shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            known = forms.get((entry["dtype"], shape)) if is_plain else None
            if known is None or type(first) is not int or first < 0 or last - first != known[1]:
                known = forms[entry["dtype"], shape] = _form(path, name, entry)
        except (KeyError, TypeError, ValueError) as error:
            raise BrokenSafetensors(f"{path}: tensor {name!r}: {entry!r:.200} is no valid entry: {error!r}") from error
        is_ordered = is_ordered and first == end
        end = last
        tensors[name] = make((entry["dtype"], known[0], file, origin + first, known[1]))
    if not is_ordered or origin + end != size:
        _check_spans(path, tensors, origin, size - origin)
    return tensors


def _form(path: Path, name: str, entry: Any) -> tuple[tuple[int, ...], int]:
    """Shape and bytes of an entry, checked."""
    dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or any(type(n) is not int or n < 0 for n in (first, last, *shape)):
        raise ValueError("shape and data_offsets must hold whole numbers from 0 on")
    expected = math.prod(shape) * BITS[dtype]
    if (last - first) * 8 != expected:
        raise BrokenSafetensors(
            f"{path}: tensor {name!r}: {dtype} of shape {shape} takes {expected // 8} bytes; "
            f"its span has {last - first}"
        )
    return tuple(shape), last - first


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


def read_tensors(folder: str | os.PathLike, alone: bool = False) -> dict[str, Tensor]:
    """Read the headers of a checkpoint: the shards that its index names, or every safetensors file where it has none.

    With ``alone`` the folder must hold nothing but these: a shard that no index names is an error.

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
        return _merged([folder / name for name in present])
    weight_map = _read_index(index)
    shards = sorted(set(weight_map.values()))
    stray = [name for name in present if name not in set(shards) and alone and read_header(folder / name)]
    if stray:
        raise BrokenSafetensors(f"{index}: does not name {', '.join(stray)}; a file of another export? remove it")
    tensors = _merged([folder / name for name in shards])
    paths = {name: str(folder / name) for name in shards}
    misplaced = [
        name for name, shard in weight_map.items() if (held := tensors.get(name)) is None or held.file != paths[shard]
    ]
    if misplaced:
        first = {weight_map[name]: name for name in reversed(misplaced)}
        shown = ", ".join(f"{name!r} in {shard}" for shard, name in list(first.items())[:10])
        raise BrokenSafetensors(f"{index}: {len(misplaced)} tensors are not where it says, first {shown}")
    if len(tensors) != len(weight_map):
        name = min(tensors.keys() - weight_map.keys())
        raise BrokenSafetensors(
            f"{index}: {len(tensors) - len(weight_map)} tensors are not in it, first {name!r} of {tensors[name].file}"
        )
    return tensors


def _read_index(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BrokenSafetensors(f"{index}: expected a JSON object with a 'weight_map': {error!r}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise BrokenSafetensors(f"{index}: 'weight_map' must map names of tensors to file names")
    for shard in set(weight_map.values()):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise BrokenSafetensors(f"{index}: names {shard!r}; expected a *.safetensors file of its own folder")
    return weight_map


def _merged(files: Iterable[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    broken, twice = [], []
    for file in files:
        try:
            header = read_header(file)
        except BrokenSafetensors as error:
            broken.append(str(error))
            continue
        expected = len(tensors) + len(header)
        places = {name: tensors[name].file for name in header if name in tensors}
        tensors |= header
        if len(tensors) != expected:
            name = min(places)
            twice.append(f"{file}: tensor {name!r} is also in {places[name]}")
    if broken or twice:
        shown = [*broken, *twice]
        more = f"; and {len(shown) - 10} more files" if len(shown) > 10 else ""
        raise BrokenSafetensors("; ".join(shown[:10]) + more)
    return tensors


def payload_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors, headers not counted."""
    return sum(tensor.bytes for tensor in tensors.values())


def read_scalars(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Read the values of one-element tensors of a floating type, each file opened once.

    Raises:
        BrokenSafetensors: a file went away or became shorter since its header was read.
    """
    chosen: dict[str, list[tuple[int, int, str, str]]] = {}
    for name, (dtype, shape, file, start, size) in tensors.items():
        if dtype in _SCALAR_FORMATS and math.prod(shape) == 1:
            chosen.setdefault(file, []).append((start, size, name, dtype))
    values: dict[str, float] = {}
    for file, entries in chosen.items():
        entries.sort()
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                for run in _runs(entries):
                    origin, last = run[0][0], run[-1]
                    block = os.pread(handle, last[0] + last[1] - origin, origin)
                    for start, size, name, dtype in run:
                        if dtype == "F32":
                            (values[name],) = _F32.unpack_from(block, start - origin)
                        else:
                            values[name] = _scalar(dtype, block[start - origin : start - origin + size])
            finally:
                os.close(handle)
        except (OSError, struct.error) as error:
            raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return values


def _runs(entries: list[tuple[int, int, str, str]]) -> Iterator[list[tuple[int, int, str, str]]]:
    """Neighbours that one read takes together: no more than a page apart, no longer than 1 MiB."""
    first = 0
    for place in range(1, len(entries) + 1):
        if (
            place == len(entries)
            or entries[place][0] - entries[place - 1][0] > 4096
            or entries[place][0] - entries[first][0] > 1 << 20
        ):
            yield entries[first:place]
            first = place


def _scalar(dtype: str, raw: bytes) -> float:
    (value,) = struct.unpack(_SCALAR_FORMATS[dtype], raw)
    if dtype == "BF16":
        (value,) = struct.unpack("<f", struct.pack("<I", value << 16))
    elif dtype == "F8_E4M3":
        value = _e4m3(value)
    return float(value)


def _e4m3(code: int) -> float:
    """Value of an FP8 E4M3 code: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, S.1111.111 is NaN."""
    sign, exponent, mantissa = -1.0 if code & 0x80 else 1.0, (code >> 3) & 0xF, code & 0x7
    if exponent == 0xF and mantissa == 0x7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)
