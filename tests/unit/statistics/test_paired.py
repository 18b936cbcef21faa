"""Paired evidence against closed forms, a bootstrap and simulated releases, and in its degenerate cases."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests

from day0.statistics import paired as statistics
from day0.statistics.paired import (
    PRIOR,
    cluster_moments,
    drop_interval,
    holm,
    is_proven_regression,
    mcnemar_p,
    paired_evidence,
)
from day0.statistics.resolution import detectable_drop, planning_warning, samples_needed


def pair(ties, losses, wins):
    baseline = [1.0] * ties + [1.0] * losses + [0.0] * wins
    candidate = [1.0] * ties + [0.0] * losses + [1.0] * wins
    return baseline, candidate


def test_counts_and_the_exact_test():
    evidence = paired_evidence(*pair(80, 15, 5), limit=0.01)
    assert (evidence["samples"], evidence["losses"], evidence["wins"], evidence["ties"]) == (100, 15, 5, 80)
    assert evidence["drop"] == pytest.approx(0.10)
    assert evidence["mcnemar_p"] == pytest.approx(stats.binomtest(5, 20, 0.5).pvalue)


@pytest.mark.parametrize(("wins", "losses", "expected"), [(0, 0, 1.0), (1, 0, 1.0), (0, 6, 2 / 64), (3, 3, 1.0)])
def test_mcnemar_by_hand(wins, losses, expected):
    assert mcnemar_p(wins, losses) == pytest.approx(expected)


def test_interval_is_bonett_and_prices_with_the_prior_for_one():
    losses, wins, samples = 15, 5, 100
    whole = samples + 2 * PRIOR
    p_loss, p_win = (losses + PRIOR) / whole, (wins + PRIOR) / whole
    error = math.sqrt((p_loss + p_win - (p_loss - p_win) ** 2) / whole)
    reach = stats.t.ppf(0.975, samples + 1) * error
    low, high = paired_evidence(*pair(80, losses, wins), limit=0.01)["interval"]
    assert (low, high) == pytest.approx((p_loss - p_win - reach, p_loss - p_win + reach))


def test_interval_agrees_with_a_bootstrap():
    random = np.random.default_rng(7)
    baseline = random.random(800)
    candidate = np.clip(baseline - 0.03 + 0.1 * random.standard_normal(800), 0, 1)
    found = paired_evidence(baseline, candidate, limit=0.01)["interval"]
    expected = stats.bootstrap((baseline - candidate,), np.mean, n_resamples=2000, method="percentile", rng=random)
    assert found == pytest.approx(list(expected.confidence_interval), abs=0.004)


@pytest.mark.parametrize("sizes", [[8], [1, 2, 5, 12]])
def test_interval_agrees_with_a_bootstrap_over_clusters(sizes):
    """Whole clusters are drawn again: the statistic is a ratio of sums over clusters, so they are the samples."""
    random = np.random.default_rng(11)
    sizes = np.resize(sizes, 400)
    groups = np.repeat(np.arange(400), sizes)
    common = random.choice([0.0, 1.0], 400, p=[0.85, 0.15])[groups]
    drops = np.where(random.random(len(groups)) < 0.7, common, random.choice([-1.0, 0.0, 1.0], len(groups)))
    found = paired_evidence(np.maximum(drops, 0), np.maximum(-drops, 0), limit=0.01, groups=list(groups))["interval"]
    expected = stats.bootstrap(
        (np.bincount(groups, weights=drops), sizes),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=random,
    ).confidence_interval
    width = expected.high - expected.low
    assert found == pytest.approx(list(expected), abs=0.1 * width)
    naive = paired_evidence(np.maximum(drops, 0), np.maximum(-drops, 0), limit=0.01)["interval"]
    assert naive[1] - naive[0] < 0.8 * width


@pytest.mark.parametrize(("together", "added"), [(True, 7), (False, 3)])
def test_variance_is_statsmodels_cluster_robust_one(monkeypatch, together, added):
    """With a prior of one win and one loss, it is a regression on a constant with two clusters added.

    They are whole clusters of questions that can change together, or as large as the changes of a question's repeats.
    """
    monkeypatch.setattr(statistics, "PRIOR", 1)
    sums = np.random.default_rng(5).choice([-3.0, 0.0, 3.0], 40, p=[0.2, 0.5, 0.3])
    labels = np.repeat(np.arange(40), 7)
    drops = np.where(np.tile(np.arange(7), 40) < 3, sums[labels] / 3, 0.0)
    moments = cluster_moments(np.bincount(labels, weights=drops), np.bincount(labels))
    interval = drop_interval(moments, width=1.0, together=together)
    values = np.concatenate([drops, np.ones(added), -np.ones(added)])
    groups = np.concatenate([labels, [40] * added, [41] * added])
    settings = {"groups": groups, "use_correction": False}
    fit = OLS(values, np.ones_like(values)).fit(cov_type="cluster", cov_kwds=settings)
    assert (interval.centre, interval.error) == pytest.approx((fit.params[0], fit.bse[0]))


def test_questions_on_one_passage_can_fail_together_though_none_was_seen_to():
    """And the repeats of a question are as sure as they were seen to be."""
    scores, labels, questions = [1.0] * 480, [n // 16 for n in range(480)], [n // 4 for n in range(480)]
    passages = paired_evidence(scores, scores, limit=0.05, groups=labels, questions=questions)
    repeats = paired_evidence(scores, scores, limit=0.05, groups=labels, questions=labels)
    assert passages["interval"][1] == pytest.approx(paired_evidence([1.0] * 30, [1.0] * 30, limit=0.05)["interval"][1])
    assert repeats["interval"][1] < 0.01 < 0.1 < passages["interval"][1]


def test_one_call_serves_many_releases():
    random = np.random.default_rng(1)
    sums = random.integers(-1, 2, (6, 50))
    many = drop_interval(cluster_moments(sums, np.ones(50)), width=1.0)
    for place, row in enumerate(sums):
        one = drop_interval(cluster_moments(row, np.ones(50)), width=1.0)
        assert (many.low[place], many.high[place]) == pytest.approx((one.low, one.high))


def test_a_proven_regression_is_holms_first_rejection(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # multipletests calls it each time: 0.5 s late in a test run
    random = np.random.default_rng(2)
    for _ in range(200):
        p_values = random.random(4) ** 3
        rejected = multipletests(p_values, alpha=0.025, method="holm")[0]
        assert is_proven_regression(p_values) == rejected.any()
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert not is_proven_regression([])
    assert holm([0.01, 0.04, 0.5]) == pytest.approx([0.03, 0.08, 0.5]) and holm([]) == []


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200), st.floats(0, 0.5))
def test_p_is_small_exactly_where_the_interval_lies_beyond_the_limit(losses, wins, ties, limit):
    evidence = paired_evidence(*pair(ties, losses, wins), limit=limit)
    beyond = evidence["interval"][0] > limit + 1e-9
    assert (evidence["regression_p"] < 0.025) == beyond or evidence["regression_p"] == pytest.approx(0.025)


def test_no_sample_one_sample_and_all_ties():
    nothing = paired_evidence([], [], limit=0.01)
    assert nothing["interval"] is None and nothing["evidence"] == "inconclusive" and nothing["samples"] == 0
    one = paired_evidence([1.0], [1.0], limit=0.01)
    assert one["evidence"] == "inconclusive" and one["mcnemar_p"] == 1.0 and one["interval"][1] > 0.5
    few = paired_evidence([1.0] * 20, [1.0] * 20, limit=0.01)
    assert few["evidence"] == "inconclusive" and few["interval"][0] < 0 < few["interval"][1]
    many = paired_evidence([1.0] * 1000, [1.0] * 1000, limit=0.01)
    assert many["evidence"] == "conclusive" and 0 < many["interval"][1] < 0.01


def test_repeats_of_a_question_are_one_cluster():
    random = np.random.default_rng(3)
    drops = np.repeat(random.choice([0.0, 0.0, 0.0, 1.0], 60), 16)
    baseline, candidate = np.ones_like(drops), 1 - drops
    groups = np.repeat(np.arange(60), 16)
    clustered = paired_evidence(baseline, candidate, limit=0.01, groups=list(groups))
    single = paired_evidence(baseline, candidate, limit=0.01)
    width = [found["interval"][1] - found["interval"][0] for found in (clustered, single)]
    assert clustered["clusters"] == 60 and clustered["mcnemar_p"] is None
    assert width[0] > 3 * width[1]
    means = paired_evidence(baseline[::16], candidate[::16], limit=0.01)
    assert clustered["interval"] == pytest.approx(means["interval"])


def test_scale_and_direction():
    baseline, candidate = pair(80, 15, 5)
    unit = paired_evidence(baseline, candidate, limit=0.01)
    hundred = paired_evidence([100 * x for x in baseline], [100 * x for x in candidate], limit=1.0, width=100)
    assert hundred["interval"] == pytest.approx([100 * end for end in unit["interval"]])
    lower = paired_evidence(candidate, baseline, limit=0.01, higher_is_better=False)
    assert lower["interval"] == pytest.approx(unit["interval"]) and lower["losses"] == 15


def test_conclusive_on_both_sides_of_the_limit():
    inside = paired_evidence(*pair(3000, 3, 3), limit=0.01)
    beyond = paired_evidence(*pair(800, 190, 10), limit=0.01)
    between = paired_evidence(*pair(190, 5, 3), limit=0.01)
    assert inside["evidence"] == "conclusive" and "inside the limit of 0.01" in inside["sentence"]
    assert beyond["evidence"] == "conclusive" and "beyond the limit of 0.01" in beyond["sentence"]
    assert between["evidence"] == "inconclusive" and "holds the limit" in between["sentence"]
    assert between["samples_needed"] > 198 and f"{between['samples_needed']:,} samples" in between["sentence"]


def test_detectable_drop_by_hand():
    assert detectable_drop(0.01) == pytest.approx((1.959964 + 0.841621) * 0.01, rel=1e-5)
    assert samples_needed(100, 0.01, detectable_drop(0.01)) == 100
    assert samples_needed(100, 0.01, detectable_drop(0.01) / 2) == 400
    assert samples_needed(100, 0.5, 1e-9) is None


@pytest.mark.parametrize(
    ("samples", "repeats", "limit", "width", "needed"),
    [(198, 1, 0.01, 1, "3,925"), (198, 16, 1.0, 100, "3,925"), (198, 16, 0.01, 1, "3,925"), (100, 1, 0, 1, None)],
)
def test_a_plan_is_warned_of_what_its_suite_cannot_resolve(samples, repeats, limit, width, needed):
    sentence = planning_warning(samples, limit, width, repeats=repeats)
    assert f"{samples} " in sentence and "5 %" in sentence and (needed or "cannot be distinguished") in sentence
    assert (needed is None) == ("needs about" not in sentence)


def test_no_warning_where_the_suite_resolves_the_limit():
    assert planning_warning(3925, 0.01, 1) is None and planning_warning(3924, 0.01, 1) is not None
    assert planning_warning(198, 0.01, 1, rate=0.002) is None
    assert planning_warning(250, 0.01, 1, repeats=16) is None


@pytest.mark.parametrize("bad", [{"limit": math.nan}, {"limit": 0.01, "width": 0}, {"limit": 0.01, "confidence": 1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="out of range"):
        paired_evidence([1.0], [0.0], **bad)


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="one length"):
        paired_evidence([1.0], [], limit=0.01)
    with pytest.raises(ValueError, match="finite"):
        paired_evidence([math.nan], [1.0], limit=0.01)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5)), max_size=40), st.floats(0, 0.99))
def test_any_scores_give_sound_evidence(rows, limit):
    baseline, candidate, groups = ([row[i] for row in rows] for i in range(3))
    evidence = paired_evidence(baseline, candidate, limit=limit, groups=groups)
    assert evidence["wins"] + evidence["losses"] + evidence["ties"] == len(rows)
    if rows:
        low, high = evidence["interval"]
        assert -1 <= low < high <= 1
        assert evidence["sentence"].startswith(evidence["evidence"].capitalize())
        mirrored = paired_evidence(candidate, baseline, limit=limit, groups=groups)
        assert mirrored["interval"] == pytest.approx([-high, -low], abs=1e-9)


def repeated(shares, repeats):
    """Scores of questions, each asked several times, right in these shares; and the questions' names."""
    scores = [float(place < round(share * repeats)) for share in shares for place in range(repeats)]
    return scores, [question for question in range(len(shares)) for _ in range(repeats)]


