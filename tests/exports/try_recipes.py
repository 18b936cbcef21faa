"""Run every preset and recipe of ModelOpt's wheel on a model, and write what came of each, a line of JSON a recipe.

The outcomes are kept in tests/unit/checkpoint/data/recipe_support.json, which day0/checkpoint/recipe_support.py is
tested against. Run with the interpreter of the quantize environment after a change of ModelOpt's version:

    PYTHONPATH=scripts python tests/exports/try_recipes.py --model results/demo/model \
        --texts results/demo/data/calibration.jsonl --output outcomes.jsonl

Every recipe has a process of its own, a copy of one that has imported ModelOpt: a recipe changes what comes after it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

import quantize
from day0.base.artefacts import read_json
from day0.recipe.calibration import read_texts
from day0.records.recipe import Calibration
from day0.source.model_folder import SourceModel, open_source
from loaded_model import import_modelopt, load_model, make_batches

ROOT = Path(__file__).parents[2]
OUTCOMES = (
    (r"CUDA|triton", "needs CUDA"),
    (r"nothing would be quantized", "matches nothing"),
    (r"partial blocks|divisible|is invalid for input of size", "blocks do not divide"),
)


def outcome_of(definition: dict[str, Any], source: SourceModel, calibration: Calibration) -> dict[str, Any]:
    """The algorithms that a recipe's export declares, or why there is none."""
    stage = "read"
    try:
        recipe = quantize.load_configuration(definition, None)
        stage = "load"
        model, tokenizer = load_model(source, "cpu")
        stage, batches = "calibrate", None
        if quantize.needs_calibration(recipe):
            labels = recipe.auto_quantize is not None
            batches = make_batches(calibration, read_texts(calibration), tokenizer, model.device, labels)
        quantize.quantize(model, recipe, batches)
        stage = "export"
        with tempfile.TemporaryDirectory() as folder:
            quantize.export(model, source, Path(folder))
            declared = read_json(Path(folder) / "config.json").get("quantization_config", {})
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        known = (name for pattern, name in OUTCOMES if re.search(pattern, text))
        return {"outcome": next(known, f"fails to {stage}: {text[:150]}")}
    layers = [entry["quant_algo"] for entry in declared.get("quantized_layers", {}).values()]
    return {"outcome": "exported", "algorithms": sorted({name.upper() for name in layers or [declared["quant_algo"]]})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a small model with its tokenizer")
    parser.add_argument("--texts", required=True, help="calibration texts, FILE.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="file that the lines are added to")
    parser.add_argument("names", nargs="*", help="recipes; by default all of the catalogue")
    arguments = parser.parse_args()
    catalogue = read_json(ROOT / "envs" / "modelopt_catalogue.json")
    source = open_source(arguments.model)
    calibration = Calibration(dataset=arguments.texts, samples=16, sequence_length=32, batch_size=8)
    import modelopt.recipe
    import modelopt.torch.export
    import modelopt.torch.quantization  # noqa: F401

    import_modelopt()
    torch.set_num_threads(1)  # a copy of a process has none of its threads
    for name in arguments.names or [*catalogue["presets"], *catalogue["recipes"]]:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            continue
        definition = {"preset": name} if name in catalogue["presets"] else {"modelopt_recipe": name}
        line = json.dumps({"recipe": name, **outcome_of(definition, source, calibration)})
        with arguments.output.open("a") as stream:
            stream.write(line + "\n")
        os._exit(0)


if __name__ == "__main__":
    main()
