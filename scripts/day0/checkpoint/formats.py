"""The formats of quantized linear layers as a table, and whether a layer's tensors are those of its algorithm.

Source: nvidia-modelopt 0.47.0 (modelopt/torch/export/quant_utils.py, unified_export_hf.py), checked against the headers
of real exports; but for NVFP4_AWQ and NVFP4_SVD, which ModelOpt quantizes on CUDA devices only: these two are as the
exporter's source writes them. A weight is [out, in]; of fused experts [experts, in, out].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from day0.base.numbers import mapping_or_empty

FULL_PRECISION = {"BF16", "F16", "FP16", "F32", "FP32", "F64", "BFLOAT16", "FLOAT16", "FLOAT32", "NONE"}
MIXED = "MIXED_PRECISION"
SCALE_BITS = {"F8_E4M3": 8, "F32": 32, "U8": 8}

# dtype and shape of a tensor, all that a format is checked by
Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """How an algorithm stores a weight.

    ``packed``: dimension of a 2-D weight that holds two values a byte (None: not packed). ``layout`` of the
    weight_scale: "scalar", "row" (one per output), "block" (128 x 128) or "group" (along the inputs). ``group``: values
    per scale where nothing is declared. ``scalars``: further scales that must be there. ``kind``: the number format of
    the weight, which a recipe's weight quantizer sets.
    """

    kind: str
    weight: str
    bits: int
    scale: str
    layout: str
    group: int = 0
    packed: int | None = None
    scalars: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_SMOOTH = ("pre_quant_scale",)
_LORA = ("pre_quant_scale", "svdquant_lora_a", "svdquant_lora_b")
_BOTH = ("weight_scale_2", "input_scale")
FORMATS = {
    "FP8": Format("FP8", "F8_E4M3", 8, "F32", "scalar", scalars=("input_scale",)),
    "FP8_PER_CHANNEL_PER_TOKEN": Format("FP8 per channel", "F8_E4M3", 8, "F32", "row"),
    "FP8_PB_WO": Format("FP8 blocks", "F8_E4M3", 8, "F32", "block"),
    "FP8_PB_REAL": Format("FP8 blocks", "F8_E4M3", 8, "F32", "block"),
    "MXFP8": Format("MXFP8", "F8_E4M3", 8, "U8", "group", 32),
    "NVFP4": Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, _BOTH),
    "W4A16_NVFP4": Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, ("weight_scale_2",)),
    "W4A8_NVFP4_FP8": Format("NVFP4", "U8", 4, "F8_E4M3", "group", 32, 1, _BOTH),
    "NVFP4_AWQ": Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, _BOTH, _SMOOTH),
    "NVFP4_SVD": Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, _BOTH, _LORA),
    "MXFP4": Format("MXFP4", "U8", 4, "U8", "group", 32, 1),
    "W4A8_MXFP4_FP8": Format("MXFP4", "U8", 4, "U8", "group", 32, 1, (), ("input_scale",)),
    "W4A16_AWQ": Format("INT4", "U8", 4, "F32", "group", 128, 0, (), _SMOOTH),
    "W4A8_AWQ": Format("INT4", "U8", 4, "F32", "group", 128, 0, _BOTH, _SMOOTH),
    "W8A16": Format("INT8", "I8", 8, "F32", "row"),
    "W8A8_SQ_PER_CHANNEL": Format("INT8", "I8", 8, "F32", "row", scalars=("input_scale",), optional=_SMOOTH),
}


def logical_shapes(algorithm: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that a weight stored as ``shape`` may have had before; fused experts are packed along either dimension."""
    form = FORMATS.get(algorithm)
    if form is None or form.packed is None or len(shape) < 2:
        return [shape]
    if len(shape) == 2:
        return [(shape[0], shape[1] * 2) if form.packed == 1 else (shape[0] * 2, shape[1])]
    return [(*shape[:-2], shape[-2] * 2, shape[-1]), (*shape[:-1], shape[-1] * 2)]


