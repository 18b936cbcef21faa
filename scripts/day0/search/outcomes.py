"""A verdict on a candidate, as the search that asked for it reads it."""

from __future__ import annotations

from statistics import NormalDist

from day0.decision.verdict import EXTERNAL_STAGE
from day0.records.comparison import Comparison, Task
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import BLOCKING_TIERS
from day0.records.search import Kind, MeanLoss, Outcome
from day0.records.verdict import Verdict
from day0.statistics.resolution import CONCLUSIVE, CONFIDENCE

# Assessments that say nothing of the recipe: what failed there fails for every candidate.
OF_ALL_CANDIDATES = ("preflight_model", "preflight_suite", EXTERNAL_STAGE)
LARGEST_DROP = 1e6  # of a task that allows none, in limits


def outcome_of(name: str, kind: Kind, verdict: Verdict, comparison: Comparison | None = None) -> Outcome:
    """The outcome that a candidate's verdict is.

    Args:
        name: of the candidate.
        kind: which suite was asked.
        verdict: of the release that the candidate was decided as.
        comparison: that it was made from, which says whether the evaluation was stopped early.
    """
    blocking = {task: entry for task, entry in verdict.tasks.items() if entry.tier in BLOCKING_TIERS}
    drops = {task: drop for task, entry in blocking.items() if (drop := _drop_in_limits(entry)) is not None}
    beyond = [task for task, entry in blocking.items() if entry.within is False]
    regressed = sorted(beyond, key=lambda task: (-drops.get(task, 0.0), task))
    throughput = verdict.speed.output_tokens_per_second if verdict.speed is not None else None
    return Outcome(
        name=name,
        kind=kind,
        decision=verdict.decision,
        failure_class=verdict.failure_class,
        of_baseline=_is_of_baseline(verdict),
        worst_drop=max(drops.values(), default=None),
        regressed=tuple(regressed),
        conclusive=_is_beyond(verdict),
        early_end=comparison.early_stop.end if comparison is not None and comparison.early_stop is not None else None,
        samples_asked=sum(entry.paired.samples or 0 for entry in verdict.tasks.values()),
        score=_score(list(blocking.values())),
        loss=_loss(verdict),
        size_ratio=verdict.size_ratio,
        speed_ratio=None if throughput is None else throughput.ratio,
        speed_is_native=verdict.speed.is_native if verdict.speed is not None and throughput is not None else None,
        detail=verdict.detail,
    )


def _is_of_baseline(verdict: Verdict) -> bool:
    if verdict.decision is Decision.ACCEPT:
        return False
    of_baseline = verdict.stage in OF_ALL_CANDIDATES or verdict.stage.startswith("baseline")
    return of_baseline or verdict.failure_class is FailureClass.EXTERNAL_BASELINE_MISMATCH


def _is_beyond(verdict: Verdict) -> bool:
    """Whether a loss beyond the limits is proven: of a task, or of the mean over the tasks.

    That the criterion suite calls a loss proven is less: a lossless candidate would not have it, and by its score it is
    beyond the limit. A growth of the answers proves nothing of riskier recipes.
    """
    if verdict.decision is not Decision.REGRESSION or verdict.failure_class is not None:
        return False
    confident, loss = verdict.criteria.get("confident"), _loss(verdict)
    if confident is None:
        return verdict.evidence_strength == CONCLUSIVE
    return confident.decision is Decision.REGRESSION or (loss is not None and loss.low > loss.limit)


def _drop_in_limits(entry: Task) -> float | None:
    """A task's drop in units of its limit, the relative guard not counted; None where there is no drop."""
    if entry.drop is None or entry.limit is None:
        return None
    if entry.limit > 0:
        return max(-LARGEST_DROP, min(LARGEST_DROP, entry.drop / entry.limit))
    return LARGEST_DROP if entry.drop > 0 else 0.0


def _score(blocking: list[Task]) -> float | None:
    """Mean score as a fraction of the scales, 1 the better end; None where a task has none."""
    scores = [
        entry.scale.above_worst(entry.candidate) / entry.scale.width
        for entry in blocking
        if entry.scale is not None and entry.candidate is not None
    ]
    return sum(scores) / len(scores) if scores and len(scores) == len(blocking) else None


def _loss(verdict: Verdict) -> MeanLoss | None:
    """The mean drop of the blocking tasks with its two-sided interval; None where no samples say it."""
    if verdict.suite_evidence is None:
        return None
    mean = verdict.suite_evidence.plain
    reach = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * mean.error
    return MeanLoss(drop=mean.drop, low=mean.drop - reach, high=mean.drop + reach, limit=mean.limit)
