"""What the catalogue gives a recipe is what ModelOpt makes of it, for every preset, recipe and KV-cache preset."""

import json
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


def test_the_table_of_the_servers_options_is_what_its_parser_takes():
    python, script = ROOT / ".envs" / "serve.cpu" / "bin" / "python", ROOT / "scripts" / "make_server_options.py"
    done = subprocess.run([python, script, "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
