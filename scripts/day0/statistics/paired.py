"""Paired evidence: what the same samples, answered by two checkpoints, say about the drop between them.

All numbers are drops: positive means that the candidate is worse, in the native units of the task's scale.

The interval is Bonett and Price's adjusted Wald interval for matched proportions (J. Educ. Behav. Stat. 37, 2012, 479),
written as the mean of clusters with a cluster-robust variance (Liang and Zeger, Biometrika 73, 1986, 13): before it is
taken, ``PRIOR`` wins and ``PRIOR`` losses of a cluster are added. So it stays honest where nothing or little differs
(its width is never 0), holds for real-valued scores, and counts what belongs together as one.

What is added is what one more change could be. Where a cluster holds several questions (on one passage), it is a whole
cluster: they can fail together though none was seen to. Where it holds the repeats of one question, it is as large as
the changes that were seen, on average over their scatter (sum of 4th powers / sum of squares), and no less than one
sample: a question asked 64 times would else have the error of one asked once. So a loss of whole questions is covered
from about three that are lost on; of fewer, none may have been seen.

Where clusters differ in size, a whole one is as large as the one that a sample stands in on average (sum of squares /
sum of sizes), and Student's t has the degrees of freedom of the effective number of clusters, (sum of sizes)^2 / sum of
squares (Kish, Survey Sampling, 1965).

Bonett and Price add one win and one loss; with these the coverage of a nominal 95 % falls to 93.5 % where nearly all
disagreements are losses. With 1.5 it stays above 94 % (benchmarks/decision.py), and where nothing differs the upper end
is 3.4 / samples, just outside of the rule of three.

Two questions have two errors. *Did the model lose anything on questions like these?* The questions are a sample, and
the interval over them answers; more questions make it smaller. *Does it score less on this benchmark?* The questions
are fixed, only sampling is chance, and where each is asked ``LEAST_REPEATS`` times or more, the scatter of a question's
own repeats is the error (``repeat_error``); more repeats make it smaller. The error of a task is the latter where there
are the repeats, else the former.

The formulas take arrays, so that one call serves a release and ten thousand simulated ones.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from scipy import special  # not scipy.stats, whose import takes longer than a comparison

from day0.statistics.resolution import CONCLUSIVE, CONFIDENCE, INCONCLUSIVE, POWER, detectable_drop, factor_needed

PRIOR = 1.5
LEAST_REPEATS = 4  # of each question, for an error of their own
MOST_NEEDED = 10**12  # questions or repeats; no suite has more
TOLERANCE = 1e-9
ROUNDING = 1e-9  # relative to one question or repeat

# The numbers of a task's evidence, each None until there are samples to give it.
NOTHING: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(
        (
            "samples",
            "clusters",
            "questions",
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
            "error",
            "error_from",
            "largest_drop",
            "loss_p",
            "detectable_drop",
            "samples_needed",
            "questions_needed",
            "repeats_needed",
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
    fourth: Any  # sum over clusters of (sum of the cluster's drops)^4


class Error(NamedTuple):
    """A standard error, the estimate that it belongs to, and its degrees of freedom."""

    centre: Any
    error: Any
    freedom: Any

    def largest(self, level: float = CONFIDENCE) -> Any:
        """One-sided upper bound of the drop."""
        return self.centre + special.stdtrit(self.freedom, level) * self.error

    def loss_p(self) -> Any:
        """One-sided p of a drop so large where the truth is none."""
        return special.stdtr(self.freedom, -self.centre / self.error)


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
        sizes.sum(),
        sizes.size,
        sums.sum(-1),
        (sums * sums).sum(-1),
        (sums * sizes).sum(-1),
        (sizes * sizes).sum(),
        (sums**4).sum(-1),
    )


def drop_interval(moments: Moments, width: float, confidence: float = CONFIDENCE, together: bool = False) -> Interval:
    """Two-sided interval of the mean drop, within [-width, width].

    Args:
        moments: of one release or of many.
        width: width of the scale; one sample cannot differ by more.
        confidence: nominal coverage.
        together: a cluster holds several questions, which can change together, and not only one question's repeats.
    """
    # Samples of an added cluster, each of which changes by the whole width.
    if together:
        size = moments.sizes / moments.samples
    else:
        seen = moments.fourth / np.where(moments.squares > 0, moments.squares, 1.0)
        size = np.maximum(1.0, np.sqrt(seen) / width)
    samples = moments.samples + 2 * PRIOR * size
    centre = moments.total / samples
    scatter = moments.squares - 2 * centre * moments.cross + centre**2 * moments.sizes
    scatter = scatter + 2 * PRIOR * size**2 * (width**2 + centre**2)
    error = np.sqrt(scatter) / samples
    freedom = moments.samples**2 / moments.sizes + 1
    reach = special.stdtrit(freedom, (1 + confidence) / 2) * error
    return Interval(np.maximum(-width, centre - reach), np.minimum(width, centre + reach), centre, error, freedom)


def repeat_error(drops: Any, variances: Any, squares: Any, samples: Any, width: float) -> Error:
    """Error of the mean drop where the questions are fixed and their repeats are the only chance.

    The estimate is a sum over questions and both sides of means of repeats. Its variance is the sum of theirs, each
    estimated without bias from the question's own repeats; ``PRIOR`` wins and losses of one sample are added, and
    Student's t has Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946, 110).

    Args:
        drops: mean drop, native units; a number, or an array for many releases, as are the next three.
        variances: sum over questions and sides of repeats times the sample variance (n - 1) of the question's scores.
        squares: sum over the same of (repeats times variance)^2 / (repeats - 1).
        samples: samples of one side.
        width: width of the scale; one sample cannot differ by more.
    """
    error = np.sqrt(variances + 2 * PRIOR * width**2) / samples
    freedom = np.where(squares > 0, variances**2 / np.where(squares > 0, squares, 1.0), samples)
    return Error(drops, error, np.maximum(freedom, 1.0))


def _error_over_repeats(
    before: np.ndarray, after: np.ndarray, drop: float, questions: np.ndarray, width: float
) -> Error | None:
    """The error of a task over the repeats of its questions; None where a question has fewer than LEAST_REPEATS."""
    repeats = np.bincount(questions)
    if repeats.min() < LEAST_REPEATS:
        return None
    variances = squares = 0.0
    for scores in (before, after):
        means = np.bincount(questions, weights=scores) / repeats
        of_question = np.bincount(questions, weights=(scores - means[questions]) ** 2) / (repeats - 1) * repeats
        variances += of_question.sum()
        squares += (of_question**2 / (repeats - 1)).sum()
    return repeat_error(drop, variances, squares, len(before), width)


def _needed(error: float, prior: float, target: float) -> float:
    """How many times as much of what an error falls with brings it to the target.

    Args:
        error: the present one.
        prior: its share that stands for what was never seen; this falls with the number itself, the rest with its root.
        target: the error that is wanted, above 0.

    Returns:
        The factor f that solves (error^2 - prior^2) / f + prior^2 / f^2 = target^2, at least 1; infinite where that is
        beyond all use.
    """
    if error > math.sqrt(MOST_NEEDED) * target:
        return math.inf
    whole, unseen = (error / target) ** 2, min(error / target, prior / target) ** 2
    seen = whole - unseen
    return max(1.0, (seen + math.sqrt(seen**2 + 4 * unseen)) / 2)


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
    """p-values of one release corrected for their number; see ``holm_corrected``."""
    return holm_corrected(p_values).tolist()


def holm_corrected(p_values: Any) -> np.ndarray:
    """p-values corrected for their number, along the last axis, by Holm's method (Scand. J. Stat. 6, 1979, 65).

    statsmodels' multipletests gives the same, but collects garbage in each call, which costs more than the whole
    comparison.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, axis=-1, kind="stable")
    stepped = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(1, np.maximum.accumulate(stepped, axis=-1)), -1)
    return corrected


