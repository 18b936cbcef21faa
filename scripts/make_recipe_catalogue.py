"""Make envs/modelopt_catalogue.json: the presets and recipes that the installed ModelOpt wheel brings along.

Reads the YAML files of the wheel's package ``modelopt_recipes`` where they lie, without importing ModelOpt or torch.
Only recipes of the types ptq and auto_quantize are listed; the quantize stage can run no others. ``blocks`` are the
files themselves, from which day0/recipe/resolve.py works out the configuration of each. Run it in the quantize
environment after a change of ModelOpt's version.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from day0.base.artefacts import write_text
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.tables import read_table, table_text
from day0.recipe.resolve import KV_PRESETS, PRESETS, read_block

TYPES = ("ptq", "auto_quantize")


def make_catalogue(root: Path) -> dict[str, Any]:
    """List a ``modelopt_recipes`` folder: presets, KV-cache presets, recipes by path with type and description, blocks.

    A block is a preset, a recipe or what these import, and every other building block that a recipe file may import.
    """
    recipes, blocks = {}, {}
    for file in sorted(root.rglob("*.yaml")):
        name = file.relative_to(root).with_suffix("").as_posix()
        block = read_block(file.read_text(encoding="utf-8"))
        metadata = block["body"].get("metadata") if isinstance(block["body"], dict) else None
        metadata = metadata if isinstance(metadata, dict) else {}
        kind = metadata.get("recipe_type")
        if kind in TYPES:
            description = " ".join(str(metadata.get("description", "")).split())
            recipes[name] = {"type": kind, "description": description}
            block["body"] = {key: value for key, value in block["body"].items() if key != "metadata"}
        if kind in (None, *TYPES):
            blocks[name] = {key: value for key, value in block.items() if value}
    return {
        "presets": sorted(file.stem for file in (root / PRESETS).glob("*.yaml")),
        "kv_presets": sorted(file.stem for file in (root / KV_PRESETS).glob("*.yaml")),
        "recipes": recipes,
        "blocks": blocks,
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
        if read_table(arguments.output) != catalogue:
            print(f"{arguments.output} is not what ModelOpt {catalogue['version']} brings along; make it anew")
            return EXIT_FAILED_CHECK
        return EXIT_PASS
    write_text(arguments.output, table_text(catalogue))
    counts = ", ".join(f"{len(catalogue[key])} {key}" for key in ("presets", "kv_presets", "recipes", "blocks"))
    print(f"{arguments.output}: {counts}")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
