"""A number is a finite number, and a count a whole one; nothing else is either."""

import pytest

from day0.base.numbers import is_count, is_number


@pytest.mark.parametrize(
    ("value", "number", "count"),
    [
        (0, True, True),
        (3, True, True),
        (-1, True, False),
        (3.0, True, False),
        (0.5, True, False),
        (True, False, False),
        (float("nan"), False, False),
        (float("inf"), False, False),
        (10**400, False, False),
        ("3", False, False),
        (None, False, False),
    ],
)
def test_numbers_and_counts(value, number, count):
    assert (is_number(value), is_count(value)) == (number, count)
