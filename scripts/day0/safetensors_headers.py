"""Read the headers of safetensors files: which tensors a checkpoint holds, their types, shapes and places, no weights.

A safetensors file is 8 bytes with the header's length (little endian), the header (JSON: name to dtype, shape and the
span of its bytes) and the payload, without a gap. Every mistake is an error that names the file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_SCALAR_FORMATS = {"F32": "<f", "F64": "<d", "F16": "<e", "BF16": "<H", "F8_E4M3": "<B"}


class BrokenSafetensors(UnusableInput):
    """A safetensors file, or the index of a checkpoint, that is not what it should be; the message names the file."""


@dataclass(frozen=True, slots=True)
class Tensor:
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
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(f"{path}: the header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise BrokenSafetensors(f"{path}: the header is {type(header).__name__}; expected an object")
    header.pop("__metadata__", None)
    payload = size - 8 - length
    tensors = {name: _tensor(path, name, entry, 8 + length) for name, entry in header.items()}
    _check_spans(path, tensors, 8 + length, payload)
    return tensors


def _tensor(path: Path, name: str, entry: Any, origin: int) -> Tensor:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [first, last, *shape]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("shape and data_offsets must hold whole numbers from 0 on")
        expected = math.prod(shape) * BITS[dtype]
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenSafetensors(f"{path}: tensor {name!r}: {entry!r:.200} is no valid entry: {error!r}") from error
    if (last - first) * 8 != expected:
        raise BrokenSafetensors(
            f"{path}: tensor {name!r}: {dtype} of shape {shape} takes {expected // 8} bytes; "
            f"its span has {last - first}"
        )
    return Tensor(dtype, tuple(shape), str(path), origin + first, last - first)


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


def read_tensors(folder: str | os.PathLike) -> dict[str, Tensor]:
    """Read the headers of a checkpoint: the shards that its index names, or every safetensors file where it has none.

    Raises:
        BrokenSafetensors: no safetensors file, a broken one, or an index and shards that name different tensors.
    """
    folder = Path(folder)
    index = folder / INDEX_FILE
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise BrokenSafetensors(f"{folder}: holds no *.safetensors; expected a Hugging Face checkpoint")
        return _merged(files)
    weight_map = _read_index(index)
    files = [folder / name for name in sorted(set(weight_map.values()))]
    tensors = _merged(files)
    misplaced = [
        name for name, shard in weight_map.items() if name not in tensors or Path(tensors[name].file).name != shard
    ]
    if misplaced:
        name = misplaced[0]
        raise BrokenSafetensors(
            f"{index}: {len(misplaced)} tensors are not where it says, first {name!r} in {weight_map[name]}"
        )
    unlisted = tensors.keys() - weight_map.keys()
    if unlisted:
        name = min(unlisted)
        raise BrokenSafetensors(
            f"{index}: {len(unlisted)} tensors are not in it, first {name!r} of {tensors[name].file}"
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
    for file in files:
        header = read_header(file)
        twice = tensors.keys() & header.keys()
        if twice:
            name = min(twice)
            raise BrokenSafetensors(f"{file}: tensor {name!r} is also in {tensors[name].file}")
        tensors |= header
    return tensors


def payload_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors, headers not counted."""
    return sum(tensor.bytes for tensor in tensors.values())


def read_scalars(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Read the values of one-element tensors of a floating type, each file opened once.

    Raises:
        BrokenSafetensors: a file went away or became shorter since its header was read.
    """
    chosen: dict[str, list[tuple[int, str, Tensor]]] = {}
    for name, tensor in tensors.items():
        if tensor.elements == 1 and tensor.dtype in _SCALAR_FORMATS:
            chosen.setdefault(tensor.file, []).append((tensor.start, name, tensor))
    values = {}
    for file, entries in chosen.items():
        try:
            handle = os.open(file, os.O_RDONLY)
            try:
                for start, name, tensor in sorted(entries, key=lambda entry: entry[0]):
                    values[name] = _scalar(tensor.dtype, os.pread(handle, tensor.bytes, start))
            finally:
                os.close(handle)
        except (OSError, struct.error) as error:
            raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return values


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
