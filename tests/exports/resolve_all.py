"""Print, as JSON, the configuration that ModelOpt itself makes of every preset and recipe of the catalogue.

Run with the interpreter of the quantize environment.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import quantize  # noqa: E402

catalogue = json.loads((ROOT / "envs" / "modelopt_catalogue.json").read_text())
asked = [({"preset": name}, None) for name in catalogue["presets"]]
asked += [({"modelopt_recipe": name}, None) for name in catalogue["recipes"]]
asked += [({"preset": "nvfp4"}, kv_cache) for kv_cache in [*catalogue["kv_presets"], "none"]]
found = []
with contextlib.redirect_stdout(io.StringIO()):
    for definition, kv_cache in asked:
        configuration = quantize.load_configuration(definition, kv_cache)
        resolved = {key: quantize.as_json(value) for key, value in configuration.items()}
        found.append({"definition": definition, "kv_cache": kv_cache, "configuration": resolved})
print(json.dumps(found))
