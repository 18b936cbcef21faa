"""Every export that ModelOpt makes on CPU passes the gate, but for those that truly are broken or not servable."""

import pytest
import yaml
from judging import run_gate
from make_exports import all_exports

from day0.checkpoint.values import BOUNDS, kind_of

pytestmark = pytest.mark.e2e

# What ModelOpt 0.47 cannot export, and the words of its refusal.
NOT_EXPORTED = {
    "qwen3-moe-int4_awq": "has no len()",
    "qwen3-moe-w4a8_awq_beta": "has no len()",
    "qwen3-moe-int4_blockwise_weight_only": "has no len()",
    "mixtral-int4_awq": "has no len()",
    "mixtral-w4a8_awq_beta": "has no len()",
    "llama4-int4_awq": "llama4forcausallm not supported",
    "llama4-int8_smoothquant": "must match the size of tensor",
    "llama4-w4a8_awq_beta": "llama4forcausallm not supported",
    "gpt-oss-int4_awq": "gptossforcausallm not supported",
    "gpt-oss-int8_smoothquant": "must match the size of tensor",
    "gpt-oss-w4a8_awq_beta": "gptossforcausallm not supported",
    "deepseek-v3-int4_awq": "out of bounds",
    "deepseek-v3-w4a8_awq_beta": "Changing shape when setting amax",
    "llama-odd-nvfp4": "Failed to export module 'model.layers.0.mlp.down_proj'",
    "llama-odd-w4a16_nvfp4": "Failed to export module 'model.layers.0.mlp.down_proj'",
    "llama-odd-mxfp8": "Failed to export module 'model.layers.0.mlp.down_proj'",
}
# What ModelOpt exports and nobody should publish: the check that says so. Each is a fault in faults.py, too.
BROKEN = {
    "mixtral-fp8_2d_blockwise_weight_only": "inventory",
    "qwen2-fp8-plain": "metadata",
    "qwen2-vl-wide-mlp": "coverage",
    "qwen2-vl-wide-mlp-weights": "coverage",
}
# Sound checkpoints that vLLM does not take.
NOT_SERVED_RECIPES = (
    "int4_awq",
    "int4_blockwise_weight_only",
    "int8_smoothquant",
    "int8_weight_only",
    "w4a8_awq_beta",
    "w4a8_nvfp4_fp8",
    "w4a8_mxfp4_fp8",
    "mxfp4",
    "mxfp4_mlp_weight_only",
    "nvfp4_mlp_weight_only",  # groups of 32, which vLLM takes for 16
)
NOT_SERVED = ("llama-odd-fp8_2d_blockwise_weight_only", "llama-uneven-qkv")

EXPORTED = {export.name: export for export in all_exports() if export.name not in NOT_EXPORTED}
SOUND = [name for name in EXPORTED if name not in BROKEN]


def test_what_modelopt_cannot_export(exports):
    failed = {name: entry["detail"] for name, entry in exports.made.items() if entry["status"] != "done"}
    assert failed.keys() == NOT_EXPORTED.keys()
    for name, words in NOT_EXPORTED.items():
        assert words in failed[name]
        assert exports.made[name]["failure_class"] == "MODEL_UNSUPPORTED"


@pytest.mark.parametrize("name", SOUND)
def test_sound_export_passes_with_the_record(exports, name):
    status, validation, failed = run_gate(
        exports.checkpoint(name), exports.source(name), record=exports.record(name), deep=True
    )
    assert validation["pass"], validation["detail"]
    assert status == 0 and validation["failure_class"] is None and validation["offenders"] == []
    assert not failed
    assert 0 < validation["size_ratio"] < 1
    errors = next(check["errors"] for check in validation["checks"] if check["name"] == "values")
    for algorithm, found in errors.items():
        bounds = BOUNDS[kind_of(algorithm)]
        assert 0.8 * bounds.typical < found["median"] < 1.4 * bounds.typical and found["limit"] == bounds.limit


@pytest.mark.parametrize("name", SOUND)
def test_sound_export_passes_by_the_recipe_alone(exports, name, tmp_path):
    export = EXPORTED[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({**export.definition, **({"kv_cache": export.kv_cache} if export.kv_cache else {})})
    )
    chosen = export.recipe if not export.kv_cache and export.definition.keys() == {"preset"} else recipe
    status, validation, _ = run_gate(exports.checkpoint(name), exports.source(name), recipe=chosen)
    assert validation["pass"], validation["detail"]
    assert status == 0


@pytest.mark.parametrize("name", SOUND)
def test_engine_refuses_only_what_it_does_not_take(exports, name):
    status, validation, failed = run_gate(
        exports.checkpoint(name), exports.source(name), record=exports.record(name), engine="vllm"
    )
    if EXPORTED[name].recipe in NOT_SERVED_RECIPES or name in NOT_SERVED:
        assert status == 1 and list(failed) == ["engine"], validation["detail"]
    else:
        assert status == 0 and validation["pass"], validation["detail"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_export_of_modelopt_is_refused(exports, name):
    status, validation, failed = run_gate(exports.checkpoint(name), exports.source(name), record=exports.record(name))
    assert status == 1 and list(failed) == [BROKEN[name]], validation["detail"]


@pytest.mark.parametrize("name", NOT_EXPORTED)
def test_failed_export_keeps_the_class_of_its_record(exports, name):
    status, validation, _ = run_gate(exports.checkpoint(name), exports.source(name), record=exports.record(name))
    assert status == 1 and validation["failure_class"] == "MODEL_UNSUPPORTED", validation["detail"]
    assert NOT_EXPORTED[name] in validation["detail"]
