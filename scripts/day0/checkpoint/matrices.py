"""Where the weights of a layer are: as matrices that can be read, of the checkpoint and of its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from day0.checkpoint.dequantize import NIBBLES, Codes, Matrix, Scale
from day0.checkpoint.formats import FORMATS, FULL_PRECISION
from day0.checkpoint.names import PART_NAMES_OF_OTHER_TOOLS
from day0.checkpoint.source_weights import SourceWeight, SourceWeights, Storage
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Tensors

_OF_I32 = {4: "INT4+8", 8: "INT8+128"}
_NIBBLES = {"NVFP4": "E2M1", "MXFP4": "E2M1", "INT4": "INT4"}


def matrices_of(
    name: str, precision: str, tensors: Mapping[str, Tensor], scalars: Mapping[str, float]
) -> list[Matrix] | None:
    """A weight as matrices: one, or one for each expert of a fused weight; None where it cannot be read as numbers.

    Args:
        name: of the weight's tensor.
        precision: how it is stored, a data type of full precision or a key of :data:`day0.checkpoint.formats.FORMATS`.
        tensors: all tensors of the folder.
        scalars: values of its scalar scales.
    """
    weight = tensors[name]
    if precision in FULL_PRECISION:
        return _of_tensor(weight, Matrix(Codes.of(weight, weight.dtype), weight.shape[-2], weight.shape[-1]))
    form = FORMATS.get(precision)
    parts = _parts_of(name, tensors)
    held = parts.get("weight_scale") or parts.get("weight_scale_inv")
    if form is None or held is None or form.is_turned or parts.keys() & {"weight_zero_point", "weight_g_idx"}:
        return None  # zero points and columns in another order are not read
    kind = _OF_I32[form.bits] if weight.dtype == "I32" else _NIBBLES.get(form.kind.split()[0], weight.dtype)
    rows, columns = weight.shape[-2:]
    packed = ""
    if weight.dtype == "I32":  # values follow one another from the low bits on, as bytes with the low code first do
        packed, columns = "columns" if form.bits == 4 else "", columns * form.factor
    elif form.packed is not None:
        packed = "rows" if form.packed == 0 or _is_packed_along_rows(weight, held) else "columns"
        rows, columns = (rows * 2, columns) if packed == "rows" else (rows, columns * 2)
    found = _of_tensor(weight, Matrix(Codes(kind, weight.file, weight.start), rows, columns, packed))
    scaled = _with_scale(found, held, form.layout, scalars.get(_full_name(name, parts, held)))
    if scaled is None:
        return None
    second = parts.get("weight_scale_2")
    if second is not None and form.kind != "INT4":  # the scales of W4A8_AWQ's groups hold it already
        value = scalars.get(_full_name(name, parts, second))
        if value is None:
            return None
        scaled = [replace(matrix, factor=matrix.factor * value) for matrix in scaled]
    if (reciprocal := parts.get("weight_global_scale")) is not None:
        value = scalars.get(_full_name(name, parts, reciprocal))
        if not value:
            return None
        scaled = [replace(matrix, factor=matrix.factor / value) for matrix in scaled]
    if len(scaled) == 1:
        scaled = [_with_smoothing(scaled[0], parts)]
    return scaled


def _parts_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales of a weight by their short names."""
    stems = (f"{name.removesuffix('.weight')}.",) if name.endswith(".weight") else (f"{name}_", f"{name}.")
    found: dict[str, Tensor] = {}
    for stem in stems:
        found |= Tensors.of(tensors).beside(stem, PART_NAMES_OF_OTHER_TOOLS)
    return found


def _full_name(name: str, parts: Mapping[str, Tensor], tensor: Tensor) -> str:
    part = next(part for part, one in parts.items() if one is tensor)
    return f"{name.removesuffix('.weight')}.{part}" if name.endswith(".weight") else f"{name}_{part}"


