"""The evidence of a suite's tasks together: by hand, by simulation, and its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from day0.statistics.pooled import LARGEST_HIDDEN, pool

LIMIT = 0.01


def evidence(drops, errors, limits=LIMIT):
    drops, errors = np.asarray(drops, dtype=float), np.asarray(errors, dtype=float)
    limits = np.broadcast_to(np.asarray(limits, dtype=float), drops.shape[-1:])
    return pool(drops, errors, drops + stats.norm.ppf(0.95) * errors, stats.norm.sf(drops / errors), limits)


def test_the_means_by_hand():
    found = evidence([0.002, 0.006], [0.001, 0.002])
    assert found.plain.drop == pytest.approx(0.004)
    assert found.plain.error == pytest.approx(np.hypot(0.001, 0.002) / 2)
    assert found.weighted.drop == pytest.approx((4 * 0.002 + 0.006) / 5)
    assert found.weighted.error == pytest.approx(0.002 / np.sqrt(5))
    assert found.weighted.largest == pytest.approx(0.0028 + 1.644854 * 0.002 / np.sqrt(5))


def test_limits_are_averaged_as_the_drops_are():
    found = evidence([0.0, 0.0], [0.001, 0.002], [0.01, 0.05])
    assert (found.plain.limit, found.weighted.limit) == pytest.approx((0.03, (4 * 0.01 + 0.05) / 5))


@pytest.mark.parametrize("tasks", [1, 2, 9])
def test_no_loss_p_is_uniform_where_nothing_is_lost(tasks):
    """Down to the share of releases in which no task dropped at all, where it is 1."""
    drops = np.random.default_rng(3).normal(0, 0.01, (20_000, tasks))
    p = evidence(drops, np.full_like(drops, 0.01)).no_loss_p
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 20_000))
    assert (p == 1).mean() == pytest.approx(0.5**tasks, abs=0.02)


def test_a_task_that_lost_is_found_with_holms_correction():
    errors = [0.004] * 4
    alone, among = evidence([0.0088], errors[:1], 0.005), evidence([0.0088, 0, 0, 0], errors, 0.005)
    assert alone.lost.tolist() == [True] and not among.lost.any()
    assert evidence([0.012, 0, 0, 0], errors, 0.005).lost.tolist() == [True, False, False, False]
    assert not evidence([0.004, 0, 0, 0], [0.0001] * 4, 0.005).lost.any()  # proven, and within the limit


def test_the_mean_of_many_small_losses_is_a_regression_that_no_task_shows():
    found = evidence([0.012] * 9, [0.009] * 9)
    assert not found.lost.any() and found.is_regression and not found.is_accepted


def test_a_task_that_could_hide_a_large_loss_is_undecided():
    open_task = evidence([0.0, 0.0, 0.0], [0.002, 0.002, 0.04])
    assert open_task.is_within and open_task.is_hidden.tolist() == [False, False, True]
    assert not open_task.is_accepted and not open_task.is_regression


def test_a_likely_loss_of_one_task_is_undecided():
    """Not proven with Holm's correction, and more than the others make likely."""
    found = evidence([0.022, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0085] + [0.01] * 8)
    assert not found.is_regression and found.is_within
    assert found.shrunken[0] < 0.022 and found.is_accepted == (not found.is_beyond.any())


NUMBERS = st.integers(-40, 80).map(lambda number: number / 1000)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 6))
def test_a_larger_drop_never_gets_a_better_answer(data, tasks):
    lists = lambda values: st.lists(values, min_size=tasks, max_size=tasks)  # noqa: E731
    drops = np.array(data.draw(lists(NUMBERS)))
    errors = np.array(data.draw(lists(st.sampled_from([0.001, 0.003, 0.01, 0.02]))))
    limits = np.array(data.draw(lists(st.sampled_from([0.0, 0.005, 0.01, 0.03]))))
    worse = drops + np.array(data.draw(lists(st.integers(0, 30).map(lambda number: number / 1000))))
    rank = [
        2 * int(found.is_accepted) - int(found.is_regression)
        for found in (evidence(drops, errors, limits), evidence(worse, errors, limits))
    ]
    assert rank[0] >= rank[1]


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(5)), st.lists(NUMBERS, min_size=5, max_size=5))
def test_the_order_of_tasks_does_not_matter(order, drops):
    errors, order = np.array([0.001, 0.002, 0.004, 0.01, 0.02]), list(order)
    one, other = evidence(drops, errors), evidence(np.array(drops)[order], errors[order])
    assert (one.is_accepted, one.is_regression) == (other.is_accepted, other.is_regression)
    assert one.shrunken[order] == pytest.approx(other.shrunken)


def test_one_call_serves_many_releases():
    drops = np.random.default_rng(5).normal(0.004, 0.01, (50, 4))
    errors = np.full_like(drops, 0.006)
    many = evidence(drops, errors)
    for place in range(50):
        one = evidence(drops[place], errors[place])
        assert (many.is_accepted[place], many.is_regression[place]) == (one.is_accepted, one.is_regression)


def test_nothing_within_a_limit_of_zero_can_be_proven():
    assert not evidence([0.0], [1e-6], 0.0).is_accepted and LARGEST_HIDDEN > 1


def test_a_stronger_level_widens_the_bound_of_the_means_only():
    one, ten = (
        pool(np.array([0.002]), np.array([0.003]), np.array([0.008]), np.array([0.3]), np.array([LIMIT]), level)
        for level in (0.95, 0.995)
    )
    assert ten.plain.largest == pytest.approx(0.002 + stats.norm.ppf(0.995) * 0.003)
    assert ten.plain.largest > one.plain.largest
    assert (ten.weighted.largest > one.weighted.largest) and (ten.lost == one.lost).all()
