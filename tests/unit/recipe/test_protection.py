"""Layers of a recipe that are protected: which they are, what they get, and every mistake with what was found."""

from pathlib import Path

import pytest
from model_headers import llama_like, qwen3_moe_like
from test_sensitivity import group, measured

from day0.base.artefacts import read_json, write_yaml
from day0.base.cli import UnusableInput
from day0.recipe.formats import bits_of, setting_of
from day0.recipe.modules import linear_modules, quantizers_of
from day0.recipe.recipes import read_resolved, resolve_recipe
from day0.recipe.resolve import resolve_configuration

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")


def modules_of(tensors):
    return linear_modules({name: tensor.shape for name, tensor in tensors.items()})


DENSE, MOE = modules_of(llama_like(layers=4)), modules_of(qwen3_moe_like(layers=2))


def resolve(definition, definitions=None, folder=ROOT / "config" / "recipes"):
    return resolve_recipe("mine", {"mine": definition, **(definitions or {})}, folder, CATALOGUE)


def bits_by_module(definition, modules, sensitivity=None):
    entries = resolve_configuration(resolve(definition).definition, CATALOGUE, "mine", None, modules, sensitivity)
    return {
        module: min(bits_of(setting_of(entries.quantize["quant_cfg"], name)) for name in quantizers_of(module)[:1])
        for module in modules
    }


def protecting(*protect, base="nvfp4", by="fp8"):
    return {"base": base, "protect": list(protect), "by": by}


@pytest.mark.parametrize(
    ("protect", "modules", "expected"),
    [
        (["attention"], DENSE, lambda m: "self_attn" in m),
        (["mlp"], DENSE, lambda m: ".mlp." in m),
        (["experts"], MOE, lambda m: m.endswith("experts")),
        ([{"first": 1}], DENSE, lambda m: ".layers.0." in m),
        ([{"first": 1, "last": 2}], DENSE, lambda m: any(f".layers.{n}." in m for n in (0, 2, 3))),
        (["*.layers.1.self_attn.o_proj"], DENSE, lambda m: m == "model.layers.1.self_attn.o_proj"),
        (["*.0.*.k_proj"], DENSE, lambda m: m.startswith("model.layers.0.self_attn.") and "o_proj" not in m),
        (["*.2.mlp.up_proj"], DENSE, lambda m: m in ("model.layers.2.mlp.up_proj", "model.layers.2.mlp.gate_proj")),
        (["attention", {"last": 1}], DENSE, lambda m: "self_attn" in m or ".layers.3." in m),
    ],
)
@pytest.mark.parametrize(("by", "bits"), [("fp8", 8), ("bf16", 16)])
def test_what_is_protected_and_all_that_is_fused_with_it(protect, modules, expected, by, bits):
    found = bits_by_module(protecting(*protect, by=by), modules)
    assert found == {m: 16 if m == "lm_head" else bits if expected(m) else 4.5 for m in modules}


def test_the_most_sensitive_groups_are_protected_and_fused_groups_are_one():
    attention = group("model.layers.2.self_attn.q_proj", 1, nvfp4=9, fp8=1)
    attention.quantizers = [
        f"model.language_model.layers.2.self_attn.{name}_proj.{part}_quantizer"
        for name in "qkv"
        for part in ("weight", "input")
    ]
    sensitivity = measured(attention, group("model.language_model.layers.0.mlp.down_proj", 1, nvfp4=3, fp8=1))
    found = bits_by_module(protecting({"groups": 1}), DENSE, sensitivity)
    protected = {f"model.layers.2.self_attn.{name}_proj" for name in "qkv"}
    assert found == {m: 16 if m == "lm_head" else 8 if m in protected else 4.5 for m in DENSE}
    assert set(bits_by_module(protecting({"groups": 1}), DENSE).values()) == {4.5, 16}, "before it is measured"


def test_inputs_get_the_format_of_the_weights():
    entries = resolve_configuration(resolve(protecting("attention")).definition, CATALOGUE, "x", None, DENSE)
    inputs = [
        setting_of(entries.quantize["quant_cfg"], quantizers_of(module)[1]) for module in DENSE if "attn" in module
    ]
    assert all(setting["num_bits"] == [4, 3] for setting in inputs)


def test_a_base_is_found_by_its_name_and_resolved_in_full(tmp_path):
    write_yaml(
        tmp_path / "under.yaml",
        {"preset": "nvfp4", "kv_cache": "fp8", "description": "x", "serving": {"dtype": "auto"}},
    )
    found = resolve(protecting("attention", base="under"), folder=tmp_path)
    assert found.definition == {
        "kv_cache": "fp8",
        "serving": {"dtype": "auto"},
        "base": {"preset": "nvfp4"},
        "protect": [{"modules": "attention"}],
        "by": "fp8",
    }
    assert read_resolved(found.of_the_weights().as_plain(), "x").digest == found.digest
    own = resolve(protecting("attention", base="under") | {"kv_cache": "none"}, folder=tmp_path)
    assert own.definition["kv_cache"] == "none" and own.digest != found.digest


