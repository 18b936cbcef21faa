"""Recipes: how a name is found, and every mistake that is refused before anything is loaded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from day0.base.artefacts import read_json, write_yaml
from day0.base.cli import UnusableInput
from day0.recipe.recipes import Recipe, read_resolved, resolve_named, resolve_recipe, resolve_recipe_file
from day0.records.recipe import Calibration

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")


def resolve(name, definitions=None, folder=ROOT / "config" / "recipes"):
    return resolve_recipe(name, definitions or {}, folder, CATALOGUE)


@pytest.mark.parametrize("name", ["fp8", "nvfp4", "w4a16_nvfp4", "fp8_per_channel_per_token", "int4_awq"])
def test_a_preset_by_its_name(name):
    recipe = resolve(name)
    assert (recipe.kind, recipe.path_name, recipe.definition) == ("preset", name, {"preset": name})


@pytest.mark.parametrize("ending", ["", ".yaml"])
def test_a_recipe_of_the_wheel_by_its_path(ending):
    recipe = resolve("general/ptq/nvfp4_default-kv_fp8" + ending)
    assert recipe.kind == "modelopt_recipe"
    assert recipe.path_name == "general--ptq--nvfp4_default-kv_fp8"


def test_a_definition_stands_above_a_file_and_a_file_above_a_preset(tmp_path):
    write_yaml(tmp_path / "fp8.yaml", {"preset": "fp8_per_channel_per_token"})
    assert resolve("fp8", folder=tmp_path).kind == "file"
    assert resolve("fp8", folder=tmp_path).file == tmp_path / "fp8.yaml"
    assert resolve("fp8", {"fp8": {"preset": "nvfp4"}}, tmp_path).kind == "inline"


def test_the_recipes_of_the_repository_are_sound():
    files = sorted((ROOT / "config" / "recipes").glob("*.yaml"))
    assert files
    for file in files:
        recipe = resolve(file.stem)
        assert recipe.kind == "file" and recipe.definition["description"]


def test_the_digest_is_of_what_decides_the_weights():
    plain = resolve("a", {"a": {"preset": "fp8"}})
    told = resolve(
        "b", {"b": {"preset": "fp8", "description": "x", "serving": {"dtype": "auto"}, "calibration": {"samples": 3}}}
    )
    other = resolve("a", {"a": {"preset": "fp8", "kv_cache": "fp8"}})
    assert plain.digest == told.digest != other.digest
    assert told.of_the_weights().as_plain()["definition"] == {"preset": "fp8"}
    assert told.definition["serving"] == {"dtype": "auto"}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("nvpf4", "nvfp4"),
        ("nvfp4_default-kv_fp8", "general/ptq/nvfp4_default-kv_fp8"),
        ("FP8", "fp8"),
        ("my-fp9", "my-fp8"),
    ],
)
def test_an_unknown_name_is_told_its_near_ones(name, near):
    with pytest.raises(UnusableInput, match=f"unknown recipe '{name}'; did you mean .*{near}.* or one of the"):
        resolve(name, {"my-fp8": {"preset": "fp8"}})


@pytest.mark.parametrize("name", ["../fp8", "/etc/passwd", "", ".", "a/../b"])
def test_a_name_never_leaves_the_folder(name):
    with pytest.raises(UnusableInput, match="unknown recipe"):
        resolve(name)


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ({}, "exactly one of"),
        ({"preset": "fp8", "modelopt_recipe": "general/ptq/nvfp4_default-kv_fp8"}, "found preset and modelopt_recipe"),
        ({"preset": "fp8", "quantize": {}}, "exactly one of"),
        ({"preset": "fp8", "imports": {"a": "b"}}, "belong to ModelOpt's own body"),
        ({"preset": "fp8", "overrides": ["a=1"]}, "'overrides' belongs"),
        ({"modelopt_recipe": "general/ptq/nvfp4_default-kv_fp8", "overrides": ["a"]}, "path.to.key=value"),
        ({"preset": "fp9"}, "preset: found 'fp9'; did you mean fp8"),
        ({"preset": "fp8", "kv_cache": "fp7"}, "kv_cache: found 'fp7'; did you mean fp8"),
        ({"modelopt_recipe": "general/ptq/none"}, "modelopt_recipe: found 'general/ptq/none'"),
        (
            {"preset": "fp8", "kv_cach": "fp8"},
            "kv_cach: unknown key; allowed here: auto_quantize, base, by, calibration",
        ),
        ({"preset": 8}, "found 8"),
        ({"preset": "fp8", "calibration": {"samples": 0}}, "greater than 0"),
        ({"preset": "fp8", "calibration": {"sample": 1}}, "sample"),
    ],
)
def test_a_recipe_with_a_mistake(definition, says):
    with pytest.raises(UnusableInput) as error:
        resolve("mine", {"mine": definition})
    assert says in str(error.value) and "mine" in str(error.value)


SEARCH = {
    "constraints": {"effective_bits": 5.4},
    "candidate_formats": [{"$import": "fp8"}, {"quant_cfg": [], "algorithm": "max"}],
    "disabled_layers": ["*lm_head*", {"$import": "never"}],
}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"constraints": {"effective_bit": 5}}, "constraints.effective_bit: unknown key; allowed here: cost"),
        ({"constraints": {"effective_bits": 17}}, "constraints.effective_bits: found 17"),
        ({"constraints": {"effective_bits": "5"}}, "constraints.effective_bits: found '5'"),
        ({"constraints": {"cost_model": "moe"}}, "constraints.cost_model: found 'moe'"),
        ({"constraints": {"cost": {"active_moe_expert_ratio": 0}}}, "active_moe_expert_ratio: found 0"),
        ({"candidate_formats": [{"qunt_cfg": []}]}, "candidate_formats[0].qunt_cfg"),
        ({"candidate_formats": []}, "found neither"),
        ({"candidate_format": []}, "candidate_format: unknown key"),
        ({"auto_quantize_method": "gradients"}, "auto_quantize_method: found 'gradients'"),
        ({"score_size": 0}, "score_size: found 0"),
        ({"disabled_layers": "*lm_head*"}, "disabled_layers: found '*lm_head*'"),
        ({"disabled_layers": [3]}, "disabled_layers[0]"),
        ({"kv_cache": {"a": 1}}, "kv_cache.a"),
        ({"module_search_spaces": [{"module_name_patterns": ["*"]}]}, "[0].candidate_formats: missing"),
        ({"module_search_spaces": [{"module_name_patterns": [], "candidate_formats": [{}]}]}, "module_name_patterns"),
    ],
)
def test_a_search_of_formats_with_a_mistake(change, says):
    sound = Recipe.model_validate({"auto_quantize": SEARCH})
    assert sound.model_dump(mode="json", exclude_defaults=True) == {"auto_quantize": SEARCH}
    with pytest.raises(UnusableInput) as error:
        resolve("mine", {"mine": {"auto_quantize": {**SEARCH, **change}}})
    assert says in str(error.value) and "mine" in str(error.value)


def test_a_body_of_modelopts_form_with_an_unknown_key():
    with pytest.raises(UnusableInput, match=r"quantize\.quant_cgf"):
        resolve("mine", {"mine": {"quantize": {"quant_cgf": []}}})


def test_a_file_with_a_mistake_is_named(tmp_path):
    write_yaml(tmp_path / "x.yaml", {"preset": "fp9"})
    with pytest.raises(UnusableInput, match=r"x\.yaml: preset"):
        resolve_recipe_file(tmp_path / "x.yaml", tmp_path, CATALOGUE)


@pytest.mark.parametrize("settings", [{"samples": True}, {"batch_size": -1}, {"sequence_length": "8"}, {"seed": 1}])
def test_calibration_settings_that_are_refused(settings):
    with pytest.raises(ValidationError):
        Calibration.model_validate(settings)


@pytest.mark.parametrize(
    ("dataset", "is_local"), [("a/b.jsonl", True), ("b.txt", True), ("cnn_dailymail", False), (None, False)]
)
def test_a_data_set_is_a_file_by_its_ending(dataset, is_local):
    assert (Calibration(dataset=dataset).local_file is not None) is is_local


@given(st.text())
def test_any_name_is_a_recipe_with_a_safe_folder_or_a_clear_error(name):
    try:
        recipe = resolve(name)
    except UnusableInput as error:
        assert "unknown recipe" in str(error)
    else:
        assert recipe.path_name and "/" not in recipe.path_name


@given(
    st.dictionaries(
        st.sampled_from(list(Recipe.model_fields)),
        st.none() | st.booleans() | st.text() | st.dictionaries(st.text(), st.text()),
    )
)
def test_any_definition_is_a_recipe_or_a_clear_error(definition):
    try:
        recipe = resolve("any", {"any": definition})
    except UnusableInput as error:
        assert "any" in str(error)
    else:
        assert recipe.definition.keys() & {
            "preset",
            "modelopt_recipe",
            "quantize",
            "auto_quantize",
            "sensitivity",
            "base",
        }


def test_a_recipe_is_handed_on_in_its_resolved_form_and_taken_as_it_is():
    definition = {"preset": "fp8", "kv_cache": "fp8", "description": "x", "calibration": {"samples": 3}}
    recipe = resolve("mine", {"mine": definition}).of_the_weights()
    handed_on = read_resolved(json.loads(json.dumps(recipe.as_plain())), "--recipe-json")
    assert handed_on == recipe and handed_on.digest == resolve("mine", {"mine": definition}).digest
    assert handed_on.definition == {"preset": "fp8", "kv_cache": "fp8"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "0" * 64}, "expected .* that of the definition"),
        ({"definition": {"preset": "nvfp4"}}, "expected .* that of the definition"),
        ({"definition": {"preset": 3}}, "definition: preset: found 3"),
        ({"kind": "other"}, "--recipe-json.kind: found 'other'"),
        ({"surprise": 1}, "--recipe-json.surprise: unknown key"),
    ],
)
def test_what_is_no_resolved_recipe_is_refused(change, words):
    recipe = resolve("fp8").as_plain()
    with pytest.raises(UnusableInput, match=words):
        read_resolved({**recipe, **change}, "--recipe-json")


def test_a_command_line_gives_a_name_or_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: nvfp4\n")
    assert resolve_named(str(tmp_path / "mine.yaml"), tmp_path, CATALOGUE).kind == "file"
    assert resolve_named("mine", tmp_path, CATALOGUE).definition == {"preset": "nvfp4"}
    assert resolve_named("fp8", tmp_path, CATALOGUE).kind == "preset"
