"""Compare what a checkpoint leaves in full precision with its source: the same bytes, or the stated cast of them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from day0.base.numbers import mapping_or_empty
from day0.checkpoint.dequantize import Codes, Files, Values, is_finite
from day0.checkpoint.formats import FULL_PRECISION
from day0.checkpoint.names import BUFFERS
from day0.checkpoint.summary import KEPT, Layer, modules_where
from day0.checkpoint.values import Compared
from day0.source.safetensors_headers import BITS, Tensor

# Tensors that are compared by default, bytes of each, and of a part that is read at a time.
TENSORS, BYTES, CHUNK_BYTES = 4000, 1 << 16, 1 << 20
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
# Kept in F32 by the models that have them: rounded to 16 bits they choose other experts.
KEPT_WIDE = re.compile(r"(e_score_correction_bias|expert_bias)$")
# Largest change, as a share of a tensor's largest value, that training a model further makes in it.
TRAINED = 0.1
# Casts that lose nothing: transformers keeps some parts of a model in F32, whatever the rest is.
_WIDENED = {("F32", "BF16"), ("F32", "F16"), ("F64", "F32")}
_FLOATS = ("BF16", "F16", "F32", "F64", "F8_E4M3")


@dataclass
class Unquantized:
    """Outcome of :func:`compare_unquantized`.

    ``problems`` are by tensor, as ends of sentences; ``changed`` are vectors that hold other finite values than the
    source's, [source, checkpoint], which a recipe that smooths explains; ``trained`` are tensors that differ by no more
    than :data:`TRAINED`, where that is allowed.
    """

    compared: int = 0
    tensors: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    changed: dict[str, tuple[Values, Values]] = field(default_factory=dict)
    cast: dict[str, list[str]] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)


def compare_unquantized(
    compared: Compared,
    config: Mapping[str, Any],
    files: Files,
    every: bool = False,
    seed: int = 0,
    is_trained: bool = False,
) -> Unquantized:
    """Compare the tensors that are not quantized with the source's of the same names and shapes.

    Args:
        compared: the checkpoint and its source.
        config: the checkpoint's config.json, which states the data type that the source was cast to.
        files: to read from.
        every: read all of them from end to end; else at most :data:`TENSORS`, of long ones a part.
        seed: chooses what is read otherwise.
        is_trained: the model may have been trained further, as QAD does.

    Raises:
        BrokenSafetensors: a file became shorter since its header was read.
    """
    chance = random.Random(seed)
    names, tensors, source = compared.names, compared.tensors, compared.source
    kept = _weights_where(compared, lambda layer: layer.precision in FULL_PRECISION)
    shared = [name for name in (*kept, *names.others) if name in source.tensors and name not in source.quantized]
    as_before = _weights_where(compared, lambda layer: layer.precision.endswith(KEPT))
    shared += [part for name in as_before for part in source.parts.get(name, ()) if part in tensors]
    chosen = shared if every or len(shared) <= TENSORS else chance.sample(shared, TENSORS)
    outcome = Unquantized(len(chosen), len(shared))
    stated = _stated_dtype(config)
    for name in sorted(chosen, key=lambda name: (tensors[name].file, tensors[name].start)):
        held, before = tensors[name], source.tensors[name]
        if held.shape != before.shape or not held.bytes:
            continue
        if held.dtype != before.dtype and (wrong := _wrong_cast(name, held.dtype, before.dtype, stated)):
            outcome.problems[name] = wrong
            continue
        if held.dtype != before.dtype:
            outcome.cast.setdefault(f"{before.dtype} to {held.dtype}", []).append(name)
        difference, largest = _difference(name, held, before, files, every, chance)
        if difference is None:
            continue
        if is_trained and largest <= TRAINED:
            outcome.trained.append(name)
            continue
        outcome.problems[name] = difference
        if len(held.shape) == 1 and held.dtype in _FLOATS and before.dtype in _FLOATS:
            vectors = (
                _values(before, files, 0, held.elements),
                _values(held, files, 0, held.elements),
            )
            if all(numpy.isfinite(vector).all() and vector.any() for vector in vectors):
                outcome.changed[name] = vectors
    return outcome


def _weights_where(compared: Compared, is_wanted: Callable[[Layer], object]) -> list[str]:
    """Names of the weights whose layers are wanted."""
    modules = modules_where(compared.layers, is_wanted)
    return [name for module in modules if (name := compared.names.weight_of(module)) is not None]


def _stated_dtype(config: Mapping[str, Any]) -> str | None:
    """Data type that a config.json states for the weights, by its name in safetensors."""
    text = mapping_or_empty(config.get("text_config"))
    stated = next((part[key] for part in (config, text) for key in ("dtype", "torch_dtype") if part.get(key)), None)
    return _DTYPES.get(str(stated).removeprefix("torch."))


def _wrong_cast(name: str, held: str, before: str, stated: str | None) -> str | None:
    """What is wrong with a change of the data type; None where config.json states it and the tensor bears it."""
    if KEPT_WIDE.search(name) and BITS[held] < BITS[before]:
        return f"is {held} where the source has {before}: its models need it as it was"
    if (held, before) in _WIDENED:
        return None
    if held not in _FLOATS or before not in _FLOATS or held != stated:
        reason = f"config.json states {stated}" if stated else "config.json states no data type"
        return f"is {held} where the source has {before}, and {reason}"
    return None


def _difference(
    name: str, held: Tensor, before: Tensor, files: Files, every: bool, chance: random.Random
) -> tuple[str | None, float]:
    """How a tensor differs from the source's, or None; and by which share of its largest value (none: infinity)."""
    wrong = total = 0
    largest = 0.0
    is_zero = True
    where = ""
    has_holes = False
    for first, count in _parts(held, every, chance):
        total += count
        if held.dtype == before.dtype:
            size = BITS[held.dtype] // 8
            ours = files.read(held.file, held.start + first * size, count * size, "held")
            theirs = files.read(before.file, before.start + first * size, count * size, "source")
            is_same = numpy.array_equal(ours, theirs)
            if is_same and (held.dtype not in _FLOATS or BUFFERS.search(name) or is_finite(ours, held.dtype)):
                is_zero = is_zero and not ours.any()
                continue
            if is_same:
                return "holds NaN or infinity, as the source does", math.inf
            if held.dtype not in _FLOATS:
                return f"differs from the source's bytes in elements {first} to {first + count - 1}", math.inf
        new, old = (
            _values(held, files, first, count),
            _values(before, files, first, count),
        )
        if held.dtype != before.dtype:
            old = _cast(old, held.dtype)
        has_holes = has_holes or not numpy.isfinite(new).all()
        off = ~((new == old) | (numpy.isnan(new) & numpy.isnan(old)))
        is_zero = is_zero and not new.any()
        if off.any():
            where = where or str(first + int(off.argmax()))
            wrong += int(off.sum())
            scale = float(numpy.abs(old).max()) or 1.0
            largest = max(largest, float(numpy.nan_to_num(numpy.abs(new - old) / scale).max()))
    if not wrong:
        has_holes = has_holes and not BUFFERS.search(name)
        return "holds NaN or infinity, as the source does" if has_holes else None, math.inf
    if has_holes:
        return f"holds NaN or infinity, first where it differs at element {where}", math.inf
    if is_zero:
        return f"is zero in all {total} elements that were read, where the source has values", math.inf
    what = "the source's" if held.dtype == before.dtype else f"the source's values cast to {held.dtype}"
    share = f"{wrong} of {total} elements that were read differ from {what}"
    return f"{share}, first element {where}, by up to {largest:.2g} of the largest", largest


def _parts(tensor: Tensor, every: bool, chance: random.Random) -> Iterator[tuple[int, int]]:
    """First element and number of elements of the parts to read."""
    size = max(BITS[tensor.dtype] // 8, 1)
    if every or tensor.bytes <= BYTES:
        step = CHUNK_BYTES // size
        yield from ((first, min(step, tensor.elements - first)) for first in range(0, tensor.elements, step))
        return
    count = BYTES // size
    yield chance.randrange(tensor.elements - count + 1), count


def _values(tensor: Tensor, files: Files, first: int, count: int) -> Values:
    return Codes.of(tensor, tensor.dtype).read(files, first, count)


def _cast(values: Values, dtype: str) -> Values:
    """Values rounded to the nearest of a data type, halves to even."""
    if dtype == "F16":
        with numpy.errstate(over="ignore"):
            return values.astype(numpy.float16).astype(numpy.float32)
    if dtype != "BF16":
        return values
    bits = values.view(numpy.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & numpy.uint32(0xFFFF0000)
    return numpy.where(numpy.isfinite(values), rounded.astype(numpy.uint32).view(numpy.float32), values)
