"""Paired evidence: what the same samples, answered by two checkpoints, say about the drop between them.

All numbers are drops: positive means that the candidate is worse, in the native units of the task's scale.
The interval is Bonett and Price's adjusted Wald interval for matched proportions (J. Educ. Behav. Stat. 37, 2012, 479),
written as a regression on a constant with one full-width win and one full-width loss added, and a cluster-robust
variance over the sample ids. So it stays honest where nothing or little differs (no interval of width zero), holds for
real-valued scores, and counts the repeats of one question as one cluster.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar

CONFIDENCE = 0.95
POWER = 0.8
TOLERANCE = 1e-9
CONCLUSIVE, INCONCLUSIVE = "conclusive", "inconclusive"


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
        groups: shape (n,), id of the question that a sample repeats; None where every sample stands for itself.
        width: width of the scale, native units; one sample cannot differ by more.
        higher_is_better: direction of the scale.
        confidence: of the two-sided interval.
        power: probability with which the detectable drop is detected.

    Returns:
        samples, clusters, wins, losses, ties, disagreement_rate, mcnemar_p (None unless scores are two-valued and
        nothing is repeated), drop, interval ([low, high] or None without samples), confidence, detectable_drop,
        samples_needed, evidence ("conclusive" | "inconclusive") and sentence.

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
    evidence = {
        "samples": samples,
        "clusters": clusters,
        "wins": wins,
        "losses": losses,
        "ties": samples - wins - losses,
        "disagreement_rate": (wins + losses) / samples if samples else None,
        "mcnemar_p": None,
        "drop": float(drops.mean()) if samples else None,
        "interval": None,
        "confidence": confidence,
        "detectable_drop": None,
        "samples_needed": None,
    }
    if not samples:
        sentence = "There are no paired samples, so nothing can be said about the drop beyond the two scores."
        return {**evidence, "evidence": INCONCLUSIVE, "sentence": sentence}
    if clusters == samples and len(np.unique(np.concatenate([before, after]))) <= 2:
        evidence["mcnemar_p"] = mcnemar_p(wins, losses)
    centre, error = _adjusted_mean(drops, labels, width)
    reach = stats.t.ppf((1 + confidence) / 2, df=clusters + 1) * error
    low, high = max(-width, centre - reach), min(width, centre + reach)
    evidence["interval"] = [float(low), float(high)]
    evidence["detectable_drop"] = float(min(width, detectable_drop(error, confidence, power)))
    if limit > 0:
        evidence["samples_needed"] = samples_needed(samples, error, limit, confidence, power)
    border = limit + TOLERANCE * width
    evidence["evidence"] = CONCLUSIVE if high <= border or low > border else INCONCLUSIVE
    evidence["sentence"] = _sentence(evidence, limit, inside=bool(high <= border))
    return evidence


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided p of the exact McNemar test: how likely so uneven a split of the flips is if neither is better."""
    if wins + losses == 0:
        return 1.0
    return float(min(1.0, mcnemar([[0, wins], [losses, 0]], exact=True).pvalue))


def detectable_drop(standard_error: float, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Smallest true drop that a test at this confidence finds with this power, in the units of the standard error.

    (z_{1-alpha/2} + z_{power}) * standard error: Miller, Adding Error Bars to Evals (arXiv 2411.00640), section 5; for
    0/1 scores and small drops it is Connor's sample size for matched pairs (Biometrics 43, 1987, 207) solved for the
    difference.
    """
    return float((stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)) * standard_error)


def samples_needed(
    samples: int, standard_error: float, drop: float, confidence: float = CONFIDENCE, power: float = POWER
) -> int | None:
    """Samples at which a drop of this size is the detectable one, the standard error falling with their square root.

    None where they are more than 10^12 times as many, which no suite has.
    """
    detectable = detectable_drop(standard_error, confidence, power)
    if detectable > 1e6 * drop:
        return None
    return max(1, math.ceil(samples * (detectable / drop) ** 2 - TOLERANCE))


def _cluster_labels(groups: Sequence[Hashable], samples: int) -> np.ndarray:
    if len(groups) != samples:
        raise ValueError(f"{len(groups)} groups for {samples} samples")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=int)


def _adjusted_mean(drops: np.ndarray, labels: np.ndarray, width: float) -> tuple[float, float]:
    """Mean and cluster-robust standard error after one win and one loss of full width are added as clusters.

    Without repeats the variance is Bonett and Price's: (p12 + p21 - (p12 - p21)^2) / (n + 2), with p = (count + 1) /
    (n + 2).
    """
    clusters = int(labels.max()) + 1
    size = max(1, round(len(drops) / clusters))
    values = np.concatenate([drops, np.full(size, width), np.full(size, -width)])
    ids = np.concatenate([labels, np.full(size, clusters), np.full(size, clusters + 1)])
    fit = OLS(values, np.ones_like(values)).fit(
        cov_type="cluster", cov_kwds={"groups": ids, "use_correction": False}, use_t=False
    )
    return float(fit.params[0]), float(fit.bse[0])


def _sentence(evidence: dict[str, Any], limit: float, inside: bool) -> str:
    low, high = evidence["interval"]
    level = f"{evidence['confidence'] * 100:g} %"
    of = f"{evidence['samples']:,} paired samples"
    if evidence["clusters"] != evidence["samples"]:
        of += f" of {evidence['clusters']:,} questions"
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
        f"{evidence['detectable_drop']:.4g} cannot be told from chance"
    )
    if evidence["samples_needed"] and evidence["samples_needed"] > evidence["samples"]:
        return f"{text}; a limit this small needs about {evidence['samples_needed']:,} samples."
    return f"{text}."
