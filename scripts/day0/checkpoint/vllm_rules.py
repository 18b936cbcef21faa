"""What the serving engine takes, as a table: ModelOpt's presets and layers against vLLM's loader.

Source: vLLM 0.32.0, vllm/model_executor/layers/quantization/modelopt.py (LINEAR_ALGOS and each configuration's
get_min_capability), its lines as :data:`RULES` names them; the algorithm of a preset is the quant_algo that
nvidia-modelopt 0.47.0 exports for it.
"""

from __future__ import annotations

import re
from pathlib import Path

from day0.checkpoint.formats import AWQ, GPTQ, compressed
from day0.recipe.modules import FUSED_GROUPS

ENGINE, ENGINE_VERSION = "vllm", "0.32.0"

# What the engine says when it refuses a checkpoint, and where in its source.
RULES = {
    "algorithm": "ModelOpt currently only supports: {algorithms} quantizations in vLLM (modelopt.py:392)",
    "NVFP4": "Unsupported model when in features size is not multiple of 16 (modelopt.py:1995)",
    "W4A16_NVFP4": "Unsupported model when in features size is not multiple of 16 (modelopt.py:1995)",
    "MXFP8": "MXFP8 requires input size divisible by 32 (modelopt.py:2297)",
    "FP8_PB_WO": "FP8_PB_WO requires in divisible by 128 (modelopt.py:2231)",
    "block scale": "has no parameter 'w13_weight_scale' (routed_experts.py:1027, fp8.py:485; others: modelopt.py:2246)",
    "whole groups": "scales_and_zp_size = input_size // group_size (compressed_tensors/schemes/*_wNa16.py:153)",
    "group": "group_size is None: group_size = 16 (modelopt.py:809)",
    "fused": "All shards must use the same quantization (modelopt.py:1749)",
    "vision": "'vision_tower', 'vision_model' or 'vit_large_projector' in prefix: unquantized (modelopt.py:242)",
    "excluded": "an entry of the exclusions excludes every name that it is a part of (modelopt.py:209)",
    "dot": "an entry of the exclusions excludes the name that it is, or is a part of (modelopt.py:200)",
    "method": "Invalid quantization method: {method} (quantization/__init__.py:114)",
    "alone": "hf_quant_config.json alone is read by producer.name and quant_algo (model_arch_config_convertor.py:271)",
    "fields": "NVFP4 quantization requires group_size, kv_cache_quant_algo, exclude_modules (modelopt.py:819)",
    "weights only": "input_activations of every group is null: W4A16_NVFP4 (modelopt.py:798)",
    "alias": "quant_algo not in LINEAR_ALGOS: UnquantizedLinearMethod (modelopt.py:1852)",
    "router": "the router is built with the quantization config ({place})",
    "tied": "config.tie_word_embeddings: lm_head is skipped at load (models/llama.py)",
}
UNQUANTIZED_PREFIXES = ("vision_tower", "vision_model", "vit_large_projector")

# CUDA compute capability, times ten, from which on vLLM loads an algorithm.
MINIMUM_CAPABILITY = {
    "FP8": 80,
    "FP8_PER_CHANNEL_PER_TOKEN": 80,
    "FP8_PB_WO": 80,
    "MXFP8": 80,
    "NVFP4": 75,
    "W4A16_NVFP4": 75,
}

# The same for the rows of other tools: get_min_capability of the schemes of compressed_tensors.py:783-949, where FP8
# below 8.9 has its weights only in FP8 (:896); of INCConfig, AutoGPTQConfig and AutoAWQConfig.
MINIMUM_CAPABILITY_OF_OTHER_TOOLS = {
    **{
        compressed(f"{served}_{strategy}"): 75
        for served in ("FP8", "FP8_DYNAMIC", "FP8A16")
        for strategy in ("TENSOR", "CHANNEL", "BLOCK")
    },
    **{
        compressed(f"{served}_{strategy}"): 75
        for served in ("W8A8", "W8A8_DYNAMIC")
        for strategy in ("TENSOR", "CHANNEL")
    },
    **{
        compressed(f"W{bits}A{inputs}{end}"): 75
        for bits in (4, 8)
        for inputs in (8, 16)
        for end in ("", "_ASYM", "_CHANNEL", "_ASYM_CHANNEL")
    },
    **{compressed("NVFP4"): 75, compressed("NVFP4A16"): 75, compressed("MXFP4"): 80, compressed("MXFP8"): 75},
    **{GPTQ[4]: 60, GPTQ[8]: 60, AWQ: 75},
}

# The same, from which on a GPU has the arithmetic of the activations' format; below, vLLM keeps those in 16 bits.
ARITHMETIC_CAPABILITY = {"FP8": 89, "FP8_PER_CHANNEL_PER_TOKEN": 89, "MXFP8": 100, "NVFP4": 100}

# What a layer's in-features must divide by, from the errors of the same file; ModelOpt exports other widths silently.
DIVISOR_OF_INPUTS = {"NVFP4": 16, "W4A16_NVFP4": 16, "MXFP8": 32, "FP8_PB_WO": 128}

# vLLM looks for a group size at the top of quantization_config only, where ModelOpt writes none, and then assumes 16.
NVFP4_ALGORITHMS = ("NVFP4", "W4A16_NVFP4")
DEFAULT_NVFP4_GROUP = 16

# Models whose router vLLM builds with the checkpoint's quantization config, so that it must be excluded; those of all
# other models (deepseek_v2, glm4_moe, mixtral, gpt_oss, qwen2_moe, qwen3_next and so on) are never quantized.
ROUTER_IS_QUANTIZED = {
    "K2HorizonForCausalLM": "k2_horizon.py:493",
    "Lfm2MoeForCausalLM": "lfm2_moe.py:128",
    "Qwen3MoeForCausalLM": "qwen3_moe.py:170",
    "Qwen3OmniMoeForConditionalGeneration": "qwen3_moe.py:170",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_moe.py:170",
}

# What a checkpoint without a quantization_config in its config.json may declare in hf_quant_config.json.
ALGORITHMS_ALONE = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "NVFP4")
FIELDS_ALONE = {"NVFP4": ("group_size", "kv_cache_quant_algo", "exclude_modules")}

# Linear layers under the name that vLLM gives them once they are fused.
FUSED_NAMES = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}

# Other spellings of an algorithm, in upper case, and the one that ModelOpt exports; source: _BLOCK_FP8_MOE_ALGOS
# (modelopt.py:128), where vLLM takes both for the experts of a MIXED_PRECISION checkpoint and the second for all else.
ALIASES = {"FP8_BLOCK_SCALES": "FP8_PB_WO"}

_LEADERS = {group[0]: group for group in FUSED_GROUPS}


def fused_with(module: str) -> list[str]:
    """Modules that vLLM fuses with one, where that is the first of its group; else none."""
    parent, dot, leaf = module.rpartition(".")
    return [f"{parent}{dot}{other}" for other in _LEADERS.get(leaf, ())[1:]]


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
    "nvfp4_awq_clip": "NVFP4",
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


def locked_version(lock: Path) -> str | None:
    """Version of the engine in a lock file of the serve environment; None where it names none."""
    found = re.search(r"^vllm(?:-cpu)?==([^ \\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None
