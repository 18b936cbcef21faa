"""Read all blocks of a checkpoint for what no header shows: NaN, negative scales, and zeros where weights were.

A block is the values that share one scale. One that is zero is sound where the source has zeros, too (pruned rows,
padding, experts that were never trained), and a fault where the source has weights that the format can hold: a shard
with a hole in it, or scales that were lost. So the few blocks of zeros that a checkpoint has are looked up in the
source. Bytes go through a buffer of a fixed size per thread: memory does not grow with the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy

from day0.base.processes import cores
from day0.checkpoint.dequantize import Codes, Files, is_finite, open_files
from day0.source.safetensors_headers import BITS, BrokenSafetensors, Tensor

BUFFER_BYTES, SPAN_BYTES = 1 << 18, 1 << 25
# Blocks of zeros that are looked up in the source, for each part of a tensor: enough to tell a hole from pruning.
LOOKED_UP = 64
RUN_BYTES = 64  # zeros in a row, of a weight of 8 bits, that are looked up in the source
_SCALES = ("weight_scale", "weight_scale_inv")
_WEIGHTS, _WIDE = ("F8_E4M3", "U8", "I8"), ("BF16", "F16", "F32", "F64")
_LOW, _CODES = numpy.uint64(0x7F7F7F7F7F7F7F7F), numpy.uint64(0x7777777777777777)


class _Span(NamedTuple):
    """A part of a tensor: its bytes from ``first`` on."""

    name: str
    tensor: Tensor
    first: int
    length: int


class Blocks(NamedTuple):
    """Outcome of a :class:`BlockScan`: problems by tensor, as ends of sentences, and the bytes that were looked at."""

    problems: dict[str, str]
    bytes_read: int


class Seen(NamedTuple):
    """What a :class:`BlockScan` saw: problems and places of some blocks of zeros by tensor, and the number of bytes."""

    problems: dict[str, set[str]]
    zeros: dict[str, list[int]]
    bytes_read: int


class BlockScan:
    """Looks at all scales and weights of a checkpoint: at bytes that are handed over, and at the rest by reading it."""

    def __init__(
        self, tensors: Mapping[str, Tensor], source: Mapping[str, Tensor], scalars: Mapping[str, float]
    ) -> None:
        """Take the headers of the checkpoint and of its source, and the values of the checkpoint's scalar scales."""
        self._tensors, self._source, self._scalars = tensors, source, scalars
        self._found: dict[str, set[str]] = {}
        self._zeros: dict[str, list[int]] = {}
        self._groups: dict[str, int] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    def look(self, name: str, first: int, raw: numpy.ndarray) -> None:
        """Look at bytes of a tensor, from its byte ``first`` on; many threads may. Full precision has no blocks."""
        if not name.endswith(_SCALES) and self._tensors[name].dtype not in _WEIGHTS:
            return
        for start in range(0, raw.size, BUFFER_BYTES):
            chunk = raw[start : start + BUFFER_BYTES]
            problems, places = self._look(name, chunk)
            with self._lock:
                self._found.setdefault(name, set()).update(problems)
                if len(places):
                    held = self._zeros.setdefault(name, [])
                    held += [first + start + int(place) for place in _some(places)]
                self._bytes += chunk.size

    def seen(self) -> Seen:
        """What was seen since this was last asked, which is then forgotten; :meth:`add` takes it, in any process."""
        with self._lock:
            seen = Seen(self._found, self._zeros, self._bytes)
            self._found, self._zeros, self._bytes = {}, {}, 0
        return seen

    def add(self, seen: Seen) -> None:
        """Take what was seen."""
        with self._lock:
            for name, problems in seen.problems.items():
                self._found.setdefault(name, set()).update(problems)
            for name, places in seen.zeros.items():
                self._zeros.setdefault(name, []).extend(places)
            self._bytes += seen.bytes_read

    def finish(self, handed: Collection[str] = ()) -> Blocks:
        """Read what was not handed over, and say what was found.

        Args:
            handed: tensors whose bytes :meth:`look` was given.

        Raises:
            BrokenSafetensors: a file became shorter since its header was read.
        """
        from concurrent.futures import ThreadPoolExecutor  # late, since most checks read no blocks

        spans = [span for name, tensor in self._tensors.items() if name not in handed for span in _spans(name, tensor)]
        spans.sort(key=lambda span: (span.tensor.file, span.tensor.start, span.first))
        with ThreadPoolExecutor(max_workers=min(cores(), 4)) as pool:
            for _ in pool.map(self._read, spans):
                pass
        for name, places in self._zeros.items():
            lost = _lost_blocks(name, [*_some(places)], self._tensors, self._source, self._scalars)
            if lost is not None:
                self._found[name].add(lost)
        problems = {name: " and ".join(sorted(what)) for name, what in sorted(self._found.items()) if what}
        return Blocks(problems, self._bytes)

    def _read(self, span: _Span) -> None:
        buffer = _buffers()[0]
        try:
            handle = os.open(span.tensor.file, os.O_RDONLY)
            try:
                for done in range(0, span.length, BUFFER_BYTES):
                    wanted = min(BUFFER_BYTES, span.length - done)
                    place = span.tensor.start + span.first + done
                    count = os.preadv(handle, [buffer[:wanted].data], place)
                    if count < wanted:
                        raise OSError(f"ends at byte {place + count}")
                    self.look(span.name, span.first + done, buffer[:count])
            finally:
                os.close(handle)
        except OSError as error:
            raise BrokenSafetensors(f"{span.tensor.file}: cannot be read: {error}") from error

    def _look(self, name: str, chunk: numpy.ndarray) -> tuple[set[str], Sequence[int] | numpy.ndarray]:
        """Problems of bytes of a tensor, and the places of some blocks of zeros in them."""
        tensor, scratch = self._tensors[name], _buffers()[1]
        is_scale = name.endswith(_SCALES)
        found: set[str] = set()
        if is_scale or tensor.dtype not in ("U8", "I8"):
            found.update(_faults(chunk, tensor.dtype, is_scale, scratch))
        if is_scale:
            return found, _zero_scales(chunk, tensor.dtype)
        group = self._groups.get(name, -1)
        if group < 0:
            group = self._groups[name] = _group_bytes(name, tensor, self._tensors)
        return found, _zero_runs(chunk, group, scratch, tensor.dtype == "F8_E4M3" and not group)


