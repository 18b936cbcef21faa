"""Paired evidence: what the same samples, answered by two checkpoints, say about the drop between them.

All numbers are drops: positive means that the candidate is worse, in the native units of the task's scale.

The interval is Bonett and Price's adjusted Wald interval for matched proportions (J. Educ. Behav. Stat. 37, 2012, 479),
written as the mean of clusters with a cluster-robust variance (Liang and Zeger, Biometrika 73, 1986, 13): before it is
taken, ``PRIOR`` wins and ``PRIOR`` losses of a whole cluster of full width are added. So it stays honest where nothing
or little differs (no interval of width zero), holds for real-valued scores, and counts what belongs together as one:
the repeats of one question, the questions on one passage.

Where clusters differ in size, an added cluster is as large as the one that a sample stands in on average (sum of
squares / sum of sizes), and Student's t has the degrees of freedom of the effective number of clusters, (sum of
sizes)^2 / sum of squares (Kish, Survey Sampling, 1965).

Bonett and Price add one win and one loss; with these the coverage of a nominal 95 % falls to 93.5 % where nearly all
disagreements are losses. With 1.5 it stays above 94 % (benchmarks/decision.py), and where nothing differs the upper end
is 3.4 / clusters, just outside of the rule of three.

The formulas take arrays, so that one call serves a release and ten thousand simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np
from scipy import special  # not scipy.stats, whose import takes longer than a comparison

from day0.statistics.resolution import CONFIDENCE, POWER, detectable_drop, samples_needed

PRIOR = 1.5
TOLERANCE = 1e-9
CONCLUSIVE: Final = "conclusive"
INCONCLUSIVE: Final = "inconclusive"

# The numbers of a task's evidence, each None until there are samples to give it.
NOTHING: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(
        (
            "samples",
            "clusters",
            "wins",
            "losses",
            "ties",
            "disagreement_rate",
            "mcnemar_p",
            "mcnemar_p_holm",
            "drop",
            "interval",
            "confidence",
            "regression_p",
            "detectable_drop",
            "samples_needed",
        )
    )
)


class Moments(NamedTuple):
    """All that the interval reads of the samples' drops; a number each, or arrays of one shape for many releases."""

    samples: Any
    clusters: Any
    total: Any  # sum of the drops
    squares: Any  # sum over clusters of (sum of the cluster's drops)^2
    cross: Any  # sum over clusters of its size times the sum of its drops
    sizes: Any  # sum over clusters of its size^2


class Interval(NamedTuple):
    """An interval of the drop, its centre and standard error, and the degrees of freedom of Student's t."""

    low: Any
    high: Any
    centre: Any
    error: Any
    freedom: Any


def cluster_moments(sums: Any, sizes: Any) -> Moments:
    """Moments of clusters: sums of their drops, shape (..., clusters), and their sizes, shape (clusters,)."""
    sums, sizes = np.asarray(sums, dtype=float), np.asarray(sizes, dtype=float)
    return Moments(
        sizes.sum(), sizes.size, sums.sum(-1), (sums * sums).sum(-1), (sums * sizes).sum(-1), (sizes * sizes).sum()
    )


def drop_interval(moments: Moments, width: float, confidence: float = CONFIDENCE) -> Interval:
    """Two-sided interval of the mean drop, within [-width, width].

    Args:
        moments: of one release or of many.
        width: width of the scale; one sample cannot differ by more.
        confidence: nominal coverage.
    """
    size = moments.sizes / moments.samples  # of the cluster of a sample, on average
    samples = moments.samples + 2 * PRIOR * size
    centre = moments.total / samples
    scatter = moments.squares - 2 * centre * moments.cross + centre**2 * moments.sizes
    scatter = scatter + 2 * PRIOR * size**2 * (width**2 + centre**2)
    error = np.sqrt(scatter) / samples
    freedom = moments.samples**2 / moments.sizes + 1
    reach = special.stdtrit(freedom, (1 + confidence) / 2) * error
    return Interval(np.maximum(-width, centre - reach), np.minimum(width, centre + reach), centre, error, freedom)


def regression_p(interval: Interval, limit: Any) -> Any:
    """One-sided p of the test that the true drop is beyond the limit.

    The interval is wholly beyond the limit where this is below (1 - confidence) / 2.
    """
    return special.stdtr(interval.freedom, (limit - interval.centre) / interval.error)


def is_proven_regression(p_values: Any, confidence: float = CONFIDENCE) -> Any:
    """Whether the drop of any of a release's tasks is proven to be beyond its limit, with Holm's correction.

    Holm rejects something exactly where the smallest p, times the number of tasks, is small enough: that is its first
    step, and all that "any of them" needs. One test is one-sided at (1 - confidence) / 2, as an interval's end is.

    Args:
        p_values: ``regression_p`` per task, shape (..., tasks).
    """
    p_values = np.asarray(p_values, dtype=float)
    if not p_values.shape[-1]:
        return np.zeros(p_values.shape[:-1], dtype=bool)
    return p_values.min(-1) * p_values.shape[-1] <= (1 - confidence) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's method (Scand. J. Stat. 6, 1979, 65).

    statsmodels' multipletests gives the same, but collects garbage in each call, which costs more than the whole
    comparison.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected.tolist()


