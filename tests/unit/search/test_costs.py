"""Costs and risk of recipes before anything is quantized."""

import json
import math
from pathlib import Path

import pytest
from model_headers import llama_like, qwen3_moe_like

from day0.base.cli import UnusableInput
from day0.checkpoint.source_weights import SourceWeights
from day0.recipe.resolve import resolve_configuration
from day0.records.search import Budget
from day0.records.sensitivity import Sensitivity
from day0.search.candidates import Recipe, candidates_of
from day0.search.rule import propose
from day0.source.safetensors_headers import Tensor

CATALOGUE = json.loads((Path(__file__).parents[3] / "envs" / "modelopt_catalogue.json").read_text())
DENSE = {"num_hidden_layers": 3}
MOE = {"num_hidden_layers": 2, "num_experts": 4, "num_experts_per_tok": 1}


def recipe(name, **definition):
    return Recipe(name, resolve_configuration(definition or {"preset": name}, CATALOGUE, name))


def costs(name, tensors=None, config=None, objective="size", **definition):
    """The candidate of one recipe."""
    [found] = candidates_of(
        [recipe(name, **definition)], SourceWeights(tensors or llama_like()), config or DENSE, objective
    )
    return found


def test_costs_of_a_dense_model_by_hand():
    """Layers of 4 x 128 x 128 and 3 x 256 x 128 in 3 layers; embedding and head of 32 x 128, norms, in BF16."""
    linear, scalars = 3 * (4 * 128**2 + 3 * 256 * 128), 3 * 7
    others = 2 * 32 * 128 + 7 * 128
    found = costs("nvfp4").costs
    of_linear = linear * 4.5 / 8 + scalars * 2 * 4  # four bits, a scale of eight for 16 of them, two scalars of F32
    assert found.size == pytest.approx((of_linear + 2 * others) / (2 * (linear + others)))
    assert found.bits_per_weight == pytest.approx(8 * (of_linear + 2 * others) / (linear + others))
    # A token reads one of the 32 rows of the embedding.
    unread = 31 * 128
    assert found.active_bytes == pytest.approx((of_linear + 2 * (others - unread)) / (2 * (linear + others - unread)))
    assert found.throughput == pytest.approx((4 * linear + 16 * (others - unread)) / (16 * (linear + others - unread)))


def test_a_tied_embedding_is_read_as_a_whole():
    tied = {name: tensor for name, tensor in llama_like().items() if not name.startswith("lm_head")}
    linear, others = 3 * (4 * 128**2 + 3 * 256 * 128), 32 * 128 + 7 * 128
    found = costs("fp8", tied).costs
    assert found.throughput == pytest.approx((8 * linear + 16 * others) / (16 * (linear + others)))


@pytest.mark.parametrize(
    ("name", "bits"),
    [("w4a16_nvfp4", 16), ("nvfp4", 4), ("fp8", 8), ("int4_awq", 16), ("w4a8_nvfp4_fp8", 8), ("mxfp8", 8)],
)
def test_throughput_counts_the_wider_of_weights_and_inputs(name, bits):
    linear, others = 3 * (4 * 128**2 + 3 * 256 * 128), 32 * 128 + 7 * 128 + 128
    found = costs(name, objective="throughput")
    assert found.cost == pytest.approx((bits * linear + 16 * others) / (16 * (linear + others)))
    assert found.saves is (bits < 16)


def test_a_token_reads_the_experts_it_is_sent_to():
    tensors = qwen3_moe_like()
    experts = 2 * 4 * 3 * 128 * 128
    rest = sum(tensor.elements for tensor in tensors.values()) - experts - 31 * 128
    few = costs("nvfp4_experts_only", tensors, MOE, "throughput").cost
    assert few == pytest.approx((4 * experts / 4 + 16 * rest) / (16 * (experts / 4 + rest)))
    all_of_them = costs("nvfp4_experts_only", tensors, {"num_hidden_layers": 2}, "throughput").cost
    assert all_of_them < few, "where the model does not say how many are read, all are"


@pytest.mark.parametrize("keys", [("num_local_experts", "num_experts_per_tok"), ("n_routed_experts", "moe_topk")])
def test_counts_of_experts_go_by_several_names(keys):
    named = {"num_hidden_layers": 2, "text_config": {keys[0]: 4, keys[1]: 1, "num_hidden_layers": 2}}
    assert costs("nvfp4_experts_only", qwen3_moe_like(), named, "active_bytes") == costs(
        "nvfp4_experts_only", qwen3_moe_like(), MOE, "active_bytes"
    )


def test_fused_experts_cost_what_those_apart_cost():
    apart = qwen3_moe_like()
    fused = {name: tensor for name, tensor in apart.items() if ".experts." not in name}
    for layer in range(2):
        for leaf, shape in (("gate_up_proj", (4, 128, 256)), ("down_proj", (4, 128, 128))):
            name = f"model.layers.{layer}.mlp.experts.{leaf}"
            fused[name] = Tensor("BF16", shape, "model.safetensors", 0, 2 * math.prod(shape))
    one, other = (costs("nvfp4", tensors, MOE).costs for tensors in (apart, fused))
    assert one.throughput == other.throughput and one.size == pytest.approx(other.size, rel=2e-3)


def test_what_a_recipe_leaves_alone_saves_nothing():
    found = costs("nvfp4_experts_only")
    assert (found.cost, found.saves, found.risk) == (1, False, 0) and not costs(
        "nvfp4_experts_only", objective="bits_per_weight"
    ).saves