def _spans(name: str, tensor: Tensor) -> Iterator[_Span]:
    """The parts of a tensor that holds scales or quantized weights; none of others."""
    is_scale = name.endswith(_SCALES)
    if tensor.bytes and (tensor.elements > 1 if is_scale else tensor.dtype in _WEIGHTS and len(tensor.shape) > 1):
        for first in range(0, tensor.bytes, SPAN_BYTES):
            yield _Span(name, tensor, first, min(SPAN_BYTES, tensor.bytes - first))


def _group_bytes(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> int:
    """Bytes that share a scale in a weight that is packed along its rows; 0 for every other tensor."""
    scale = tensors.get(f"{name}_scale")
    if tensor.dtype != "U8" or not name.endswith(".weight") or len(tensor.shape) != 2 or scale is None:
        return 0
    is_in_rows = len(scale.shape) == 2 and scale.shape[0] == tensor.shape[0] and scale.shape[1]
    return tensor.shape[1] // scale.shape[1] if is_in_rows and tensor.shape[1] % scale.shape[1] == 0 else 0


_local = threading.local()


def _buffers() -> list[numpy.ndarray]:
    """Two arrays of this thread: for bytes that are read, and for work on them."""
    if not hasattr(_local, "buffers"):
        _local.buffers = [numpy.empty(BUFFER_BYTES, numpy.uint8) for _ in range(2)]
    return _local.buffers


def _some(places: Sequence[int] | numpy.ndarray) -> Sequence[int] | numpy.ndarray:
    """At most LOOKED_UP of them, spread over all."""
    return places[:: -(-len(places) // LOOKED_UP)] if len(places) > LOOKED_UP else places


def _zero_scales(chunk: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """Places of scales that are zero; of a power of two the smallest, which ModelOpt gives to zeros only."""
    size = BITS[dtype] // 8
    if size == 1:
        sign = 0x7F if dtype == "F8_E4M3" else 0xFF
        return numpy.flatnonzero((chunk & sign) == 0) if chunk.min() == 0 or sign == 0x7F else _NONE
    bits = {2: numpy.uint16, 4: numpy.uint32, 8: numpy.uint64}[size]
    return numpy.flatnonzero(chunk.view(bits) << 1 == 0) * size


_NONE = numpy.empty(0, numpy.int64)


def _zero_runs(chunk: numpy.ndarray, group: int, scratch: numpy.ndarray, is_masked: bool) -> numpy.ndarray:
    """Places of groups of zeros: of packed codes whose bits but the signs are all zero, or of RUN_BYTES bytes.

    ``is_masked``: the scratch holds the chunk without signs already.
    """
    size = group if group and group % 8 == 0 else RUN_BYTES
    whole = chunk.size - chunk.size % 8
    words = chunk[:whole].view(numpy.uint64)
    work = scratch[:whole].view(numpy.uint64)
    if not is_masked:
        numpy.bitwise_and(words, _CODES if group else _LOW, out=work)
    if not work.size or work.min():
        return _NONE
    per_group = size // 8
    rows = work[: work.size - work.size % per_group].reshape(-1, per_group)
    return numpy.flatnonzero(~rows.any(axis=1)) * size


def _lost_blocks(
    name: str,
    places: Sequence[int],
    tensors: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    scalars: Mapping[str, float],
) -> str | None:
    """What is wrong with blocks of zeros: that the source has weights there which the format can hold."""
    is_scale = name.endswith(_SCALES)
    module = name.rpartition(".")[0]
    weight_name = f"{module}.weight" if is_scale else name
    weight, before = tensors.get(weight_name), source.get(weight_name)
    is_known = weight is not None and before is not None and before.dtype in _WIDE
    if weight is None or before is None or not is_known:
        return _all_zero(name, places, tensors, before)
    if not _source_parts(places[0], tensors[name], weight, before, is_scale):
        return _all_zero(name, places, tensors, before)
    least = _least_weight(module, tensors, scalars)
    lost = 0
    where = ""
    with open_files() as files:
        for place in places:
            parts = _source_parts(place, tensors[name], weight, before, is_scale)
            if any(_largest(files, before, first, count) > least for first, count in parts):
                row, column = divmod(parts[0][0], before.shape[-1])
                where = where or f"row {row}, column {column}"
                lost += 1
    what = "scales that are zero" if is_scale else "blocks of zeros"
    return f"has {what} where the source has weights, first at {where} of the weight" if lost else None


def _all_zero(name: str, places: Sequence[int], tensors: Mapping[str, Tensor], before: Tensor | None) -> str | None:
    """The same where blocks cannot be looked up: a tensor that is zero from end to end, and not so in the source."""
    tensor = tensors[name]
    if len(places) < min(LOOKED_UP, tensor.bytes // RUN_BYTES, tensor.elements) or not _is_zero(tensor):
        return None
    return None if before is not None and _is_zero(before) else "is all zero"


def _is_zero(tensor: Tensor) -> bool:
    """Whether all bytes of a tensor are zero."""
    handle = os.open(tensor.file, os.O_RDONLY)
    try:
        return not any(
            any(os.pread(handle, min(BUFFER_BYTES, tensor.bytes - first), tensor.start + first))
            for first in range(0, tensor.bytes, BUFFER_BYTES)
        )
    finally:
        os.close(handle)


def _least_weight(module: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, float]) -> float:
    """Smallest magnitude that the format surely keeps apart from zero; smaller ones may be rounded away.

    With scales of FP8 under a global one (NVFP4) the smallest scale is 2**-9 of that, and 6 the largest value; with one
    scale for the tensor (FP8) the smallest value is 2**-9 of it. Scales of their own range lose nothing. A margin of 64
    leaves room for smoothing, which shrinks weights, and is still far below what a hole in a shard would lose.
    """
    reciprocal = scalars.get(f"{module}.weight_global_scale")  # as compressed-tensors stores it
    second, first = scalars.get(f"{module}.weight_scale_2"), scalars.get(f"{module}.weight_scale")
    scale = tensors.get(f"{module}.weight_scale")
    second = 1 / reciprocal if reciprocal else second
    if second is not None and scale is not None and scale.dtype == "F8_E4M3":
        return 64 * 6 * 2.0**-9 * abs(second)
    return 64 * 2.0**-9 * abs(first) if first is not None else 0.0


def _source_parts(place: int, tensor: Tensor, weight: Tensor, before: Tensor, is_scale: bool) -> list[tuple[int, int]]:
    """Parts of the source's weight, as first element and count, that belong to a place in a weight or its scales."""
    if len(before.shape) != 2:
        return []
    rows, columns = before.shape
    if not is_scale:
        if weight.shape == before.shape:
            return [(place, RUN_BYTES)]
        return [(2 * place, 2)] if weight.shape == (rows, columns // 2) else []
    index, shape = place * 8 // BITS[tensor.dtype], tuple(extent for extent in tensor.shape if extent != 1)
    if shape == (rows,):
        return [(index * columns, columns)]
    if len(tensor.shape) == 2 and shape and tensor.shape[0] == rows:
        group = -(-columns // tensor.shape[1])
        row, number = divmod(index, tensor.shape[1])
        return [(row * columns + number * group, min(group, columns - number * group))]
    blocks = -(-columns // 128)
    if tensor.elements != -(-rows // 128) * blocks:
        return []
    top, left = divmod(index, blocks)
    width = min(128, columns - left * 128)
    return [(row * columns + left * 128, width) for row in range(top * 128, min(top * 128 + 128, rows))]


def _largest(files: Files, tensor: Tensor, first: int, count: int) -> float:
    """Largest magnitude of some elements of a tensor in full precision; 0 where it has none."""
    values = Codes.of(tensor, tensor.dtype).read(files, first, max(min(count, tensor.elements - first), 0))
    return float(numpy.nan_to_num(numpy.abs(values), nan=0.0).max(initial=0.0))


def _faults(chunk: numpy.ndarray, dtype: str, is_scale: bool, scratch: numpy.ndarray) -> Iterable[str]:
    if dtype in ("F32", "BF16", "F16"):
        if not is_finite(chunk, dtype):
            yield "holds NaN or infinity"
        elif dtype == "F32" and chunk.view(numpy.float32).min(initial=0) < 0:
            yield "holds a negative scale"
    elif dtype in ("U8", "F8_E8M0"):
        if chunk.max(initial=0) == 0xFF:
            yield "holds NaN"
    elif dtype == "F8_E4M3":
        # S.1111.111 is E4M3's only NaN; without signs, which _zero_runs leaves out too, it is the largest byte.
        if numpy.bitwise_and(chunk, numpy.uint8(0x7F), out=scratch[: chunk.size]).max(initial=0) == 0x7F:
            yield "holds NaN"
        elif is_scale and ((chunk > 0x80) & (chunk != 0xFF)).any():
            yield "holds a negative scale"
