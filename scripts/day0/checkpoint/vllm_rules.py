"""What the serving engine takes, as a table: ModelOpt's presets and layers against vLLM's loader.

What vLLM's source says is read by scripts/make_engine_table.py, with the lines that say it; here stands what follows
from it for a checkpoint. The algorithm of a preset is the quant_algo that nvidia-modelopt 0.47.0 exports for it.
"""

from __future__ import annotations

import re
from pathlib import Path

from day0.checkpoint.engine_table import read_engine_table
from day0.checkpoint.formats import AWQ, GPTQ, compressed
from day0.recipe.modules import FUSED_GROUPS

_TABLE = read_engine_table()
PLACES, _CAPABILITIES = _TABLE.places, _TABLE.capabilities
ENGINE, ENGINE_VERSION = "vllm", _TABLE.version

# What a checkpoint without a quantization_config in its config.json may declare in hf_quant_config.json.
ALGORITHMS_ALONE = tuple(_TABLE.algorithms_alone)
FIELDS_ALONE = {"NVFP4": tuple(_TABLE.fields_alone)}

# What a layer's in-features must divide by, from the errors of vLLM's loader; ModelOpt exports other widths silently.
DIVISOR_OF_INPUTS = _TABLE.divisors

# vLLM looks for a group size at the top of quantization_config only, where ModelOpt writes none, and then assumes this.
DEFAULT_NVFP4_GROUP = _TABLE.nvfp4_group
NVFP4_ALGORITHMS = tuple(name for name, method in _TABLE.linear_algorithms.items() if method == "modelopt_fp4")

UNQUANTIZED_PREFIXES = tuple(_TABLE.unquantized_parts)
_VISION = f"{', '.join(map(repr, UNQUANTIZED_PREFIXES[:-1]))} or {UNQUANTIZED_PREFIXES[-1]!r}"
_NOT_16 = f"Unsupported model when in features size is not multiple of {DIVISOR_OF_INPUTS['NVFP4']} ({PLACES['NVFP4']})"

# What the engine says when it refuses a checkpoint, and where in its source.
RULES = {
    "algorithm": f"ModelOpt currently only supports: {{algorithms}} quantizations in vLLM ({PLACES['algorithm']})",
    "NVFP4": _NOT_16,
    "W4A16_NVFP4": _NOT_16,
    "MXFP8": f"MXFP8 requires input size divisible by {DIVISOR_OF_INPUTS['MXFP8']} ({PLACES['MXFP8']})",
    "FP8_PB_WO": f"FP8_PB_WO requires in divisible by {DIVISOR_OF_INPUTS['FP8_PB_WO']} ({PLACES['FP8_PB_WO']})",
    "block scale": f"has no parameter 'w13_weight_scale' ({PLACES['parameter of experts']}, "
    f"{PLACES['scale of experts']}; others: {PLACES['block scale']})",
    "whole groups": f"scales_and_zp_size = input_size // group_size ({PLACES['whole groups']})",
    "group": f"group_size is None: group_size = {DEFAULT_NVFP4_GROUP} ({PLACES['group']})",
    "fused": f"All shards must use the same quantization ({PLACES['fused']})",
    "vision": f"{_VISION} in prefix: unquantized ({PLACES['vision']})",
    "excluded": f"an entry of the exclusions excludes every name that it is a part of ({PLACES['excluded']})",
    "dot": f"an entry of the exclusions excludes the name that it is, or is a part of ({PLACES['dot']})",
    "method": f"Invalid quantization method: {{method}} ({PLACES['method']})",
    "alone": f"hf_quant_config.json alone is read by producer.name and quant_algo ({PLACES['alone']})",
    "fields": f"NVFP4 quantization requires {', '.join(FIELDS_ALONE['NVFP4'])} ({PLACES['fields']})",
    "weights only": f"input_activations of every group is null: W4A16_NVFP4 ({PLACES['weights only']})",
    "alias": f"quant_algo not in LINEAR_ALGOS: UnquantizedLinearMethod ({PLACES['alias']})",
    "router": "the router is built with the quantization config ({place})",
    "tied": f"config.tie_word_embeddings: lm_head is skipped at load ({PLACES['tied']})",
}

# CUDA compute capability, times ten, from which on vLLM loads an algorithm.
MINIMUM_CAPABILITY = {name: _CAPABILITIES[_TABLE.methods[method]] for name, method in _TABLE.linear_algorithms.items()}

# The same for the rows of other tools, by the class that serves them. FP8 below the capability of its own class is
# served with its weights only in FP8.
_FP8 = min(_CAPABILITIES["CompressedTensorsW8A8Fp8"], _CAPABILITIES["CompressedTensorsW8A16Fp8"])
MINIMUM_CAPABILITY_OF_OTHER_TOOLS = {
    **{
        compressed(f"{served}_{strategy}"): _FP8
        for served in ("FP8", "FP8_DYNAMIC", "FP8A16")
        for strategy in ("TENSOR", "CHANNEL", "BLOCK")
    },
    **{
        compressed(f"{served}_{strategy}"): _CAPABILITIES["CompressedTensorsW8A8Int8"]
        for served in ("W8A8", "W8A8_DYNAMIC")
        for strategy in ("TENSOR", "CHANNEL")
    },
    **{
        compressed(f"W{bits}A{inputs}{end}"): _CAPABILITIES[of_class]
        for bits in (4, 8)
        for inputs, of_class in ((8, "CompressedTensorsWNA8Int"), (16, "CompressedTensorsWNA16"))
        for end in ("", "_ASYM", "_CHANNEL", "_ASYM_CHANNEL")
    },
    **{compressed(name): _CAPABILITIES["CompressedTensorsW4A4Fp4"] for name in ("NVFP4", "NVFP4A16")},
    compressed("MXFP4"): _CAPABILITIES["CompressedTensorsW4A4Mxfp4"],
    compressed("MXFP8"): _CAPABILITIES["CompressedTensorsW8A8Mxfp8"],
    **{name: _CAPABILITIES[_TABLE.methods["gptq"]] for name in GPTQ.values()},
    AWQ: _CAPABILITIES[_TABLE.methods["awq"]],
}

# The same, from which on a GPU has the arithmetic of the activations' format; below, vLLM keeps those in 16 bits.
ARITHMETIC_CAPABILITY = {"FP8": 89, "FP8_PER_CHANNEL_PER_TOKEN": 89, "MXFP8": 100, "NVFP4": 100}

# Models whose router vLLM builds with the checkpoint's quantization config, so that it must be excluded, and the line
# that does; those of all other models are never quantized. InternS1-Pro inherits from Qwen3-MoE, yet its layers, and in
# them the routers, are of its own classes, which pass none.
ROUTER_IS_QUANTIZED = {
    architecture: str(PLACES[of_class])
    for architecture, of_class in _TABLE.quantized_routers.items()
    if architecture != "InternS1ProForConditionalGeneration"
}

# Linear layers under the name that vLLM gives them once they are fused.
FUSED_NAMES = {part: whole for whole, parts in _TABLE.fused.items() for part in parts}

# Other spellings of an algorithm, in upper case, and the one that ModelOpt exports: vLLM takes both for the experts of
# a MIXED_PRECISION checkpoint, and for all else the one that is among its linear algorithms.
ALIASES = {
    alias: name
    for name in _TABLE.block_algorithms
    if name in _TABLE.linear_algorithms
    for alias in _TABLE.block_algorithms
    if alias != name
}

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
