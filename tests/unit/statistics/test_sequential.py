"""Evidence that may be looked at after every question: valid at every look, order-free, monotone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.statistics.sequential import (
    ACCEPTED_LIMITS,
    BEYOND,
    LARGEST,
    Rejection,
    accepts,
    evidence_of_less,
    evidence_of_more,
    needed_to_reject,
    rejection_of,
    rejects,
)

DROPS = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.0, 0.25, 1.0]), min_size=1, max_size=60)
LIMIT = 0.01


def simulated(mean, disagreement, questions, runs, seed=7):
    """Drops of -1, 0 and 1, shape (runs, questions)."""
    uniform = np.random.default_rng(seed).random((runs, questions))
    losses = (disagreement + mean) / 2
    return np.where(uniform < losses, 1.0, np.where(uniform < disagreement, -1.0, 0.0))


@pytest.mark.parametrize("disagreement", [0.05, 0.3])
def test_no_loss_is_called_one_in_few_runs_however_often_one_looks(disagreement):
    ever = evidence_of_more(simulated(0.0, disagreement, 300, 600), 0.0, running=True).max(-1)
    assert (ever >= 20).mean() <= 0.05 and (ever >= 80).mean() <= 0.0125
    assert (ever >= 2).any()  # it does move: the test could fail


def test_a_loss_at_the_border_is_called_small_in_few_runs():
    ever = evidence_of_less(simulated(0.05, 0.2, 300, 600), 0.05, running=True).max(-1)
    assert (ever >= 20).mean() <= 0.05


def test_a_real_loss_is_found_and_none_is_excluded():
    lossy, lossless = simulated(0.2, 0.3, 400, 50), simulated(0.0, 0.05, 2000, 10)
    assert (evidence_of_more(lossy, 0.0) >= 1000).all()
    assert (evidence_of_less(lossless, ACCEPTED_LIMITS * LIMIT) >= 100).mean() > 0.5


@given(DROPS, st.randoms(use_true_random=False), st.sampled_from([0.0, 0.01, 0.2]))
def test_the_order_of_questions_does_not_matter(drops, random, bound):
    shuffled = drops.copy()
    random.shuffle(shuffled)
    for evidence in (evidence_of_more, evidence_of_less):
        assert evidence(shuffled, bound) == pytest.approx(evidence(drops, bound), rel=1e-9)


@given(DROPS, st.integers(0, 59), st.sampled_from([0.0, 0.01, 0.2]))
def test_a_question_that_is_lost_more_never_speaks_for_the_candidate(drops, place, bound):
    worse = drops.copy()
    worse[place % len(drops)] = 1.0
    assert evidence_of_more(worse, bound) >= evidence_of_more(drops, bound) * (1 - 1e-12)
    assert evidence_of_less(worse, bound) <= evidence_of_less(drops, bound) * (1 + 1e-12)


@given(DROPS)
def test_looking_after_each_question_is_what_looking_once_then_gives(drops):
    for evidence in (evidence_of_more, evidence_of_less):
        running = evidence(drops, 0.02, running=True)
        assert running == pytest.approx([evidence(drops[: end + 1], 0.02) for end in range(len(drops))])


def test_the_formula_by_hand():
    stakes = np.geomspace(0.004, 0.9, 24)
    assert evidence_of_more([1.0, -1.0, 0.5], 0.0) == pytest.approx(
        np.mean((1 + stakes) * (1 - stakes) * (1 + stakes / 2))
    )


def test_overwhelming_evidence_is_a_number():
    assert evidence_of_more(np.ones(100_000), 0.0) == LARGEST


@pytest.mark.parametrize("drops, bound", [([1.5], 0.0), ([float("nan")], 0.0), ([0.0], 1.0), ([0.0], -0.1)])
def test_what_is_out_of_range_is_refused(drops, bound):
    with pytest.raises(ValueError, match="expected drops"):
        evidence_of_more(drops, bound)


@pytest.mark.parametrize(
    "found, rejected",
    [
        (Rejection(80.0, BEYOND, 0.011), True),
        (Rejection(79.0, BEYOND, 0.011), False),
        (Rejection(80.0, BEYOND - 1, 0.011), False),
        (Rejection(1e9, 1e9, 0.010), False),
    ],
)
def test_a_rejection_takes_a_loss_its_size_and_a_drop_beyond_the_limit(found, rejected):
    assert rejects(found, LIMIT, needed_to_reject(4)) is rejected


def test_more_tasks_and_shards_ask_for_more():
    assert needed_to_reject(4, 3) == 12 * needed_to_reject(1)
    assert accepts(100) and not accepts(100, shards=2)


def test_nothing_asked_says_nothing():
    assert rejection_of([], LIMIT) == Rejection(1.0, 1.0, 0.0)


def test_half_a_limit_lost_on_a_large_suite_is_not_stopped():
    """A process at 0 alone would stop it."""
    stopped = alone = 0
    for drops in simulated(0.4 * LIMIT, 0.02, 20_000, 5):
        ends = range(5000, 20_001, 5000)
        alone += any(evidence_of_more(drops[:end], 0.0) >= 80 for end in ends)
        stopped += any(rejects(rejection_of(drops[:end], LIMIT), LIMIT, 80) for end in ends)
    assert stopped == 0 and alone > 0
