"""What the serving engine takes, as a table: ModelOpt's presets against vLLM 0.32's loader.

Source: vLLM 0.32.0, vllm/model_executor/layers/quantization/modelopt.py (LINEAR_ALGOS and each configuration's
get_min_capability); the algorithm of a preset is the quant_algo that nvidia-modelopt 0.47.0 exports for it.
"""

from __future__ import annotations

# CUDA compute capability, times ten, from which on vLLM loads an algorithm.
MINIMUM_CAPABILITY = {
    "FP8": 80,
    "FP8_PER_CHANNEL_PER_TOKEN": 80,
    "FP8_PB_WO": 80,
    "MXFP8": 80,
    "NVFP4": 75,
    "W4A16_NVFP4": 75,
}

# What a layer's in-features must divide by, from the errors of the same file; ModelOpt exports other widths silently.
DIVISOR_OF_INPUTS = {"NVFP4": 16, "W4A16_NVFP4": 16, "MXFP8": 32, "FP8_PB_WO": 128}

# vLLM looks for a group size at the top of quantization_config only, where ModelOpt writes none, and then assumes 16.
NVFP4_ALGORITHMS = ("NVFP4", "W4A16_NVFP4")
DEFAULT_NVFP4_GROUP = 16

# Linear layers that vLLM fuses into one at load, so that they must share one algorithm; source: packed_modules_mapping
# and the stacked parameters of its models (llama, mixtral, deepseek_v2, qwen3_5).
FUSED_GROUPS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"),
    ("in_proj_b", "in_proj_a"),
)

ALGORITHM_OF_PRESET = {
    "fp8": "FP8",
    "fp8_2d_blockwise_weight_only": "FP8_PB_WO",
    "fp8_per_channel_per_token": "FP8_PER_CHANNEL_PER_TOKEN",
    "int4_awq": "W4A16_AWQ",
    "int4_blockwise_weight_only": "W4A16_AWQ",
    "int8_smoothquant": "W8A8_SQ_PER_CHANNEL",
    "int8_weight_only": "W8A16",
    "mxfp4": "MXFP4",
    "mxfp4_mlp_weight_only": "MXFP4",
    "mxfp8": "MXFP8",
    "nvfp4": "NVFP4",
    "nvfp4_awq_clip": "NVFP4_AWQ",
    "nvfp4_awq_full": "NVFP4_AWQ",
    "nvfp4_awq_lite": "NVFP4_AWQ",
    "nvfp4_experts_only": "NVFP4",
    "nvfp4_four_over_six": "NVFP4",
    "nvfp4_mlp_only": "NVFP4",
    "nvfp4_mlp_weight_only": "W4A16_NVFP4",
    "nvfp4_omlp_only": "NVFP4",
    "nvfp4_svdquant": "NVFP4_SVD",
    "w4a16_nvfp4": "W4A16_NVFP4",
    "w4a8_awq_beta": "W4A8_AWQ",
    "w4a8_mxfp4_fp8": "W4A8_MXFP4_FP8",
    "w4a8_nvfp4_fp8": "W4A8_NVFP4_FP8",
}
