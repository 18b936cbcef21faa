"""Whether a task's stated score is what its samples give.

A score is taken for the mean of its samples, over documents and repeats: of all, or of the means of a group's subtasks.
What is known to be made otherwise is not checked, and the run's notes say so.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from day0.base.numbers import is_number
from day0.records.policy import Scale
from day0.records.samples import Sample

ROUNDED = 5e-4  # of the scale: the most that a stated score may be off by its rounding
EXACT = 1e-9
# lm-eval 0.4.9, lm_eval/api/metrics.py: metrics whose aggregation is not the mean (f1 there is sklearn's over the whole
# corpus; others of that name are means). NeMo Skills and tau2-bench: the best or the most frequent of several answers.
_NO_MEAN = re.compile(
    r"perplexity|bits_per_byte|mcc|matthews|(^|[^a-z])(f1|bleu|chrf|ter|brier_score|median)($|[^a-z0-9])"
    r"|pass(@|\^|_at_|_hat_)(?!1($|\D))\d+|maj(ority)?(@|_at_)|best(@|_of_)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Rescored:
    """What a task's samples give as its score.

    Attributes:
        mean: over all samples, in their own unit.
        mean_of_subtasks: over the means of a group's subtasks, by the ids ``SUBTASK/ID``; the same where there is none.
        is_fraction: all sample scores lie in [0, 1].
    """

    mean: float
    mean_of_subtasks: float
    is_fraction: bool


def rescored(samples: Sequence[Sample]) -> Rescored | None:
    """The score of samples; None where there is none, or one of them has no score."""
    scores = [sample.score for sample in samples if is_number(sample.score)]
    if not scores or len(scores) < len(samples):
        return None
    by_subtask: dict[str, list[float]] = defaultdict(list)
    for sample, score in zip(samples, scores, strict=True):
        by_subtask[sample.id.rpartition("/")[0]].append(score)
    means = [_mean(entries) for entries in by_subtask.values()]
    return Rescored(_mean(scores), _mean(means), all(0 <= score <= 1 for score in scores))


def _mean(values: Sequence[float]) -> float:
    """The mean, which may be beyond what a float holds while it is summed."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def is_mean(metric: str | None) -> bool:
    """Whether a metric is, by its name, the mean of its samples.

    >>> [is_mean(name) for name in ("exact_match,none", "acc_norm", "pass@1[avg-of-16].symbolic_correct", None)]
    [True, True, True, True]
    >>> [is_mean(name) for name in ("word_perplexity,none", "mcc", "f1", "pass@16", "majority@16.judge_correct")]
    [False, False, False, False, False]
    """
    return metric is None or not _NO_MEAN.search(metric)


def find_difference(given: Rescored, stated: float, scale: Scale) -> str | None:
    """A sentence where the stated score is not what the samples give, else None.

    Args:
        stated: native units; a score of 0 to 100 may be that of samples from 0 to 1.
    """
    tolerance = max(min(_rounding(stated), ROUNDED * scale.width), EXACT * scale.width)
    units = [1.0, 100.0] if scale.width == 100 and given.is_fraction else [1.0]
    choices = [unit * value for unit in units for value in (given.mean, given.mean_of_subtasks)]
    if any(abs(stated - choice) <= tolerance for choice in choices):
        return None
    return f"its score is stated as {stated:g}, but its samples give {given.mean:.6g}"


def _rounding(value: float) -> float:
    """Half a unit of the last decimal place that a number is written with."""
    text = repr(float(value))
    decimals = len(text.partition(".")[2]) if "e" not in text else 17
    return 0.5 * 10.0**-decimals * (1 + EXACT)
