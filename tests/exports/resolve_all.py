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

    catalogue = json.loads((ROOT / "envs" / "modelopt_catalogue.json").read_text())
    asked = [({"preset": name}, None) for name in catalogue["presets"]]
    asked += [({"modelopt_recipe": name}, None) for name in catalogue["recipes"]]
    asked += [({"preset": "nvfp4"}, kv_cache) for kv_cache in [*catalogue["kv_presets"], "none"]]
    found = []
    with contextlib.redirect_stdout(io.StringIO()):
        for definition, kv_cache in asked:
            resolved = quantize.load_configuration(definition, kv_cache).recorded().as_plain()
            found.append({"definition": definition, "kv_cache": kv_cache, "configuration": resolved})
    return found
