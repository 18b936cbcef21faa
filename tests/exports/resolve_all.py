"""The configuration that ModelOpt itself makes of every preset and recipe of the catalogue; used by make_exports.py."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def resolve_all() -> list[dict[str, Any]]:
    """Every entry of the catalogue: its definition, KV-cache preset and ModelOpt's configuration."""
    import quantize
    from day0.recipe.modelopt_form import as_json

    catalogue = json.loads((ROOT / "envs" / "modelopt_catalogue.json").read_text())
    asked = [({"preset": name}, None) for name in catalogue["presets"]]
    asked += [({"modelopt_recipe": name}, None) for name in catalogue["recipes"]]
    asked += [({"preset": "nvfp4"}, kv_cache) for kv_cache in [*catalogue["kv_presets"], "none"]]
    found = []
    with contextlib.redirect_stdout(io.StringIO()):
        for definition, kv_cache in asked:
            configuration = quantize.load_configuration(definition, kv_cache)
            resolved = {key: as_json(value) for key, value in configuration.items()}
            found.append({"definition": definition, "kv_cache": kv_cache, "configuration": resolved})
    return found