def _of_tensor(weight: Tensor, matrix: Matrix) -> list[Matrix]:
    """A matrix for each expert of a tensor, which is one matrix where it has two dimensions."""
    return _each(matrix, weight.shape[0], weight.bytes // weight.shape[0]) if len(weight.shape) == 3 else [matrix]


def _each(matrix: Matrix, count: int, size: int) -> list[Matrix]:
    """As many matrices, ``size`` bytes apart."""
    codes = matrix.codes
    return [replace(matrix, codes=codes._replace(start=codes.start + size * place)) for place in range(count)]


def _is_packed_along_rows(weight: Tensor, scale: Tensor) -> bool:
    """Whether a fused weight [experts, in / 2, out] shares its scales along the inputs, as ModelOpt exports it."""
    return len(weight.shape) == 3 and len(scale.shape) == 3 and scale.shape[-1] == weight.shape[-1]


def _with_scale(found: list[Matrix], scale: Tensor, layout: str, value: float | None) -> list[Matrix] | None:
    if scale.elements == 1:
        return [replace(matrix, factor=value) for matrix in found] if value is not None else None
    experts, matrix = len(found), found[0]
    if scale.elements % experts:
        return None
    per_expert = scale.elements // experts
    grid = _grid(matrix, scale, layout, per_expert, experts)
    if grid is None:
        return None
    return _scaled(found, scale, grid)


def _scaled(found: list[Matrix], scale: Tensor, grid: tuple[int, int, int]) -> list[Matrix]:
    """The matrices with their scales, which follow one another in one tensor."""
    codes, size = Codes.of(scale), scale.bytes // len(found)
    return [
        replace(one, scale=Scale(codes._replace(start=codes.start + size * place), *grid))
        for place, one in enumerate(found)
    ]


def _grid(matrix: Matrix, scale: Tensor, layout: str, count: int, experts: int) -> tuple[int, int, int] | None:
    """Rows and columns of the matrix that share a scale, and the scales in a row of them."""
    rows, columns = matrix.rows, matrix.columns
    if layout == "row" or (layout == "scalar" and count == 1):
        if count == 1:
            return rows, columns, 1
        if count == rows:
            return 1, columns, 1
        return (rows, 1, columns) if count == columns and experts > 1 else None
    if layout == "block":
        across = -(-columns // 128)
        return (128, 128, across) if count == -(-rows // 128) * across else None
    shape = scale.shape[-2:]
    if len(shape) < 2 or not shape[0] or not shape[1]:
        return None
    if shape[0] == rows:
        return 1, -(-columns // shape[1]), shape[1]
    return (-(-rows // shape[0]), 1, columns) if shape[1] == columns else None


def _with_smoothing(matrix: Matrix, parts: Mapping[str, Tensor]) -> Matrix:
    smoothing, low, high = (parts.get(part) for part in ("pre_quant_scale", "svdquant_lora_b", "svdquant_lora_a"))
    if smoothing is not None and smoothing.elements == matrix.columns:
        matrix = replace(matrix, smoothing=Codes.of(smoothing, smoothing.dtype))
    if low is not None and high is not None:
        factors = (Codes.of(low, low.dtype), Codes.of(high, high.dtype), high.shape[0])
        matrix = replace(matrix, low_rank=factors)
    return matrix


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
    weight, (rows, columns) = tensors[found.weight], found.shape[-2:]
    count = math.prod(found.shape[:-2])
    kind = {Storage.MXFP4: "E2M1", Storage.INT4: "INT4+8"}.get(found.storage, weight.dtype)
    packed = "columns" if kind in NIBBLES else ""
    matrix = Matrix(Codes(kind, weight.file, weight.start), rows, columns, packed)
    matrices = _each(matrix, count, weight.bytes // count)
    if found.scale is None:
        return matrices
    scale = tensors[found.scale]
    per_matrix = scale.elements // count
    grid = (rows, columns, 1) if per_matrix == 1 else _grid_of(matrix, found, per_matrix)
    if grid is None:
        return None
    return _scaled(matrices, scale, grid)


def _grid_of(matrix: Matrix, found: SourceWeight, count: int) -> tuple[int, int, int] | None:
    rows, columns = matrix.rows, matrix.columns
    if found.storage == Storage.FP8:
        blocks = -(-rows // 128) * -(-columns // 128)
        if count == rows:
            return 1, columns, 1
        return (128, 128, -(-columns // 128)) if count == blocks else None
    return (1, columns * rows // count, count // rows) if count % rows == 0 and columns * rows % count == 0 else None
