"""The tables of envs/ are what the installed ModelOpt and vLLM are, for every preset, recipe and KV-cache preset."""

import json
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from day0.base.artefacts import read_json
from day0.checkpoint.intentions import Patterns, differences, kv_format_of
from day0.recipe.forms import AutoQuantize, QuantizeConfig, SearchConstraints, SearchCost, SearchSpace
from day0.recipe.resolve import resolve_configuration
from day0.records.quantization import ModelOptConfiguration

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


def test_every_recipe_resolves_as_by_modelopt_itself(exports):
    catalogue = read_json(ROOT / "envs" / "modelopt_catalogue.json")
    resolved = json.loads((exports.folder / "resolved.json").read_text())
    assert len(resolved) == len(catalogue["presets"]) + len(catalogue["recipes"]) + len(catalogue["kv_presets"]) + 1
    for entry in resolved:
        ours = resolve_configuration(entry["definition"], catalogue, "recipe", entry["kv_cache"])
        theirs = ModelOptConfiguration(**entry["configuration"])
        assert (ours.auto_quantize is None) is (theirs.auto_quantize is None), entry["definition"]
        assert kv_format_of(ours) == kv_format_of(theirs), entry["definition"]
        first, second = (
            Patterns.of_configuration(one.model_copy(update={"auto_quantize": None})) if one.quantize else None
            for one in (ours, theirs)
        )
        assert (first is None) is (second is None), entry["definition"]
        if first is not None:
            assert differences(first, second) == [] and first.method == second.method, entry["definition"]


FORMS = {
    "AutoQuantizeConfig": AutoQuantize,
    "AutoQuantizeConstraints": SearchConstraints,
    "AutoQuantizeCost": SearchCost,
    "AutoQuantizeModuleSearchSpace": SearchSpace,
}
REQUIRED = {"module_name_patterns", "candidate_formats"}  # by a check of ModelOpt's, not by the field


def test_a_search_of_formats_is_written_as_modelopt_reads_it(exports):
    forms = json.loads((exports.folder / "forms.json").read_text())
    names, _ = get_args(QuantizeConfig)
    assert set(get_args(names)) == forms.pop("QuantizeConfig").keys() | {"$import"}
    assert forms.keys() == FORMS.keys()
    for name, fields in forms.items():
        ours = FORMS[name].model_fields
        assert ours.keys() == fields.keys(), name
        for field, default in fields.items():
            if not ours[field].is_required():
                assert ours[field].default == default, (name, field)
            else:
                assert default is None or field in REQUIRED, (name, field)


def test_the_table_of_the_servers_options_is_what_its_parser_takes(warm_vllm):
    script = ROOT / "scripts" / "make_server_options.py"
    done = subprocess.run([warm_vllm, script, "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


ENGINE_TABLE = [ROOT / ".envs" / "serve.cpu" / "bin" / "python", ROOT / "scripts" / "make_engine_table.py", "--check"]


def test_the_table_of_the_engine_is_what_its_source_says():
    done = subprocess.run(ENGINE_TABLE, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# By file of vLLM: a part of its text, what a later version might have there, and what is said of that.
LATER = [
    ("_version.py", "'0.32.0'", "'9.9.0'", "version: was '0.32.0', is '9.9.0'"),
    (
        "model_executor/layers/quantization/modelopt.py",
        "input_size_per_partition % 16 != 0",
        "input_size_per_partition % 64 != 0",
        "divisors: NVFP4: was 16, is 64",
    ),
    (
        "model_executor/layers/quantization/modelopt.py",
        '    "MXFP8": ("modelopt_mxfp8", "mxfp8_config"),\n',
        '    "MXFP8": ("modelopt_mxfp8", "mxfp8_config"),\n    "MXFP6": ("modelopt_mxfp8", "mxfp6_config"),\n',
        "linear_algorithms: MXFP6: new, 'modelopt_mxfp8'",
    ),
    (
        "model_executor/layers/quantization/auto_awq.py",
        "return 75",
        "return 80",
        "capabilities: AutoAWQConfig: was 75, is 80",
    ),
    (
        "model_executor/models/lfm2_moe.py",
        'quant_config=quant_config,\n            prefix=f"{prefix}.gate"',
        'quant_config=None,\n            prefix=f"{prefix}.gate"',
        "quantized_routers: Lfm2MoeForCausalLM: gone, was 'Lfm2MoeSparseMoeBlock'",
    ),
    (
        "model_executor/layers/quantization/modelopt.py",
        "exclude_module in prefix\n",
        "prefix.startswith(exclude_module)\n",
        "vLLM 9.9.0 has no `exclude_module in prefix` in ModelOptQuantConfigBase.is_layer_excluded of "
        "vllm/model_executor/layers/quantization/modelopt.py; read what it does now, and change the quote 'excluded'",
    ),
]


def test_a_version_whose_source_says_otherwise_is_told_fact_by_fact(tmp_path):
    (package,) = (ROOT / ".envs" / "serve.cpu").glob("lib/python3*/site-packages/vllm")
    for file in package.rglob("*.py"):
        copy = tmp_path / "vllm" / file.relative_to(package)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for name, old, new, _ in LATER:
        file = tmp_path / "vllm" / name
        assert file.read_text().count(old) >= 1, (name, old)
        file.write_text(file.read_text().replace(old, new, 1))
    done = subprocess.run([*ENGINE_TABLE, "--source", tmp_path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    for *_, said in LATER:
        assert said in done.stdout
    assert re.search(r"^places: \d+ moved, 2 gone$", done.stdout, re.MULTILINE)
