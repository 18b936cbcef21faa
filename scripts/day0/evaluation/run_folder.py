"""A run's folder: results.yml and samples/, from what one server, or the servers of several shards, answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of, digest_of_file, write_yaml
from day0.evaluation.early_stopping import joined
from day0.evaluation.results import (
    accounting_of,
    fingerprint_of,
    merge_outcomes,
    results_document,
    samples_of,
    task_failure,
)
from day0.records.attempts import Attempts, AttemptStatus, EvaluationAttempt
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import FailureClass
from day0.records.part import Part
from day0.records.results import Accounting, Dataset, RunMetadata, ShardMetadata
from day0.records.samples import write_samples
from day0.records.speed import SPEED

ATTEMPTS = "attempts.json"
# In these all shards of a run must be served alike.
SERVED_ALIKE = (
    "engine",
    "engine_version",
    "quantization",
    "dtype",
    "kv_cache_dtype",
    "device",
    "device_name",
    "attention_backend",
    "kernels",
)


def open_attempt(folder: Path, identity: str, started: str) -> Attempts:
    """Note in a run's folder that an attempt begins, which is the last of those that are returned.

    An attempt that is still noted as running was killed. Attempts of another definition are forgotten.

    Args:
        identity: digest of what is evaluated and how.
        started: ISO 8601.

    Raises:
        UnusableInput: the note of earlier attempts cannot be read.
    """
    path = folder / ATTEMPTS
    known = Attempts.read(path) if path.is_file() else None
    former = known.attempts if known and known.identity == identity else []
    killed = {"status": "KILLED"}
    attempts = [entry.model_copy(update=killed) if entry.status == "RUNNING" else entry for entry in former]
    attempts.append(EvaluationAttempt(started=started, status="RUNNING", detail=None, seconds=None))
    noted = Attempts(identity=identity, attempts=attempts)
    noted.write(path)
    return noted


def close_attempt(folder: Path, attempts: Attempts, status: AttemptStatus, detail: str | None, seconds: float) -> None:
    """Note how the last attempt ended; ``seconds`` is how long it ran."""
    last = attempts.attempts[-1]
    attempts.attempts[-1] = last.model_copy(update={"status": status, "detail": detail, "seconds": seconds})
    attempts.write(folder / ATTEMPTS)


def write_run(folder: Path, suite: Mapping[str, Any], parts: Sequence[Part], command: str) -> dict[str, Any]:
    """Write samples and, where it was asked for, speed.json, then results.yml; returns results.yml's content.

    Args:
        suite: the suite, with every default filled in.
        parts: of every shard, all of one run; one for a run that is not split.
        command: of the process that writes.
    """
    outcomes = {
        name: merge_outcomes([part.outcomes.get(name) for part in parts if name in part.tasks])
        for name in suite["tasks"]
    }
    found = [part.failure for part in parts if part.failure]
    found += _unlike_shards(parts)
    if not found:
        found = [entry for name in suite["tasks"] if (entry := task_failure(name, outcomes[name]))]
    samples = folder / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir(parents=True)
    for name in suite["tasks"]:
        write_samples(samples / f"{name}.jsonl", samples_of(outcomes[name] or {}, f"task {name}"))
    first = parts[0]
    server = first.server.model_dump(mode="json", exclude_unset=True) if first.server else {}
    details = dict.fromkeys(detail for _, detail in found)
    stop = None if found else joined([part.early_stop for part in parts])
    accounting = {
        name: Accounting(**accounting_of(task, outcomes[name] or {})) for name, task in suite["tasks"].items()
    }
    if stop:
        details = {stop_sentence(stop, accounting): None}
    metadata = RunMetadata(
        status="FAILED" if found else "STOPPED_EARLY" if stop else "COMPLETED",
        failure_class=found[0][0] if found else None,
        detail="; ".join(details) or f"all {len(suite['tasks'])} tasks of suite {first.identity.suite} completed",
        **first.identity.as_plain(),
        suite_digest=digest_of(suite),
        accounting=accounting,
        requests={name: (outcomes[name] or {}).get("requests") for name in suite["tasks"]},
        fingerprint={
            name: fingerprint_of(suite, task, outcomes[name] or {}, server)
            for name, task in suite["tasks"].items()
            if not stop or (outcomes[name] or {}).get("samples")
        },
        datasets={
            name: [Dataset(**one) for one in found_in]
            for name in suite["tasks"]
            if (found_in := (outcomes[name] or {}).get("datasets"))
        },
        timing=first.timing,
        canary=first.canary,
        server=first.server or {},
        incidents=[incident for part in parts for incident in part.incidents],
        attempts=first.attempts,
        shards=[
            ShardMetadata(shard=part.shard, timing=part.timing, canary=part.canary, attempts=part.attempts)
            for part in parts
            if part.shard
        ],
        versions=first.versions,
    )
    if stop:
        metadata = metadata.model_copy(update={"early_stop": stop})
    (folder / SPEED).unlink(missing_ok=True)
    if speed := next((part.speed for part in parts if part.speed), None):
        speed.write(folder / SPEED)
        metadata = metadata.model_copy(update={"speed_digest": digest_of_file(folder / SPEED)})
    document = results_document(
        suite=suite,
        model=first.identity.model,
        endpoint_url=first.endpoint_url,
        command=command,
        output_dir=str(folder),
        outcomes={name: outcome or {} for name, outcome in outcomes.items()},
        metadata=metadata.as_metadata(),
    )
    write_yaml(folder / "results.yml", document)
    return document


def stop_sentence(stop: EarlyStop, accounting: Mapping[str, Accounting]) -> str:
    """How far a run came that was stopped early, and by what."""
    asked = sum(entry.asked or 0 for entry in accounting.values())
    planned = [entry.expected for entry in accounting.values()]
    of = f" of {sum(count or 0 for count in planned):,}" if None not in planned else ""
    return f"stopped early: {asked:,}{of} samples asked; {stop.end} by {', '.join(stop.tasks_decided)}"


def _unlike_shards(parts: Sequence[Part]) -> list[tuple[FailureClass, str]]:
    found = []
    for field in SERVED_ALIKE:
        values = {part.shard: getattr(part.server, field, None) for part in parts if not part.failure}
        if len({json.dumps(value) for value in values.values()}) > 1:
            shown = ", ".join(f"{shard} {value!r}" for shard, value in values.items())
            detail = f"the shards of this run were served differently: {field} is {shown}"
            found.append((FailureClass.NOT_COMPARABLE, detail))
    return found
