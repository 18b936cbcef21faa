"""Assess a quantized checkpoint against its source: size, coverage, declarations, scales, inventory and metadata.

Reads safetensors headers, scalar scales and the small JSON files; with ``--deep`` all block scales and FP8 weights too.
With the record of the quantize stage the
recipe's own patterns are held against what was quantized. ``--summary`` decides on a summary alone. Prints the
assessment as JSON; exits 0 for pass, 1 for a failed check, 2 for unusable input.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from day0.artefacts import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, read_json, run_cli, write_json
from day0.checkpoint import assess_checkpoint, evaluate_checkpoint


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--source", type=Path, help="folder of the source model; by default the one of --source-record")
    parser.add_argument("--recipe", help="name or file of the recipe; by default the record's")
    parser.add_argument("--record", type=Path, help="quantization.json of the quantize stage")
    parser.add_argument("--source-record", type=Path, help="source.json")
    parser.add_argument("--summary", type=Path, help="decide on this summary (JSON) instead of a folder")
    parser.add_argument("--definition-digest", help="digest of what defines the candidate, carried into the assessment")
    parser.add_argument("--engine", choices=("vllm",), help="check that this engine takes the checkpoint, by a table")
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
    if arguments.assess and arguments.output is None:
        parser.error("--assess records the assessment: give --output")
    return arguments


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
    name = (
        Path(arguments.recipe).stem
        if arguments.recipe and arguments.recipe.endswith((".yaml", ".yml"))
        else arguments.recipe
    )
    assessment = assess_checkpoint(arguments.checkpoint, Path(folder), record, name, arguments.deep, arguments.engine)
    return {
        **assessment,
        "checkpoint_digest": record.get("checkpoint_digest") if record else None,
        "source_digest": (record or {}).get("source_digest") or source_record.get("digest"),
        "recipe_digest": recipe.get("digest"),
    }


def main() -> int:
    arguments = parse_arguments()
    if arguments.summary is not None:
        try:
            assessment = evaluate_checkpoint(read_json(arguments.summary))
        except UnusableInput as error:
            text = str(error)
            raise UnusableInput(
                text if text.startswith(str(arguments.summary)) else f"{arguments.summary}: {text}"
            ) from error
    else:
        assessment = assess(arguments)
    if arguments.definition_digest:
        assessment["definition_digest"] = arguments.definition_digest
    if arguments.output:
        write_json(arguments.output, assessment)
    print(json.dumps(assessment, indent=2, ensure_ascii=False))
    return EXIT_PASS if assessment["pass"] or arguments.assess else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_cli(main)