def _scale_shapes(form: Format, shape: tuple[int, ...], logical: list[tuple[int, ...]], group: int) -> list[tuple]:
    if form.layout == "scalar":
        return [(), (1,), *([(shape[0],), (shape[0], 1, 1)] if len(shape) == 3 else [])]
    if form.layout == "row":
        if len(shape) == 3:
            return [(shape[0],), (shape[0], shape[-1]), (shape[0], 1, shape[-1]), (shape[0], shape[1])]
        return [(shape[0],), (shape[0], 1)]
    if form.layout == "block":
        rows, columns = (-(-extent // 128) for extent in shape[-2:])
        single = [()] if rows == columns == 1 and len(shape) == 2 else []
        # the exporter takes blocks of fused experts from [experts, out, in]
        turned = [(*shape[:-2], columns, 1, rows, 1)] if len(shape) == 3 else []
        return [(*shape[:-2], rows, 1, columns, 1), (*shape[:-2], rows, columns), *turned, *single]
    found = []
    for whole in logical:
        found.append((*whole[:-1], -(-whole[-1] // group)))
        if len(whole) == 3:
            found.append((whole[0], -(-whole[1] // group), whole[2]))
    return found


@functools.lru_cache(maxsize=65536)
def problem_of(algorithm: str, group: int | None, weight: Form, parts: tuple[tuple[str, Form], ...]) -> str | None:
    """What is wrong with the tensors of a layer, as the end of a sentence about layers; None where nothing is.

    Args:
        algorithm: that the checkpoint declares for the layer, a key of :data:`FORMATS`.
        group: declared group size; None: the format's own.
        weight: dtype and shape of the weight.
        parts: dtypes and shapes of its scales by their short names, sorted.
    """
    form, given = FORMATS[algorithm], dict(parts)
    group = group or form.group
    dtype, shape = weight
    if dtype != form.weight:
        held = f"{dtype} without a weight_scale" if dtype not in FULL_PRECISION and not given else dtype
        return f"are declared {algorithm} yet hold {held} where {form.weight} is expected"
    if "weight_scale_inv" in given and "weight_scale" not in given:
        given["weight_scale"] = given.pop("weight_scale_inv")
    missing = [name for name in ("weight_scale", *form.scalars) if name not in given]
    if missing:
        return f"hold {algorithm} without {', '.join(missing)}"
    extra = sorted(given.keys() - {"weight_scale", *form.scalars, *form.optional})
    if extra:
        return f"hold {algorithm} with {', '.join(extra)}, which it does not have"
    scale_dtype, scale_shape = given["weight_scale"]
    allowed_types = ("U8", "F8_E8M0") if form.scale == "U8" else (form.scale,)
    if scale_dtype not in allowed_types:
        return f"hold {algorithm} with a weight_scale of {scale_dtype} where {form.scale} is expected"
    expected = _scale_shapes(form, shape, logical_shapes(algorithm, shape), group)
    if scale_shape not in expected:
        of_groups = f" (groups of {group})" if form.layout == "group" else ""
        return (
            f"hold {algorithm} of shape {list(shape)} with a weight_scale of {list(scale_shape)} where "
            f"{list(expected[0])}{of_groups} is expected"
        )
    for name in form.scalars:
        if math.prod(given[name][1]) != 1 and given[name][1] != shape[:1]:
            return f"hold {algorithm} with {name} of shape {list(given[name][1])} where a scalar is expected"
        if given[name][0] != "F32":
            return f"hold {algorithm} with {name} of {given[name][0]} where F32 is expected"
    if "pre_quant_scale" in given and len(shape) == 2:
        inputs = logical_shapes(algorithm, shape)[0][1]
        if given["pre_quant_scale"][1] != (inputs,):
            return f"hold {algorithm} with a pre_quant_scale of {list(given['pre_quant_scale'][1])}, not [{inputs}]"
    if algorithm == "NVFP4_SVD" and len(shape) == 2:
        return _problem_of_factors(given, logical_shapes(algorithm, shape)[0])
    return None


def _problem_of_factors(given: Mapping[str, Form], shape: tuple[int, ...]) -> str | None:
    """What is wrong with the low-rank factors [rank, in] and [out, rank] that SVDQuant leaves beside a weight."""
    missing = [name for name in ("svdquant_lora_a", "svdquant_lora_b") if name not in given]
    if missing:
        return f"hold NVFP4_SVD without {', '.join(missing)}"
    first, second = given["svdquant_lora_a"][1], given["svdquant_lora_b"][1]
    if len(first) == len(second) == 2 and first[0] == second[1] and (second[0], first[1]) == shape:
        return None
    return f"hold NVFP4_SVD of shape {list(shape)} with factors of {list(second)} and {list(first)}"


def bytes_of(algorithm: str, group: int | None, shape: tuple[int, ...]) -> int:
    """Bytes that a weight takes with its scales, smoothing vectors and low-rank parts not counted.

    Args:
        algorithm: a key of :data:`FORMATS`.
        group: values per scale; None: the format's own.
        shape: of the weight before it was quantized, [out, in] or [experts, in, out].
    """
    form = FORMATS[algorithm]
    outer, inputs = (shape[0], shape[1]) if len(shape) == 2 else (shape[0] * shape[2], shape[1])
    if form.layout == "group":
        scales = outer * -(-inputs // (group or form.group))
    elif form.layout == "row":
        scales = outer
    elif form.layout == "block":
        scales = math.prod(shape[:-2]) * -(-shape[-2] // 128) * -(-shape[-1] // 128)
    else:
        scales = 1
    bits = math.prod(shape) * form.bits + scales * SCALE_BITS[form.scale] + 32 * len(form.scalars)
    return -(-bits // 8)


def number_format(cfg: object) -> tuple[str | None, int | None]:
    """Number format that a quantizer's attributes set, as :attr:`Format.kind`, and its group size; None: not set.

    As ModelOpt does in ``get_quantization_format``; of a sequence of quantizers the first holds the weight.
    """
    if isinstance(cfg, list) and cfg:
        cfg = cfg[0]
    if not isinstance(cfg, Mapping):
        return None, None
    bits, blocks = cfg.get("num_bits"), cfg.get("block_sizes")
    blocks = mapping_or_empty(blocks)
    bits = tuple(bits) if isinstance(bits, list) and all(type(bit) is int for bit in bits) else bits
    group = blocks.get("-1")
    group = group if type(group) is int and group > 0 else None
    is_power_of_two = blocks.get("scale_bits") in ([8, 0], (8, 0))
    if bits == (4, 3):
        if is_power_of_two:
            return "MXFP8", group
        if "-2" in blocks:
            return "FP8 blocks", None
        return ("FP8", None) if cfg.get("axis") is None else ("FP8 per channel", None)
    if bits == (2, 1):
        return "MXFP4" if is_power_of_two else "NVFP4", group
    return {4: "INT4", 8: "INT8"}.get(bits) if type(bits) is int else None, group


_ALGORITHM_OF_QUANTIZERS = {
    ("FP8", "FP8"): "FP8",
    ("FP8 blocks", "none"): "FP8_PB_WO",
    ("MXFP8", "MXFP8"): "MXFP8",
    ("NVFP4", "NVFP4"): "NVFP4",
    ("NVFP4", "none"): "W4A16_NVFP4",
    ("NVFP4", "FP8"): "W4A8_NVFP4_FP8",
    ("MXFP4", "MXFP4"): "MXFP4",
    ("MXFP4", "none"): "MXFP4",
    ("MXFP4", "FP8"): "W4A8_MXFP4_FP8",
    ("INT4", "none"): "W4A16_AWQ",
    ("INT4", "FP8"): "W4A8_AWQ",
    ("INT8", "none"): "W8A16",
    ("INT8", "INT8"): "W8A8_SQ_PER_CHANNEL",
}


def algorithm_of_quantizers(weight: str | None, inputs: str | None, method: str = "max") -> str | None:
    """The algorithm that ModelOpt declares for a layer of these number formats; None where they do not decide it.

    Args:
        weight: number format of the weight, as :attr:`Format.kind`.
        inputs: number format of the inputs, "none" where they are not quantized.
        method: the calibration algorithm, which for NVFP4 decides whether a smoothing vector is left.
    """
    if weight == "FP8 per channel":
        return "FP8_PER_CHANNEL_PER_TOKEN"
    algorithm = _ALGORITHM_OF_QUANTIZERS.get((weight or "", inputs or ""))
    if algorithm == "NVFP4" and method.startswith("awq"):
        return "NVFP4_AWQ"
    return "NVFP4_SVD" if algorithm == "NVFP4" and method == "svdquant" else algorithm
