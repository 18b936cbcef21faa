"""Assess a quantized checkpoint against its source: size, coverage, declarations, scales, inventory and metadata.

Reads safetensors headers, scalar scales and the small JSON files; with ``--deep`` all block scales and FP8 weights too.
The recipe's own patterns are held against what was quantized: those that the record of the quantize stage holds, else
those that the catalogue of ModelOpt's recipes gives ``--recipe``. ``--summary`` decides on a summary alone. Prints the
assessment as JSON; exits 0 for pass, 1 for a failed check, 2 for unusable input.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json, write_json
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.checkpoint.assess import assess_checkpoint, evaluate_checkpoint
from day0.checkpoint.vllm_rules import ENGINE, ENGINE_VERSION
from day0.recipe.recipes import resolve_recipe, resolve_recipe_file
from day0.recipe.resolve import resolve_configuration

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--source", type=Path, help="folder of the source model; by default the one of --source-record")
    parser.add_argument("--recipe", help="name or file of the recipe; by default the record's")
    parser.add_argument("--record", type=Path, help="quantization.json of the quantize stage")
    parser.add_argument("--source-record", type=Path, help="source.json")
    parser.add_argument("--summary", type=Path, help="decide on this summary (JSON) instead of a folder")
    parser.add_argument("--definition-digest", help="digest of what defines the candidate, carried into the assessment")
    parser.add_argument(
        "--engine",
        help=f"check that this engine takes the checkpoint: {ENGINE} or {ENGINE}==VERSION; the table is of "
        f"{ENGINE_VERSION}, for another version it only warns",
    )
    parser.add_argument("--deep", action="store_true", help="read all block scales and FP8 weights, for NaN and zeros")
    parser.add_argument("--output", type=Path, help="write the assessment there too (validation.json)")
    parser.add_argument(
        "--assess", action="store_true", help="exit 0 on a failed check too: it is recorded in --output"
    )
    arguments = parser.parse_args()
    if arguments.summary is None and (
        arguments.checkpoint is None or not (arguments.source or arguments.source_record)
    ):
        parser.error("give --checkpoint with --source or --source-record, or --summary")
    if arguments.summary is not None and (arguments.checkpoint or arguments.source or arguments.record):
        parser.error("--summary stands alone; remove --checkpoint, --source and --record")
    if arguments.engine is not None and not re.fullmatch(rf"{ENGINE}(==[\w.+!-]+)?", arguments.engine):
        parser.error(f"--engine: found {arguments.engine!r}; expected {ENGINE} or {ENGINE}==VERSION")
    if arguments.assess and arguments.output is None:
        parser.error("--assess records the assessment: give --output")
    return arguments


def resolve_recipe_of(arguments: argparse.Namespace, record: Mapping[str, Any] | None) -> tuple[str | None, Any]:
    """Name of the recipe, and the configuration that the catalogue gives it: of --recipe, else of the record's recipe.

    Raises:
        UnusableInput: --recipe is none that there is. A record's recipe that cannot be resolved is no error, as the
            record itself says what it became.
    """
    catalogue = read_json(ROOT / "envs" / "modelopt_catalogue.json")
    kv_cache = record.get("kv_cache") if record else None
    if arguments.recipe:
        file = Path(arguments.recipe)
        if file.suffix in (".yaml", ".yml") and file.is_file():
            recipe = resolve_recipe_file(file, catalogue)
        else:
            recipe = resolve_recipe(arguments.recipe, {}, ROOT / "config" / "recipes", catalogue)
        return recipe.name, resolve_configuration(recipe.definition, catalogue, f"recipe {recipe.name!r}", kv_cache)
    asked = record.get("recipe") if record else None
    definition = asked.get("definition") if isinstance(asked, Mapping) else None
    if not isinstance(definition, Mapping):
        return None, None
    try:
        recipe = resolve_recipe("recorded", {"recorded": definition}, ROOT / "config" / "recipes", catalogue)
        return None, resolve_configuration(recipe.definition, catalogue, "the record's recipe", kv_cache)
    except UnusableInput:
        return None, None


def assess(arguments: argparse.Namespace) -> dict[str, Any]:
    record = read_json(arguments.record) if arguments.record else None
    source_record = read_json(arguments.source_record) if arguments.source_record else {}
    folder = arguments.source or source_record.get("path")
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise UnusableInput(
            f"{arguments.source_record or '--source'}: found no folder {str(folder)!r}; expected the source model"
        )
    if not arguments.checkpoint.is_dir():
        raise UnusableInput(f"--checkpoint: found no folder {arguments.checkpoint}")
    recipe = record.get("recipe") if record else None
    recipe = recipe if isinstance(recipe, dict) else {}
    name, configuration = resolve_recipe_of(arguments, record)
    assessment = assess_checkpoint(
        arguments.checkpoint, Path(folder), record, name, arguments.deep, arguments.engine, configuration
    )
    return {
        **assessment,
        "checkpoint_digest": record.get("checkpoint_digest") if record else None,
        "source_digest": (record or {}).get("source_digest") or source_record.get("digest"),
        "recipe_digest": recipe.get("digest"),
    }


def assess_summary(file: Path) -> dict[str, Any]:
    """Decide on a summary given by hand; a recipe that the catalogue knows bounds its size."""
    summary = read_json(file)
    name, configuration = summary.get("recipe"), None
    if isinstance(name, str):
        catalogue = read_json(ROOT / "envs" / "modelopt_catalogue.json")
        with contextlib.suppress(UnusableInput):
            recipe = resolve_recipe(name, {}, ROOT / "config" / "recipes", catalogue)
            configuration = resolve_configuration(recipe.definition, catalogue, name)
    try:
        return evaluate_checkpoint(summary, configuration)
    except UnusableInput as error:
        raise UnusableInput(f"{file}: {error}") from error


def main() -> int:
    arguments = parse_arguments()
    assessment = assess_summary(arguments.summary) if arguments.summary is not None else assess(arguments)
    if arguments.definition_digest:
        assessment["definition_digest"] = arguments.definition_digest
    if arguments.output:
        write_json(arguments.output, assessment)
    print(json.dumps(assessment, indent=2, ensure_ascii=False))
    return EXIT_PASS if assessment["pass"] or arguments.assess else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_cli(main)
