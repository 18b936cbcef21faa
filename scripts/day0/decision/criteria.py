"""The criteria: what a release's drops and their evidence say of it, by each of three rules.

``point``: the drop of every blocking task is within its limit, else REGRESSION. It reads scores alone, so that chance
decides where the limit is smaller than the error.

``confident``: the whole interval of every blocking task's drop is within its limit (ACCEPT), or on one of them wholly
beyond (REGRESSION, with Holm's correction for the number of tasks), else the samples do not decide. That all intervals
must be within needs no correction: it is an intersection-union test (Berger, Technometrics 24, 1982, 295).

``suite``: REGRESSION where a task, or the mean over the tasks, dropped beyond its limit and a lossless candidate would
not have (2.5 %, Holm over the tasks). ACCEPT where the mean is proven within its limit (one-sided 95 %), no task's drop
is likely to be beyond its own, and none could hide a loss of more than five limits. Else undecided, with what to ask.
The numbers are in ``day0.statistics.pooled``; benchmarks/decision.py measures how often each rule is wrong. Tasks
without samples are held to their limit as ``point`` does.

Where a release is one of several ``decisions`` of a search, of which the first that is accepted wins, ``confident`` and
``suite`` prove at 1 - 5 % / decisions instead of 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

import numpy as np

from day0.decision.policy import Problem
from day0.records.comparison import Cure, MeanDrop, SuiteEvidence, Task
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Policy, Scale
from day0.statistics.paired import LEAST_REPEATS, is_proven_regression
from day0.statistics.pooled import Mean, Pooled, pool
from day0.statistics.resolution import LARGEST_HIDDEN, POWER, one_sided_factor, shared_confidence

TOLERANCE = 1e-9  # of the scale: a drop of 0.90 to 0.89 is 0.01, not 0.010000000000000009


class Measured(NamedTuple):
    """A task that has a drop, in native units."""

    entry: Task
    scale: Scale
    old: float
    new: float
    drop: float
    limit: float  # of the threshold
    reach: float  # the smaller of the threshold's and the guard's limit

    @property
    def slack(self) -> float:
        """What rounding may add to a drop, native units."""
        return TOLERANCE * self.scale.width

    @property
    def is_nothing(self) -> bool:
        """Whether both sides have no point at all: 0, or the worse end of the scale."""
        lowest = {self.scale.min, 0.0} if self.scale.direction == "higher" else {self.scale.max}
        return self.old == self.new and self.old in lowest

    @property
    def is_inside(self) -> bool:
        """Whether the whole interval of the drop lies within the limit."""
        interval = self.entry.paired.interval
        return interval is not None and interval[1] <= self.reach + self.slack

    @property
    def is_beyond(self) -> bool:
        """Whether the whole interval of the drop lies beyond the limit."""
        interval = self.entry.paired.interval
        return interval is not None and interval[0] > self.reach + self.slack


class Judgement(NamedTuple):
    """What a criterion says: ANOMALOUS where the samples do not decide, with the problems that say why."""

    decision: Decision
    sentence: str
    is_proven: bool
    problems: tuple[Problem, ...] = ()


class Asked(NamedTuple):
    """Which tasks can be asked more, and how.

    Attributes:
        repeatable: a repeat gives another answer, for they are sampled.
        extendable: only a part of their questions was asked.
    """

    repeatable: frozenset[str] = frozenset()
    extendable: frozenset[str] = frozenset()


NOTHING_MORE = Asked()
Blocking = Mapping[str, Measured]


def listed(names: Collection[str]) -> str:
    """Names as a sentence lists them."""
    in_order = list(names)
    return ", ".join(in_order[:-1]) + (" and " if len(in_order) > 1 else "") + in_order[-1]


def by_point(blocking: Blocking) -> Judgement:
    """The criterion ``point``."""
    beyond = [task for task, found in blocking.items() if found.entry.within is False]
    count = len(blocking)
    if beyond:
        proven = is_proven(blocking)
        return Judgement(
            Decision.REGRESSION, f"{len(beyond)} of {count} blocking tasks dropped by more than the limit", proven
        )
    inside = all(found.is_inside for found in blocking.values())
    if count == 1:
        return Judgement(Decision.ACCEPT, "The only blocking task is within its limit", inside)
    return Judgement(Decision.ACCEPT, f"All {count} blocking tasks are within their limits", inside)


def by_confidence(blocking: Blocking) -> Judgement:
    """The criterion ``confident``."""
    if is_proven(blocking):
        beyond = sum(found.is_beyond for found in blocking.values())
        sentence = f"On {beyond} of {len(blocking)} blocking tasks the whole interval of the drop is beyond the limit"
        return Judgement(Decision.REGRESSION, sentence, True)
    undecided = {
        task: (FailureClass.INSUFFICIENT_EVIDENCE, f"{task}: {found.entry.paired.sentence.rstrip('.')}")
        for task, found in blocking.items()
        if not (found.entry.within and found.is_inside)
    }
    if undecided:
        sentence = f"On {listed(undecided)} the interval of the drop is not wholly within the limit"
        return Judgement(Decision.ANOMALOUS, sentence, False, tuple(undecided.values()))
    which = "the only blocking task" if len(blocking) == 1 else f"all {len(blocking)} blocking tasks"
    return Judgement(Decision.ACCEPT, f"On {which} the whole interval of the drop is within the limit", True)


def is_proven(blocking: Blocking) -> bool:
    """Whether the interval of one of the drops is wholly beyond its limit, with Holm's correction."""
    p_values = [found.entry.paired.regression_p for found in blocking.values()]
    return is_proven_regression([p for p in p_values if p is not None])


