"""The formats of quantized linear layers as a table, and whether a layer's tensors are what its algorithm leaves.

Source: nvidia-modelopt 0.47.0 (modelopt/torch/export/quant_utils.py, unified_export_hf.py), checked against the headers
of real exports. A weight is [out, in]; of fused experts [experts, in, out].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

FULL_PRECISION = {"BF16", "F16", "FP16", "F32", "FP32", "F64", "BFLOAT16", "FLOAT16", "FLOAT32", "NONE"}
MIXED = "MIXED_PRECISION"
SCALE_BITS = {"F8_E4M3": 8, "F32": 32, "U8": 8}

# dtype and shape of a tensor, all that a format is checked by
Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """What an algorithm makes of a weight.

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
    """What is wrong with the tensors of a layer that is declared as ``algorithm``; None where nothing is.

    Args:
        group: declared group size; None takes the format's own.
        parts: scales by their short names, sorted.
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
        told = f" (groups of {group})" if form.layout == "group" else ""
        return (
            f"hold {algorithm} of shape {list(shape)} with a weight_scale of {list(scale_shape)} where "
            f"{list(expected[0])}{told} is expected"
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
    return None


def expected_bytes(algorithm: str, group: int | None, stored: tuple[int, ...]) -> float:
    """Bytes that a weight takes with its scales, smoothing vectors and low-rank parts not counted."""
    form = FORMATS[algorithm]
    elements = math.prod(stored) * (2 if form.packed is not None else 1)
    scale_bytes = SCALE_BITS[form.scale] / 8
    if form.layout == "group":
        whole, group = logical_shapes(algorithm, stored)[0], group or form.group
        scales = whole[0] * -(-whole[1] // group) if len(whole) == 2 else elements / group
    elif form.layout == "row":
        scales = math.prod(stored[:-1]) if len(stored) == 2 else stored[0]
    elif form.layout == "block":
        scales = elements / 128**2
    else:
        scales = 1
    return elements * form.bits / 8 + scales * scale_bytes + 4 * len(form.scalars)


def kind_of_quantizer(cfg: object) -> str | None:
    """Number format that a recipe's weight quantizer sets, as :attr:`Format.kind`; None where it cannot be told."""
    if isinstance(cfg, list) and cfg:
        cfg = cfg[0]
    if not isinstance(cfg, Mapping):
        return None
    bits, blocks = cfg.get("num_bits"), cfg.get("block_sizes")
    blocks = blocks if isinstance(blocks, Mapping) else {}
    is_power_of_two = blocks.get("scale_bits") in ([8, 0], (8, 0))
    if bits in ([4, 3], (4, 3)):
        if is_power_of_two:
            return "MXFP8"
        if "-2" in blocks:
            return "FP8 blocks"
        return "FP8" if cfg.get("axis") is None else "FP8 per channel"
    if bits in ([2, 1], (2, 1)):
        return "MXFP4" if is_power_of_two else "NVFP4"
    return {4: "INT4", 8: "INT8"}.get(bits) if isinstance(bits, int) else None
