"""What is said of a recipe before anything runs: a table of every preset and recipe of the wheel on two models.

data/recipe_support.json holds a line for each recipe: what is expected of it on a model like Llama and on one like
Qwen3-MoE, and what came of it when it was really run (tests/exports/try_recipes.py, ModelOpt 0.47.0 on a CPU).
"""

import json
from pathlib import Path

import pytest
from model_headers import llama_like, qwen3_moe_like

from day0.base.artefacts import read_json
from day0.checkpoint.recipe_support import recipe_support
from day0.recipe.resolve import resolve_configuration
from day0.records.quantization import ModelOptConfiguration

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")
TABLE = json.loads((Path(__file__).parent / "data" / "recipe_support.json").read_text())
MODELS = {"llama": llama_like(), "qwen3-moe": qwen3_moe_like()}
ENGINE = "vllm==0.32.0"


def support(definition, tensors, **options):
    return recipe_support(resolve_configuration(definition, CATALOGUE, "x"), ENGINE, tensors, **options)


def of_name(name, tensors):
    return support({"preset": name} if name in CATALOGUE["presets"] else {"modelopt_recipe": name}, tensors)


def test_the_table_has_every_recipe_of_the_catalogue():
    assert TABLE["modelopt"] == CATALOGUE["version"]
    assert list(TABLE["recipes"]) == [*CATALOGUE["presets"], *CATALOGUE["recipes"]]


@pytest.mark.parametrize("model", MODELS)
def test_what_is_said_of_every_recipe(model):
    found = {name: of_name(name, MODELS[model]) for name in TABLE["recipes"]}
    wrong = {
        name: (row[model], one.labels, one.layers)
        for name, row in TABLE["recipes"].items()
        if (one := found[name]).labels != row[model]["expected"] or one.layers != row[model]["layers"]
    }
    assert not wrong


@pytest.mark.parametrize("model", MODELS)
def test_what_is_said_is_what_came_of_it(model):
    """A recipe that is let through was exported to the algorithms that were foretold, and no other was."""
    wrong = {}
    for name, row in TABLE["recipes"].items():
        expected, ran = row[model]["expected"], row[model]["ran"]
        if ran == "exported":
            stopped = {"needs CUDA", "matches nothing", "not exported", "blocks do not divide"} & set(expected)
            agrees = not stopped and row[model]["algorithms"] == sorted(row[model]["layers"])
        else:
            # On a CPU the first that stands in the way is what ModelOpt says; the engine refuses the rest anyway.
            agrees = ran in expected or (ran.startswith("fails to export") and "engine takes" not in expected)
        if not agrees and not row[model].get("remark"):
            wrong[name] = row[model]
    assert not wrong


@pytest.mark.parametrize("model", MODELS)
def test_what_the_engine_takes_is_not_refused(model):
    taken = [name for name, row in TABLE["recipes"].items() if row[model]["expected"] == ["engine takes"]]
    assert len(taken) > 30


@pytest.mark.parametrize(
    ("hidden", "inner", "recipe", "label"),
    [
        (576, 1536, "int4_awq", "blocks do not divide"),
        (576, 1536, "w4a8_awq_beta", "blocks do not divide"),
        (576, 1536, "nvfp4", "engine takes"),
        (576, 1536, "mxfp8", "engine takes"),
        (576, 1536, "fp8_2d_blockwise_weight_only", "engine refuses"),
        (200, 328, "nvfp4", "blocks do not divide"),
        (200, 328, "mxfp8", "blocks do not divide"),
        (200, 328, "mxfp4", "blocks do not divide"),
        (200, 328, "fp8", "engine takes"),
        (200, 328, "int8_smoothquant", "engine refuses"),
    ],
)
def test_blocks_that_do_not_divide_the_inputs(hidden, inner, recipe, label):
    """As ModelOpt's export and vLLM's loader have it; each was run on a model of these widths."""
    found = of_name(recipe, llama_like(1, hidden, inner))
    assert label in found.labels
    assert bool(found.undivided) is (label == "blocks do not divide")
    assert all(f"{hidden} in-features" in text or f"{inner} in-features" in text for text in found.undivided)


def renamed(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "quantizes", "expected"),
    [
        (llama_like(), "*mixer.*", True),
        (llama_like(), "*mlp*", False),
        # names that transformers changes as it loads: Mixtral, Nemotron-H, a vision-language model, fused experts
        (renamed(qwen3_moe_like(), ".mlp.", ".block_sparse_moe."), "*mlp.experts*", False),
        (renamed(llama_like(), "model.layers", "backbone.layers"), "model.layers.0.*", False),
        (renamed(llama_like(), "model.layers", "language_model.model.layers"), "*model.language_model.layers*", False),
        (llama_like(), "*language_model.layers*", False),
        (qwen3_moe_like(), "*experts.gate_up_proj_", False),
        # names that nobody knows what is made of
        (renamed(llama_like(), ".mlp.", ".ff."), "*mixer.*", None),
    ],
)
def test_a_recipe_matches_nothing_only_where_no_name_that_a_module_may_have_is_matched(tensors, quantizes, expected):
    entries = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": f"{quantizes}weight_quantizer", "cfg": {"num_bits": [4, 3]}},
    ]
    configuration = ModelOptConfiguration(quantize={"quant_cfg": entries, "algorithm": "max"})
    assert recipe_support(configuration, ENGINE, tensors).matches_nothing is expected


def test_layers_that_the_engine_fuses_must_become_alike():
    entries = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*q_proj.*weight_quantizer", "cfg": {"num_bits": [4, 3], "axis": None}},
        {"quantizer_name": "*q_proj.*input_quantizer", "cfg": {"num_bits": [4, 3], "axis": None}},
    ]
    found = support({"quantize": {"quant_cfg": entries, "algorithm": "max"}}, llama_like())
    assert found.labels == ["engine refuses"] and "are fused by the engine yet differ" in found.engine.detail


def test_a_static_nvfp4_recipe_that_only_measures_ranges_needs_no_gpu():
    found = of_name("general/ptq/nvfp4_experts_only-kv_fp8_layerwise", qwen3_moe_like())
    assert found.labels == ["engine takes"]


def test_a_large_model_takes_no_longer_than_its_distinct_names():
    tensors = qwen3_moe_like(layers=20, experts=128)
    assert sum(of_name("nvfp4", tensors).layers.values()) == 20 * (128 * 3 + 4)
