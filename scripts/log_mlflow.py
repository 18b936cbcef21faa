"""Log a release with MLflow: parameters, metrics per task, evidence and tags; afterwards its decision.

Without --verdict, a run is made from the evidence and its id recorded; a run that was made from the same evidence is
taken up again. With --verdict, that run gets the decision as tags, the verdict and the report, and is ended. Logging
decides nothing: where it fails, that is recorded, and the graph goes on.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from day0.base.artefacts import digest_of, digest_of_file, read_json
from day0.base.cli import json_argument, run_cli
from day0.records.tracking import Tracking
from day0.records.verdict import Verdict
from day0.release.speed_section import MEASURES

LONGEST_VALUE = 5000
RELEASE_TAG, EVIDENCE_TAG = "day0.release", "day0.evidence_digest"


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def safe_key(name: str) -> str:
    """A name that MLflow takes for a parameter, metric or tag."""
    return re.sub(r"[^\w. /-]", "_", name)


def get_params(release: Mapping[str, Any], evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What was asked for."""
    values = flatten({key: release.get(key) for key in ("model", "name", "recipe", "suite", "policy")})
    values["release"] = values.pop("name")
    values["criterion"] = evidence.get("comparison", {}).get("criterion", values.get("policy.criterion"))
    return {safe_key(key): str(value)[:LONGEST_VALUE] for key, value in values.items() if value is not None}


def get_metrics(evidence: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What was measured: size, precision, ratios of speed, and per task the scores, the drop and the paired counts."""
    validation, comparison = evidence.get("validation", {}), evidence.get("comparison", {})
    values = {key: validation.get(key) for key in ("size_ratio", "bits_per_weight", "output_bytes", "source_bytes")}
    for task, entry in (comparison.get("tasks") or {}).items():
        paired = entry.get("paired") or {}
        values |= {f"{task}/{key}": entry.get(key) for key in ("baseline", "candidate", "drop", "limit")}
        values |= {f"{task}/{key}": paired.get(key) for key in ("samples", "wins", "losses", "mcnemar_p")}
        low, high = paired.get("interval") or (None, None)
        values |= {f"{task}/drop_interval_low": low, f"{task}/drop_interval_high": high}
    speed = comparison.get("speed") or {}
    values |= {"speed/is_native": speed.get("is_native")}
    for name in MEASURES:
        measure = speed.get(name) or {}
        low, high = measure.get("interval") or (None, None)
        values |= {f"speed/{name}_ratio": measure.get("ratio")}
        values |= {f"speed/{name}_ratio_low": low, f"speed/{name}_ratio_high": high}
    numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
    return {safe_key(key): float(value) for key, value in numbers.items()}


def connect(settings: Mapping[str, Any]) -> tuple[Any, str]:
    """MLflow's client and the experiment's id; the experiment is made where there is none.

    Artefacts of a local database go beside it. MLflow opens a folder (its file store) only on request.
    """
    if urlsplit(settings["tracking_uri"]).scheme in ("", "file"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=settings["tracking_uri"])
    name = settings["experiment"]
    found = client.get_experiment_by_name(name)
    if found:
        return client, found.experiment_id
    location = None
    if settings["tracking_uri"].startswith("sqlite:///"):
        database = Path(settings["tracking_uri"].removeprefix("sqlite:///")).resolve()
        location = (database.parent / "mlflow-artifacts" / name).as_uri()
    try:
        return client, client.create_experiment(name, artifact_location=location)
    except MlflowException:
        # Another release may have made it in the meantime.
        return client, client.get_experiment_by_name(name).experiment_id


def log_evidence(settings: Mapping[str, Any], release: Mapping[str, Any], paths: Mapping[str, str]) -> tuple[str, str]:
    """Make the run of this evidence, or take it up again; returns the ids of the run and its experiment."""
    evidence = {name: read_json(path) for name, path in paths.items()}
    digest = digest_of({name: digest_of_file(path) for name, path in paths.items()})
    client, experiment = connect(settings)
    same = f"tags.`{EVIDENCE_TAG}` = '{digest}'"
    runs = client.search_runs([experiment], same, max_results=1)
    title = f"{release['model']}/{release['name']}"
    run = runs[0] if runs else client.create_run(experiment, run_name=title)
    identifier = run.info.run_id
    for key, value in get_params(release, evidence).items():
        client.log_param(identifier, key, value)
    for key, value in get_metrics(evidence).items():
        client.log_metric(identifier, key, value)
    for name, path in paths.items():
        client.log_artifact(identifier, path, f"evidence/{name}")
    for key, value in {RELEASE_TAG: title, EVIDENCE_TAG: digest}.items():
        client.set_tag(identifier, key, value)
    return identifier, experiment


def log_decision(settings: Mapping[str, Any], run: str, verdict: Mapping[str, Any], files: list[Path]) -> None:
    """Tag the run with the decision, add the verdict and the report, and end it."""
    client, _ = connect(settings)
    for key in ("decision", "failure_class", "stage", "git_commit"):
        client.set_tag(run, f"day0.{key}", str(verdict.get(key)))
    for key, value in (verdict.get("digests") or {}).items():
        client.set_tag(run, f"day0.{key}", str(value))
    for file in files:
        client.log_artifact(run, str(file))
    client.set_terminated(run, "FINISHED")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help="JSON: tracking_uri, experiment")
    parser.add_argument("--release", help="JSON: model, name, recipe, suite, policy")
    parser.add_argument("--evidence", help='JSON: {"validation": PATH, ...}')
    parser.add_argument("--run", type=Path, help="mlflow.json of the run, to log the decision")
    parser.add_argument("--verdict", type=Path, help="verdict.json, to log the decision")
    parser.add_argument("--report", type=Path, help="report.html, to log with the decision")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write: status, detail and the run's id")
    arguments = parser.parse_args()
    if not (arguments.verdict and arguments.run) and not (arguments.release and arguments.evidence):
        parser.error("give --release and --evidence, or --run and --verdict")

    settings = json_argument("--settings", arguments.settings)
    place = {key: settings.get(key) for key in ("tracking_uri", "experiment")}
    record = Tracking(**place, run_id=None, status="logged", detail="")
    if arguments.verdict:
        verdict, logged = Verdict.read(arguments.verdict), Tracking.read(arguments.run)
        record.run_id, record.status, record.detail = logged.run_id, logged.status, logged.detail
        record.decision = verdict.decision
    else:
        release = json_argument("--release", arguments.release)
        evidence = json_argument("--evidence", arguments.evidence)
    try:
        if not arguments.verdict:
            record.run_id, record.experiment_id = log_evidence(settings, release, evidence)
        elif record.status == "logged" and record.run_id:
            files = [arguments.verdict, *filter(None, [arguments.report])]
            log_decision(settings, record.run_id, verdict.as_plain(), files)
    except Exception as error:
        # Anything that the server or its client raises: a release must not wait for its log.
        record.status, record.detail = "failed", f"{type(error).__name__}: {str(error)[:500]}"
    record.write(arguments.output)
    print(f"{arguments.output}: {record.status} {record.run_id or ''}{record.detail}")
    return 0


if __name__ == "__main__":
    run_cli(main)
