"""The configuration of a recipe without ModelOpt: imports, overrides, KV caches, and every mistake as a clear error."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.base.artefacts import read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.checkpoint.intentions import Intention, Patterns, differences, kv_format_of
from day0.checkpoint.size import ratio_bounds
from day0.recipe.resolve import resolve_configuration

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")
UP, EXPERT = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.experts.3.down_proj"


def patterns(definition, **settings):
    return Patterns.of_configuration(resolve_configuration(definition, CATALOGUE, "x", **settings))


@pytest.mark.parametrize(
    ("preset", "of_mlp", "of_expert"),
    [
        ("fp8", Intention("FP8", None, "FP8"), Intention("FP8", None, "FP8")),
        ("nvfp4", Intention("NVFP4", 16, "NVFP4"), Intention("NVFP4", 16, "NVFP4")),
        ("w4a8_awq_beta", Intention("INT4", 128, "W4A8_AWQ"), Intention("INT4", 128, "W4A8_AWQ")),
        ("nvfp4_mlp_weight_only", Intention("NVFP4", 32, "W4A16_NVFP4"), Intention("NVFP4", 32, "W4A16_NVFP4")),
        ("nvfp4_awq_lite", Intention("NVFP4", 16, "NVFP4_AWQ"), Intention("NVFP4", 16, "NVFP4_AWQ")),
        ("nvfp4_svdquant", Intention("NVFP4", 16, "NVFP4_SVD"), Intention("NVFP4", 16, "NVFP4_SVD")),
        ("nvfp4_experts_only", False, Intention("NVFP4", 16, "NVFP4")),
    ],
)
def test_what_a_preset_makes_of_a_module(preset, of_mlp, of_expert):
    found = patterns({"preset": preset})
    assert found.intention(UP) == of_mlp and found.intention(EXPERT) == of_expert
    assert found.intention("lm_head") is False and found.intention("model.layers.0.mlp.gate") is False
    assert found.intention("model.visual.blocks.0.mlp.fc1") is False


def test_every_preset_and_recipe_of_the_catalogue_resolves():
    for name in CATALOGUE["presets"]:
        assert patterns({"preset": name}).entries
    for name, entry in CATALOGUE["recipes"].items():
        configuration = resolve_configuration({"modelopt_recipe": name}, CATALOGUE, name)
        assert (configuration.auto_quantize is not None) is (entry["type"] == "auto_quantize")
        assert "$import" not in json.dumps(configuration.as_plain())


def test_the_recipe_files_of_the_project_resolve():
    for file in (ROOT / "config" / "recipes").glob("*.yaml"):
        assert patterns(read_yaml(file)).entries


@pytest.mark.parametrize(
    ("definition", "kv_cache", "expected"),
    [
        ({"preset": "nvfp4"}, None, (False, False)),
        ({"preset": "nvfp4"}, "fp8", ("FP8", True)),
        ({"preset": "nvfp4", "kv_cache": "fp8_cast"}, None, ("FP8", False)),
        ({"preset": "nvfp4", "kv_cache": "nvfp4"}, None, ("NVFP4", True)),
        ({"modelopt_recipe": "general/ptq/nvfp4_default-kv_fp8"}, None, ("FP8", True)),
        ({"modelopt_recipe": "general/ptq/nvfp4_default-kv_fp8"}, "none", (False, False)),
    ],
)
def test_the_kv_cache(definition, kv_cache, expected):
    assert kv_format_of(resolve_configuration(definition, CATALOGUE, "x", kv_cache)) == expected


def test_overrides_replace_and_merge():
    name = "general/ptq/nvfp4_default-kv_fp8"
    entry = "quantize.quant_cfg=[{quantizer_name: '*weight_quantizer', cfg: {num_bits: e4m3}}]"
    found = patterns({"modelopt_recipe": name, "overrides": [entry, "quantize.algorithm=awq_lite"]})
    assert found.intention(UP).kind == "FP8" and found.method == "awq_lite"
    with pytest.raises(UnusableInput, match="an item of a list"):
        patterns({"modelopt_recipe": name, "overrides": ["quantize.quant_cfg[0].enable=true"]})


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ({"imports": {"a": "configs/numerics/none"}, "quantize": {}}, "imports 'configs/numerics/none'"),
        ({"quantize": {"quant_cfg": [{"$import": "a"}]}}, r"\$import 'a': its imports are none"),
        ({"imports": {"a": "b"}, "quantize": {}}, "a circle"),
        (
            {"imports": {"a": "configs/ptq/units/kv_fp8"}, "quantize": {"quant_cfg": {"$import": "a"}}},
            "a list where a mapping is expected",
        ),
    ],
)
def test_a_recipe_that_imports_what_is_not_there(definition, says):
    circle = {"b": {"imports": {"x": "b"}, "body": {}}}
    with pytest.raises(UnusableInput, match=says):
        resolve_configuration(definition, {**CATALOGUE, "blocks": {**CATALOGUE["blocks"], **circle}}, "mine")


def test_a_file_stands_above_the_wheels_block(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        "imports:\n  n: configs/numerics/nvfp4\n---\n- quantizer_name: '*'\n  cfg: {$import: n}\n"
    )
    found = patterns({"imports": {"a": "mine"}, "quantize": {"quant_cfg": [{"$import": "a"}]}})
    assert found.intention(UP) == Intention("NVFP4", 16, "NVFP4")
    (tmp_path / "mine.yaml").write_text("- [")
    with pytest.raises(UnusableInput, match=r"mine\.yaml: imported by x"):
        patterns({"imports": {"a": "mine"}, "quantize": {"quant_cfg": [{"$import": "a"}]}})


def test_differences_are_of_what_decides_the_weights():
    one, other = patterns({"preset": "fp8"}), patterns({"preset": "nvfp4"})
    assert differences(one, one) == [] and len(differences(one, other)) == 4
    defaults = {"parent_class": None, "enable": True}
    assert differences(one, Patterns(tuple({**defaults, **entry} for entry in one.entries))) == []
    assert differences(one, Patterns(one.entries[::-1])) == ["the same entries in another order"]


@pytest.mark.parametrize(
    ("preset", "least", "largest"), [("fp8", 0.5, 0.875), ("nvfp4", 0.28125, 0.8203), ("nvfp4_mlp_only", 0.28125, 1.0)]
)
def test_bounds_of_the_size(preset, least, largest):
    assert ratio_bounds(patterns({"preset": preset})) == (
        pytest.approx(least, abs=1e-4),
        pytest.approx(largest, abs=1e-4),
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("$import"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                ["$import", "quant_cfg", "algorithm", "quantizer_name", "cfg", "num_bits", "block_sizes", "-1"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def test_an_import_of_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(UnusableInput, match="mine: imports 'xxx"):
        resolve_configuration({"imports": {"a": "x" * 300}, "quantize": {"$import": "a"}}, CATALOGUE, "mine")


@settings(deadline=None)
@given(JSON_VALUES, JSON_VALUES, st.none() | st.just({"a": "configs/numerics/fp8"}) | JSON_VALUES)
def test_any_json_in_a_recipe_is_a_configuration_or_a_clear_error(quantize, entries, imports):
    for body in (quantize, {"quant_cfg": entries}, {"quant_cfg": [entries], "algorithm": quantize}):
        try:
            configuration = resolve_configuration({"imports": imports, "quantize": body}, CATALOGUE, "mine")
        except UnusableInput as error:
            assert "mine" in str(error)
            continue
        kv_format_of(configuration)
        found = Patterns.of_configuration(configuration)
        if found is not None:
            assert found.intention(UP) in (True, False, None) or isinstance(found.intention(UP), Intention)
            found.essence()
            ratio_bounds(found)
