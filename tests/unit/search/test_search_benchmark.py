"""A fast part of benchmarks/search.py: a few synthetic models, and some whose every candidate loses two limits."""

import importlib.util
import sys
from pathlib import Path

import pytest

from day0.records.search import Budget

FILE = Path(__file__).parents[3] / "benchmarks" / "search.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("search_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def test_searches_end_near_the_cheapest_that_would_be_accepted(benchmark):
    found = [benchmark.search_once(seed, Budget()) for seed in range(1, 7)]
    assert sum(one.winner is not None for one in found) >= 5
    assert all(one.share <= 0.5 and one.rungs <= 5 for one in found)
    above = [one.winner / one.decided - 1 for one in found if one.winner and one.decided]
    assert sum(above) / len(above) < 0.15
    assert found[0] == benchmark.search_once(1, Budget()), "the same seed gives the same search"


def test_no_winner_where_every_candidate_loses_two_limits(benchmark):
    found = [benchmark.search_once(seed, Budget(), 2.0) for seed in range(1, 11)]
    assert not [one for one in found if one.winner is not None]


def test_a_missed_goal_is_a_failing_exit_status(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SAMPLES", 0.001)
    monkeypatch.setattr(benchmark, "_run", lambda count, budget, losses, jobs, first: [one_search(benchmark)] * 4)
    monkeypatch.setattr(sys, "argv", ["search.py"])
    assert benchmark.main() == 1 and "FAILS" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "SAMPLES", 0.4)
    monkeypatch.setattr(benchmark, "FALSE_ACCEPT", 1.0)
    monkeypatch.setattr(benchmark, "AT_THE_LIMIT", 1.0)
    assert benchmark.main() == 0


def one_search(benchmark):
    return benchmark.Searched(None, 0.4, 0.1, 0.4, 0.4, 6, 4, 0.2)
