"""What the names of a model's modules mean: families, blocks, and layers that must share a format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

NOT_LINEAR = re.compile(
    r"(embed|wte$|wpe$|norm|ln_|router|(^|[._])gate$|shared_expert_gate$|conv|position|relative_attention|rotary|codebook)",
    re.I,
)
# The first that matches a module's name is its family.
FAMILIES = (
    ("vision", re.compile(r"(^|[._])(visual|vision|image|multi_modal_projector|mm_projector|vit)", re.I)),
    ("MTP", re.compile(r"(^|[.])(mtp|nextn)[._]|eh_proj", re.I)),
    ("lm_head", re.compile(r"(^|[.])(lm_head|output_layer)$|^head$")),
    ("embeddings", re.compile(r"(embed|wte$|wpe$)")),
    ("router", re.compile(r"(router|[.]gate$|shared_expert_gate$)")),
    ("experts", re.compile(r"experts?([.]|$)")),
    ("attention", re.compile(r"(attn|attention|mixer[.][qkvo]_proj)")),
    ("MLP", re.compile(r"(mlp|feed_forward|ffn|[.]fc\d)")),
)
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
_GROUP_OF = {leaf: group for group in FUSED_GROUPS for leaf in group}
_STORED_WEIGHT = re.compile(r"[.](?:weight|weight_packed|qweight)$")
_BLOCK = re.compile(r"(?<=[.])\d+(?=[.])")
# What a module's name begins with, up to the blocks, differs between files and memory.
_BEFORE_BLOCKS = re.compile(r"^.*?(?=(?:^|(?<=[.]))(?:layers|blocks|h)[.]\d+[.])")


def family_of(module: str) -> str:
    """Family of a module by its name, the first of :data:`FAMILIES` that matches."""
    return next((family for family, pattern in FAMILIES if pattern.search(module)), "other")


def linear_modules(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Linear modules by the tensors of a model, in the order of its blocks; the experts of a layer are one module.

    Args:
        shapes: of the tensors, by their names in the files.
    """
    found: dict[str, None] = {}
    for name, shape in shapes.items():
        head, experts, _ = name.partition(".experts.")
        if experts and len(shape) > 1:
            found[f"{head}.experts"] = None
        elif not experts and len(shape) == 2 and (match := _STORED_WEIGHT.search(name)):
            module = name[: match.start()]
            if NOT_LINEAR.search(module) is None:
                found[module] = None
    return sorted(found, key=_by_number)


def _by_number(module: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]


def block_of(module: str) -> int | None:
    """Number of the block that a module is in; None: it is in none, or in a part beside the language model."""
    found = _BLOCK.search(module)
    return int(found[0]) if found and family_of(module) not in ("vision", "MTP") else None


def fused_with(module: str) -> list[str]:
    """The module and all that an engine would fuse with it, whether or not the model has them."""
    parent, dot, leaf = module.rpartition(".")
    return [f"{parent}{dot}{other}" for other in _GROUP_OF.get(leaf, (leaf,))]


def stems_of(module: str) -> list[str]:
    """What the names of a module's quantizers may begin with; a fused expert's differ from its module's name."""
    expert = re.fullmatch(r"(.+\.experts)\.(?:\d+|\*)\.(\w+)", module)
    if expert:
        fused = "gate_up_proj" if expert[2] in ("gate_proj", "up_proj", "w1", "w3") else "down_proj"
        return [f"{module}.", f"{expert[1]}.{fused}_"]
    return [f"{module}_"] if ".experts." in module else [f"{module}."]


def quantizers_of(module: str) -> list[str]:
    """Quantizers of a module of :func:`linear_modules`, the weights' first; those of experts stand for all of them."""
    stems = [f"{module}.gate_up_proj_", f"{module}.down_proj_"] if module.endswith(".experts") else stems_of(module)
    return [f"{stem}{part}_quantizer" for part in ("weight", "input") for stem in stems]


def patterns_of(quantizers: Iterable[str], of_model: Iterable[str]) -> list[str]:
    """Patterns that match quantizers and no others of a model, whatever the names before the blocks are in memory.

    All experts of a layer are matched where one is.

    Args:
        quantizers: names of quantizers, such as model.layers.0.self_attn.q_proj.weight_quantizer.
        of_model: names of all quantizers of the model.
    """
    owners: dict[str, set[str]] = {}
    for name in of_model:
        owners.setdefault(_short(name), set()).add(_before(name))
    found: dict[str, None] = {}
    for name in quantizers:
        short = _short(name)
        found[short if len(owners.get(short, ())) < 2 else f"{_before(name)}{short[1:]}"] = None
    return list(found)


def _before(quantizer: str) -> str:
    found = _BEFORE_BLOCKS.match(quantizer)
    return found[0] if found else ""


def _short(quantizer: str) -> str:
    name = quantizer[len(_before(quantizer)) :]
    head, experts, tail = name.partition(".experts.")
    if experts:
        name = f"{head}.experts.*{'weight' if 'weight_quantizer' in tail else 'input'}_quantizer"
    return f"*{name}"
