"""The ratio of two means: its interval covers, knows clusters, and is refused what is no amount."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.statistics.ratio import ratio_of_means, ratio_of_repeats


@pytest.mark.parametrize(("questions", "repeats"), [(30, 1), (30, 8), (400, 1)])
@pytest.mark.parametrize("truth", [1.0, 1.3])
def test_the_interval_covers_the_true_ratio(questions, repeats, truth):
    random = np.random.default_rng(5)
    groups = np.repeat(np.arange(questions), repeats).tolist()
    covered = 0
    for _ in range(600):
        length = np.repeat(random.lognormal(5, 0.8, questions), repeats)  # a question's own, on both sides
        old, new = (length * random.lognormal(0, 0.5, length.size) for _ in range(2))
        found = ratio_of_means(old, truth * new, groups)
        covered += found.interval[0] <= truth <= found.interval[1]
    assert covered / 600 > 0.92  # nominal 0.95, three standard errors, and a few questions of uneven length


def test_repeats_of_one_question_are_not_many_questions():
    random = np.random.default_rng(1)
    old, new = random.lognormal(4, 0.5, 20), random.lognormal(4, 0.5, 20)
    once = ratio_of_means(old, new, range(20))
    often = ratio_of_means(np.repeat(old, 10), np.repeat(new, 10), np.repeat(np.arange(20), 10).tolist())
    assert often.interval == pytest.approx(once.interval)


amounts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 3)), max_size=30)


@given(amounts, st.integers(2, 50))
def test_the_interval_holds_the_ratio_and_scales_with_it(rows, factor):
    old, new, groups = ([row[place] for row in rows] for place in range(3))
    found = ratio_of_means(old, new, groups)
    if not sum(old) or not sum(new):
        assert found is None
        return
    assert found.ratio == pytest.approx(sum(new) / sum(old))
    assert (found.interval is None) == (len(set(groups)) < 2)
    if found.interval:
        low, high = found.interval
        assert 0 < low <= found.ratio <= high < math.inf or math.isclose(low, high)
        scaled = ratio_of_means(old, [factor * value for value in new], groups)
        assert scaled.interval == pytest.approx([factor * low, factor * high])
        swapped = ratio_of_means(new, old, groups)
        assert swapped.interval == pytest.approx([1 / high, 1 / low])


@pytest.mark.parametrize(
    ("old", "new"), [([1], [1, 2]), ([1, -1], [1, 2]), ([1, math.nan], [1, 2]), ([1, math.inf], [1, 2])]
)
def test_what_is_no_amount_is_refused(old, new):
    with pytest.raises(ValueError, match=r"expected three lists|finite numbers"):
        ratio_of_means(old, new, range(len(old)))


def test_the_interval_of_repeats_holds_the_true_ratio_as_often_as_it_says():
    random = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        old, new = 1000 * np.exp(random.normal(0, 0.05, 5)), 1500 * np.exp(random.normal(0, 0.01, 4))
        low, high = ratio_of_repeats(old, new).interval
        held += low <= 1.5 <= high
    assert 0.93 <= held / 2000 <= 0.98


def test_repeats_that_vary_more_give_a_wider_interval_and_none_a_point():
    assert ratio_of_repeats([10, 10, 10], [15, 15, 15]).interval == pytest.approx((1.5, 1.5))
    narrow, wide = (ratio_of_repeats([10, 10.1, 9.9], [15, 15 + by, 15 - by]).interval for by in (0.1, 1))
    assert wide[0] < narrow[0] < 1.5 < narrow[1] < wide[1]


@pytest.mark.parametrize("wrong", [[1.0], [], [1.0, 0.0], [1.0, -2.0], [1.0, math.nan], [1.0, math.inf]])
def test_repeats_that_give_no_spread_are_refused(wrong):
    for sides in ((wrong, [1.0, 2.0]), ([1.0, 2.0], wrong)):
        with pytest.raises(ValueError, match="two finite numbers above 0"):
            ratio_of_repeats(*sides)
