"""A fast part of benchmarks/decision.py: the bounds of coverage, false alarms and gains on fewer releases and cells."""

import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "decision.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("decision_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def cells(benchmark):
    """Those with the lowest coverage in the whole benchmark, and one of each kind beside them."""
    return [
        benchmark.Cell((1,), 100, 0.5, 0.2, 0.2),
        benchmark.Cell((1,), 198, 0.95, 0.03, 0.03),
        benchmark.Cell((1,), 1319, 0.5, 0.1, 0.1),
        benchmark.Cell((16,), 198, 0.5, 0.1, 0.1, 1.0),
        benchmark.Cell((16,), 198, 0.5, 0.1, 0.0, 0.5),
        benchmark.Cell((1, 2, 3, 5, 14), 100, 0.5, 0.1, 0.1, 1.0),
    ]


def test_the_interval_covers_the_true_drop(benchmark):
    """2,000 releases: a true coverage of 94.5 % falls below 92.5 % once in 10,000 times."""
    for cell in cells(benchmark):
        assert cell.is_possible() and benchmark.measure(cell, 2000, seed=1)["covered"] >= 0.925, cell


@pytest.mark.parametrize("tasks", [1, 10])
def test_a_lossless_candidate_is_seldom_called_a_regression(benchmark, tasks):
    for samples in (100, 198, 500):
        cell = benchmark.Cell((1,), samples, 0.5, 0.2, 0.0)
        assert benchmark.measure_family(cell, tasks, 4000, seed=2) <= 0.025, cell


def test_a_true_regression_is_called_one_and_an_equal_candidate_accepted(benchmark):
    worse = benchmark.measure(benchmark.Cell((1,), 2000, 0.5, 0.08, 0.05), 500, seed=3)
    equal = benchmark.measure(benchmark.Cell((1,), 2000, 0.5, 0.01, 0.0), 500, seed=3)
    assert worse["regressed"] > 0.99 and worse["accepted"] == 0
    assert equal["accepted"] > 0.95 and equal["regressed"] == 0


def test_a_gain_is_held_up_where_it_is_real_and_not_where_it_is_chance(benchmark):
    for samples in (20, 50, 198):
        assert benchmark.measure_gain(benchmark.Cell((1,), samples, 0.4, 0.3, 0.0), 1000, seed=4) <= 0.05
    assert benchmark.measure_gain(benchmark.Cell((1,), 198, 0.4, 0.3, -0.15), 1000, seed=4) >= 0.95
