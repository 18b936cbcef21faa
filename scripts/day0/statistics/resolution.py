"""How small a drop a number of samples can show: known before a run from the suite, and after it from its samples.

Needs no numerical library, so that reading a plan stays fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

from day0.records.policy import EXPECTED_DISAGREEMENT_RATE

CONCLUSIVE: Final = "conclusive"
INCONCLUSIVE: Final = "inconclusive"
CONFIDENCE = 0.95
POWER = 0.8
LARGEST_HIDDEN = 5.0  # limits: a release is undecided where a task could have lost more
_ROUNDING = 1e-9


def detectable_drop(standard_error: float, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Smallest true drop that a test at this confidence finds with this power, in the units of the standard error.

    (z_{1-alpha/2} + z_{power}) * standard error: Miller, Adding Error Bars to Evals (arXiv 2411.00640), section 5; for
    0/1 scores and small drops it is Connor's sample size for matched pairs (Biometrics 43, 1987, 207) solved for the
    difference.
    """
    return factor_needed(confidence, power) * float(standard_error)


def factor_needed(confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """How many standard errors a drop must have to be detected: z_{1-alpha/2} + z_{power}."""
    normal = NormalDist()
    return normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)


def shared_confidence(decisions: int, confidence: float = CONFIDENCE) -> float:
    """The confidence of each of several decisions of which any may accept: the chance of error is split evenly.

    By Bonferroni's inequality the chance that one of them is wrong is then at most that of a single one.
    """
    return 1 - (1 - confidence) / decisions


def one_sided_factor(level: float = CONFIDENCE, power: float = POWER) -> float:
    """How small an error must be for a bound to be proven: that many of them fit between the truth and the bound."""
    normal = NormalDist()
    return normal.inv_cdf(level) + normal.inv_cdf(power)


def samples_needed(
    samples: int, standard_error: float, drop: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int | None:
    """Samples at which a drop of this size is the detectable one, the standard error falling with their square root.

    None where they are more than 10^12 times as many, which no suite has.
    """
    detectable = detectable_drop(standard_error, confidence, power)
    if detectable > 1e6 * drop:
        return None
    return max(1, math.ceil(samples * (detectable / drop) ** 2 - _ROUNDING))


def planning_warning(
    samples: int,
    limit: float,
    width: float,
    rate: float = EXPECTED_DISAGREEMENT_RATE,
    repeats: int = 1,
    confidence: float = CONFIDENCE,
) -> str | None:
    """The sentence that says that a task cannot resolve its limit, or None where it can.

    Assumes that the two checkpoints score a share ``rate`` of the samples differently, by the whole width of the
    scale, each sample by itself: the variance of one sample's difference is then rate * width^2. Repeats of a question
    count as samples of their own, which is the best that they can be.

    Args:
        samples: questions of the task.
        limit: largest drop that is allowed, native units.
        width: width of the scale, native units.
        rate: expected share of samples that the two checkpoints score differently, 0 < rate <= 1.
        repeats: how often each question is asked.
        confidence: of the two-sided interval of the drop.
    """
    count = samples * repeats
    error = width * math.sqrt(rate / count)
    detectable = detectable_drop(error, confidence)
    if detectable <= limit:
        return None
    asked = f"{samples:,} samples" if repeats == 1 else f"{samples:,} questions asked {repeats} times"
    text = (
        f"{asked} cannot resolve the limit of {limit:.4g}: if {rate * 100:g} % of them are scored differently, a drop "
        f"below about {min(width, detectable):.2g} cannot be distinguished from chance"
    )
    needed = samples_needed(count, error, limit, confidence) if limit > 0 else None
    return f"{text}; the limit needs about {needed:,} samples" if needed else text


class PlannedTask(NamedTuple):
    """A task as a plan knows it: its questions, how often each is asked, and its limit as a fraction of the scale."""

    name: str
    questions: int
    repeats: int
    limit: float


def suite_warnings(
    tasks: Sequence[PlannedTask], rate: float = EXPECTED_DISAGREEMENT_RATE, confidence: float = CONFIDENCE
) -> list[tuple[str, str]]:
    """(task or "suite", sentence) of all that would keep a lossless candidate from being accepted by the suite.

    By the criterion suite, with a probability of 80 % and the assumptions of ``planning_warning``.

    Args:
        tasks: the blocking ones whose number of questions is declared.
        rate: expected share of samples that the two checkpoints score differently, 0 < rate <= 1.
        confidence: of the proof, one-sided.
    """
    factor = one_sided_factor(confidence)
    errors = [math.sqrt(rate / (task.questions * task.repeats)) for task in tasks]
    if not errors:
        return []
    found = []
    precision = sum(error**-2.0 for error in errors)
    limit = sum(task.limit * error**-2.0 for task, error in zip(tasks, errors, strict=True)) / precision
    assumed = f"if {rate * 100:g} % of them are scored differently"
    count = sum(task.questions * task.repeats for task in tasks)
    if factor > limit * math.sqrt(precision):
        needed = f"; the limit needs about {factor**2 / precision / limit**2 * count:,.0f}" if limit > 0 else ""
        found.append(
            (
                "suite",
                f"{count:,} samples cannot prove the limit of {limit:.4g} for the mean drop: {assumed}, they prove "
                f"{factor / math.sqrt(precision):.2g}{needed}",
            )
        )
    found += [
        (
            task.name,
            f"{task.questions * task.repeats:,} samples leave a loss of {factor * error:.2g} possible, more than "
            f"{LARGEST_HIDDEN:g} limits of {task.limit:.4g}, {assumed}: the release would be undecided",
        )
        for task, error in zip(tasks, errors, strict=True)
        if factor * error > LARGEST_HIDDEN * task.limit
    ]
    return found
