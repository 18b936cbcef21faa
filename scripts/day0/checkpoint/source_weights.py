"""What the tensors of a source model are: where the weights of each matrix are, how they are stored, in which shape.

A source may be quantized as it was published, and may hold the experts of a layer as one tensor where the checkpoint
has one each. Inventory, sizes and the comparison of values all ask :class:`SourceWeights`. A format is seen by the
dtypes and shapes of a weight and its scales, whatever config.json says:

- FP8: ``X.weight`` F8_E4M3 [out, in] with ``X.weight_scale_inv`` (one for 128 x 128: DeepSeek-V3, Qwen3, MiniMax; one
  for all: Mistral), ``X.weight_scale`` (compressed-tensors: one for all or for a row) or ``X.scale`` (DeepSeek-V4).
- MXFP4: ``X_blocks`` U8 [experts, out, in / 32, 16] with ``X_scales`` U8 (GPT-OSS), ``X.weight`` I8 [out, in / 2] with
  ``X.scale`` F8_E8M0 (DeepSeek-V4), ``X.weight_packed`` U8 with ``X.weight_scale`` U8 (compressed-tensors).
- INT4: ``X.weight_packed`` I32 [out, in / 8] with ``X.weight_scale`` and ``X.weight_shape`` (Kimi-K2).

Source: vLLM, _make_deepseek_v4_weights_mapper (models/deepseek_v4/amd/model.py), GptOssForCausalLM
(model_executor/models/gpt_oss.py), and compressed-tensors' pack-quantized compressor.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import numpy

from day0.checkpoint.names import is_part
from day0.source.safetensors_headers import Tensor
from day0.source.tensors import Ints, Kind, Tensors, rows_named

# What a quantized weight is dequantized to, by ModelOpt and by the engines.
DEQUANTIZED, DEQUANTIZED_BYTES = "BF16", 2
_SCALE_ENDINGS = ("_scale_inv", "_scale", "_scales", ".scale")
# Further tensors of a quantized weight, beside its values and their scales.
_FURTHER = ("weight_shape", "weight_zero_point", "weight_g_idx", "input_scale", "activation_scale")
# Where fused experts hold an expert's matrix: name of the fused tensor, part of it, number of its parts.
_FUSED = {
    "gate_proj": (("gate_up_proj", 0, 2),),
    "w1": (("gate_up_proj", 0, 2),),
    "up_proj": (("gate_up_proj", 1, 2), ("up_proj", 0, 1)),
    "w3": (("gate_up_proj", 1, 2),),
    "down_proj": (("down_proj", 0, 1),),
    "w2": (("down_proj", 0, 1),),
}
# The same the other way around: an expert's matrices that a fused tensor holds, by either way of naming them.
PARTS_OF_FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "up_proj": (("up_proj",),),
    "down_proj": (("down_proj",), ("w2",)),
}


class Storage(StrEnum):
    """How the values of a weight are stored."""

    PLAIN = "plain"
    FP8 = "FP8"
    MXFP4 = "MXFP4"
    INT4 = "INT4"


class SourceWeight(NamedTuple):
    """Where the source has the weights of a matrix.

    To get the matrix: dequantize ``weight`` with ``scale``, which gives ``shape``; take ``expert`` of the first
    dimension unless it is None; transpose the last two dimensions if ``is_transposed``; take ``rows`` of the result
    unless they are None.

    FP8 values are multiplied by their scale: one for all; one for a row, of shape [out] or [out, 1]; or one for each
    128 x 128. MXFP4 has two E2M1 values in a byte, the first in the low bits, and a scale for each 32 of a row. INT4
    has eight values in an I32, the first in the low bits, each stored as value + 8, and a scale for each group of a
    row. Scales of U8 and F8_E8M0 are exponents: 2 ** (scale - 127).
    """

    storage: Storage
    weight: str
    scale: str | None
    shape: tuple[int, ...]
    expert: int | None = None
    is_transposed: bool = False
    rows: slice | None = None


class SourceWeights:
    """A source's tensors by what they are.

    Attributes:
        tensors: as the files hold them.
        logical: every weight and every other tensor that is no part of a quantized one, by the name that it has in a
            checkpoint in full precision: of quantized weights with dtype, shape and bytes once dequantized and without
            a file, of all others as the files hold them.
        quantized: of the quantized weights, by the same names, how they are stored.
        parts: names of the tensors that hold the quantized ones, by the same names.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = Tensors.of(tensors)
        self.quantized: dict[str, SourceWeight] = {}
        self.parts: dict[str, list[str]] = {}
        self.logical = self.tensors
        dequantized: dict[str, Tensor] = {}
        scales = rows_named(self.tensors, lambda name: name.endswith(_SCALE_ENDINGS))
        tensors = dict(self.tensors.items()) if scales else {}
        for scale in scales:
            name, weight = self._weight_of(scale, tensors)
            if weight in tensors:
                form = _form(*tensors[weight][:2], *tensors[scale][:2])
                if form is not None:
                    dequantized[name] = form[1]
                    self.quantized[name] = SourceWeight(form[0], weight, scale, form[1].shape)
                    self.parts[name] = [weight, scale]
        if not dequantized:
            return
        for name in [name for name in tensors if name.endswith(_FURTHER)]:
            if (parts := self.parts.get(f"{name.rpartition('.')[0]}.weight")) is not None:
                parts.append(name)
        held = set(itertools.chain.from_iterable(self.parts.values()))
        self.logical = Tensors.of(dequantized | {name: one for name, one in tensors.items() if name not in held})

    def _weight_of(self, scale: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
        """Name of the weight that a scale belongs to in full precision, and of the tensor with its values."""
        if scale.endswith("_scales"):
            return scale[:-7], f"{scale[:-7]}_blocks"
        if scale.endswith(".scale"):
            return f"{scale[:-6]}.weight", f"{scale[:-6]}.weight"
        name = scale[:-10] if scale.endswith("_scale_inv") else scale[:-6]
        packed = f"{name}_packed"
        return name, packed if packed in tensors else name

    @property
    def formats(self) -> str:
        """How the quantized weights are stored, as text; empty where none is quantized."""
        return " and ".join(sorted({stored.storage for stored in self.quantized.values()}))

    @property
    def parameters(self) -> int:
        """Number of elements of all weights and other tensors, scales not counted."""
        rows = self.logical.rows_where(lambda name: not is_part(name))
        return self.logical.total(lambda form: math.prod(form[1]), self.logical.form[rows])

    def kept(self, output: Mapping[str, Tensor]) -> dict[str, int]:
        """Quantized weights that a checkpoint holds as the source does: their bytes with all their parts, by name."""
        found = {}
        for name, parts in self.parts.items():
            if all(part in output and output[part][:2] == self.tensors[part][:2] for part in parts):
                found[name] = sum(self.tensors[part].bytes for part in parts)
        return found

    def stored(self, name: str) -> SourceWeight | None:
        """How the source stores the weight that a checkpoint in full precision has under a name; None: it has none."""
        if name in self.quantized:
            return self.quantized[name]
        tensor = self.tensors.get(name)
        return SourceWeight(Storage.PLAIN, name, None, tensor.shape) if tensor is not None else None

    def rows_as_held(self, kind: Kind, keys: Ints) -> Ints:
        """Rows of the tensors that hold the weights of some names plainly and under these; -1 for other names.

        Args:
            kind: of the names, which differ in numbers alone.
            keys: of these, sorted.
        """
        rows = self.tensors.find(kind, keys)
        if self.quantized:
            rows = numpy.where([name in self.quantized for name in kind.names(keys)], -1, rows)
        return rows

    def weight(self, module: str, shape: tuple[int, ...]) -> SourceWeight | None:
        """Where the source has the weights of a matrix of the checkpoint.

        Args:
            module: the matrix' module, as ``model.layers.0.mlp.experts.3.gate_proj``, or the name of a fused tensor,
                as ``model.layers.0.mlp.experts.gate_up_proj``.
            shape: before it was quantized, [out, in], or of fused experts as the checkpoint has them.

        Returns:
            None where the source has no such weights, or of another shape, or each expert's apart for a fused tensor.
        """
        found = self.stored(f"{module}.weight") or self.stored(module)
        if found is not None:
            # transformers gives the experts of GPT-OSS as [experts, in, out], and the files have [experts, out, in]
            if found.weight.endswith("_blocks") and found.shape == _transposed(shape):
                return found._replace(is_transposed=True)
            return found if found.shape == shape else None
        head, is_expert, tail = module.partition(".experts.")
        number, _, leaf = tail.partition(".")
        if not is_expert or not number.isdigit() or len(shape) != 2:
            return None
        for fused, part, parts in _FUSED.get(leaf, ()):
            found = self._fused(f"{head}.experts", fused)
            if found is not None:
                return self._of_expert(found, f"{head}.experts", int(number), part, parts, shape)
        return None

    def _fused(self, experts: str, leaf: str) -> SourceWeight | None:
        found = self.stored(f"{experts}.{leaf}") or self.stored(f"{experts}.{leaf}.weight")
        return found if found is not None and len(found.shape) == 3 else None

    def _of_expert(
        self, found: SourceWeight, experts: str, number: int, part: int, parts: int, shape: tuple[int, ...]
    ) -> SourceWeight | None:
        out, inputs = shape
        is_upright, is_turned = found.shape[1:] == (parts * out, inputs), found.shape[1:] == (inputs, parts * out)
        if number >= found.shape[0] or not (is_upright or is_turned):
            return None
        is_transposed = is_turned
        if is_upright and is_turned:
            # Where this one is a square, the experts' other tensor is none, and lies the same way.
            other = self._fused(experts, "gate_up_proj" if parts == 1 else "down_proj")
            turned = (inputs, 2 * out) if parts == 1 else (out, inputs)
            is_transposed = other is not None and other.shape[1:] == turned
        rows = None
        if parts == 2:
            # GPT-OSS alone has biases there, and alternates the rows of gate and up
            is_interleaved = f"{experts}.gate_up_proj_bias" in self.tensors
            rows = slice(part, 2 * out, 2) if is_interleaved else slice(part * out, (part + 1) * out)
        return found._replace(expert=number, is_transposed=is_transposed, rows=rows)


def _transposed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


@functools.lru_cache(maxsize=65536)
def _form(weight: str, shape: tuple[int, ...], scale: str, scales: tuple[int, ...]) -> tuple[Storage, Tensor] | None:
    """How a weight is stored, and what it is once dequantized, by dtypes and shapes of it and its scales.

    None: unknown. Further weights that are like one that was seen cost a look-up.
    """
    found: tuple[Storage, tuple[int, ...]] | None = None
    if weight == "F8_E4M3" and scale in ("F32", "BF16", "F16", "F8_E8M0", "U8"):
        found = Storage.FP8, shape
    elif weight == "I32" and len(shape) == len(scales) == 2 and shape[0] == scales[0]:
        found = Storage.INT4, (shape[0], shape[1] * 8)
    elif weight in ("U8", "I8") and scale in ("U8", "F8_E8M0"):
        if len(shape) == len(scales) + 1 and shape[:-1] == scales and shape[-1] == 16:
            found = Storage.MXFP4, (*scales[:-1], scales[-1] * 32)
        elif len(shape) == len(scales) > 1 and shape[:-1] == scales[:-1] and shape[-1] == scales[-1] * 16:
            found = Storage.MXFP4, (*shape[:-1], shape[-1] * 2)
    if found is None:
        return None
    storage, whole = found
    return storage, Tensor(DEQUANTIZED, whole, "", 0, math.prod(whole) * DEQUANTIZED_BYTES)
