"""The evidence of all tasks of a suite taken together: what they show of a loss, and what they leave possible.

All numbers are drops as fractions of the tasks' scales: positive means that the candidate is worse. Each task has a
drop, its standard error and a limit; the arrays' last axis is the tasks, the ones before it are releases, so that one
call serves a release and ten thousand simulated ones.

A release is worse where a task, or the suite as a whole, dropped beyond its limit and a lossless candidate would not
have. It is within its limits where the suite's mean drop is proven to be, and no task contradicts. Each part rises with
every single drop, so that a worse candidate never gets a better answer, and none depends on the order of the tasks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from day0.statistics.paired import holm_corrected
from day0.statistics.resolution import CONFIDENCE, LARGEST_HIDDEN

LEVEL = CONFIDENCE  # one-sided, of a proof that a drop is within its limit
LOSS_LEVEL = (1 - CONFIDENCE) / 2  # of the proof of a loss: one-sided, as an interval's end is
NO_LOSS_LEVEL = 1 - CONFIDENCE  # above this p, the drops of all tasks together are those of a lossless candidate
ROUNDING = 1e-9


class Mean(NamedTuple):
    """A mean of the tasks' drops, shape (...): the drop, its standard error, and the same mean of the limits."""

    drop: Any
    error: Any
    limit: Any
    level: float = LEVEL  # one-sided, of the upper bound

    @property
    def largest(self) -> Any:
        """One-sided upper bound of the mean drop."""
        return self.drop + special.ndtri(self.level) * self.error

    @property
    def is_within(self) -> Any:
        """Whether the mean drop is proven to be within the limit."""
        return self.largest <= self.limit + ROUNDING

    @property
    def is_loss(self) -> Any:
        """Whether the mean drop is beyond the limit, and a lossless candidate would not have it."""
        return (self.drop > self.limit + ROUNDING) & (special.ndtr(-self.drop / self.error) <= LOSS_LEVEL)


class Pooled(NamedTuple):
    """What the tasks of a suite show together.

    Attributes:
        plain: every task counts alike.
        weighted: a task counts by its precision, 1 / error^2.
        no_loss_p: p of drops so large, over all tasks, where none lost anything; shape (...).
        shrunken: each task's drop as far as it is no chance, given those of all; shape (..., tasks).
        lost: per task, beyond its limit and no chance (Holm over the tasks); shape (..., tasks).
        is_hidden: per task, a loss of more than LARGEST_HIDDEN limits is left possible; shape (..., tasks).
        is_beyond: per task, the shrunken drop is beyond the limit; shape (..., tasks).
    """

    plain: Mean
    weighted: Mean
    no_loss_p: Any
    shrunken: Any
    lost: Any
    is_hidden: Any
    is_beyond: Any

    @property
    def may_be_weighted(self) -> Any:
        """Whether the tasks' drops are compatible with no loss anywhere, so that the precise tasks speak for all."""
        return self.no_loss_p > NO_LOSS_LEVEL

    @property
    def is_within(self) -> Any:
        """Whether the suite's mean drop is proven to be within the limit."""
        return self.plain.is_within | (self.may_be_weighted & self.weighted.is_within)

    @property
    def is_regression(self) -> Any:
        """Whether a task or the whole suite lost beyond its limit."""
        return self.lost.any(-1) | self.plain.is_loss

    @property
    def is_accepted(self) -> Any:
        """Whether nothing is lost, the mean is within its limit, and no task contradicts that or could hide a loss."""
        return ~self.is_regression & self.is_within & ~self.is_hidden.any(-1) & ~self.is_beyond.any(-1)


def pool(drops: Any, errors: Any, largest: Any, loss_p: Any, limits: Any, level: float = LEVEL) -> Pooled:
    """Take the tasks of a suite together.

    Args:
        drops: shape (..., tasks), fractions of the tasks' scales, as are errors, largest and limits.
        errors: standard errors, above 0.
        largest: one-sided upper bounds of the drops, at ``level``.
        loss_p: one-sided p of each drop where the truth is none.
        limits: shape (tasks,), largest drops that are allowed, 0 or more.
        level: one-sided, of the proof that the mean is within its limit.
    """
    drops, errors, limits = (np.asarray(values, dtype=float) for values in (drops, errors, limits))
    largest, loss_p = np.asarray(largest, dtype=float), np.asarray(loss_p, dtype=float)
    tasks = drops.shape[-1]
    mean_limit = np.broadcast_to(limits, drops.shape).mean(-1)
    plain = Mean(drops.mean(-1), np.sqrt((errors**2).sum(-1)) / tasks, mean_limit, level)
    precision = errors**-2.0
    total = precision.sum(-1)
    weighted = Mean((precision * drops).sum(-1) / total, total**-0.5, (precision * limits).sum(-1) / total, level)
    losses = np.maximum(drops, 0.0)
    statistic = (precision * losses**2).sum(-1)
    # Of errors that are symmetric, half give a loss of 0: twice the mean square is error^2 + spread^2.
    spread = np.maximum(0.0, 2 * statistic - tasks) / total
    shrunken = losses * spread[..., None] / (spread[..., None] + errors**2)
    return Pooled(
        plain=plain,
        weighted=weighted,
        no_loss_p=_no_loss_p(statistic, tasks),
        shrunken=shrunken,
        lost=(drops > limits + ROUNDING) & (holm_corrected(loss_p) <= LOSS_LEVEL),
        is_hidden=largest > LARGEST_HIDDEN * limits + ROUNDING,
        is_beyond=shrunken > limits + ROUNDING,
    )


def _no_loss_p(statistic: Any, tasks: int) -> Any:
    """P of the sum of squared standardized losses where every drop is chance.

    The chi-bar-square distribution of independent drops: a binomial mixture of chi-squares (Silvapulle and Sen,
    Constrained Statistical Inference, 2005, section 3.3).
    """
    number = np.arange(1, tasks + 1)
    weights = special.binom(tasks, number) * 0.5**tasks
    return np.where(statistic > 0, (weights * special.chdtrc(number, np.asarray(statistic)[..., None])).sum(-1), 1.0)
