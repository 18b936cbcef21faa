"""The formats of quantized linear layers as a table, and whether a layer's tensors are those of its algorithm.

Source: nvidia-modelopt 0.47.0 (modelopt/torch/export/quant_utils.py, unified_export_hf.py), checked against the headers
of real exports; but for NVFP4_AWQ and NVFP4_SVD, which ModelOpt quantizes on CUDA devices only: these two are as the
exporter's source writes them. A weight is [out, in]; of fused experts [experts, in, out].

The rows of other tools are checked against the headers of real exports of llm-compressor 0.14.0 (compressed-tensors
0.19.0) and AutoRound 0.16.1; their names are those that :func:`day0.checkpoint.methods.standard_names` gives.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from day0.base.numbers import mapping_or_empty
from day0.source.safetensors_headers import BITS

FULL_PRECISION = {"BF16", "F16", "FP16", "F32", "FP32", "F64", "BFLOAT16", "FLOAT16", "FLOAT32", "NONE"}
MIXED = "MIXED_PRECISION"

# dtype and shape of a tensor, all that a format is checked by
Form = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Format:
    """How an algorithm stores a weight.

    ``packed``: dimension of a 2-D weight that holds two values a byte (None: not packed). ``layout`` of the
    weight_scale: "scalar", "row" (one per output), "block" (128 x 128) or "group" (along the inputs). ``group``: values
    per scale where nothing is declared. ``scalars``: further scales that must be there. ``kind``: the number format of
    the weight, which a recipe's weight quantizer sets. ``scales``: dtypes of scales where several will do, since a tool
    calibrates in the model's. ``is_turned``: weight and scales are [in, out]. ``tables``: further tensors that must be
    there and are no scales, such as zero points.
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
    scales: tuple[str, ...] = ()
    is_turned: bool = False
    tables: tuple[str, ...] = ()

    @property
    def factor(self) -> int:
        """Values that an element of the stored weight holds."""
        return BITS[self.weight] // self.bits


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

_WIDE = ("F32", "BF16", "F16")
_GLOBAL, _ORDER = ("weight_global_scale", "input_global_scale"), ("weight_g_idx",)


def compressed(scheme: str) -> str:
    """The row of a scheme of compressed-tensors."""
    return f"{scheme} (compressed-tensors)"


GPTQ, AWQ = {bits: f"INT{bits} (GPTQ)" for bits in (4, 8)}, "INT4 (AWQ)"


def int_format(bits: object, strategy: str, symmetric: bool, inputs: object) -> str | None:
    """The row of integers that compressed-tensors has packed into I32; None: there is none.

    Args:
        bits: of a value.
        strategy: "channel" (a scale for each output) or "group".
        symmetric: whether there are no zero points.
        inputs: how the inputs are quantized; None: they are not.
    """
    suffix = "".join(("" if symmetric else "_ASYM", "_CHANNEL" if strategy == "channel" else ""))
    name = compressed(f"W{bits}A{'16' if inputs is None else '8'}{suffix}")
    return name if name in FORMATS else None


def _rows_of_other_tools() -> dict[str, Format]:
    rows = {}
    for strategy, layout, kind in (
        ("TENSOR", "scalar", "FP8"),
        ("CHANNEL", "row", "FP8 per channel"),
        ("BLOCK", "block", "FP8 blocks"),
    ):
        for served in ("FP8", "FP8_DYNAMIC", "FP8A16"):
            scalars = ("input_scale",) if served == "FP8" else ()
            row = Format(kind, "F8_E4M3", 8, "F32", layout, scalars=scalars, scales=_WIDE)
            rows[compressed(f"{served}_{strategy}")] = row
        if layout != "block":
            static = Format(
                "INT8", "I8", 8, "F32", layout, scalars=("input_scale",), optional=("input_zero_point",), scales=_WIDE
            )
            rows[compressed(f"W8A8_{strategy}")] = static
            rows[compressed(f"W8A8_DYNAMIC_{strategy}")] = Format("INT8", "I8", 8, "F32", layout, scales=_WIDE)
    rows[compressed("NVFP4")] = Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, _GLOBAL)
    rows[compressed("NVFP4A16")] = Format("NVFP4", "U8", 4, "F8_E4M3", "group", 16, 1, _GLOBAL[:1])
    rows[compressed("MXFP4")] = Format("MXFP4", "U8", 4, "U8", "group", 32, 1)
    rows[compressed("MXFP8")] = Format("MXFP8", "F8_E4M3", 8, "U8", "group", 32)
    for bits in (4, 8):
        for inputs in ("16", "8"):
            for end, layout in (("", "group"), ("_CHANNEL", "row")):
                row = Format(
                    f"INT{bits}", "I32", bits, "F32", layout, 128, 1, (), _ORDER, scales=_WIDE, tables=("weight_shape",)
                )
                rows[compressed(f"W{bits}A{inputs}{end}")] = row
                with_zero_points = replace(row, tables=(*row.tables, "weight_zero_point"))
                rows[compressed(f"W{bits}A{inputs}_ASYM{end}")] = with_zero_points
        turned = Format(f"INT{bits}", "I32", bits, "F16", "group", 128, 0, (), _ORDER, scales=_WIDE, is_turned=True)
        rows[GPTQ[bits]] = replace(turned, tables=("weight_zero_point",))
    rows[AWQ] = replace(turned, bits=4, packed=1, kind="INT4", optional=("weight_zero_point",))
    return rows


