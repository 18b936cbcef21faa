"""Evidence on a drop that may be looked at after every question: betting e-processes.

With D_i in [-1, 1] the drop of question i (the mean over its repeats, in widths of the scale, positive is worse), the
evidence after t questions against "the mean drop is at most m" is

    E_t = mean over j of prod_{i <= t} (1 + l_j (D_i - m)),

and against "the mean drop is at least m" the mirrored one, with m - D_i. The stakes l_j are fixed beforehand, so each
factor stays positive and has an expectation of at most 1 where the hypothesis holds: E_t is a nonnegative
supermartingale, and by Ville's inequality it ever reaches 1 / alpha with probability at most alpha, whenever and how
often one looks. (Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, J. R. Stat. Soc. B
86, 2024, 1; arXiv 2010.09686, sections 4 and B.2. Ville: Howard et al., arXiv 1808.03204, equation 5.)

It needs a random order of questions, but not their order: E_t is the same for any order of the same questions, and
so can be computed again from the samples alone.

Two rules are made of it, over a release of several tasks (``REJECTION``, ``ACCEPTANCE``): see ``rejects``, ``accepts``.
benchmarks/early_stopping.py shows what they cost and how often they err.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

STAKES = 24
LEAST_STAKE, LARGEST_SHARE = 0.004, 0.9  # the largest stake leaves a tenth of what is put on the worst question

REJECTION = 20.0  # 1 / alpha of a release, to be divided among its tasks
BEYOND = 20.0  # 1 / alpha that the drop is beyond half of the limit
BEYOND_SHARE = 0.5  # of the limit
ACCEPTANCE = 100.0  # 1 / alpha of a task
ACCEPTED_LIMITS = 2.0  # a drop of so many limits is what an early acceptance excludes
LARGEST = 1e300  # evidence beyond this is stated as this


class Rejection(NamedTuple):
    """What a task's questions say about a loss: each is evidence, an e-value."""

    against_none: float  # against "no loss"
    against_share: float  # against "a loss of at most this share of the limit"
    drop: float  # mean, in widths of the scale


def stakes_up_to(largest: float) -> np.ndarray:
    """The stakes l_j, log-spaced, shape (STAKES,)."""
    return np.geomspace(LEAST_STAKE, largest, STAKES)


def evidence_of_more(drops: Any, bound: float, running: bool = False) -> Any:
    """Evidence against "the mean drop is at most ``bound``".

    Args:
        drops: shape (..., questions), each in [-1, 1], in widths of the scale.
        bound: in [0, 1).
        running: give it after each question, shape (..., questions), in place of after all, shape (...).

    Raises:
        ValueError: a drop or the bound is out of range.
    """
    return _evidence(drops, bound, 1.0, LARGEST_SHARE / (1 + bound), running)


def evidence_of_less(drops: Any, bound: float, running: bool = False) -> Any:
    """Evidence against "the mean drop is at least ``bound``"; arguments as ``evidence_of_more``."""
    return _evidence(drops, bound, -1.0, LARGEST_SHARE / (1 - bound), running)


def _evidence(drops: Any, bound: float, sign: float, largest: float, running: bool) -> Any:
    values = np.asarray(drops, dtype=float)
    if not 0 <= bound < 1 or not (np.abs(values) <= 1).all():
        raise ValueError(f"expected drops within [-1, 1] and a bound within [0, 1); found bound {bound}")
    logs = np.log1p(stakes_up_to(largest)[:, None] * sign * (values[..., None, :] - bound))
    grown = logs.cumsum(-1) if running else logs.sum(-1)
    axis = -2 if running else -1
    peak = grown.max(axis)
    with np.errstate(over="ignore"):
        mean = np.exp(grown - np.expand_dims(peak, axis)).mean(axis)
        return np.minimum(LARGEST, np.exp(np.minimum(peak, 700.0)) * mean)


def rejection_of(drops: Any, limit: float, share: float = BEYOND_SHARE) -> Rejection:
    """What a task's questions say about a loss beyond its limit.

    Args:
        drops: shape (questions,), each in [-1, 1].
        limit: of the task, in widths of the scale.
        share: of the limit, which the loss is to be proven to exceed.
    """
    values = np.asarray(drops, dtype=float)
    if not values.size:
        return Rejection(1.0, 1.0, 0.0)
    bound = min(share * limit, 0.99)
    return Rejection(
        float(evidence_of_more(values, 0.0)), float(evidence_of_more(values, bound)), math.fsum(values) / values.size
    )


def needed_to_reject(tasks: int, shards: int = 1) -> float:
    """Evidence against "no loss" that a task of a release needs (Bonferroni over tasks, and shards that look alone)."""
    return REJECTION * tasks * shards


def rejects(found: Rejection, limit: float, needed: float) -> bool:
    """Whether a loss beyond the limit is found early, as the full result would find it.

    There is a loss, it is more than half the limit (both proven), and the drop so far is beyond the limit.
    """
    return found.against_none >= needed and found.against_share >= BEYOND and found.drop > limit


def accepts(evidence: float, shards: int = 1) -> bool:
    """Whether ``evidence_of_less`` at ACCEPTED_LIMITS limits shows that a task has lost less.

    A release is accepted where every task is: an intersection-union test, which needs no correction for their number.
    """
    return evidence >= ACCEPTANCE * shards
