"""What a decision was made with: commit, versions of the stage environments, durations of the stages, GPU type.

Read from what lies beside the evidence; a file that is absent or unreadable leaves its part out, for nothing is decided
by it.
"""

from __future__ import annotations

import csv
import math
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.decision.quoting import printable

GPU_KEYS = ("gpu", "gpu_type", "gpu_name")
# Later than the decision, or the decision itself: a file of an earlier run would be taken for one of this run.
AFTER_THE_DECISION = frozenset({"decide_release", "render_report", "bundle_release", "log_decision", "publish_release"})
STAGE_FOLDERS = (
    ("preflight_model", "model"),
    ("validation", "candidate"),
    ("preflight_recipe", "candidate"),
    ("preflight_suite", "baseline"),
    ("baseline_run", "baseline"),
    ("candidate_run", "candidate"),
    ("comparison", "release"),
)


def stamp() -> dict[str, Any]:
    """Commit of the working tree and the time, for an artefact that is made now."""
    return {"git_commit": git_commit(), "created": datetime.now(UTC).isoformat(timespec="seconds")}


def git_commit() -> str | None:
    """Commit of the working tree, with ``-dirty`` where tracked files differ from it; None outside of git."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" * bool(changes)


def gather(evidence: Mapping[str, str | Path]) -> dict[str, Any]:
    """Facts about the making of a release from what lies beside its evidence.

    Args:
        evidence: paths of the assessments that exist, by the names of ``day0.decision.verdict.STAGES``.

    Returns:
        versions {environment: {package: version}}, durations {place/stage: seconds}, gpu (a text or None).
    """
    paths = {name: Path(path) for name, path in evidence.items()}
    record = _read(read_json, paths["validation"].parent / "quantization.json") if "validation" in paths else {}
    versions: dict[str, dict[str, str | None]] = {"driver": {"python": platform.python_version()}}
    gpus = []
    for side in ("candidate", "baseline"):
        if f"{side}_run" not in paths:
            continue
        metadata = mapping_or_empty(_read(read_yaml, paths[f"{side}_run"].parent / "results.yml").get("metadata"))
        gpus.append(_gpu(mapping_or_empty(metadata.get("server"))))
        for environment, packages in mapping_or_empty(metadata.get("versions")).items():
            if isinstance(packages, Mapping):
                found, name = _versions(packages), printable(environment)
                versions[name if versions.get(name, found) == found else f"{side} {name}"] = found
    if mapping_or_empty(record.get("versions")):
        versions["quantize"] = _versions(record["versions"])
    gpus.append(_gpu(record))
    return {
        "versions": versions,
        "durations": _durations(paths),
        "gpu": next((gpu for gpu in gpus if gpu), None),
    }


def _durations(paths: Mapping[str, Path]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, place in STAGE_FOLDERS:
        if name not in paths:
            continue
        folder = paths[name].parent
        for file in sorted([*folder.glob("*.tsv"), *folder.glob("benchmarks/*.tsv")]):
            # Where a release is named like its candidate, both have one folder.
            belongs = (file.stem == "compare_runs") == (place == "release") and file.stem not in AFTER_THE_DECISION
            seconds = benchmark_seconds(file) if belongs else None
            if seconds is not None:
                found[f"{place}/{file.stem}"] = seconds
    return found


def benchmark_seconds(file: Path) -> float | None:
    """Wall-clock seconds of a Snakemake benchmark file (tab separated, column s); of its last row."""
    try:
        with open(file, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        seconds = float(rows[-1]["s"])
        return seconds if math.isfinite(seconds) else None
    except (OSError, UnicodeDecodeError, csv.Error, IndexError, KeyError, TypeError, ValueError):
        return None


def _gpu(facts: Mapping[str, Any]) -> str | None:
    found = next((facts[key] for key in GPU_KEYS if facts.get(key)), None)
    return printable(", ".join(map(str, found)) if isinstance(found, list) else found) if found else None


def _versions(packages: Mapping[str, Any]) -> dict[str, str | None]:
    return {printable(name): None if version is None else printable(version) for name, version in packages.items()}


def _read(reader: Any, path: Path) -> dict[str, Any]:
    try:
        return reader(path)
    except UnusableInput:
        return {}