def test_the_error_over_repeats_by_hand():
    (before, questions), (after, _) = repeated([1.0, 0.5, 0.75], 4), repeated([1.0, 0.25, 0.75], 4)
    found = paired_evidence(before, after, limit=0.01, groups=questions, questions=questions)
    variance = sum(4 * np.var(np.reshape(side, (3, 4)), axis=1, ddof=1).sum() for side in (before, after))
    assert found["error_from"] == "repeats" and found["questions"] == 3
    assert found["error"] == pytest.approx(math.sqrt(variance + 2 * PRIOR) / 12)
    assert paired_evidence(before, after, limit=0.01, groups=questions)["error_from"] == "questions"
    few = paired_evidence(before[:3], after[:3], limit=0.01, groups=[0] * 3, questions=[0] * 3)
    assert few["error_from"] == "questions"


def test_the_error_over_repeats_is_that_of_asking_the_same_questions_again():
    random = np.random.default_rng(9)
    chance, questions = random.beta(0.5, 0.5, 40), np.repeat(np.arange(40), 16)
    drops, errors, covered = [], [], 0
    for _ in range(300):
        before, after = (random.random(640) < chance[questions] for _ in range(2))
        found = paired_evidence(before, after, limit=0.01, groups=list(questions), questions=list(questions))
        drops.append(found["drop"])
        errors.append(found["error"])
        covered += found["largest_drop"] >= 0
    assert np.mean(errors) == pytest.approx(np.std(drops), rel=0.15)
    assert 0.91 <= covered / 300 <= 0.99