def paired_evidence(
    baseline: Sequence[float],
    candidate: Sequence[float],
    limit: float,
    groups: Sequence[Hashable] | None = None,
    width: float = 1.0,
    higher_is_better: bool = True,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> dict[str, Any]:
    """Evidence of two lists of per-sample scores about the drop of their means.

    Args:
        baseline, candidate: shape (n,), finite scores of the same samples in the same order, native units.
        limit: largest drop that is allowed, native units.
        groups: shape (n,), what a sample belongs to (its question where that is repeated, its passage where one has
            several questions); None where every sample stands for itself.
        width: width of the scale, native units; one sample cannot differ by more.
        higher_is_better: direction of the scale.
        confidence: of the two-sided interval.
        power: probability with which the detectable drop is detected.

    Returns:
        The keys of ``NOTHING``, evidence ("conclusive" | "inconclusive") and sentence. mcnemar_p is None unless scores
        are two-valued and every sample stands for itself, mcnemar_p_holm always, for other tasks are not seen here;
        interval is [low, high]; regression_p is one-sided, of a drop beyond the limit.

    Raises:
        ValueError: lengths differ, a score is not finite, or width, limit or confidence is out of range.
    """
    before, after = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(f"paired scores need two lists of one length, found {before.shape} and {after.shape}")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise ValueError("paired scores must be finite numbers")
    if not (0 < width < math.inf and math.isfinite(limit) and 0 < confidence < 1 and 0 < power < 1):
        raise ValueError(f"width {width}, limit {limit}, confidence {confidence}, power {power}: out of range")
    drops = before - after if higher_is_better else after - before
    samples = len(drops)
    labels = np.arange(samples) if groups is None else _cluster_labels(groups, samples)
    clusters = int(labels.max()) + 1 if samples else 0
    losses, wins = int((drops > TOLERANCE * width).sum()), int((drops < -TOLERANCE * width).sum())
    evidence: dict[str, Any] = {
        **NOTHING,
        "samples": samples,
        "clusters": clusters,
        "wins": wins,
        "losses": losses,
        "ties": samples - wins - losses,
        "disagreement_rate": (wins + losses) / samples if samples else None,
        "drop": float(drops.mean()) if samples else None,
        "confidence": confidence,
    }
    if not samples:
        sentence = "There are no paired samples, so nothing can be said about the drop beyond the two scores."
        return {**evidence, "evidence": INCONCLUSIVE, "sentence": sentence}
    if clusters == samples and len(np.unique(np.concatenate([before, after]))) <= 2:
        evidence["mcnemar_p"] = mcnemar_p(wins, losses)
    moments = cluster_moments(np.bincount(labels, weights=drops), np.bincount(labels))
    interval = drop_interval(moments, width, confidence)
    low, high = float(interval.low), float(interval.high)
    evidence["interval"] = [low, high]
    evidence["regression_p"] = float(regression_p(interval, limit + TOLERANCE * width))
    evidence["detectable_drop"] = min(width, detectable_drop(interval.error, confidence, power))
    if limit > 0:
        evidence["samples_needed"] = samples_needed(samples, interval.error, limit, confidence, power)
    border = limit + TOLERANCE * width
    evidence["evidence"] = CONCLUSIVE if high <= border or low > border else INCONCLUSIVE
    evidence["sentence"] = _sentence(evidence, limit, inside=bool(high <= border))
    return evidence


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided p of the exact McNemar test: how likely so uneven a split of the flips is if neither is better."""
    if wins + losses == 0:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(wins, losses), wins + losses, 0.5)))


def _cluster_labels(groups: Sequence[Hashable], samples: int) -> np.ndarray:
    if len(groups) != samples:
        raise ValueError(f"{len(groups)} groups for {samples} samples")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=int)


def _sentence(evidence: dict[str, Any], limit: float, inside: bool) -> str:
    low, high = evidence["interval"]
    level = f"{evidence['confidence'] * 100:g} %"
    of = f"{evidence['samples']:,} paired samples"
    if evidence["clusters"] != evidence["samples"]:
        of += f" in {evidence['clusters']:,} groups"
    if inside:
        return (
            f"Conclusive: by {of} the drop is at most {high:.4g} ({level} interval), inside the limit of {limit:.4g}."
        )
    if evidence["evidence"] == CONCLUSIVE:
        return (
            f"Conclusive: by {of} the drop is at least {low:.4g} ({level} interval), beyond the limit of {limit:.4g}."
        )
    text = (
        f"Inconclusive: the {level} interval of {of}, {low:.4g} to {high:.4g}, holds the limit of {limit:.4g}; "
        f"{evidence['wins'] + evidence['losses']:,} of them differ, so a drop below about "
        f"{evidence['detectable_drop']:.4g} cannot be distinguished from chance"
    )
    if evidence["samples_needed"] and evidence["samples_needed"] > evidence["samples"]:
        return f"{text}; a limit this small needs about {evidence['samples_needed']:,} samples."
    return f"{text}."
