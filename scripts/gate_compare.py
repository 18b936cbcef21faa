"""Compare a candidate with its baseline, task by task, and print the decision as JSON.

Each side is a run folder, a results.yml, a run.json or a JSON file of {task: score}. Runs are compared with the checks
of comparability and the paired evidence of their samples (day0/decision/comparison.py, day0/statistics/paired.py);
plain scores, and runs that do not say how they were made, are compared as numbers only.

Exit status: 0 within the limits, 1 not (a regression, or runs that cannot be compared), 2 unusable input.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of_file, read_json, read_json_lines, read_yaml
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, EXIT_UNUSABLE_INPUT, UnusableInput, run_cli
from day0.base.mistakes import is_file_name
from day0.base.numbers import mapping_or_empty
from day0.base.parsing import Unparsable, parse_json
from day0.decision.comparability import Run
from day0.decision.comparison import compare_runs, evaluate_comparison
from day0.decision.external import parse_external_scores
from day0.decision.policy import POLICY_KEYS
from day0.decision.stopped_comparison import compare_stopped_run
from day0.records.comparison import ScoreComparison
from day0.records.failure_class import FailureClass
from day0.records.policy import DEFAULT_THRESHOLD
from day0.records.record import AGAIN
from day0.records.results import read_metadata
from day0.records.run import RunAssessment
from day0.records.source import Source
from day0.records.speed import SPEED, Speed

SCORE_POLICY_KEYS = set(POLICY_KEYS) - {
    "criterion",
    "early_stopping",
    "expected_disagreement_rate",
    "max_token_growth",
    "min_speedup",
    "require_fingerprints",
}


@dataclass(frozen=True)
class Side:
    """One side of the comparison as it was read: plain scores or a run, and the sha256 of the file judged."""

    sha256: str
    scores: dict[str, Any]
    run: Run | None = None


def read_side(path: Path, metrics: Mapping[str, str]) -> Side:
    """Read a run folder, results.yml, run.json or {task: score} file.

    Raises:
        UnusableInput: nothing of the kind lies there, or a task has several scores and ``metrics`` names none.
    """
    if path.is_dir():
        found = [path / name for name in ("results.yml", "run.json") if (path / name).is_file()]
        if not found:
            raise UnusableInput(f"{path}: expected a run folder, found neither results.yml nor run.json in it")
        return _read_run(path, metrics)
    if path.suffix in (".yml", ".yaml"):
        return _read_run(path.parent, metrics, results=path)
    content = read_json(path)
    if isinstance(content.get("scores"), Mapping) and "pass" in content:
        return _read_run(path.parent, metrics, assessment=path)
    if "schema_version" in content and "pass" in content:
        raise UnusableInput(f"{path}: expected a run.json with scores or a mapping of task to score; found neither")
    return Side(digest_of_file(path), content)


def _read_run(
    folder: Path, metrics: Mapping[str, str], results: Path | None = None, assessment: Path | None = None
) -> Side:
    results = results or folder / "results.yml"
    if assessment is None and results.name == "results.yml":
        assessment = folder / "run.json"
    content = read_yaml(results) if results.is_file() else {}
    metadata = read_metadata(content, results)
    if assessment is not None and assessment.is_file():
        judged, report = assessment, RunAssessment.read(assessment).as_plain()
        recorded = report["results_digest"]
        if recorded is not None and results.is_file() and digest_of_file(results) != recorded:
            raise UnusableInput(
                f"{assessment}: results_digest: found {recorded}, expected that of {results}, which changed since it "
                f"was assessed; {AGAIN}"
            )
    else:
        judged, report = results, _assessment_of_results(results, content, metadata, metrics)
    scores = mapping_or_empty(report.get("scores"))
    plain = {task: entry.get("score") if isinstance(entry, Mapping) else entry for task, entry in scores.items()}
    outside = [task for task in scores if not is_file_name(task)]
    if outside:
        raise UnusableInput(
            f"{judged}: scores: no samples file can have the name {outside[0]!r:.200}; expected no '/' and no dot first"
        )
    samples = {task: _read_samples(folder / "samples" / f"{task}.jsonl") for task in scores}
    speed = _read_speed(folder / SPEED, report.get("speed_digest"))
    return Side(digest_of_file(judged), plain, Run(report, metadata, samples, speed))


def _read_speed(path: Path, recorded: str | None) -> Speed | None:
    """The speed of a run, which names its digest; None where the run was not put under load."""
    if recorded is None:
        return None
    found = digest_of_file(path) if path.is_file() else "no such file"
    if found != recorded:
        raise UnusableInput(
            f"{path}: sha256: found {found}, expected {recorded}, which its run names; measure again by `snakemake "
            f"--force {path.with_name('results.yml')}`"
        )
    return Speed.read(path)


def _assessment_of_results(
    path: Path, content: Mapping[str, Any], metadata: Mapping[str, Any], metrics: Mapping[str, str]
) -> dict[str, Any]:
    """What a results.yml without a run.json records: its scores, and failed unless COMPLETED (or silent)."""
    tasks = (content.get("results") or {}).get("tasks") if isinstance(content.get("results"), Mapping) else None
    if not isinstance(tasks, Mapping):
        raise UnusableInput(f"{path}: results.tasks: expected a mapping of tasks, found {type(tasks).__name__}")
    scores = {}
    for task, entry in tasks.items():
        found: dict[str, Any] = {}
        values = entry.get("metrics") if isinstance(entry, Mapping) else None
        for metric, held in (values if isinstance(values, Mapping) else {}).items():
            parts = held.get("scores") if isinstance(held, Mapping) else None
            for name, score in (parts if isinstance(parts, Mapping) else {}).items():
                value = score.get("value") if isinstance(score, Mapping) else score
                found[metric if name == metric else f"{metric}.{name}"] = value
        chosen = metrics.get(task) or (next(iter(found)) if len(found) == 1 else None)
        if chosen not in found:
            raise UnusableInput(
                f"{path}: task {task!r}: expected one score or --metric {task}=NAME; found {sorted(found) or 'none'}"
            )
        scores[str(task)] = {"metric": chosen, "score": found[chosen]}
    status = metadata.get("status", "COMPLETED")
    return {
        "pass": status == "COMPLETED",
        "failure_class": None if status == "COMPLETED" else metadata.get("failure_class") or FailureClass.UNKNOWN,
        "detail": metadata.get("detail") or f"its status is {status}",
        "scores": scores,
        **{key: metadata[key] for key in ("model", "suite", "speed_digest") if key in metadata},
    }


def _read_samples(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(path)] if path.is_file() else []


def _json_argument(name: str, text: str | None) -> Any:
    """JSON given on the command line, or in the file that the argument names."""
    if not text:
        return None
    if not text.lstrip().startswith(("{", "[")) and Path(text).is_file():
        return read_json(text)
    try:
        return parse_json(text)
    except Unparsable as error:
        raise UnusableInput(f"--{name}: expected JSON or a JSON file, found {text[:300]!r}: {error}") from error


def _external_scores(text: str | None, models: list[str]) -> list[dict[str, Any]]:
    """Published scores of the models of these names, or all that are given where none is named."""
    if text is None:
        return []
    is_yaml = text.endswith((".yaml", ".yml")) and Path(text).is_file()
    content = read_yaml(text) if is_yaml else _json_argument("external", text)
    if not isinstance(content, dict):
        raise UnusableInput(f"--external: expected an object with a list 'scores', found {text!r}")
    scores = parse_external_scores(content, text if is_yaml else "--external")
    return scores.of_model(*(models or {entry.model for entry in scores.scores}))


def compare_files(
    baseline: Path, candidate: Path, policy: Mapping[str, Any], source: Source, external: list[dict[str, Any]]
) -> ScoreComparison:
    """The comparison of two assessed runs, by their run.json, as the graph makes it.

    Raises:
        UnusableInput: a file of a run cannot be read.
    """
    sides = [read_side(path, {}) for path in (baseline, candidate)]
    if any(side.run is None for side in sides):
        raise UnusableInput(f"{baseline}, {candidate}: expected two assessed runs")
    return _compared(*sides, policy, source.as_plain(), external)


def _compared(
    baseline: Side, candidate: Side, policy: Any, source: Mapping[str, Any] | None, external: list[dict[str, Any]]
) -> ScoreComparison:
    """The comparison of two runs, with the digests of the files that were judged."""
    assert baseline.run and candidate.run
    was_stopped = candidate.run.assessment.get("early_stop") is not None
    make = compare_stopped_run if was_stopped else compare_runs
    return make(baseline.run, candidate.run, policy, source, external).model_copy(
        update={"baseline_sha256": baseline.sha256, "candidate_sha256": candidate.sha256}
    )


def compare(arguments: argparse.Namespace) -> ScoreComparison:
    """The comparison that the command line asks for."""
    policy = _json_argument("policy", arguments.policy)
    if policy is None:
        policy = {"threshold": arguments.threshold, "relative": arguments.relative}
    elif arguments.threshold != DEFAULT_THRESHOLD or arguments.relative:
        raise UnusableInput("--policy holds threshold and relative; give it alone, or only --threshold and --relative")
    scales = _json_argument("scales", arguments.scales)
    if scales is not None and isinstance(policy, dict):
        policy = {**policy, "scales": scales}
    metrics = dict(item.split("=", 1) for item in arguments.metric if "=" in item)
    if len(metrics) != len(arguments.metric):
        raise UnusableInput(f"--metric: expected TASK=METRIC, once per task; found {arguments.metric}")
    baseline, candidate = (read_side(path, metrics) for path in (arguments.baseline, arguments.candidate))
    source = Source.read(arguments.source_record).as_plain() if arguments.source_record else None
    external = _external_scores(arguments.external, arguments.model)
    if baseline.run and candidate.run:
        described = any(side.run.metadata.get("fingerprint") for side in (baseline, candidate))
        if not (described or arguments.assess) and isinstance(policy, dict):
            policy = {"require_fingerprints": False, **policy}
        return _compared(baseline, candidate, policy, source, external)
    elif arguments.assess:
        raise UnusableInput("--assess compares two runs; give run folders, results.yml or run.json on both sides")
    elif source is not None or external:
        raise UnusableInput("--source-record and --external describe a run; give run folders or results.yml")
    elif not isinstance(policy, dict) or not set(policy) <= SCORE_POLICY_KEYS:
        keys = ", ".join(sorted(SCORE_POLICY_KEYS))
        raise UnusableInput(f"--policy: expected a JSON object with some of {keys} for plain scores; found {policy}")
    else:
        result = evaluate_comparison(baseline.scores, candidate.scores, **policy)
    return result.model_copy(update={"baseline_sha256": baseline.sha256, "candidate_sha256": candidate.sha256})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, required=True, help="run folder, results.yml, run.json or scores")
    parser.add_argument("--candidate", type=Path, required=True, help="likewise")
    parser.add_argument(
        "--threshold", type=float, default=DEFAULT_THRESHOLD, help="allowed drop, a fraction of the scale (%(default)s)"
    )
    parser.add_argument("--relative", action="store_true", help="the threshold is a fraction of the baseline's score")
    parser.add_argument("--scales", help='JSON or file: {"task": 100, "other": {"min": -100, "max": 100}}')
    parser.add_argument("--policy", help=f"JSON or file: {', '.join(POLICY_KEYS)}")
    parser.add_argument("--source-record", type=Path, help="source.json: says in which precision the baseline stands")
    parser.add_argument("--external", help="JSON or file of published scores, as config/external_scores.yaml")
    parser.add_argument("--model", action="append", default=[], help="name of the model in --external; default: all")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="TASK=METRIC", help="score of a task that has several"
    )
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    parser.add_argument("--assess", action="store_true", help="exit 0 also where the check failed and is recorded")
    arguments = parser.parse_args()
    if arguments.assess and not arguments.output:
        raise UnusableInput("--assess records the result; give --output FILE")

    result = compare(arguments)
    if arguments.output:
        result.write(arguments.output)
    print(json.dumps(result.as_plain(), indent=2, ensure_ascii=False, allow_nan=False))
    if result.passed or arguments.assess:
        return EXIT_PASS
    return EXIT_UNUSABLE_INPUT if result.failure_class is FailureClass.USER_CONFIG_ERROR else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_cli(main, unusable_as=FailureClass.USER_CONFIG_ERROR)
