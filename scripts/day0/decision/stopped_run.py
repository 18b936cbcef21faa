"""Whether a candidate's run that was stopped early counts: it is held to what it asked, and to its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.mistakes import mistakes_of
from day0.base.numbers import is_count, mapping_or_empty
from day0.decision.quoting import printable
from day0.decision.recount import read_samples_file
from day0.decision.summaries import COMPLETED
from day0.records.early_stopping import EarlyStop
from day0.statistics.sequential import ACCEPTANCE, BEYOND, REJECTION, Rejection, rejects
from day0.suite.score_names import canonical_score

STOPPED_EARLY = "STOPPED_EARLY"


def as_asked(
    summary: Mapping[str, Any], metadata: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], EarlyStop | None]:
    """The summary of a run that was stopped early as one of what it asked, to be judged as any other.

    Args:
        summary: of a run of whatever status.
        metadata: of its results.yml.
        folder: its samples.

    Returns:
        The summary, with the tasks that were asked and what was asked of them as what was expected; and the record.
        Where the record does not support the status, the summary as it was, with what is wrong, and None.
    """
    if summary.get("status") != STOPPED_EARLY:
        return dict(summary), None
    wrong, stop = _record_of(metadata)
    tasks: dict[str, Any] = {}
    given = summary.get("tasks")
    for name, task in (given if isinstance(given, Mapping) else {}).items():
        accounting = mapping_or_empty(task.get("accounting") if isinstance(task, Mapping) else None)
        asked, expected = accounting.get("asked"), accounting.get("expected")
        if not is_count(asked) or (expected is not None and not (is_count(expected) and asked <= expected)):
            wrong.append(f"task {printable(name)}: {asked} samples asked of {expected} that were planned")
            continue
        if not asked:
            continue
        tasks[name] = {**task, "accounting": {**accounting, "expected": asked}}
        if task.get("score") is None:
            scores = [sample.score for sample in read_samples_file(folder / f"{name}.jsonl").samples]
            known = [score for score in scores if score is not None]
            tasks[name]["score"] = math.fsum(known) / len(known) if known else None
            tasks[name]["metric"] = _metric_of(metadata, name)
    if stop is not None:
        wrong += [
            f"task {name} decided, but nothing was asked of it" for name in stop.tasks_decided if name not in tasks
        ]
    if wrong or stop is None:
        mistakes = summary.get("record_mistakes") or []
        return {**summary, "record_mistakes": [*mistakes, *(f"early_stop: {text}" for text in wrong)]}, None
    return {**summary, "status": COMPLETED, "tasks": tasks}, stop


def _metric_of(metadata: Mapping[str, Any], task: Any) -> str | None:
    """Name of a task's score, as a complete run names it."""
    stated = mapping_or_empty(mapping_or_empty(metadata.get("fingerprint")).get(task)).get("metric")
    if not isinstance(stated, str):
        return None
    metric, score = canonical_score(stated)
    return metric if metric == score else f"{metric}.{score}"


def _record_of(metadata: Mapping[str, Any]) -> tuple[list[str], EarlyStop | None]:
    if metadata.get("imported") is not None or "schema_version" not in metadata:
        return ["only the evaluate stage of this project stops a run early"], None
    if metadata.get("candidate") == "baseline":
        return ["the baseline is never stopped early"], None
    try:
        stop = EarlyStop.model_validate(metadata.get("early_stop"))
    except ValidationError as error:
        return mistakes_of(error, EarlyStop), None
    return list(unsupported(stop)), stop


def unsupported(stop: EarlyStop) -> Iterable[str]:
    """Why the evidence that a run records does not support its end, a sentence each."""
    if not stop.tasks_decided:
        yield "names no task that decided"
    for name in stop.tasks_decided:
        found = stop.tasks.get(name)
        if found is None:
            yield f"task {name} decided, but its evidence is not there"
        elif stop.end == "accepted":
            if not (stop.mode == "both" and (found.evidence_of_acceptance or 0) >= ACCEPTANCE):
                yield f"task {name}: evidence {found.evidence_of_acceptance}, an acceptance takes {ACCEPTANCE:g}"
        elif not (
            found.needed >= REJECTION
            and rejects(Rejection(found.evidence, found.evidence_of_size, found.drop), found.limit, found.needed)
        ):
            yield (
                f"task {name}: evidence {found.evidence:g} and {found.evidence_of_size:g} of a drop of {found.drop:g}; "
                f"a rejection takes {max(found.needed, REJECTION):g} and {BEYOND:g}, and a drop beyond {found.limit:g}"
            )