def by_suite(blocking: Blocking, policy: Policy, asked: Asked = NOTHING_MORE) -> tuple[Judgement, SuiteEvidence] | None:
    """The criterion ``suite``; None where no blocking task has samples.

    Args:
        policy: its ``require`` names the tasks that must be proven by themselves.
        asked: which tasks can be asked more.
    """
    sampled = {task: found for task, found in blocking.items() if found.entry.paired.error is not None}
    if not sampled:
        return None
    confidence = shared_confidence(policy.decisions)
    pooled = _pooled(sampled, confidence)
    evidence = _evidence(sampled, pooled)
    lost = [task for task, is_lost in zip(sampled, pooled.lost, strict=True) if is_lost]
    bare = [task for task, found in blocking.items() if task not in sampled and found.entry.within is False]
    if lost or bare or pooled.is_regression:
        reasons = []
        if lost:
            reasons.append(
                f"on {listed(lost)} the drop is beyond the limit, and a lossless candidate would not have it "
                "(one-sided 2.5 %, Holm's correction)"
            )
        if pooled.plain.is_loss:
            reasons.append(
                f"the mean drop of the suite, {pooled.plain.drop:.4g} of the scale, is beyond the limit of "
                f"{pooled.plain.limit:.4g}, and a lossless candidate would not have it"
            )
        if bare:
            reasons.append(f"on {listed(bare)}, which has no paired samples, the score is beyond the limit")
        proven = bool(lost or pooled.plain.is_loss)
        return Judgement(Decision.REGRESSION, _sentence(reasons), proven), evidence
    unproven = _unproven(blocking, policy)
    problems = _undecided(sampled, pooled, unproven, confidence)
    shown = evidence.weighted if evidence.proven_by == "weighted" else evidence.plain
    if problems:
        evidence.cures = _cures(sampled, pooled, unproven, asked, confidence)
        sentence = _sentence([text for _, text in problems])
        return Judgement(Decision.ANOMALOUS, sentence, False, tuple(problems)), evidence
    how = "weighted by their precision" if evidence.proven_by == "weighted" else "each counting alike"
    sentence = (
        f"The mean drop of {len(sampled)} tasks, {how}, is {shown.drop:.4g} of the scale and at most "
        f"{shown.largest:.4g} ({_one_sided(confidence)}), within the limit of {shown.limit:.4g}; no task lost beyond "
        f"its limit or could hide a loss of more than {LARGEST_HIDDEN:g} limits"
    )
    if len(sampled) == 1:
        only = next(iter(sampled))
        sentence = (
            f"The drop of {only} is {shown.drop:.4g} of the scale and at most {shown.largest:.4g} "
            f"({_one_sided(confidence)}), within the limit of {shown.limit:.4g}"
        )
    return Judgement(Decision.ACCEPT, sentence, len(sampled) == len(blocking)), evidence


