"""All block scales and FP8 weights of a checkpoint, streamed for what no header shows: NaN, negative or all-zero.

Bytes go through a buffer of a fixed size per thread, so memory does not grow with the model. Packed 4-bit weights have
no code for NaN: of them only the bytes up to the first that is not zero are read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy

from day0.safetensors_headers import BrokenSafetensors, Tensor

BUFFER_BYTES, SPAN_BYTES = 1 << 18, 1 << 25
_SCALES = ("weight_scale", "weight_scale_inv")
_ONES, _LOW = numpy.uint64(0x0101010101010101), numpy.uint64(0x7F7F7F7F7F7F7F7F)
_HIGH = numpy.uint64(0x8080808080808080)


def read_blocks(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], int]:
    """Problems by tensor, and the bytes read.

    Raises:
        BrokenSafetensors: a file became shorter since its header was read.
    """
    spans: list[tuple[str, int, int, str, Tensor]] = []
    for name, tensor in tensors.items():
        is_scale = name.endswith(_SCALES) and tensor.elements > 1
        if tensor.bytes and (is_scale or (tensor.dtype in ("F8_E4M3", "U8", "I8") and not name.endswith("_scale_2"))):
            step = tensor.bytes if _is_packed(name, tensor) else SPAN_BYTES
            for first in range(0, tensor.bytes, step):
                spans.append((tensor.file, tensor.start + first, min(step, tensor.bytes - first), name, tensor))
    spans.sort(key=lambda span: span[:2])
    found: dict[str, set[str]] = {}
    not_zero: set[str] = set()
    total = 0
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 4)) as pool:
        for (_, _, _, name, _), (problems, is_zero, count) in zip(spans, pool.map(_read_span, spans), strict=True):
            found.setdefault(name, set()).update(problems)
            not_zero |= set() if is_zero else {name}
            total += count
    named = {name: problems if name in not_zero else {"is all zero"} for name, problems in found.items()}
    return {name: " and ".join(sorted(what)) for name, what in sorted(named.items()) if what}, total


def _is_packed(name: str, tensor: Tensor) -> bool:
    return tensor.dtype in ("U8", "I8") and not name.endswith(_SCALES)


_local = threading.local()


def _read_span(span: tuple[str, int, int, str, Tensor]) -> tuple[set[str], bool, int]:
    """Problems of a part of a tensor, whether it is all zero, and the bytes read."""
    file, start, length, name, tensor = span
    if not hasattr(_local, "buffers"):
        _local.buffers = [numpy.empty(BUFFER_BYTES, numpy.uint8) for _ in range(2)]
    buffer, scratch = _local.buffers
    is_scale = name.endswith(_SCALES)
    done, is_zero, found = 0, True, set()
    try:
        handle = os.open(file, os.O_RDONLY)
        try:
            while done < length:
                wanted = min(BUFFER_BYTES, length - done)
                count = os.preadv(handle, [memoryview(buffer)[:wanted]], start + done)
                if count < wanted:
                    raise OSError(f"ends at byte {start + done + count}")
                done += count
                chunk = buffer[:count]
                is_zero = is_zero and not chunk.any()
                if not _is_packed(name, tensor):
                    found.update(_faults(chunk, tensor.dtype, is_scale, scratch))
                elif not is_zero:
                    break
        finally:
            os.close(handle)
    except OSError as error:
        raise BrokenSafetensors(f"{file}: cannot be read: {error}") from error
    return found, is_zero, done


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
