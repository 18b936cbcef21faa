"""Assess a quantized checkpoint against its source: size, coverage, declarations, scales, inventory and metadata.

Reads safetensors headers, scalar scales, the small JSON files and parts of the weights, which it compares with the
source's; with ``--deep`` all weights.
What was quantized is compared with the recipe's patterns: those that the record of the quantize stage holds or, without
a record, those that the catalogue of ModelOpt's recipes has for ``--recipe``. ``--summary`` decides on a summary alone.
Prints the assessment as JSON; exits 0 for pass, 1 for a failed check, 2 for unusable input.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.checkpoint.assess import assess_checkpoint, evaluate_checkpoint
from day0.checkpoint.vllm_rules import ENGINE, ENGINE_VERSION
from day0.recipe.modules import linear_modules
from day0.recipe.recipes import read_definition, resolve_named
from day0.recipe.resolve import resolve_configuration
from day0.recipe.sensitivity import formats_to_measure
from day0.records.failure_class import FailureClass
from day0.records.quantization import ModelOptConfiguration, Quantization
from day0.records.source import Source
from day0.records.validation import Validation
from day0.source.safetensors_headers import read_tensors

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE, RECIPES = ROOT / "envs" / "modelopt_catalogue.json", ROOT / "config" / "recipes"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--source", type=Path, help="folder of the source model; by default the one of --source-record")
    parser.add_argument("--recipe", help="name or file of the recipe; by default the record's")
    parser.add_argument("--record", type=Path, help="quantization.json of the quantize stage")
    parser.add_argument("--source-record", type=Path, help="source.json")
    parser.add_argument(
        "--sensitivity", type=Path, help="sensitivity.json that the record's recipe must have been worked out by"
    )
    parser.add_argument("--summary", type=Path, help="decide on this summary (JSON) instead of a folder")
    parser.add_argument("--definition-digest", help="digest of what defines the candidate, carried into the assessment")
    parser.add_argument(
        "--engine",
        help=f"check that this engine takes the checkpoint: {ENGINE} or {ENGINE}==VERSION; the table is of "
        f"{ENGINE_VERSION}, for another version it only warns",
    )
    parser.add_argument(
        "--engine-check",
        type=Path,
        metavar="PYTHON",
        help="ask the engine of this interpreter's environment, such as .envs/serve.cpu/bin/python, how it reads the "
        "checkpoint; no weights are loaded. Takes half a minute, for importing the engine",
    )
    parser.add_argument(
        "--deep", action="store_true", help="read every value, and compare it with the source's; else some of them"
    )
    parser.add_argument("--seed", type=int, default=0, help="chooses what is compared without --deep (default: 0)")
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
        parser.error("--summary is given alone; remove --checkpoint, --source and --record")
    if arguments.engine is not None and not re.fullmatch(rf"{ENGINE}(==[\w.+!-]+)?", arguments.engine):
        parser.error(f"--engine: found {arguments.engine!r}; expected {ENGINE} or {ENGINE}==VERSION")
    if arguments.engine_check is not None and arguments.summary is not None:
        parser.error("--engine-check reads a checkpoint; remove it, or give --checkpoint in place of --summary")
    if arguments.assess and arguments.output is None:
        parser.error("--assess records the assessment: give --output")
    return arguments


def resolve_recipe_of(
    arguments: argparse.Namespace, record: Quantization | None, folder: Path
) -> tuple[str | None, ModelOptConfiguration | None]:
    """Name of the recipe, and the configuration that the catalogue gives it: of --recipe, else of the record's recipe.

    What follows from a measured sensitivity stands in the record alone.

    Raises:
        UnusableInput: there is no recipe as --recipe says. A record's recipe that the catalogue does not know is no
            error, as the record itself holds the configuration.
    """
    catalogue = read_json(CATALOGUE)
    kv_cache = record.kv_cache if record is not None else None
    if arguments.recipe:
        recipe = resolve_named(arguments.recipe, RECIPES, catalogue)
        return recipe.name, _configuration(recipe.definition, catalogue, f"recipe {recipe.name!r}", kv_cache, folder)
    if record is None or record.recipe.checkpoint is not None:
        return None, None
    try:
        read_definition(record.recipe.definition, "the record's recipe")
        return None, _configuration(record.recipe.definition, catalogue, "the record's recipe", kv_cache, folder)
    except UnusableInput:
        return None, None


def _configuration(
    definition: Mapping[str, Any], catalogue: Mapping[str, Any], place: str, kv_cache: str | None, folder: Path
) -> ModelOptConfiguration | None:
    if formats_to_measure(definition):
        return None
    modules = None
    if definition.get("base") is not None:
        modules = linear_modules({name: tensor.shape for name, tensor in read_tensors(folder).items()})
    return resolve_configuration(definition, catalogue, place, kv_cache, modules)


def assess(arguments: argparse.Namespace) -> Validation:
    record = Quantization.read(arguments.record) if arguments.record else None
    source = Source.read(arguments.source_record) if arguments.source_record else None
    folder = arguments.source or (source and source.path)
    if not folder or not Path(folder).is_dir():
        raise UnusableInput(
            f"{arguments.source_record or '--source'}: found no folder {str(folder)!r}; expected the source model"
        )
    if not arguments.checkpoint.is_dir():
        raise UnusableInput(f"--checkpoint: found no folder {arguments.checkpoint}")
    name, configuration = resolve_recipe_of(arguments, record, Path(folder))
    assessment = assess_checkpoint(
        arguments.checkpoint,
        Path(folder),
        record,
        name,
        arguments.deep,
        arguments.engine,
        configuration,
        arguments.seed,
        arguments.engine_check,
        arguments.sensitivity,
    )
    if record is not None:
        assessment.checkpoint_digest, assessment.recipe_digest = record.checkpoint_digest, record.recipe.digest
        assessment.source_digest = record.source_digest
    if source is not None and assessment.source_digest is None:
        assessment.source_digest = source.digest
    return assessment


def assess_summary(file: Path, recipe: str | None = None) -> Validation:
    """Decide on a summary given by hand; its recipe, in place of which another can be given, bounds its size."""
    summary = read_json(file)
    if recipe is not None:
        summary["recipe"] = recipe
    name, configuration, problem = summary.get("recipe"), None, None
    if isinstance(name, str):
        catalogue = read_json(CATALOGUE)
        try:
            known = resolve_named(_preset(name, catalogue), RECIPES, catalogue)
            configuration = resolve_configuration(known.definition, catalogue, name)
        except UnusableInput as error:
            problem = str(error)
    try:
        return evaluate_checkpoint(summary, configuration, problem)
    except UnusableInput as error:
        raise UnusableInput(f"{file}: {error}") from error


def _preset(name: str, catalogue: Mapping[str, Any]) -> str:
    """The preset of that name whatever its case, else the name."""
    return name.lower() if name.lower() in catalogue["presets"] else name


def main() -> int:
    arguments = parse_arguments()
    assessment = (
        assess_summary(arguments.summary, arguments.recipe) if arguments.summary is not None else assess(arguments)
    )
    assessment.definition_digest = arguments.definition_digest
    if arguments.output:
        assessment.write(arguments.output)
    print(json.dumps(assessment.as_plain(), indent=2, ensure_ascii=False))
    return EXIT_PASS if assessment.passed or arguments.assess else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_cli(main, unusable_as=FailureClass.USER_CONFIG_ERROR)
