"""What ModelOpt itself makes of every preset and recipe of the catalogue, and takes in one; used by make_exports.py."""

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


def recipe_forms() -> dict[str, dict[str, Any]]:
    """Fields of the classes of ModelOpt that a search of formats is made of, with what they hold by default."""
    from modelopt.recipe import config
    from modelopt.torch.quantization.config import QuantizeConfig

    searches = ("AutoQuantizeConfig", "AutoQuantizeConstraints", "AutoQuantizeCost", "AutoQuantizeModuleSearchSpace")
    classes = [*(getattr(config, name) for name in searches), QuantizeConfig]
    return {
        form.__name__: {
            name: None if field.is_required() else json.loads(json.dumps(field.default, default=str))
            for name, field in form.model_fields.items()
        }
        for form in classes
    }
