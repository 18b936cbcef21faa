"""Make envs/modelopt_catalogue.json: the presets and recipes that the installed ModelOpt wheel brings along.

Reads the YAML files of the wheel's package ``modelopt_recipes`` where they lie, without importing ModelOpt or torch.
Only recipes of the types ptq and auto_quantize are listed; the quantize stage can run no others. Run it in the quantize
environment after a change of ModelOpt's version.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from day0.artefacts import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, read_json, run_cli, write_json

TYPES = ("ptq", "auto_quantize")
PRESETS, KV_PRESETS = "configs/ptq/presets/model", "configs/ptq/presets/kv"


def make_catalogue(root: Path) -> dict[str, Any]:
    """List a ``modelopt_recipes`` folder: presets, KV-cache presets, and recipes by path with type and description."""
    recipes = {}
    for file in sorted(root.rglob("*.yaml")):
        name = file.relative_to(root).with_suffix("").as_posix()
        if name.startswith("configs/"):
            continue
        content = next(yaml.safe_load_all(file.read_text(encoding="utf-8")), None)
        metadata = content.get("metadata") if isinstance(content, dict) else None
        if isinstance(metadata, dict) and metadata.get("recipe_type") in TYPES:
            description = " ".join(str(metadata.get("description", "")).split())
            recipes[name] = {"type": metadata["recipe_type"], "description": description}
    return {
        "presets": sorted(file.stem for file in (root / PRESETS).glob("*.yaml")),
        "kv_presets": sorted(file.stem for file in (root / KV_PRESETS).glob("*.yaml")),
        "recipes": recipes,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("envs/modelopt_catalogue.json"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the file is up to date")
    arguments = parser.parse_args()

    package = find_spec("modelopt_recipes")
    if package is None or not package.submodule_search_locations:
        raise UnusableInput("the package modelopt_recipes is not installed; run this in the quantize environment")
    catalogue = {
        "version": version("nvidia-modelopt"),
        **make_catalogue(Path(next(iter(package.submodule_search_locations)))),
    }
    if arguments.check:
        recorded = read_json(arguments.output)
        recorded.pop("schema_version", None)
        if recorded != catalogue:
            print(f"{arguments.output} is not what ModelOpt {catalogue['version']} brings along; make it anew")
            return EXIT_FAILED_CHECK
        return EXIT_PASS
    write_json(arguments.output, catalogue)
    print(f"{arguments.output}: {len(catalogue['presets'])} presets, {len(catalogue['recipes'])} recipes")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