def _one_sided(confidence: float) -> str:
    """The level of a bound, as a sentence names it."""
    return f"one-sided {100 * confidence:.4g} %"


def _pooled(sampled: Blocking, confidence: float) -> Pooled:
    rows = []
    for found in sampled.values():
        paired, width = found.entry.paired, found.scale.width
        numbers = (paired.drop, paired.error, paired.largest_drop, paired.loss_p)
        drop, error, largest, loss_p = (math.nan if value is None else value for value in numbers)
        rows.append((drop / width, error / width, largest / width, loss_p, found.reach / width))
    drops, errors, largest, loss_p, limits = np.array(rows).T
    return pool(drops, errors, largest, loss_p, limits, confidence)


def _evidence(sampled: Blocking, pooled: Pooled) -> SuiteEvidence:
    def mean(values: Mean) -> MeanDrop:
        return MeanDrop(
            drop=float(values.drop),
            error=float(values.error),
            largest=float(values.largest),
            limit=float(values.limit),
        )

    proven_by: Literal["plain", "weighted"] | None = None
    if pooled.is_within:
        weighted = pooled.may_be_weighted and pooled.weighted.is_within
        is_finer = pooled.weighted.error < (1 - TOLERANCE) * pooled.plain.error
        proven_by = "weighted" if weighted and is_finer else "plain"
        if proven_by == "plain" and not pooled.plain.is_within:
            proven_by = "weighted"
    return SuiteEvidence(
        plain=mean(pooled.plain),
        weighted=mean(pooled.weighted),
        proven_by=proven_by,
        no_loss_p=float(pooled.no_loss_p),
        likely_drops={task: float(drop) for task, drop in zip(sampled, pooled.shrunken, strict=True)},
    )


def _unproven(blocking: Blocking, policy: Policy) -> dict[str, str]:
    """The tasks that ``require`` holds to a proof of their own and that lack it, with the sentences that say so."""
    found = {}
    for task in policy.require.keys() & blocking.keys():
        measured = blocking[task]
        largest = measured.entry.paired.largest_drop
        if largest is None:
            lacking = "has no paired samples"
        elif largest > measured.reach + measured.slack:
            lacking = f"could have lost up to {largest:.4g}"
        else:
            continue
        found[task] = f"{task} must be proven within its limit of {measured.reach:.4g} (require), but {lacking}"
    return dict(sorted(found.items()))


def held_to_proofs(judgement: Judgement, blocking: Blocking, policy: Policy) -> Judgement:
    """An ACCEPT of ``point``, made where ``suite`` has no samples, held to the proofs that the policy requires."""
    unproven = _unproven(blocking, policy)
    if judgement.decision is not Decision.ACCEPT or not unproven:
        return judgement
    problems = tuple((FailureClass.INSUFFICIENT_EVIDENCE, reason) for reason in unproven.values())
    return Judgement(Decision.ANOMALOUS, _sentence(list(unproven.values())), False, problems)


def _undecided(sampled: Blocking, pooled: Pooled, unproven: Mapping[str, str], confidence: float) -> list[Problem]:
    reasons: list[str] = []
    if not pooled.is_within:
        mean = pooled.weighted if pooled.may_be_weighted else pooled.plain
        reasons.append(
            f"the mean drop of the suite is {mean.drop:.4g} of the scale and could be {mean.largest:.4g} "
            f"({_one_sided(confidence)}), so it is not proven to be within the limit of {mean.limit:.4g}"
        )
    for place, (task, found) in enumerate(sampled.items()):
        largest = found.entry.paired.largest_drop or 0.0
        if pooled.is_hidden[place]:
            reasons.append(
                f"{task} could have lost up to {largest:.4g}, more than {LARGEST_HIDDEN:g} times its limit of "
                f"{found.reach:.4g}"
            )
        if pooled.is_beyond[place]:
            reasons.append(
                f"{task} is likely to have lost {pooled.shrunken[place] * found.scale.width:.4g}, beyond its limit of "
                f"{found.reach:.4g}, but chance alone could have done so"
            )
    return [(FailureClass.INSUFFICIENT_EVIDENCE, reason) for reason in [*reasons, *unproven.values()]]


