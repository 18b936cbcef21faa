"""General plugin of vLLM: the kernels that its CPU build lacks for ModelOpt checkpoints, in plain PyTorch.

Active on the CPU platform only, and there only for what vLLM itself does not have:

- NVFP4 (W4A4): vLLM's own ``EmulationNvFp4LinearKernel``, which quantizes and dequantizes the activations as the
  hardware would and multiplies in the activations' type; the weight is dequantized once, at load.
- W4A16 NVFP4: the same dequantized weight, activations untouched (what Marlin computes on a GPU).
- FP8 per tensor: the static case of ``scaled_fp8_quant``, which vLLM calls to bring q, k, v (and
  gate, up) to one weight scale; and the fused SiLU with FP8 output, which has no kernel here, is left to its two
  separate steps.

And the engine's process is forked from the API server's, which has imported all it needs, instead of started anew:
half of a start's time. vLLM does so itself on CUDA; on a CPU it insists on a new process, for the sake of OpenMP's
threads, none of which runs before the fork.

Put this folder on PYTHONPATH: the .dist-info beside this file makes the entry point known, with nothing to build.
"""

import logging

logger = logging.getLogger("vllm.day0_vllm_cpu")


def register() -> None:
    """Add what is missing; called by vLLM once in every process, and harmless when called again."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    _add_nvfp4()
    _add_static_fp8_quantization()
    _leave_out_fused_activation()
    _fork_the_engine()


def _add_nvfp4() -> None:
    import torch
    import vllm.model_executor.kernels.linear as linear
    from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
    from vllm.model_executor.layers.quantization.utils import nvfp4_emulation_utils as emulation
    from vllm.platforms import PlatformEnum

    if linear._POSSIBLE_NVFP4_KERNELS.get(PlatformEnum.CPU):
        return

    class CpuEmulationNvFp4LinearKernel(EmulationNvFp4LinearKernel):
        """vLLM's emulation with the weight dequantized once instead of at every call."""

        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            layer.day0_weight = emulation.dequantize_to_dtype(
                layer.weight.data.view(torch.uint8),
                layer.weight_scale.data,
                layer.weight_global_scale,
                torch.get_default_dtype(),
                block_size=16,
                swizzle=False,
            )

        def apply_weights(self, layer, x, bias=None):
            rows = x.reshape(-1, x.shape[-1])
            rows = emulation.ref_nvfp4_quant_dequant(rows, layer.input_global_scale_inv, block_size=16)
            return torch.nn.functional.linear(rows.reshape(x.shape), layer.day0_weight.to(x.dtype), bias)

    class CpuEmulationNvFp4W4A16LinearKernel(CpuEmulationNvFp4LinearKernel):
        """Weight-only: the dequantized weight times the activations as they are."""

        def apply_weights(self, layer, x, bias=None):
            return torch.nn.functional.linear(x, layer.day0_weight.to(x.dtype), bias)

    linear._POSSIBLE_NVFP4_KERNELS[PlatformEnum.CPU] = [CpuEmulationNvFp4LinearKernel]

    choose = linear.init_nvfp4_linear_kernel

    def init_nvfp4_linear_kernel(use_a16: bool = False):
        # vLLM's own choice forces Marlin for weight-only checkpoints, whatever the platform's table holds.
        kernel = CpuEmulationNvFp4W4A16LinearKernel(linear.NvFp4LinearLayerConfig()) if use_a16 else choose()
        logger.info_once("day0_vllm_cpu: %s emulates NVFP4 in PyTorch on this CPU", type(kernel).__name__)
        return kernel

    linear.init_nvfp4_linear_kernel = init_nvfp4_linear_kernel
    from vllm.model_executor.layers.quantization import modelopt

    modelopt.init_nvfp4_linear_kernel = init_nvfp4_linear_kernel


def _add_static_fp8_quantization() -> None:
    import torch
    from vllm import _custom_ops

    # The CPU build declares the operator without arguments and without a kernel.
    operator = getattr(torch.ops._C, "static_scaled_fp8_quant", None)
    if operator is not None and operator.default._schema.arguments:
        return

    original = _custom_ops.scaled_fp8_quant

    def scaled_fp8_quant(input, scale=None, num_token_padding=None, scale_ub=None, *arguments, **options):
        """e4m3(clamp(input / scale)), rounded to nearest even: the arithmetic of vLLM's CUDA kernel."""
        output = options.get("output")
        if scale is None or scale.numel() != 1 or num_token_padding or output is not None or not input.is_cpu:
            return original(input, scale, num_token_padding, scale_ub, *arguments, **options)
        largest = torch.finfo(torch.float8_e4m3fn).max
        scaled = input.to(torch.float32) * scale.to(torch.float32).reshape(()).reciprocal()
        logger.info_once("day0_vllm_cpu: fused layers with differing FP8 scales are brought to their largest scale")
        return scaled.clamp(-largest, largest).to(torch.float8_e4m3fn), scale

    _custom_ops.scaled_fp8_quant = scaled_fp8_quant


def _leave_out_fused_activation() -> None:
    import torch
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.fusion import fused_act_quant
    from vllm.model_executor.layers.quantization.utils.quant_utils import kFp8StaticTensorSym

    # Without a producer in this table vLLM applies the activation, and the next layer quantizes its own input.
    if not hasattr(torch.ops._C, "silu_and_mul_quant"):
        fused_act_quant._FUSED_ACT_QUANT.pop((SiluAndMul, kFp8StaticTensorSym), None)


def _fork_the_engine() -> None:
    import multiprocessing

    import vllm.v1.engine.utils as engine

    engine.get_mp_context = lambda: multiprocessing.get_context("fork")
