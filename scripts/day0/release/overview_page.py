"""What the page over all releases shows, from their verdicts: one row each, and size against accuracy per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from day0.records.failure_class import Decision
from day0.release.figures import pareto_chart
from day0.release.portfolio import Candidate

COLUMNS = (
    "model", "release", "decision", "failure_class", "suite", "size_ratio", "bits_per_weight", "mean_score",
    "baseline_score", "largest_drop", "worst_task", "evidence", "detail", "next_action", "decided", "report",
)  # fmt: skip


class Decided(NamedTuple):
    """A verdict, the addresses of its page and bundle relative to the index (None where there is none)."""

    verdict: Mapping[str, Any]
    report: str | None
    bundle: str | None
    configured: bool


def index_rows(releases: Sequence[Decided]) -> list[dict[str, Any]]:
    """A row per release with COLUMNS, ``bundle`` and ``configured``; by model, suite and size, unsized ones last."""
    rows = [_row(*release) for release in releases]
    return sorted(
        rows,
        key=lambda row: (row["model"], row["suite"], row["size_ratio"] is None, row["size_ratio"] or 0, row["release"]),
    )


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


def _row(verdict: Mapping[str, Any], report: str | None, bundle: str | None, configured: bool) -> dict[str, Any]:
    tasks = verdict.get("tasks") or {}
    blocking = {
        name: entry["drop_fraction"]
        for name, entry in tasks.items()
        if entry.get("tier") != "advisory" and entry.get("drop_fraction") is not None
    }
    worst = max(sorted(blocking), key=blocking.__getitem__, default=None)
    return {
        **{key: verdict.get(key) for key in ("model", "release", "decision", "failure_class", "suite")},
        **{key: verdict.get(key) for key in ("size_ratio", "bits_per_weight", "detail", "next_action")},
        "mean_score": _mean_score(tasks, "candidate"),
        "baseline_score": _mean_score(tasks, "baseline"),
        "largest_drop": blocking.get(worst),
        "worst_task": worst if worst is not None and blocking[worst] > 0 else None,
        "evidence": verdict.get("evidence_strength"),
        "decided": verdict.get("created"),
        "report": report,
        "bundle": bundle,
        "configured": configured,
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
