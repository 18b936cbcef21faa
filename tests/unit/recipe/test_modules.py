"""Names of modules: families, blocks, what is fused, and patterns that match them in files and in memory."""

import fnmatch

import pytest
from model_headers import llama_like, qwen3_moe_like

from day0.recipe.modules import block_of, family_of, fused_with, linear_modules, patterns_of, quantizers_of


def modules_of(tensors):
    return linear_modules({name: tensor.shape for name, tensor in tensors.items()})


def test_linear_modules_in_the_order_of_the_blocks():
    found = modules_of(llama_like(layers=12))
    assert len(found) == 12 * 7 + 1
    assert [block_of(module) for module in found if module.endswith("o_proj")] == list(range(12))
    assert not any("norm" in module or "embed" in module for module in found)


def test_the_experts_of_a_layer_are_one_module_and_its_router_is_none():
    found = modules_of(qwen3_moe_like(layers=1, experts=128))
    assert [module for module in found if "mlp" in module] == ["model.layers.0.mlp.experts"]


@pytest.mark.parametrize(
    ("name", "shape", "module"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), "model.layers.0.mlp.experts"),
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", (4, 8, 2, 16), "model.layers.0.mlp.experts"),
        ("model.layers.0.mlp.up_proj.weight_packed", (8, 4), "model.layers.0.mlp.up_proj"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", (8, 4), None),
        ("model.layers.0.mlp.up_proj.bias", (8,), None),
        ("model.layers.0.linear_attn.conv1d.weight", (8, 1, 4), None),
    ],
)
def test_what_is_a_linear_module_by_its_tensor(name, shape, module):
    assert linear_modules({name: shape}) == ([module] if module else [])


@pytest.mark.parametrize(
    ("module", "family", "block"),
    [
        ("model.layers.7.self_attn.q_proj", "attention", 7),
        ("model.layers.7.mlp.up_proj", "MLP", 7),
        ("model.layers.7.mlp.shared_expert.up_proj", "experts", 7),
        ("model.visual.blocks.3.attn.qkv", "vision", None),
        ("mtp.layers.0.self_attn.q_proj", "MTP", None),
        ("lm_head", "lm_head", None),
    ],
)
def test_family_and_block_of_a_module(module, family, block):
    assert (family_of(module), block_of(module)) == (family, block)


@pytest.mark.parametrize(
    "leaf", ["q_proj", "k_proj", "gate_proj", "w3", "in_proj_z", "in_proj_a", "kv_a_proj_with_mqa"]
)
def test_what_is_fused_is_so_from_either_side(leaf):
    whole = fused_with(f"model.layers.0.x.{leaf}")
    assert len(whole) > 1 and all(fused_with(other) == whole for other in whole)


@pytest.mark.parametrize(
    "in_memory",
    [
        "model.layers.1.self_attn.q_proj.weight_quantizer",
        "model.language_model.layers.1.self_attn.q_proj.weight_quantizer",
    ],
)
def test_a_pattern_matches_whatever_precedes_the_blocks_and_no_other_block(in_memory):
    modules = modules_of(llama_like(layers=12))
    every = [name for module in modules for name in quantizers_of(module)]
    (pattern,) = patterns_of(["model.layers.1.self_attn.q_proj.weight_quantizer"], every)
    assert fnmatch.fnmatchcase(in_memory, pattern)
    assert sum(fnmatch.fnmatchcase(name, pattern) for name in every) == 1


def test_a_pattern_never_matches_the_same_block_of_another_part():
    text, vision = (f"{part}.layers.1.self_attn.q_proj.weight_quantizer" for part in ("model", "vision_tower.encoder"))
    (pattern,) = patterns_of([text], [text, vision])
    assert fnmatch.fnmatchcase(text, pattern) and not fnmatch.fnmatchcase(vision, pattern)


@pytest.mark.parametrize(
    ("in_memory", "is_matched"),
    [
        ("model.layers.0.mlp.experts.3.gate_proj.weight_quantizer", True),
        ("model.layers.0.mlp.experts.gate_up_proj_weight_quantizer", True),
        ("model.layers.0.mlp.experts.down_proj_weight_quantizer", True),
        ("model.layers.0.mlp.experts.down_proj_input_quantizer", False),
        ("model.layers.0.mlp.shared_experts.gate_proj.weight_quantizer", False),
        ("model.layers.10.mlp.experts.3.gate_proj.weight_quantizer", False),
    ],
)
def test_all_experts_of_a_layer_are_matched_and_nothing_beside_them(in_memory, is_matched):
    weights = [name for name in quantizers_of("model.layers.0.mlp.experts") if name.endswith("weight_quantizer")]
    (pattern,) = patterns_of(weights, weights)
    assert fnmatch.fnmatchcase(in_memory, pattern) is is_matched