def _cures(sampled: Blocking, pooled: Pooled, unproven: Collection[str], asked: Asked, confidence: float) -> list[Cure]:
    """What to ask so that a lossless candidate is accepted with a probability of 80 %."""
    factor = one_sided_factor(confidence, POWER)
    times: dict[str, float] = {}
    for place, (task, found) in enumerate(sampled.items()):
        error = found.entry.paired.error or 0.0
        if pooled.is_hidden[place] and found.reach > 0:
            times[task] = (error * factor / (LARGEST_HIDDEN * found.reach)) ** 2
        if (pooled.is_beyond[place] or task in unproven) and found.reach > 0:
            times[task] = max(times.get(task, 1.0), (error * factor / found.reach) ** 2)
    mean = pooled.weighted
    if not pooled.is_within and mean.limit > 0:
        lacking = (factor / mean.limit) ** 2 - mean.error**-2.0  # of precision, scale^-2
        more = {task: found for task, found in sampled.items() if task in asked.repeatable | asked.extendable}
        if lacking > 0 and more:

            def cost(task: str) -> float:
                """Samples that one unit of precision takes."""
                paired = more[task].entry.paired
                return (paired.samples or 0) * ((paired.error or 0.0) / more[task].scale.width) ** 2

            cheapest = min(more, key=cost)
            own = ((more[cheapest].entry.paired.error or 0.0) / more[cheapest].scale.width) ** -2.0
            times[cheapest] = max(times.get(cheapest, 1.0), (own + lacking) / own)
    cures = []
    for task, factor_of_task in times.items():
        paired = sampled[task].entry.paired
        samples, questions = paired.samples or 0, max(1, paired.questions or 0)
        needed = max(factor_of_task, 1.0 + 1.0 / max(1, samples))
        repeats = samples / questions
        if task in asked.repeatable:
            cures.append(
                Cure(
                    task=task, setting="repeats", now=round(repeats),
                    needed=max(math.ceil(repeats * needed), LEAST_REPEATS, round(repeats) + 1),
                )
            )  # fmt: skip
        else:
            cures.append(
                Cure(
                    task=task,
                    setting="limit" if task in asked.extendable else "questions",
                    now=questions,
                    needed=math.ceil(questions * needed),
                )
            )
    return cures


def cure_sentence(evidence: SuiteEvidence, suite: str | None) -> str:
    """The next action for an undecided release."""
    settable = [cure for cure in evidence.cures if cure.setting != "questions"]
    stuck = [cure for cure in evidence.cures if cure.setting == "questions"]
    sentences = []
    if settable:
        where = f"config/suites/{suite}.yaml" if suite else "the suite's file"
        settings = ", ".join(f"tasks.{cure.task}.{cure.setting}: {cure.needed} (now {cure.now})" for cure in settable)
        sentences.append(f"Ask more: set {settings} in {where}, then run the same command again")
    if stuck:
        needs = ", ".join(f"{cure.task} needs about {cure.needed:,} questions and has {cure.now:,}" for cure in stuck)
        sentences.append(f"{needs}: add a task of its kind to the suite, or make it advisory")
    mean = evidence.weighted
    if not evidence.cures:
        sentences.append("Every question was asked, and a repeat gives the same answer: add tasks to the suite")
    if mean.largest > mean.limit:
        sentences.append(f"What was asked can show a loss within {_rounded_up(mean.largest):.2g} of the scale, no less")
    return ". ".join(sentences) + ". The candidate was not shown to be worse."


def _rounded_up(value: float) -> float:
    scale = 10.0 ** (math.floor(math.log10(value)) - 1) if value > 0 else 1.0
    return math.ceil(value / scale) * scale


def _sentence(reasons: list[str]) -> str:
    text = "; ".join(reasons)
    return text[:1].upper() + text[1:]
