"""Looks at a candidate's samples while they are asked, beside the baseline's, and says when enough was asked.

A task is looked at where the baseline has every sample's score, its score is their mean, and each sample stands for
itself. The rules, and what they cost, are in day0/statistics/sequential.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of_file, read_json_lines, read_yaml
from day0.base.cli import UnusableInput
from day0.base.numbers import is_number, mapping_or_empty
from day0.records.early_stopping import EarlyStop, StoppingRules, TaskEvidence
from day0.records.policy import Policy, Scale
from day0.records.results import read_metadata
from day0.statistics.sequential import (
    ACCEPTED_LIMITS,
    BEYOND_SHARE,
    accepts,
    evidence_of_less,
    needed_to_reject,
    rejection_of,
    rejects,
)
from day0.suite.score_names import find_score

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """Largest drops that the releases of a run allow on a task, in widths of its scale.

    Attributes:
        rejected: a drop beyond it is one that every release calls a loss.
        accepted: a drop within it is one that no release calls a loss.
        share: of ``rejected``, what the loss must be proven to exceed.
        blocks: whether a loss keeps every release from being accepted.
        counts: whether it keeps any from it.
    """

    rejected: float
    accepted: float
    share: float
    blocks: bool
    counts: bool


def limits_of(policies: Sequence[Policy], task: str, baseline: float, scale: Scale) -> Limits:
    """The limits of a task for all releases that share a run.

    Args:
        policies: of these releases, at least one.
        baseline: the task's score, native units.
    """
    reaches = [policy.reach(task, baseline, scale) / scale.width for policy in policies]
    return Limits(
        rejected=max(reaches),
        accepted=min(reaches),
        # That criterion asks for more: the whole interval of the drop must lie beyond the limit.
        share=1.0 if any(policy.criterion == "confident" for policy in policies) else BEYOND_SHARE,
        blocks=all(policy.blocks(task) for policy in policies),
        counts=any(policy.blocks(task) for policy in policies),
    )


def scores_by_question(rows: Iterable[Row]) -> dict[str, dict[int, float]]:
    """Score by question and repeat.

    Raises:
        ValueError: a sample has no finite score, or stands twice, or belongs to a group; with a sentence on it.
    """
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        name, repeat, score = str(row.get("id")), int(row.get("repeat") or 0), row.get("score")
        if row.get("group") is not None:
            raise ValueError("its samples belong to groups, which one random order of questions does not mix")
        if not is_number(score):
            raise ValueError(f"sample {name} has no score that is a finite number")
        if repeat in found.setdefault(name, {}):
            raise ValueError(f"sample {name} stands there twice")
        found[name][repeat] = float(score)
    return found


def drop_of(scale: Scale, before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """Drop of one question, the mean over its repeats, in widths of the scale, within [-1, 1].

    Raises:
        ValueError: the two sides have other repeats, or a score lies outside the scale.
    """
    if before.keys() != after.keys():
        raise ValueError(f"found repeats {sorted(after)}, expected the baseline's {sorted(before)}")
    slack = 1e-9 * scale.width
    outside = [
        score for score in (*before.values(), *after.values()) if not scale.min - slack <= score <= scale.max + slack
    ]
    if outside:
        raise ValueError(f"score {outside[0]:g} lies outside the scale {scale.min:g} to {scale.max:g}")
    old, new = (math.fsum(side.values()) / len(side) for side in (before, after))
    return min(1.0, max(-1.0, scale.drop(old, new) / scale.width))


@dataclass
class WatchedTask:
    """A task of the candidate beside that of the baseline."""

    baseline: Mapping[str, Mapping[int, float]]
    scale: Scale
    limits: Limits
    drops: dict[str, float] = field(default_factory=dict)  # by question, in the order of asking
    acceptance: float = 1.0  # the most that was reached; what was once shown stays shown

    def take(self, samples: Iterable[Row]) -> None:
        """Take samples that were reported: a question's repeats all at once.

        Raises:
            ValueError: they do not match the baseline's; with a sentence on it.
        """
        for name, scores in scores_by_question(samples).items():
            if name not in self.baseline:
                raise ValueError(f"the baseline has no sample {name}")
            self.drops[name] = drop_of(self.scale, self.baseline[name], scores)


class Watch:
    """The looks at one process's tasks.

    Args:
        mode: reject or both.
        tasks: those that can be looked at.
        unwatched: the others of this process, and why.
        counting: the tasks of this process whose loss would keep a release from being accepted.
        needed: evidence at which a task is rejected.
        shards: processes that look at other documents of the same tasks.
        baseline_digest: of the baseline's results.yml.
    """

    def __init__(
        self,
        rules: StoppingRules,
        tasks: Mapping[str, WatchedTask],
        unwatched: Mapping[str, str],
        counting: Iterable[str],
        needed: float,
        shards: int,
        baseline_digest: str,
    ) -> None:
        self.mode = rules.mode
        self.tasks, self.unwatched = dict(tasks), dict(unwatched)
        self._needed, self._shards, self._baseline_digest = needed, shards, baseline_digest
        self._counting = set(counting)

    def take(self, name: str, samples: Sequence[Row]) -> EarlyStop | None:
        """Take samples that a task reported, and look: why to stop, or None."""
        if not samples or name not in self.tasks:
            return None
        task = self.tasks[name]
        try:
            task.take(samples)
        except ValueError as error:
            self.unwatched[name] = str(error)
            del self.tasks[name]
            return None
        if task.limits.blocks:
            drops = list(task.drops.values())
            found = rejection_of(drops, task.limits.rejected, task.limits.share)
            if rejects(found, task.limits.rejected, self._needed):
                return self._stop("rejected", [name])
        if self.mode == "both" and task.limits.counts:
            bound = min(ACCEPTED_LIMITS * task.limits.accepted, 0.99)
            task.acceptance = max(task.acceptance, float(evidence_of_less(list(task.drops.values()), bound)))
            shown = {
                name
                for name, each in self.tasks.items()
                if accepts(each.acceptance, self._shards) and each.limits.counts
            }
            if shown == self._counting:
                return self._stop("accepted", sorted(shown))
        return None

    def _stop(self, end: Any, decided: list[str]) -> EarlyStop:
        return EarlyStop(
            end=end,
            tasks_decided=decided,
            mode=self.mode,
            baseline_digest=self._baseline_digest,
            tasks={name: evidence_of(task, self._needed, self.mode == "both") for name, task in self.tasks.items()},
            unwatched=self.unwatched,
        )


def evidence_of(task: WatchedTask, needed: float, with_acceptance: bool = False) -> TaskEvidence:
    """What the questions of a task say, as a run records it."""
    found = rejection_of(list(task.drops.values()), task.limits.rejected, task.limits.share)
    return TaskEvidence(
        questions=len(task.drops),
        drop=found.drop,
        limit=task.limits.rejected,
        evidence=found.against_none,
        evidence_of_size=found.against_share,
        needed=needed,
        evidence_of_acceptance=task.acceptance if with_acceptance else None,
    )


def make_watch(
    rules: StoppingRules, baseline: Path, suite: Mapping[str, Any], asked: Sequence[str], shards: int = 1
) -> Watch | None:
    """What looks at a candidate's tasks; None where every question is to be asked.

    Args:
        baseline: its results.yml; samples/ lies beside it.
        suite: the suite, with every default filled in.
        asked: the tasks that this process asks.
        shards: processes that share the documents.

    Raises:
        UnusableInput: the baseline's results cannot be read.
    """
    if rules.mode == "off" or not rules.policies:
        return None
    content = read_yaml(baseline)
    metadata = read_metadata(content, baseline)
    scored = mapping_or_empty(mapping_or_empty(content.get("results")).get("tasks"))
    watched: dict[str, WatchedTask] = {}
    unwatched: dict[str, str] = {}
    for name in asked:
        task = suite["tasks"][name]
        try:
            if metadata.get("status") != "COMPLETED":
                raise ValueError("the baseline's run is not complete")
            score = _score_of(scored.get(name), task["metric"])
            rows = read_samples(baseline.parent / "samples" / f"{name}.jsonl")
            questions = scores_by_question(rows)
            scale = Scale.model_validate(task["scale"])
            mean = math.fsum(value for scores in questions.values() for value in scores.values()) / max(1, len(rows))
            if not rows or not math.isclose(mean, score, rel_tol=1e-9, abs_tol=1e-9 * scale.width):
                raise ValueError("the baseline's score is not the mean of its samples")
        except ValueError as error:
            unwatched[name] = str(error)
            continue
        watched[name] = WatchedTask(questions, scale, limits_of(rules.policies, name, score, scale))
    counting = {name for name in suite["tasks"] if any(policy.blocks(name) for policy in rules.policies)}
    needed = needed_to_reject(max(1, len(counting)), shards)
    return Watch(rules, watched, unwatched, counting & set(asked), needed, shards, digest_of_file(baseline))


def read_samples(file: Path) -> list[Row]:
    """The lines of a samples file.

    Raises:
        ValueError: there is none, or a line is no mapping; with a sentence on it.
    """
    if not file.is_file():
        raise ValueError("the baseline has no samples")
    try:
        return [row for _, row in read_json_lines(file)]
    except UnusableInput as error:
        raise ValueError(f"the baseline's samples cannot be read: {error}") from error


def _score_of(task: Any, metric: str) -> float:
    metrics = mapping_or_empty(mapping_or_empty(task).get("metrics"))
    try:
        value = find_score(metrics, metric)[2].get("value")
    except LookupError:
        value = None
    if not is_number(value):
        raise ValueError("the baseline has no score")
    return float(value)


def cut_to(outcome: Mapping[str, Any] | None, questions: Iterable[str] | None) -> dict[str, Any]:
    """The outcome of a task that was stopped: of its samples those that were looked at, and no score.

    Args:
        outcome: what the harness wrote; None where it was not started, or had to be ended.
        questions: ids of those that were looked at; None: all that the harness gave.
    """
    given = dict(outcome or {})
    if given.get("status") == "FAILED":
        return given
    samples = given.get("samples") or []
    if questions is not None:
        kept = set(questions)
        samples = [sample for sample in samples if sample.get("id") in kept]
    return {**given, "status": "STOPPED", "samples": samples, "values": []}


def joined(stops: Sequence[EarlyStop | None]) -> EarlyStop | None:
    """One early stop of those of a run's shards; a rejection of one rejects the run.

    Raises:
        UnusableInput: the shards looked at different runs of the baseline.
    """
    found = [stop for stop in stops if stop is not None]
    if not found:
        return None
    if len({stop.baseline_digest for stop in found}) > 1:
        raise UnusableInput(
            "the shards of this run looked at different runs of the baseline; run the same command again"
        )
    rejected = [stop for stop in found if stop.end == "rejected"]
    deciding = rejected or found
    tasks: dict[str, TaskEvidence] = {}
    for stop in [*found, *deciding]:  # of a task that several looked at, the deciding one's
        tasks |= {name: entry for name, entry in stop.tasks.items() if name not in tasks or name in stop.tasks_decided}
    return deciding[0].model_copy(
        update={
            "tasks_decided": sorted({name for stop in deciding for name in stop.tasks_decided}),
            "tasks": tasks,
            "unwatched": {name: why for stop in found for name, why in stop.unwatched.items()},
        }
    )
