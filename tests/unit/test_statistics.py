"""Paired evidence against closed forms, a bootstrap and simulated releases, and in its degenerate cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from day0.statistics import detectable_drop, mcnemar_p, paired_evidence, samples_needed


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


def test_interval_is_bonett_and_prices():
    losses, wins, samples = 15, 5, 100
    p_loss, p_win = (losses + 1) / (samples + 2), (wins + 1) / (samples + 2)
    error = math.sqrt((p_loss + p_win - (p_loss - p_win) ** 2) / (samples + 2))
    reach = stats.t.ppf(0.975, samples + 1) * error
    low, high = paired_evidence(*pair(80, losses, wins), limit=0.01)["interval"]
    assert (low, high) == pytest.approx((p_loss - p_win - reach, p_loss - p_win + reach))


def test_interval_agrees_with_a_bootstrap():
    random = np.random.default_rng(7)
    baseline = random.random(800)
    candidate = np.clip(baseline - 0.03 + 0.1 * random.standard_normal(800), 0, 1)
    found = paired_evidence(baseline, candidate, limit=0.01)["interval"]
    drops = baseline - candidate
    means = [random.choice(drops, 800).mean() for _ in range(4000)]
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004)


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


@pytest.mark.parametrize("bad", [{"limit": math.nan}, {"limit": 0.01, "width": 0}, {"limit": 0.01, "confidence": 1}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="out of range"):
        paired_evidence([1.0], [0.0], **bad)


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="one length"):
        paired_evidence([1.0], [], limit=0.01)
    with pytest.raises(ValueError, match="finite"):
        paired_evidence([math.nan], [1.0], limit=0.01)


@pytest.mark.parametrize(("samples", "loss", "win"), [(200, 0.03, 0.02), (1000, 0.004, 0.004), (198, 0.10, 0.08)])
def test_interval_covers_the_true_drop(samples, loss, win):
    """600 simulated releases: a nominal 95 % interval that truly covers 94 % falls below 91 % once in 10,000 times."""
    random = np.random.default_rng(samples)
    covered = 0
    for losses, wins, ties in random.multinomial(samples, [loss, win, 1 - loss - win], 600):
        low, high = paired_evidence(*pair(ties, losses, wins), limit=0.01)["interval"]
        covered += low <= loss - win <= high
    assert covered / 600 >= 0.91


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
