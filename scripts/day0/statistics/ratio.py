"""The ratio of two means over the same questions, such as tokens per answer of two checkpoints, with its interval.

The ratio is sum / sum, so that a question counts by its length, as its cost does. Its error is the linearized one of a
ratio estimator over clusters: the residual of a cluster is its sum on the new side less the ratio times its sum on the
old one (Cochran, Sampling Techniques, 3rd ed., 1977, 2.11 and 6.3; the delta method, as Deng, Knoblich and Lu,
arXiv 1803.06336, apply it). The interval is taken of the logarithm, so that it stays above 0 and treats a half and a
double alike, by Student's t with clusters - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from day0.statistics.paired import cluster_labels
from day0.statistics.resolution import CONFIDENCE


class Ratio(NamedTuple):
    """The ratio of the new mean to the old one, and its interval; None where fewer than two clusters give none."""

    ratio: float
    interval: tuple[float, float] | None


def ratio_of_means(
    old: Sequence[float], new: Sequence[float], groups: Sequence[Hashable], confidence: float = CONFIDENCE
) -> Ratio | None:
    """Ratio of two lists of paired amounts.

    Args:
        old, new: shape (n,), amounts of 0 or more of the same samples in the same order.
        groups: shape (n,), what a sample belongs to; repeats of one question count as one.
        confidence: nominal coverage, two-sided.

    Returns:
        None where the old amounts or the new ones are all 0, or there are none.

    Raises:
        ValueError: lengths differ, or an amount is negative or no finite number.
    """
    before, after = np.asarray(old, dtype=float), np.asarray(new, dtype=float)
    if before.ndim != 1 or before.shape != after.shape or len(groups) != len(before):
        raise ValueError(f"expected three lists of one length, found {len(old)}, {len(new)} and {len(groups)}")
    if not (np.isfinite(before).all() and np.isfinite(after).all() and (before >= 0).all() and (after >= 0).all()):
        raise ValueError("amounts must be finite numbers of 0 or more")
    if not before.sum() or not after.sum():
        return None
    labels = cluster_labels(groups, len(before))
    clusters = int(labels.max()) + 1
    ratio = float(after.sum() / before.sum())
    if clusters < 2:
        return Ratio(ratio, None)
    residuals = np.bincount(labels, weights=after) - ratio * np.bincount(labels, weights=before)
    error = math.sqrt(clusters / (clusters - 1) * float(residuals @ residuals)) / float(after.sum())  # of the logarithm
    reach = float(special.stdtrit(clusters - 1, (1 + confidence) / 2)) * error
    reach = min(reach, 300.0)  # the ends stay finite
    return Ratio(ratio, (ratio * math.exp(-reach), ratio * math.exp(reach)))


class RepeatsRatio(NamedTuple):
    """The ratio of two amounts that were each measured several times, and its interval."""

    ratio: float
    interval: tuple[float, float]


def ratio_of_repeats(old: Sequence[float], new: Sequence[float], confidence: float = CONFIDENCE) -> RepeatsRatio:
    """Ratio of the geometric means of two lists of independent repeats, such as the throughput of two servers.

    The interval is Welch's for the difference of the logarithms' means (Biometrika 34, 1947, 28), with Satterthwaite's
    degrees of freedom: neither side is assumed to vary as the other does.

    Args:
        old, new: shapes (n,) and (m,), amounts above 0; at least two of each.
        confidence: nominal coverage, two-sided.

    Raises:
        ValueError: a side has fewer than two repeats, or an amount that is no finite number above 0.

    >>> ratio_of_repeats([10.0, 10.0], [15.0, 15.0])
    RepeatsRatio(ratio=1.5, interval=(1.5, 1.5))
    """
    sides = [np.asarray(side, dtype=float) for side in (old, new)]
    if any(side.ndim != 1 or len(side) < 2 or not np.isfinite(side).all() or (side <= 0).any() for side in sides):
        raise ValueError("expected two lists of at least two finite numbers above 0 each")
    logs = [np.log(side) for side in sides]
    ratio = math.exp(logs[1].mean() - logs[0].mean())
    parts = [float(side.var(ddof=1)) / len(side) for side in logs]
    if not sum(parts):
        return RepeatsRatio(ratio, (ratio, ratio))
    freedom = sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, logs, strict=True))
    reach = min(float(special.stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(sum(parts)), 300.0)
    return RepeatsRatio(ratio, (ratio * math.exp(-reach), ratio * math.exp(reach)))