def test_a_base_may_be_protected_already():
    inner = protecting("attention", by="bf16")
    outer = resolve(protecting({"first": 1}, base="inner"), {"inner": inner})
    entries = resolve_configuration(outer.definition, CATALOGUE, "x", None, DENSE).quantize["quant_cfg"]
    found = {m: bits_of(setting_of(entries, quantizers_of(m)[0])) for m in DENSE}
    assert found["model.layers.0.mlp.up_proj"] == 8 and found["model.layers.0.self_attn.q_proj"] == 16


def test_a_change_of_the_base_changes_the_digest():
    digests = {
        resolve(protecting("attention", base="x"), {"x": {"preset": name}}).digest for name in ("nvfp4", "mxfp4")
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        ({"base": "nvfp4"}, "'base' needs 'protect'"),
        ({"base": "nvfp4", "protect": ["attention"]}, "and 'by', fp8 or bf16"),
        ({"preset": "nvfp4", "protect": ["attention"], "by": "fp8"}, "belong to 'base'"),
        ({"base": "nvfp4", "preset": "fp8", "protect": ["attention"], "by": "fp8"}, "found preset and base"),
        (protecting("attention", by="int8"), "found 'int8'"),
        (protecting("atention"), "found 'atention'; did you mean attention"),
        (protecting({"group": 3}), "unknown key; allowed here: first, groups, last, modules; did you mean groups"),
        (protecting({"groups": 0}), "greater than 0"),
        (protecting({"groups": 2, "first": 1}), "expected a family"),
        (protecting({}), "expected a family"),
        (protecting("attention", base="nvpf4"), "base: unknown recipe 'nvpf4'; did you mean nvfp4"),
        (protecting("attention", base="mine"), "mine -> mine, a circle"),
        (
            protecting("attention", base="general/auto_quantize/nvfp4_fp8_at_5p4bits"),
            "chooses the formats of layers itself",
        ),
        (protecting("attention", base={"sensitivity": {"formats": ["nvfp4"], "bits": 5.0}}), "chooses the formats"),
        (protecting("attention", base={"preset": "nvpf4"}), "base: preset: found 'nvpf4'"),
        ({"sensitivity": {"formats": ["nvfp4", "fp8"]}}, "sensitivity.bits: missing"),
        ({"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 16}}, "less than 16"),
        ({"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 4.4}}, "a weight takes 4.5 bits at least"),
        ({"sensitivity": {"formats": [], "bits": 5.5}}, "at least 1 item"),
        ({"sensitivity": {"formats": ["fp8", "fp8"], "bits": 8.5}}, "name each once"),
        ({"sensitivity": {"formats": ["nvpf4"], "bits": 5.5}}, "found 'nvpf4'; did you mean nvfp4"),
        ({"sensitivity": {"formats": ["int4_awq"], "bits": 5.5}}, "whose scales are calibrated by awq_lite"),
        ({"sensitivity": {"formats": ["nvfp4_mlp_only"], "bits": 5.5}}, "layers of certain names only"),
    ],
)
def test_a_mistake_is_found_when_the_configuration_is_read(definition, says):
    with pytest.raises(UnusableInput) as error:
        resolve(definition)
    assert says in str(error.value) and "mine" in str(error.value)


@pytest.mark.parametrize(
    ("definition", "says"),
    [
        (
            protecting("experts"),
            "protect[0]: found 'experts'; no linear layer of the model is of this family; it has attention",
        ),
        (protecting("attention", "*.block_sparse_moe.*"), "protect[1]: found '*.block_sparse_moe.*'; no linear layer"),
        (protecting("lm_head"), "takes no fewer than 8 bits for these layers (lm_head is one)"),
        (protecting("attention", base="fp8"), "nothing is protected"),
        (protecting({"first": 5}), "protect[0]: found {first: 5}; the model has 4 blocks"),
    ],
)
def test_what_the_model_does_not_have_is_found_before_anything_is_loaded(definition, says):
    with pytest.raises(UnusableInput) as error:
        bits_by_module(definition, DENSE)
    assert says in str(error.value)


def test_more_groups_than_there_are():
    with pytest.raises(UnusableInput, match="quantizes 1 groups of layers to fewer than 8 bits"):
        bits_by_module(
            protecting({"groups": 2}), DENSE, measured(group("model.layers.0.mlp.down_proj", 1, nvfp4=3, fp8=1))
        )
