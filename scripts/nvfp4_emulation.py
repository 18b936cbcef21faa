"""NVFP4 rounding in torch, in the place of ModelOpt's kernel where there is no CUDA device.

A search of formats, AWQ-lite and SVDQuant run the model with its weights and inputs rounded; ModelOpt 0.47.0 rounds to
NVFP4 on CUDA only (modelopt/torch/quantization/tensor_quant.py:172). The values are those of ModelOpt's export
(qtensor/nvfp4_tensor.py), which runs on a CPU; tests/exports/compare_with_modelopt.py holds one against the other. The
kernel differs from both where a whole block is below the smallest scale, and rounds it to zero.
"""

from __future__ import annotations

from typing import Any

LARGEST_SCALE, SMALLEST_SCALE, LARGEST_VALUE = 448.0, 2.0**-9, 6.0  # E4M3 and E2M1
_NVFP4 = (4, 2, 8, 4)  # bits and exponent bits of the values, and of the scales


def fake_quantize_nvfp4(inputs: Any, amax: Any, block_size: int = 16) -> Any:
    """Round a tensor to NVFP4 and back.

    Args:
        inputs: tensor of shape [..., n], n a multiple of ``block_size``.
        amax: largest magnitude that the scales can hold; of several the largest counts.
        block_size: values that share a scale.

    Returns:
        A tensor of the same shape and type.
    """
    import torch

    per_tensor = amax.float().amax() / (LARGEST_VALUE * LARGEST_SCALE)
    blocks = inputs.float().unflatten(-1, (-1, block_size))
    scales = blocks.abs().amax(-1, keepdim=True) / (LARGEST_VALUE * per_tensor)
    scales = torch.where(scales == 0, 1.0, scales).clamp(SMALLEST_SCALE, LARGEST_SCALE)
    scales = scales.to(torch.float8_e4m3fn).float() * per_tensor
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], device=inputs.device)
    halfway = (values[1:] + values[:-1]) / 2
    sizes = (blocks / scales).abs()
    nearest = torch.bucketize(sizes, halfway)  # a tie goes down
    for place in (1, 3, 5):  # to the even neighbour, which is the upper one here
        nearest += sizes == halfway[place]
    return (values[nearest].copysign(blocks) * scales).flatten(-2).to(inputs.dtype)


def emulate_nvfp4_on_cpu() -> None:
    """From now on tensors on a CPU are rounded to NVFP4 by :func:`fake_quantize_nvfp4`; those on CUDA as before."""
    from modelopt.torch.quantization import tensor_quant

    kernel = tensor_quant.dynamic_block_quantize_op
    if getattr(kernel, "is_emulated", False):
        return

    def quantize(inputs: Any, block_size: int, amax: Any, *number_format: int) -> Any:
        if inputs.is_cuda or amax is None or number_format != _NVFP4:
            return kernel(inputs, block_size, amax, *number_format)
        return fake_quantize_nvfp4(inputs, amax, block_size)

    quantize.is_emulated = True  # type: ignore[attr-defined]
    tensor_quant.dynamic_block_quantize_op = quantize
