"""A run's folder: results.yml and samples/, from what one server, or the servers of several shards, answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of, read_json, write_json, write_text, write_yaml
from day0.evaluation.results import (
    accounting_of,
    fingerprint_of,
    merge_outcomes,
    results_document,
    sample_lines,
    task_failure,
)

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


def open_attempt(folder: Path, identity: str, started: str) -> list[dict[str, Any]]:
    """Note in a run's folder that an attempt begins; returns all attempts, this one last.

    An attempt that is still noted as running was killed. Attempts of another definition are forgotten.

    Args:
        identity: digest of what is evaluated and how.
        started: ISO 8601.
    """
    path = folder / ATTEMPTS
    known = read_json(path) if path.is_file() else {}
    attempts = known.get("attempts") if known.get("identity") == identity else None
    attempts = [
        attempt | {"status": "KILLED"} if attempt["status"] == "RUNNING" else attempt for attempt in attempts or []
    ]
    attempts.append({"started": started, "status": "RUNNING", "detail": None, "seconds": None})
    write_json(path, {"identity": identity, "attempts": attempts})
    return attempts


def close_attempt(folder: Path, identity: str, attempts: list[dict[str, Any]], **end: Any) -> None:
    """Note how the last attempt ended: status, detail, seconds."""
    attempts[-1].update(end)
    write_json(folder / ATTEMPTS, {"identity": identity, "attempts": attempts})


def write_run(
    folder: Path,
    suite: Mapping[str, Any],
    identity: Mapping[str, Any],
    parts: Sequence[Mapping[str, Any]],
    command: str,
) -> dict[str, Any]:
    """Write samples, then results.yml; returns results.yml's content.

    Args:
        identity: model, candidate, suite (names) and checkpoint_digest.
        parts: what each shard's server and harnesses gave, one for a run that is not split: shard, failure ([class,
            sentence] or None), outcomes by task, server, canary, incidents, timing, attempts, versions, endpoint_url.
        command: of the process that writes.
    """
    outcomes = {
        name: merge_outcomes([part["outcomes"].get(name) for part in parts if name in part["tasks"]])
        for name in suite["tasks"]
    }
    found = [tuple(part["failure"]) for part in parts if part["failure"]]
    found += _unlike_shards(parts)
    if not found:
        found = [entry for name in suite["tasks"] if (entry := task_failure(name, outcomes[name]))]
    status = "FAILED" if found else "COMPLETED"
    samples = folder / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir(parents=True)
    for name in suite["tasks"]:
        lines = sample_lines(outcomes[name] or {})
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        write_text(samples / f"{name}.jsonl", text)
    first = parts[0]
    metadata = {
        "schema_version": 1,
        "status": status,
        "failure_class": found[0][0] if found else None,
        "detail": "; ".join(dict.fromkeys(detail for _, detail in found))
        or f"all {len(suite['tasks'])} tasks of suite {identity['suite']} completed",
        **identity,
        "suite_digest": digest_of(suite),
        "accounting": {name: accounting_of(task, outcomes[name] or {}) for name, task in suite["tasks"].items()},
        "requests": {name: (outcomes[name] or {}).get("requests") for name in suite["tasks"]},
        "fingerprint": {
            name: fingerprint_of(suite, task, outcomes[name] or {}, first["server"])
            for name, task in suite["tasks"].items()
        },
        "timing": first["timing"],
        "canary": first["canary"],
        "server": first["server"],
        "incidents": [incident for part in parts for incident in part["incidents"]],
        "attempts": first["attempts"],
        "shards": [
            {key: part[key] for key in ("shard", "timing", "canary", "attempts")} for part in parts if part["shard"]
        ],
        "versions": first["versions"],
    }
    document = results_document(
        suite=suite,
        model=identity["model"],
        endpoint_url=first["endpoint_url"],
        command=command,
        output_dir=str(folder),
        outcomes={name: outcome or {} for name, outcome in outcomes.items()},
        metadata=metadata,
    )
    write_yaml(folder / "results.yml", document)
    return document


def _unlike_shards(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for field in SERVED_ALIKE:
        values = {part["shard"]: part["server"].get(field) for part in parts if not part["failure"]}
        if len({json.dumps(value) for value in values.values()}) > 1:
            told = ", ".join(f"{shard} {value!r}" for shard, value in values.items())
            found.append(("NOT_COMPARABLE", f"the shards of this run were served unlike: {field} is {told}"))
    return found