FORMATS |= _rows_of_other_tools()


def logical_shapes(algorithm: str, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes that a weight stored as ``shape`` may have had before; fused experts are packed along either dimension."""
    form = FORMATS.get(algorithm)
    if form is None or form.packed is None or len(shape) < 2:
        return [shape]
    if len(shape) == 2:
        factor = form.factor
        stored = (shape[0], shape[1] * factor) if form.packed == 1 else (shape[0] * factor, shape[1])
        return [stored[::-1] if form.is_turned else stored]
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
        of_rows = (*whole[:-1], -(-whole[-1] // group))
        found.append(of_rows[::-1] if form.is_turned else of_rows)
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
    missing = [name for name in ("weight_scale", *form.scalars, *form.tables) if name not in given]
    if missing:
        return f"hold {algorithm} without {', '.join(missing)}"
    extra = sorted(given.keys() - {"weight_scale", *form.scalars, *form.tables, *form.optional})
    if extra:
        return f"hold {algorithm} with {', '.join(extra)}, which it does not have"
    scale_dtype, scale_shape = given["weight_scale"]
    allowed_types = ("U8", "F8_E8M0") if form.scale == "U8" else form.scales or (form.scale,)
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
        if given[name][0] not in (form.scales or ("F32",)):
            return f"hold {algorithm} with {name} of {given[name][0]} where F32 is expected"
    if form.weight == "I32" and (problem := _problem_of_tables(form, given, logical_shapes(algorithm, shape)[0])):
        return f"hold {algorithm} of shape {list(shape)} with {problem}"
    if "pre_quant_scale" in given and len(shape) == 2:
        inputs = logical_shapes(algorithm, shape)[0][1]
        if given["pre_quant_scale"][1] != (inputs,):
            return f"hold {algorithm} with a pre_quant_scale of {list(given['pre_quant_scale'][1])}, not [{inputs}]"
    if algorithm == "NVFP4_SVD" and len(shape) == 2:
        return _problem_of_factors(given, logical_shapes(algorithm, shape)[0])
    return None


def _problem_of_tables(form: Format, given: Mapping[str, Form], shape: tuple[int, ...]) -> str | None:
    """What is wrong with zero points, group indices and the recorded shape of a packed weight of a logical shape.

    Zero points are packed along the outputs, as [out / 8, groups] or turned.
    """
    groups = math.prod(given["weight_scale"][1]) // shape[0]
    zero_points = (-(-shape[0] // form.factor), groups)
    expected = {
        "weight_zero_point": ("I32", zero_points[::-1] if form.is_turned else zero_points),
        "weight_g_idx": ("I32", (shape[1],)),
        "weight_shape": ("I64", (2,)),
    }
    for name, (dtype, wanted) in expected.items():
        held = given.get(name)
        if held is None or (held[1] == wanted and held[0] in (dtype, "I32")):
            continue
        return f"a {name} of {held[0]} {list(held[1])} where {dtype} {list(wanted)} is expected"
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


def bytes_of(algorithm: str, group: int | None, shape: tuple[int, ...], scale: str | None = None) -> int:
    """Bytes that a weight takes with its scales, smoothing vectors and low-rank parts not counted.

    Args:
        algorithm: a key of :data:`FORMATS`.
        group: values per scale; None: the format's own.
        shape: of the weight before it was quantized, [out, in] or [experts, in, out].
        scale: dtype of its scales, where the format leaves a choice.
    """
    form = FORMATS[algorithm]
    scale = scale if scale in form.scales else form.scale
    outer, inputs = (shape[0], shape[1]) if len(shape) == 2 else (shape[0] * shape[2], shape[1])
    if form.layout == "group":
        scales = outer * -(-inputs // (group or form.group))
    elif form.layout == "row":
        scales = outer
    elif form.layout == "block":
        scales = math.prod(shape[:-2]) * -(-shape[-2] // 128) * -(-shape[-1] // 128)
    else:
        scales = 1
    bits = math.prod(shape) * form.bits + scales * BITS[scale] + 32 * len(form.scalars)
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
    if is_power_of_two and bits in ((3, 2), 8):
        return "MXFP6" if bits == (3, 2) else "MXINT8", group
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
    if algorithm == "NVFP4" and method in ("awq_lite", "awq_full"):  # awq_clip leaves none: it exports NVFP4
        return "NVFP4_AWQ"
    return "NVFP4_SVD" if algorithm == "NVFP4" and method == "svdquant" else algorithm
