"""Where the weights of a layer are: as matrices that can be read, of the checkpoint and of its source."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from day0.checkpoint.dequantize import NIBBLES, Codes, Matrix, Scale, kind_of_scales
from day0.checkpoint.formats import FORMATS, FULL_PRECISION, Form
from day0.checkpoint.source_weights import SourceWeight, SourceWeights, Storage
from day0.source.safetensors_headers import Tensor

_OF_I32 = {4: "INT4+8", 8: "INT8+128"}
_RECIPROCAL = "weight_global_scale"  # compressed-tensors' scale of a whole matrix
_UNREAD = ("weight_zero_point", "weight_g_idx")
_SMOOTHING = ("pre_quant_scale", "svdquant_lora_a", "svdquant_lora_b")
# Ends of the names of what the values of a weight depend on.
PARTS_OF_MATRICES = ("weight_scale", "weight_scale_inv", "weight_scale_2", _RECIPROCAL, *_UNREAD, *_SMOOTHING)
_NIBBLES = {"NVFP4": "E2M1", "MXFP4": "E2M1", "INT4": "INT4"}


class _Plan(NamedTuple):
    """How a weight is stored: ``experts`` matrices one behind the other, and which of its parts say what.

    ``scale``: the part with scales of ``grid``, see :class:`Scale`, of ``scale_kind``; ``factors``: parts of one value.
    """

    kind: str
    rows: int
    columns: int
    experts: int
    packed: str = ""
    scale: str = ""
    scale_kind: str = ""
    grid: tuple[int, int, int] = (1, 1, 1)
    factors: tuple[str, ...] = ()


def matrices_of(
    weight: Tensor, precision: str, parts: Mapping[str, Tensor], values: Mapping[str, float]
) -> list[Matrix] | None:
    """A weight as matrices: one, or one for each expert of a fused weight; None where it cannot be read as numbers.

    Args:
        weight: its tensor.
        precision: how it is stored, a data type of full precision or a key of :data:`day0.checkpoint.formats.FORMATS`.
        parts: those of :data:`PARTS_OF_MATRICES` that it has, by these ends of their names.
        values: of those that are scalars, by the same.
    """
    plan = _plan(precision, weight[:2], tuple((part, tensor[:2]) for part, tensor in parts.items()))
    factor = 1.0
    for part in plan.factors if plan is not None else ():
        value = values.get(part)
        if value is None or (part == _RECIPROCAL and not value):
            return None
        factor = factor / value if part == _RECIPROCAL else factor * value
    if plan is None:
        return None
    smoothing = low_rank = None
    if plan.experts == 1 and precision not in FULL_PRECISION:
        vector, low, high = (parts.get(part) for part in ("pre_quant_scale", "svdquant_lora_b", "svdquant_lora_a"))
        if vector is not None and vector.elements == plan.columns:
            smoothing = Codes.of(vector, vector.dtype)
        if low is not None and high is not None:
            low_rank = (Codes.of(low, low.dtype), Codes.of(high, high.dtype), high.shape[0])
    step = weight.bytes // plan.experts
    scales: list[Scale | None] = [None] * plan.experts
    if plan.scale:
        held = parts[plan.scale]
        scales = _scales(Codes(plan.scale_kind, held.file, held.start), held.bytes // plan.experts, plan)
    return [
        Matrix(
            Codes(plan.kind, weight.file, weight.start + place * step),
            plan.rows,
            plan.columns,
            plan.packed,
            scale,
            factor,
            smoothing,
            low_rank,
        )
        for place, scale in enumerate(scales)
    ]


def _scales(first: Codes, step: int, plan: _Plan) -> list[Scale | None]:
    """Scales of each of the matrices, ``step`` bytes apart."""
    return [
        Scale(first._replace(start=first.start + place * step) if place else first, *plan.grid)
        for place in range(plan.experts)
    ]


@functools.lru_cache(4096)
def _plan(precision: str, weight: Form, parts: tuple[tuple[str, Form], ...]) -> _Plan | None:
    """How a weight is stored, by the dtypes and shapes of it and its parts; None: not as numbers that are read here."""
    dtype, shape = weight
    experts = shape[0] if len(shape) == 3 else 1
    rows, columns = shape[-2:]
    if not math.prod(shape):
        return None
    if precision in FULL_PRECISION:
        return _Plan(dtype, rows, columns, experts)
    form, held = FORMATS.get(precision), dict(parts)
    name = next((part for part in ("weight_scale", "weight_scale_inv") if part in held), None)
    if form is None or name is None or form.is_turned or held.keys() & set(_UNREAD):
        return None  # zero points and columns in another order are not read
    scale_dtype, scale_shape = held[name]
    kind = _OF_I32[form.bits] if dtype == "I32" else _NIBBLES.get(form.kind.split()[0], dtype)
    packed = ""
    if dtype == "I32":  # values follow one another from the low bits on, as bytes with the low code first do
        packed, columns = "columns" if form.bits == 4 else "", columns * form.factor
    elif form.packed is not None:
        is_along_rows = form.packed == 0 or _is_packed_along_rows(shape, scale_shape)
        packed = "rows" if is_along_rows else "columns"
        rows, columns = (rows * 2, columns) if is_along_rows else (rows, columns * 2)
    # The scales of W4A8_AWQ's groups hold the global one already.
    factors = tuple(part for part in ("weight_scale_2", _RECIPROCAL) if part in held)
    factors = tuple(part for part in factors if part == _RECIPROCAL or form.kind != "INT4")
    plan = _Plan(kind, rows, columns, experts, packed)
    count = math.prod(scale_shape)
    if count == 1:
        return plan._replace(factors=(name, *factors))
    grid = _grid(plan, scale_shape, form.layout, count // experts) if count % experts == 0 else None
    if grid is None:
        return None
    return plan._replace(scale=name, scale_kind=kind_of_scales(scale_dtype), grid=grid, factors=factors)


def _is_packed_along_rows(weight: tuple[int, ...], scale: tuple[int, ...]) -> bool:
    """Whether a fused weight [experts, in / 2, out] shares its scales along the inputs, as ModelOpt exports it."""
    return len(weight) == 3 and len(scale) == 3 and scale[-1] == weight[-1]


def _grid(plan: _Plan, scale: tuple[int, ...], layout: str, count: int) -> tuple[int, int, int] | None:
    """Rows and columns of the matrix that share a scale, and the scales in a row of them; ``count``: a matrix' own."""
    rows, columns = plan.rows, plan.columns
    if layout == "row" or (layout == "scalar" and count == 1):
        if count == 1:
            return rows, columns, 1
        if count == rows:
            return 1, columns, 1
        return (rows, 1, columns) if count == columns and plan.experts > 1 else None
    if layout == "block":
        across = -(-columns // 128)
        return (128, 128, across) if count == -(-rows // 128) * across else None
    shape = scale[-2:]
    if len(shape) < 2 or not shape[0] or not shape[1]:
        return None
    if shape[0] == rows:
        return 1, -(-columns // shape[1]), shape[1]
    return (-(-rows // shape[0]), 1, columns) if shape[1] == columns else None


def source_matrices_as_held(weight: Tensor, held: list[Matrix]) -> list[Matrix] | None:
    """A weight that the source stores plainly under the checkpoint's name; None where its shape is another one."""
    first = held[0]
    shape = (first.rows, first.columns) if len(held) == 1 else (len(held), first.rows, first.columns)
    return _plain(weight) if weight.shape == shape else None


def _plain(weight: Tensor) -> list[Matrix]:
    """A weight without scales, a matrix for each expert."""
    rows, columns = weight.shape[-2:]
    count = math.prod(weight.shape[:-2])
    step = weight.bytes // count
    return [
        Matrix(Codes(weight.dtype, weight.file, weight.start + place * step), rows, columns) for place in range(count)
    ]


def source_matrices(module: str, held: list[Matrix], source: SourceWeights) -> list[Matrix] | None:
    """The source's matrices that a weight was made from, as many and of the same rows and columns; None: not found."""
    first = held[0]
    shape = (first.rows, first.columns)
    found = source.weight(module, shape if len(held) == 1 else (len(held), *shape))
    if found is None:
        return None
    stored = _stored(found, source.tensors)
    if stored is None:
        return None
    if found.expert is not None:
        stored = stored[found.expert : found.expert + 1]
    if found.is_transposed or found.rows is not None:
        stored = [replace(one, is_transposed=found.is_transposed, part=found.rows) for one in stored]
    return stored if len(stored) == len(held) else None


def _stored(found: SourceWeight, tensors: Mapping[str, Tensor]) -> list[Matrix] | None:
    """A weight of the source as the file holds it, a matrix for each expert."""
    weight = tensors[found.weight]
    if found.scale is None:
        return _plain(weight)
    rows, columns = found.shape[-2:]
    count, scale = math.prod(found.shape[:-2]), tensors[found.scale]
    kind = {Storage.MXFP4: "E2M1", Storage.INT4: "INT4+8"}.get(found.storage, weight.dtype)
    plan = _Plan(kind, rows, columns, count, "columns" if kind in NIBBLES else "")
    per_matrix = scale.elements // count
    grid = (rows, columns, 1) if per_matrix == 1 else _grid_of(plan, found, per_matrix)
    if grid is None:
        return None
    step = weight.bytes // count
    return [
        Matrix(Codes(kind, weight.file, weight.start + place * step), rows, columns, plan.packed, one)
        for place, one in enumerate(_scales(Codes.of(scale), scale.bytes // count, plan._replace(grid=grid)))
    ]


def _grid_of(plan: _Plan, found: SourceWeight, count: int) -> tuple[int, int, int] | None:
    rows, columns = plan.rows, plan.columns
    if found.storage == Storage.FP8:
        blocks = -(-rows // 128) * -(-columns // 128)
        if count == rows:
            return 1, columns, 1
        return (128, 128, -(-columns // 128)) if count == blocks else None
    return (1, columns * rows // count, count // rows) if count % rows == 0 and columns * rows % count == 0 else None
