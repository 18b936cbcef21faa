"""Put a checkpoint that was made elsewhere into the place of one that would be quantized here.

Makes what quantize.py makes: the folder, whose files are links to the given ones, and quantization.json with the digest
of each. How it was made is not known but for what the checkpoint declares itself: calibration, seed and device are
null. The gate judges it by its declaration and values. A folder that cannot be read is recorded as failed, exit 0, so
that the gate refuses it and the verdict says why.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from pydantic import ValidationError

from day0.base.cli import EXIT_PASS, UnusableInput, json_argument, run_cli
from day0.base.mistakes import mistakes_of
from day0.records.failure_class import FailureClass
from day0.records.file_states import FileStates
from day0.records.files import digest_of_files
from day0.records.quantization import Quantization, RecordedRecipe
from day0.records.recipe import ResolvedRecipe
from day0.source.imported_checkpoint import carried_files, declared_versions, file_states, link_files
from day0.source.model_folder import SourceModel, check_model_folder, open_source
from day0.source.recorded_files import hash_files, write_states_beside
from day0.source.side_files import secret_in_declarations


def read_recipe(text: str) -> ResolvedRecipe:
    """The recipe of kind imported that the plan hands over.

    Raises:
        UnusableInput: it is none.
    """
    try:
        recipe = ResolvedRecipe.model_validate(json_argument("--recipe-json", text))
    except ValidationError as error:
        raise UnusableInput("\n".join(mistakes_of(error, ResolvedRecipe, "--recipe-json"))) from None
    if recipe.checkpoint is None:
        raise UnusableInput(f"--recipe-json: found kind {recipe.kind!r}; expected 'imported', with a checkpoint")
    return recipe


def import_checkpoint(source: SourceModel, recipe: ResolvedRecipe, output: Path) -> tuple[Quantization, FileStates]:
    """Link the checkpoint's files into a folder, hash them once, and record them.

    The record of the same bytes is the same, whenever it is made.

    Args:
        source: the model that the checkpoint was made of.
        recipe: of kind imported.
        output: empty folder.

    Raises:
        UnusableInput: the folder is no checkpoint, or changed while it was read.
        OSError: a file cannot be read.
    """
    folder = Path(str(recipe.checkpoint))
    if problem := check_model_folder(str(folder)):
        raise UnusableInput(problem)
    if problem := secret_in_declarations(folder):
        raise UnusableInput(problem)
    names, left = carried_files(folder, source.trust_remote_code)
    for name, why in left.items():
        print(f"left behind: {name}: {why}", flush=True)
    before = file_states(folder / name for name in names)
    link_files(folder, names, output)
    files, states = hash_files(output, names)
    after = file_states(folder / name for name in names)
    if changed := [name for name in before if before[name] != after[name]]:
        raise UnusableInput(f"{changed[0]} changed while it was read; rerun once the checkpoint is complete")
    record = new_record(source, recipe).model_copy(
        update={
            "versions": declared_versions(folder),
            "files": files,
            "checkpoint_digest": digest_of_files(files),
        }
    )
    return record, states


def new_record(source: SourceModel, recipe: ResolvedRecipe) -> Quantization:
    """The record of a checkpoint of which nothing is known yet."""
    return Quantization.begun(
        model=source.name,
        source_digest=source.digest,
        recipe=RecordedRecipe(**recipe.as_plain()),
        kv_cache=None,
        calibration=None,
        seed=None,
        device=None,
        versions={},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="source.json of the model that it was made of")
    parser.add_argument("--recipe-json", required=True, help="the recipe of kind imported, as the plan hands it over")
    parser.add_argument("--output", type=Path, required=True, help="folder of links to make; replaced if it exists")
    parser.add_argument("--record", type=Path, required=True, help="quantization.json to write")
    arguments = parser.parse_args()

    source, recipe = open_source(arguments.source), read_recipe(arguments.recipe_json)
    shutil.rmtree(arguments.output, ignore_errors=True)
    arguments.record.unlink(missing_ok=True)
    arguments.output.mkdir(parents=True)
    try:
        record, states = import_checkpoint(source, recipe, arguments.output)
        write_states_beside(arguments.record, states)
        print(f"{arguments.output}: {len(record.files)} files of {recipe.checkpoint}, made elsewhere")
    except (OSError, UnusableInput) as error:
        shutil.rmtree(arguments.output)
        arguments.output.mkdir()
        record = new_record(source, recipe)
        record.status, record.failure_class = "failed", FailureClass.USER_CONFIG_ERROR
        record.detail = f"the checkpoint cannot be imported: {error}"
        print(record.detail, file=sys.stderr)
    record.write(arguments.record)
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
