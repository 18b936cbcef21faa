"""The spaces of config/spaces: every recipe that they name exists, and gives a candidate of the models they are for."""

import json
from pathlib import Path

import pytest
from model_headers import llama_like, qwen3_moe_like

from day0.base.cli import UnusableInput
from day0.checkpoint.source_weights import SourceWeights
from day0.recipe.modules import linear_modules, quantizers_of
from day0.recipe.recipes import resolve_recipe
from day0.records.search import RequestedMove
from day0.records.sensitivity import Sensitivity
from day0.search.candidates import candidates_of, resolve_moves
from day0.search.space import load_space

CONFIG = Path(__file__).parents[3] / "config"
CATALOGUE = json.loads((CONFIG.parent / "envs" / "modelopt_catalogue.json").read_text())
SPACES = sorted(path.stem for path in (CONFIG / "spaces").glob("*.yaml"))
MOE = {"num_hidden_layers": 8, "num_experts": 4, "num_experts_per_tok": 1}


def moves_of(name):
    space = load_space(name, CONFIG / "spaces", "space")
    return [
        RequestedMove(
            name=move.recipe_name,
            definition=resolve_recipe(move.recipe_name, space.definitions, CONFIG / "recipes", CATALOGUE)
            .of_the_weights()
            .definition,
            group=move.group,
        )
        for move in space.moves
    ]


def sensitivity_of(tensors, formats=("fp8", "nvfp4", "w4a16_nvfp4")):
    """A made-up sensitivity: the first layers lose most, and a narrower format loses more."""
    bits = {"fp8": 8.0, "nvfp4": 4.5, "w4a16_nvfp4": 4.5}
    modules = [name for name in linear_modules({name: t.shape for name, t in tensors.items()}) if "lm_head" not in name]
    groups = [
        {
            "modules": [module],
            "quantizers": quantizers_of(module),
            "weights": 1000,
            "scores": {name: (16 - bits[name]) / (place + 1) for name in formats},
        }
        for place, module in enumerate(modules)
    ]
    return Sensitivity.model_validate(
        {
            "status": "done", "failure_class": None, "detail": "", "model": "m", "source_digest": None,
            "calibration": {}, "scored_texts": 1, "formats": {name: bits[name] for name in formats}, "groups": groups,
            "emulated": [], "seed": 0, "device": "cpu", "versions": {}, "duration_seconds": {},
        }
    )  # fmt: skip


def candidates(space, tensors, config, objective, sensitivity=None):
    found = resolve_moves(moves_of(space), SourceWeights(tensors), CATALOGUE, sensitivity or sensitivity_of(tensors))
    made = candidates_of(found, SourceWeights(tensors), config, objective, sensitivity, CATALOGUE)
    return {one.name: one for one in made}


@pytest.mark.parametrize("space", SPACES)
def test_every_recipe_of_a_space_exists(space):
    moves = moves_of(space)
    assert len(moves) == len(load_space(space, CONFIG / "spaces", "space").moves) >= 5


@pytest.mark.parametrize(
    ("space", "tensors", "config", "objective", "missing"),
    [
        ("compute", llama_like(8), {"num_hidden_layers": 8}, "throughput", set()),
        ("memory", llama_like(8), {"num_hidden_layers": 8}, "size", {"w4a16-fp8-lm_head"}),
        ("moe", qwen3_moe_like(8), MOE, "active_bytes", set()),
    ],
)
def test_a_space_gives_candidates_that_cost_less_than_the_source(space, tensors, config, objective, missing):
    found = candidates(space, tensors, config, objective)
    assert {name for name, one in found.items() if one.problem is not None} == missing
    assert all(one.saves and 0 < one.cost < 1 for one in found.values() if one.problem is None)
    assert len({round(one.cost, 6) for one in found.values()}) >= 0.6 * len(found)
    ordered = [name for name in found if "bits" in name]
    assert [found[name].cost for name in ordered] == sorted(found[name].cost for name in ordered)


def test_attention_in_fp8_lies_between_the_anchors():
    found = candidates("compute", llama_like(8), {"num_hidden_layers": 8}, "throughput")
    assert found["nvfp4"].cost < found["nvfp4-fp8-attention"].cost < found["fp8"].cost
    assert found["nvfp4"].risk > found["nvfp4-fp8-attention"].risk > found["fp8"].risk


def test_a_recipe_that_a_model_cannot_take_is_kept_with_the_reason():
    found = candidates("compute", llama_like(2), {"num_hidden_layers": 2}, "throughput")
    assert "2 blocks" in found["nvfp4-fp8-ends"].problem and not found["nvfp4-fp8-ends"].saves
    assert found["nvfp4-fp8-attention"].problem is None


def test_a_failed_sensitivity_takes_only_the_recipes_that_need_it():
    tensors = llama_like(8)
    failed = sensitivity_of(tensors).model_copy(
        update={"status": "failed", "failure_class": "MODEL_UNSUPPORTED", "detail": "no gradient"}
    )
    found = candidates("compute", tensors, {"num_hidden_layers": 8}, "throughput", failed)
    assert "no gradient" in found["nvfp4-fp8-6-bits"].problem and "no gradient" in found["nvfp4-protect-2"].problem
    assert found["nvfp4-fp8-attention"].problem is None and found["nvfp4"].risk > found["fp8"].risk > 0


def test_recipes_that_go_by_a_sensitivity_that_is_not_given_are_named():
    with pytest.raises(UnusableInput, match=r"nvfp4-fp8-5-bits, .*nvfp4-protect-1.*give --sensitivity"):
        resolve_moves(moves_of("compute"), SourceWeights(llama_like(8)), CATALOGUE)