@pytest.mark.parametrize("repeats", [1, 4, 64])
def test_identical_answers_need_no_more_samples_the_more_they_are_repeated(repeats):
    """Once 1,154, 4,616 and 295,422 samples were asked for; and 30 questions had a half-width of 0.1 whatever."""
    scores, questions = repeated([1.0] * 30, repeats)
    found = paired_evidence(scores, scores, limit=0.01, groups=questions, questions=questions)
    assert found["interval"][1] == pytest.approx(3.6 / (30 * repeats), rel=0.15)
    assert found["questions_needed"] <= 30 * max(1, 17 / repeats)
    if repeats >= 4:
        assert found["repeats_needed"] <= max(17, repeats)


def test_what_a_limit_needs_is_said_in_questions_or_repeats():
    random = np.random.default_rng(4)
    questions = np.repeat(np.arange(50), 8)
    before, after = (random.random(400) < 0.5 for _ in range(2))
    evidence = paired_evidence(before, after, limit=0.01, groups=list(questions), questions=list(questions))
    assert f"needs about {evidence['repeats_needed']:,} repeats of each question" in evidence["sentence"]
    target = 0.01 / (1.959964 + 0.841621)
    again = evidence["error"] * math.sqrt(8 / evidence["repeats_needed"])
    assert again == pytest.approx(target, rel=0.01)
