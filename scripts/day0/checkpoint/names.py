"""What the names of tensors and modules mean: families, parts of a weight, numbers of layers and experts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from day0.source.safetensors_headers import Tensor

PART = re.compile(
    r"(?P<module>.+?)(?:\.|_)(?P<part>weight_scale_inv|weight_scale_2|weight_scale|input_scale|pre_quant_scale|svdquant_lora_[ab])"
)
PART_NAMES = frozenset(
    ("weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "pre_quant_scale", "svdquant_lora_a")
) | {"svdquant_lora_b"}
PART_NAMES_OF_OTHER_TOOLS = PART_NAMES | {
    "weight_global_scale",
    "input_global_scale",
    "weight_zero_point",
    "input_zero_point",
    "weight_g_idx",
    "weight_shape",
}
KV_PART = re.compile(r".+\.(?:[kv]_scale|[kv]_bias|[kv]_zero_point)")
EXPERT_NUMBER = re.compile(r"experts[.]\d")
NUMBER = re.compile(r"(?<=[.])\d+(?=[.]|$)")
# Families that a pattern quantizes only where it names them: a wide one such as *mlp* matches them by accident.
MUST_BE_NAMED = {
    "vision": re.compile(r"vis|image|projector|vit", re.I),
    "router": re.compile(r"router|gate[.*]|gate$", re.I),
}
BUFFERS = re.compile(r"(rotary_emb\.inv_freq|masked_bias|attn\.bias|position_ids)$")


def is_part(name: str) -> bool:
    """Whether a name is one of a weight's scales; the common endings need no pattern."""
    return not name.endswith((".weight", ".bias")) and PART.fullmatch(name) is not None


def is_scale(name: str) -> bool:
    """Whether a name is that of a scale of a weight, its inputs or the KV cache."""
    return name.endswith(("_scale", "_scale_2", "_scale_inv")) and not name.endswith("pre_quant_scale")


def own_parts(tensors: Mapping[str, Tensor], module: str) -> list[str]:
    """Short names of the scales that a module has."""
    return [part for part in sorted(PART_NAMES_OF_OTHER_TOOLS) if f"{module}.{part}" in tensors]


def first_of(names: Sequence[str], count: int = 10) -> str:
    """The first of some names as text, with how many more there are."""
    shown = ", ".join(list(names)[:count])
    return f"{shown} and {len(names) - count} more" if len(names) > count else shown
