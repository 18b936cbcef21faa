"""What the page over all releases shows, from their verdicts: one row each, and size against accuracy per model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from day0.records.failure_class import Decision
from day0.records.sign_off import SignOff
from day0.release.effort import Asked, Effort, Total, total_of
from day0.release.figures import pareto_chart
from day0.release.portfolio import Candidate
from day0.release.release_page import NONE
from day0.release.speed_section import ratio_of_speed, speed_section

COLUMNS = (
    "model", "release", "decision", "failure_class", "suite", "size_ratio", "bits_per_weight", "mean_score",
    "baseline_score", "largest_drop", "worst_task", "evidence", "detail", "next_action", "decided", "report",
    "wall_seconds", "cpu_seconds", "gpu_seconds", "asked", "generated_tokens", "tokens_per_second", "signed_by",
    "speed_ratio", "speed_is_native",
)  # fmt: skip
OWN_GROUPS = ("candidate", "decision")  # the stages of source and baseline are every candidate's
CONFIGURED, OF_A_SEARCH, EARLIER = "configured", "search", "earlier"


class Decided(NamedTuple):
    """A verdict and what lies beside it.

    Attributes:
        report, bundle: addresses relative to the index; None where there is none.
        archived: the report's folder in an archive of Snakemake (``--report``), beside the index's; None: not in it.
        kind: CONFIGURED, OF_A_SEARCH (a candidate of one) or EARLIER.
        efforts: of all its stages, those that are shared included.
        asked: of the candidate's run and the baseline's, by side.
        history: of decisions, the newest first (day0/release/release_page.py).
        signed: sign_off.json of this bundle, and whether there is one of another.
    """

    verdict: Mapping[str, Any]
    report: str | None
    bundle: str | None
    kind: str
    efforts: Sequence[Effort] = ()
    asked: Mapping[str, Sequence[Asked]] = {}
    history: Sequence[Mapping[str, Any]] = ()
    signed: SignOff | None = None
    signed_another: bool = False
    archived: str | None = None


def archive_folder(path: Path) -> str:
    """The name of the folder that holds a file in an archive of Snakemake, as its report_href has it (9.27.1)."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]