def paired_evidence(
    baseline: Sequence[float],
    candidate: Sequence[float],
    limit: float,
    groups: Sequence[Hashable] | None = None,
    questions: Sequence[Hashable] | None = None,
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
        questions: shape (n,), the question that a sample repeats; None where none is repeated.
        width: width of the scale, native units; one sample cannot differ by more.
        higher_is_better: direction of the scale.
        confidence: of the two-sided interval.
        power: probability with which the detectable drop is detected.

    Returns:
        The keys of ``NOTHING``, evidence ("conclusive" | "inconclusive") and sentence. mcnemar_p is None unless scores
        are two-valued and every sample stands for itself, mcnemar_p_holm always, for other tasks are not seen here;
        interval is [low, high] over questions; regression_p is one-sided, of a drop beyond the limit. error is the
        task's, from "repeats" or "questions" (error_from), and largest_drop, loss_p and detectable_drop go by it.

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
    labels = np.arange(samples) if groups is None else cluster_labels(groups, samples)
    clusters = int(labels.max()) + 1 if samples else 0
    repeated = None if questions is None else cluster_labels(questions, samples)
    losses, wins = int((drops > TOLERANCE * width).sum()), int((drops < -TOLERANCE * width).sum())
    evidence: dict[str, Any] = {
        **NOTHING,
        "samples": samples,
        "clusters": clusters,
        "questions": samples if repeated is None or not samples else int(repeated.max()) + 1,
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
    together = clusters < evidence["questions"]
    interval = drop_interval(moments, width, confidence, together)
    low, high = float(interval.low), float(interval.high)
    evidence["interval"] = [low, high]
    evidence["regression_p"] = float(regression_p(interval, limit + TOLERANCE * width))
    over_questions = Error(float(interval.centre), float(interval.error), float(interval.freedom))
    over_repeats = repeated is not None and _error_over_repeats(before, after, evidence["drop"], repeated, width)
    error = over_repeats or over_questions
    evidence["error"], evidence["error_from"] = float(error.error), "repeats" if over_repeats else "questions"
    evidence["largest_drop"] = float(min(width, error.largest(confidence)))
    evidence["loss_p"] = float(error.loss_p())
    evidence["detectable_drop"] = min(width, detectable_drop(float(error.error), confidence, power))
    if limit > 0:
        target = limit / factor_needed(confidence, power)
        prior = math.sqrt(2 * PRIOR) * width / samples
        unseen = prior * float(moments.sizes) / samples if together else prior
        by_questions = clusters * _needed(over_questions.error, unseen, target)
        if by_questions <= MOST_NEEDED:
            evidence["questions_needed"] = math.ceil(by_questions - ROUNDING)
            evidence["samples_needed"] = math.ceil(by_questions * samples / clusters - ROUNDING)
        if over_repeats:
            by_repeats = samples / evidence["questions"] * _needed(float(error.error), prior, target)
            if by_repeats <= MOST_NEEDED:
                evidence["repeats_needed"] = math.ceil(by_repeats - ROUNDING)
    border = limit + TOLERANCE * width
    evidence["evidence"] = CONCLUSIVE if high <= border or low > border else INCONCLUSIVE
    evidence["sentence"] = _sentence(evidence, limit, inside=bool(high <= border))
    return evidence


def mcnemar_p(wins: int, losses: int) -> float:
    """Two-sided p of the exact McNemar test: how likely so uneven a split of the flips is if neither is better."""
    if wins + losses == 0:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(wins, losses), wins + losses, 0.5)))


def cluster_labels(groups: Sequence[Hashable], samples: int) -> np.ndarray:
    """Number of each sample's cluster, from 0 in the order in which they appear, shape (samples,).

    Raises:
        ValueError: there are not as many labels as samples.
    """
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
    needed = needed_sentence(evidence, limit)
    return f"{text}; {needed}." if needed else f"{text}."


def needed_sentence(evidence: Mapping[str, Any], limit: float) -> str | None:
    """How many repeats or questions a limit needs, as a clause; None where those that were asked are enough.

    Args:
        evidence: the keys of ``NOTHING``.
        limit: the limit that they were made for, native units.
    """
    samples, clusters = evidence["samples"], evidence["clusters"]
    repeats, questions = evidence["repeats_needed"], evidence["questions_needed"]
    if repeats is not None:
        asked = samples / clusters
        return f"a limit of {limit:.4g} needs about {repeats:,} repeats of each question" if repeats > asked else None
    if questions is None or questions <= clusters:
        return None
    if clusters == samples:
        return f"a limit of {limit:.4g} needs about {questions:,} samples"
    return f"a limit of {limit:.4g} needs about {questions:,} groups, {evidence['samples_needed']:,} samples"
