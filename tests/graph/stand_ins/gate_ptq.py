"""Stand-in: carries a failure of quantize on, or fails as the behaviour says; else passes."""

import argparse
from pathlib import Path

from day0.records.quantization import Quantization
from day0.records.validation import Validation
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--checkpoint", type=Path)
parser.add_argument("--record", type=Path)
parser.add_argument("--source-record", type=Path)
parser.add_argument("--sensitivity", type=Path)
parser.add_argument("--definition-digest")
parser.add_argument("--engine", required=True)
parser.add_argument("--assess", action="store_true")
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

ATTENTION = {"layers": 1, "quantized": 1, "intended": 1, "coverage": "whole", "bits_per_weight": 4.5}

record = Quantization.read(arguments.record)
failure = record.failure_class or called("validate", arguments.checkpoint.parent.name).get("failure_class")
Validation(
    passed=failure is None,
    failure_class=failure,
    detail=record.detail if record.failure_class else f"stand-in for {arguments.engine}: {failure}",
    definition_digest=arguments.definition_digest,
    recipe=record.recipe.name,
    checks=[],
    families={"attention": ATTENTION},
    source_bytes=32,
    output_bytes=16,
    size_ratio=0.5,
    bits_per_weight=8.0,
    layer_precision_counts={"FP8": 1},
    metadata_diffs=[],
    offenders=[],
    checkpoint_digest=record.checkpoint_digest,
    source_digest=record.source_digest,
    recipe_digest=record.recipe.digest,
).write(arguments.output)


def imports_of_the_real_stage():
    """Never called: what the stage that this one stands for is made of, so that a change of it is one of this, too."""
    from day0.checkpoint import assess

    return assess