def test_a_source_that_is_quantized_counts_as_it_is_stored():
    """FP8 with a scale for each 128 x 128: what is not quantized again is BF16 in the checkpoint."""
    tensors = llama_like()
    for name in [name for name in tensors if "_proj" in name]:
        shape = tensors[name].shape
        tensors[name] = tensors[name]._replace(dtype="F8_E4M3", bytes=math.prod(shape))
        blocks = tuple(-(-extent // 128) for extent in shape)
        tensors[f"{name}_scale_inv"] = Tensor("F32", blocks, "model.safetensors", 0, 4 * math.prod(blocks))
    found = costs("nvfp4", tensors)
    assert costs("nvfp4").cost < found.cost < 1 and costs("nvfp4_mlp_only", tensors).costs.size > found.cost


def risks(names, **fields):
    found = candidates_of([recipe(name) for name in names], SourceWeights(llama_like()), DENSE, "size", **fields)
    return {one.name: one.risk for one in found}


def test_risk_without_sensitivity_follows_the_noise_of_the_formats():
    found = risks(["nvfp4", "nvfp4_awq_lite", "nvfp4_mlp_only", "w4a16_nvfp4", "fp8"])
    assert list(found) == sorted(found, key=lambda name: -found[name])


def sensitivity(scores):
    groups = [
        {
            "modules": [f"model.layers.{layer}.{name}"],
            "quantizers": [],
            "weights": 1,
            "scores": {"nvfp4": score, "fp8": score / 10},
        }
        for layer in range(3)
        for name, score in scores.items()
    ]
    fields = {name: None for name in ("failure_class", "source_digest")}
    return Sensitivity.model_validate(
        {
            "status": "done", "detail": "", "model": "m", "calibration": {}, "scored_texts": 1, "emulated": [],
            "formats": {"nvfp4": 4.0, "fp8": 8.0}, "groups": groups, "seed": 0, "device": "cpu", "versions": {},
            "duration_seconds": {}, **fields,
        }
    )  # fmt: skip


ALL = (*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))


def test_risk_is_what_was_measured():
    of_attention = sensitivity({name: 10.0 if "attn" in name else 1.0 for name in ALL})
    found = risks(["nvfp4", "nvfp4_mlp_only", "fp8"], sensitivity=of_attention, catalogue=CATALOGUE)
    assert found == pytest.approx({"nvfp4": 3 * 43, "nvfp4_mlp_only": 3 * 3, "fp8": 3 * 4.3})


def test_a_format_that_was_not_measured_loses_by_its_noise():
    found = risks(["nvfp4", "w4a16_nvfp4"], sensitivity=sensitivity(dict.fromkeys(ALL, 1.0)), catalogue=CATALOGUE)
    assert 0 < found["w4a16_nvfp4"] < found["nvfp4"] == pytest.approx(21)


def test_layers_that_were_not_measured_count_in_the_same_unit():
    without_up = sensitivity({name: 1.0 for name in ALL if name != "mlp.up_proj"})
    found = risks(["nvfp4"], sensitivity=without_up, catalogue=CATALOGUE)
    assert found["nvfp4"] == pytest.approx(18 * (1 + 2 / (4 * 2 + 2 * 2)), rel=0.01)  # attention counts twice


def test_a_failed_sensitivity_is_none():
    failed = sensitivity(dict.fromkeys(ALL, 1.0)).model_copy(update={"status": "failed"})
    assert risks(["nvfp4", "fp8"], sensitivity=failed, catalogue=CATALOGUE) == risks(["nvfp4", "fp8"])


def test_recipes_that_choose_while_they_quantize_are_refused_together():
    name = "general/auto_quantize/nvfp4_fp8_at_5p4bits"
    recipes = [recipe("x", modelopt_recipe=name), recipe("fp8"), recipe("y", modelopt_recipe=name)]
    with pytest.raises(UnusableInput, match="x, y: ModelOpt chooses"):
        candidates_of(recipes, SourceWeights(llama_like()), DENSE, "size")


def test_a_recipe_that_cannot_be_made_is_a_candidate_that_is_never_asked():
    recipes = [recipe("fp8"), Recipe("x", None, problem="the model has no experts")]
    found, other = candidates_of(recipes, SourceWeights(llama_like()), DENSE, "size")
    assert found.saves and not other.saves and other.problem == "the model has no experts" and other.cost == 1
    rung = propose([found, other], [], Budget(), 0)
    assert [one.name for one in rung.asked] == ["fp8"]
    assert rung.excluded[0].reason == "cannot be made for this model: the model has no experts"


def test_protecting_a_layer_is_never_riskier_where_only_some_layers_were_measured():
    """Of an odd measurement too, by which FP8 loses as much as NVFP4: what was not measured has one unit."""
    group = {"modules": ["model.layers.0.self_attn.q_proj"], "quantizers": [], "weights": 8}
    sensitivity = Sensitivity.model_validate(
        {
            "status": "done", "failure_class": None, "detail": "", "model": "m", "source_digest": None,
            "calibration": {}, "scored_texts": 1, "formats": {"nvfp4": 4.5, "fp8": 8.0}, "emulated": [], "seed": 0,
            "groups": [group | {"scores": {"nvfp4": 1.0, "fp8": 1.0}}], "device": "cpu", "versions": {},
            "duration_seconds": {},
        }
    )  # fmt: skip
    names = ("nvfp4", "nvfp4_mlp_only", "fp8")
    recipes = [recipe(name) for name in names]
    weights = SourceWeights(llama_like())
    found = {one.name: one.risk for one in candidates_of(recipes, weights, DENSE, "size", sensitivity, CATALOGUE)}
    assert found["nvfp4_mlp_only"] < found["nvfp4"] and found["fp8"] < found["nvfp4"]