def index_rows(releases: Sequence[Decided]) -> list[dict[str, Any]]:
    """A row per release with COLUMNS and more for the page; by model, suite and size, unsized ones last."""
    rows = [_row(release) for release in releases]
    rows.sort(
        key=lambda row: (row["model"], row["suite"], row["size_ratio"] is None, row["size_ratio"] or 0, row["release"])
    )
    return [{**row, "id": number} for number, row in enumerate(rows)]


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Scores task by task of the candidates of each model and suite that were compared: a table for each.

    Returns:
        model, suite, columns (the tasks' names, as numbers), baseline (its scores), and rows of id, release, decision
        and cells: of each task (score, drop as a fraction of the scale, a tone), or None where it has no score.
    """
    tables = []
    for model, suite in sorted({(row["model"], row["suite"]) for row in rows}):
        group = [row for row in rows if (row["model"], row["suite"]) == (model, suite) and row["tasks"]]
        names = sorted({name for row in group for name in row["tasks"]})
        if not names:
            continue
        found = [{name: row["tasks"][name].get("baseline") for name in row["tasks"]} for row in group]
        # An earlier candidate may have been held against another baseline; each drop is against its own.
        baseline = {name: next((one[name] for one in found if one.get(name) is not None), None) for name in names}
        compared = [
            {key: row[key] for key in ("id", "release", "decision")}
            | {"cells": [_cell(row["tasks"].get(name)) for name in names]}
            for row in group
        ]
        tables.append(
            {
                "model": model,
                "suite": suite,
                "columns": [(name, True) for name in names],
                "baseline": [_score_text(baseline[name]) for name in names],
                "rows": compared,
            }
        )
    return tables


def _cell(task: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not task or task.get("candidate") is None:
        return None
    drop, within = task.get("drop_fraction"), task.get("within")
    blocks = task.get("tier") != "advisory"
    return {
        "score": _score_text(task["candidate"]),
        "drop": drop,
        "tone": "" if within is not False else "bad" if blocks else "odd",
    }


def _score_text(score: float | None) -> str:
    return NONE if score is None else f"{score:.4g}"


def whole_cost(releases: Sequence[Decided]) -> Total:
    """What all releases took together; a stage that several share counts once."""
    stages = {}
    for release in releases:
        verdict = release.verdict
        owners = {"candidate": verdict.get("candidate"), "decision": verdict["release"], "baseline": verdict["suite"]}
        for one in release.efforts:
            stages[verdict["model"], one.stage, one.group, owners.get(one.group), one.start] = one
    return total_of(stages.values())


def index_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Size and accuracy as SVG, one figure per model and suite: scores of two suites do not compare.

    A candidate without a size or score, such as an infeasible one, has no place in them.
    """
    figures = {}
    for model, suite in sorted({(row["model"], row["suite"]) for row in rows}):
        group = [row for row in rows if (row["model"], row["suite"]) == (model, suite)]
        drawn = [row for row in group if row["size_ratio"] is not None and row["mean_score"] is not None]
        points = [Candidate(row["release"], row["decision"], row["size_ratio"], row["mean_score"]) for row in drawn]
        baseline = next((row["baseline_score"] for row in drawn if row["baseline_score"] is not None), None)
        svg = pareto_chart(f"the candidates of {model} on {suite}", points, baseline)
        if svg:
            figures[f"{model}.{suite}"] = svg
    return figures


def count_decisions(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Each decision and how many releases it fell on, in a fixed order."""
    return [(name, sum(row["decision"] == name for row in rows)) for name in Decision]


def _row(release: Decided) -> dict[str, Any]:
    verdict = release.verdict
    tasks = verdict.get("tasks") or {}
    blocking = {
        name: entry["drop_fraction"]
        for name, entry in tasks.items()
        if entry.get("tier") != "advisory" and entry.get("drop_fraction") is not None
    }
    worst = max(sorted(blocking), key=blocking.__getitem__, default=None)
    own = total_of(one for one in release.efforts if one.group in OWN_GROUPS)
    shared = total_of(one for one in release.efforts if one.group not in OWN_GROUPS)
    whole = {side: rows[-1] for side, rows in release.asked.items() if rows}
    candidate = whole.get("candidate")
    speed_ratio, is_native = ratio_of_speed(verdict)
    return {
        **{key: verdict.get(key) for key in ("model", "release", "decision", "failure_class", "suite")},
        **{key: verdict.get(key) for key in ("size_ratio", "bits_per_weight", "detail", "next_action")},
        "mean_score": _mean_score(tasks, "candidate"),
        "baseline_score": _mean_score(tasks, "baseline"),
        "largest_drop": blocking.get(worst),
        "worst_task": worst if worst is not None and blocking[worst] > 0 else None,
        "evidence": verdict.get("evidence_strength"),
        "decided": verdict.get("created"),
        "report": release.report,
        "archived": release.archived,
        "bundle": release.bundle,
        "kind": release.kind,
        "tasks": tasks,
        "wall_seconds": own.seconds if release.efforts else None,
        "cpu_seconds": own.cpu_seconds,
        "gpu_seconds": own.gpu_seconds,
        "shared": shared,
        "asked": candidate.asked if candidate else None,
        "generated_tokens": candidate.generated_tokens if candidate else None,
        "tokens_per_second": candidate.rate if candidate else None,
        "speed_ratio": speed_ratio,
        "speed_is_native": is_native,
        "speed": speed_section(verdict.get("speed")),
        "whole": whole,
        "history": release.history,
        "signed": release.signed,
        "signed_by": release.signed.signed_by if release.signed else None,
        "signed_another": release.signed_another,
    }


def _mean_score(tasks: Mapping[str, Mapping[str, Any]], side: str) -> float | None:
    """Mean score of the blocking tasks as a fraction of each scale, 1 at its better end; None where one lacks."""
    fractions = []
    for entry in tasks.values():
        if entry.get("tier") == "advisory":
            continue
        score, scale = entry.get(side), entry.get("scale")
        if score is None or not scale:
            return None
        fraction = (score - scale["min"]) / (scale["max"] - scale["min"])
        fractions.append(1 - fraction if scale.get("direction") == "lower" else fraction)
    return sum(fractions) / len(fractions) if fractions else None
