"""Decide on a release from its assessments and write the verdict.

The evidence is a JSON object of names and paths, in the graph's order; the rule of decision is in
day0/decision/verdict.py. Where a recipe is proven to have lost, a configuration that searches on from it is written
beside the verdict (day0/search/next_search.py). Every decision is added to history.jsonl beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from day0.base.artefacts import digest_of_file, write_yaml
from day0.base.cli import UnusableInput, json_argument, run_cli
from day0.base.mistakes import mistakes_of
from day0.checkpoint.intentions import kv_format_of
from day0.decision.chain import Evidence
from day0.decision.verdict import ReleaseRequest, make_verdict
from day0.records.comparison import Comparison
from day0.records.failure_class import Decision
from day0.records.history import write_verdict
from day0.records.preflight import Preflight
from day0.records.quantization import Quantization
from day0.records.record import Artefact
from day0.records.run import RunAssessment
from day0.records.search import Search
from day0.records.sensitivity import Sensitivity
from day0.records.tracking import Tracking
from day0.records.validation import Validation
from day0.records.verdict import Verdict
from day0.release.made_with import gather, stamp
from day0.search.next_search import FILE, next_search

Read = TypeVar("Read", bound=Artefact)

TYPES: dict[str, type[Artefact]] = {
    "search": Search,
    "preflight_model": Preflight,
    "preflight_recipe": Preflight,
    "preflight_suite": Preflight,
    "validation": Validation,
    "baseline_run": RunAssessment,
    "candidate_run": RunAssessment,
    "comparison": Comparison,
}


def read_release(text: str) -> ReleaseRequest:
    """The release as the command line gives it.

    Raises:
        UnusableInput: it is no JSON, or not what the type says; all mistakes are named.
    """
    try:
        return ReleaseRequest.model_validate(json_argument("--release", text))
    except ValidationError as error:
        lines = mistakes_of(error, ReleaseRequest)
        raise UnusableInput("\n".join(f"--release: {line}" for line in lines)) from None


def read_evidence(paths: Mapping[str, str]) -> dict[str, Evidence]:
    """The assessments at these paths, by the names of STAGES.

    Raises:
        UnusableInput: one is missing, of another version, or not what its type says.
    """
    contents = {name: TYPES[name].read(path).as_plain() for name, path in paths.items()}
    return {name: Evidence(path, digest_of_file(path), contents[name]) for name, path in paths.items()}


def add_next_search(
    release: ReleaseRequest, verdict: Verdict, evidence: Mapping[str, Evidence], measured: Path | None
) -> dict[str, Any] | None:
    """Say in a verdict's next action what to protect and search next; returns the configuration of that search.

    It is advice and decides nothing, so that a record which cannot be read counts as none.

    Args:
        measured: sensitivity.json of the model; it may be missing.
    """
    if verdict.decision is not Decision.REGRESSION or "validation" not in evidence:
        return None
    record = read_or_none(Quantization, Path(evidence["validation"].path).with_name("quantization.json"))
    kv_format, _ = kv_format_of(record.recipe.quant_cfg) if record is not None else (None, False)
    sensitivity = read_or_none(Sensitivity, measured) if measured is not None else None
    found = next_search(
        release, verdict, evidence["validation"].content, sensitivity, kv_format if isinstance(kv_format, str) else None
    )
    if found is None:
        return None
    verdict.next_action += found.sentences
    return found.configuration


def read_or_none(kind: type[Read], path: Path) -> Read | None:
    """A record, or None where there is none that can be read."""
    try:
        return kind.read(path)
    except UnusableInput:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--release", required=True, help="JSON: name, model, recipe, candidate, suite, policy, external, warnings"
    )
    parser.add_argument("--evidence", required=True, help='JSON: {"validation": PATH, ...}')
    parser.add_argument(
        "--baseline-run",
        nargs=2,
        metavar=("FILE", "SHA256"),
        help="run.json of the baseline where the evidence ends before it; left out where it is another by now",
    )
    parser.add_argument(
        "--sensitivity", type=Path, help="sensitivity.json of the model; advice goes by it if it is there"
    )
    parser.add_argument("--mlflow", type=Path, help="mlflow.json: the run that the evidence was logged as")
    parser.add_argument("--output", type=Path, required=True, help="verdict.json to write")
    arguments = parser.parse_args()

    release = read_release(arguments.release)
    paths = json_argument("--evidence", arguments.evidence)
    unknown = sorted(paths.keys() - TYPES.keys())
    if unknown:
        raise UnusableInput(f"--evidence: unknown: {', '.join(unknown)}; expected some of {', '.join(TYPES)}")
    if not all(isinstance(path, str) for path in paths.values()):
        raise UnusableInput(f"--evidence: expected a path for each name, found {paths}")
    if arguments.baseline_run and "baseline_run" not in paths:
        path, digest = arguments.baseline_run
        if Path(path).is_file() and digest_of_file(path) == digest:
            paths["baseline_run"] = path
    evidence = read_evidence(paths)
    made = gather(paths) | stamp()
    if arguments.mlflow:
        made["mlflow"] = Tracking.read(arguments.mlflow)
    verdict = make_verdict(release, evidence).model_copy(update=made)
    searching = add_next_search(release, verdict, evidence, arguments.sensitivity)
    arguments.output.with_name(FILE).unlink(missing_ok=True)
    if searching is not None:
        write_yaml(arguments.output.with_name(FILE), searching)
    write_verdict(arguments.output, verdict)
    print(f"{release.model} {release.name}: {verdict.decision}: {verdict.detail}")
    return 0


if __name__ == "__main__":
    run_cli(main)
