"""All block scales and FP8 weights of a checkpoint, streamed for what no header shows: NaN, negative or all-zero.

Bytes go through a buffer of a fixed size per thread, so memory does not grow with the model. Packed 4-bit weights have
no code for NaN: of them only the bytes up to the first that is not zero are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy

from day0.safetensors_headers import BrokenSafetensors, Tensor

BUFFER_BYTES = 1 << 20
_SCALES = ("weight_scale", "weight_scale_inv")
_ONES, _LOW = numpy.uint64(0x0101010101010101), numpy.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH = numpy.uint64(0x8080808080808080)


def read_blocks(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], int]:
    """Problems by tensor, and the bytes read.

    Raises:
        BrokenSafetensors: a file became shorter since its header was read.
    """
    by_file: dict[str, list[tuple[int, str, Tensor]]] = {}
    for name, tensor in tensors.items():
        is_scale = name.endswith(_SCALES) and tensor.elements > 1
        if tensor.bytes and (is_scale or (tensor.dtype in ("F8_E4M3", "U8", "I8") and not name.endswith("_scale_2"))):
            by_file.setdefault(tensor.file, []).append((tensor.start, name, tensor))
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
        parts = list(pool.map(_read_file, by_file.items()))
    found = {name: what for problems, _ in parts for name, what in problems.items()}
    return dict(sorted(found.items())), sum(count for _, count in parts)


def _read_file(item: tuple[str, list[tuple[int, str, Tensor]]]) -> tuple[dict[str, str], int]:
    file, entries = item
    problems, total = {}, 0
    buffer, scratch = (numpy.empty(BUFFER_BYTES, numpy.uint8) for _ in range(2))
    try:
        handle = os.open(file, os.O_RDONLY)
        try:
            for start, name, tensor in sorted(entries, key=lambda entry: entry[0]):
                is_scale = name.endswith(_SCALES) and tensor.elements > 1
                problem, count = _read_tensor(handle, start, tensor, is_scale, buffer, scratch)
                total += count
                if problem:
                    problems[name] = problem
        finally:
            os.close(handle)
    except OSError as error:
        raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return problems, total


def _read_tensor(
    handle: int, start: int, tensor: Tensor, is_scale: bool, buffer: numpy.ndarray, scratch: numpy.ndarray
) -> tuple[str | None, int]:
    done, is_zero = 0, True
    only_zero = not is_scale and tensor.dtype in ("U8", "I8")
    found: set[str] = set()
    while done < tensor.bytes:
        wanted = min(BUFFER_BYTES, tensor.bytes - done)
        count = os.preadv(handle, [memoryview(buffer)[:wanted]], start + done)
        if count <= 0:
            raise OSError(f"ends at byte {start + done}")
        if count < wanted and tensor.dtype in ("F32", "BF16", "F16"):
            count -= count % 4
        chunk = buffer[:count]
        done += count
        is_zero = is_zero and not chunk.any()
        if only_zero:
            if not is_zero:
                break
            continue
        found.update(_faults(chunk, tensor.dtype, is_scale, scratch))
    if is_zero:
        found = {"is all zero"}
    return (" and ".join(sorted(found)) or None), done


def _faults(chunk: numpy.ndarray, dtype: str, is_scale: bool, scratch: numpy.ndarray) -> Iterable[str]:
    if dtype == "F32":
        values = chunk.view(numpy.float32)
        if not numpy.isfinite(values).all():
            yield "holds NaN or infinity"
        elif values.min(initial=0) < 0:
            yield "holds a negative scale"
    elif dtype in ("BF16", "F16"):
        mask = 0x7F80 if dtype == "BF16" else 0x7C00
        if ((chunk.view(numpy.uint16) & mask) == mask).any():
            yield "holds NaN or infinity"
    elif dtype in ("U8", "F8_E8M0"):
        if chunk.max(initial=0) == 0xFF:
            yield "holds NaN"
    elif dtype == "F8_E4M3":
        if _has_nan(chunk, scratch):
            yield "holds NaN"
        elif is_scale and ((chunk > 0x80) & (chunk != 0xFF)).any():
            yield "holds a negative scale"


def _has_nan(chunk: numpy.ndarray, scratch: numpy.ndarray) -> bool:
    """Whether a byte is S.1111.111, E4M3's NaN: eight at a time, adding 1 to the low seven bits reaches the eighth."""
    whole = chunk.size - chunk.size % 8
    words, work = chunk[:whole].view(numpy.uint64), scratch[:whole].view(numpy.uint64)
    numpy.bitwise_and(words, _LOW, out=work)
    numpy.add(work, _ONES, out=work)
    folded = numpy.bitwise_or.reduce(work) if whole else numpy.uint64(0)
    return bool(folded & _HIGH) or bool(((chunk[whole:] & 0x7F) == 0x7F).any())
