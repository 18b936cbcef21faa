"""A fast part of benchmarks/decision.py: the bounds of coverage, false alarms and gains on fewer releases and cells."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
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
        benchmark.Cell((16,), 198, 0.5, 0.03, 0.03, 0.5),
        benchmark.Cell((64,), 30, 0.1, 0.1, 0.1, 0.0),
        benchmark.Cell((1, 2, 3, 5, 14), 100, 0.5, 0.1, 0.1, 1.0, True),
        benchmark.Cell((40,), 14, 0.5, 0.03, 0.03, 1.0, True),
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


def cell_of_suite(benchmark, truth, suite="standard", limit=0.01, chance=0.05, repeats=()):
    return benchmark.Release(suite, 1.0, limit, chance, truth, repeats)


@pytest.mark.parametrize(("suite", "chance", "limit"), [("standard", 0.1, 0.01), ("artificial-analysis", 1.0, 0.02)])
def test_a_whole_suite_is_decided_rightly(benchmark, suite, chance, limit):
    """400 releases: a share of 5 % exceeds 9 % once in 2,000 times; the whole grid is the benchmark's."""
    tasks = benchmark.tasks_of(suite)
    repeats = benchmark.ENOUGH_REPEATS.get(suite, ())
    shares = {}
    for loss in (0.0, 2.0):
        truth = benchmark.Truth("", (loss,) * len(tasks))
        row = cell_of_suite(benchmark, truth, suite, limit, chance, repeats)
        shares[loss] = benchmark.measure_release(row, 400, seed=6)
    accepted, regressed = shares[0.0]["suite"]
    assert accepted >= 0.91 and regressed <= 0.09
    accepted, regressed = shares[2.0]["suite"]
    assert accepted <= 0.01 and regressed >= 0.91
    assert shares[0.0]["point"][1] > 2 * shares[0.0]["suite"][1] and shares[0.0]["gate"][0] < 0.5


def test_a_large_loss_of_one_small_task_is_seldom_accepted(benchmark):
    names = [task.name for task in benchmark.tasks_of("artificial-analysis")]
    for name in ("scicode", "tau2-bench-telecom"):
        truth = benchmark.Truth("", tuple(5.0 * (other == name) for other in names), "few")
        row = cell_of_suite(benchmark, truth, "artificial-analysis", 0.01, 0.3)
        assert benchmark.measure_release(row, 400, seed=7)["suite"][0] <= 0.09


@pytest.mark.parametrize("kind", ["even", "few"])
def test_a_simulated_loss_is_as_large_as_its_label_says(benchmark, kind):
    """Also in 30 questions, where few of them drawn each by itself often had less than that to lose."""
    chances = np.random.default_rng(10).beta(0.2, 0.1, (2000, 30))
    lost = chances - benchmark.lower(chances, 0.05, kind, np.random.default_rng(11))
    assert lost.mean(-1) == pytest.approx(0.05) and (lost >= 0).all()
    assert ((lost > 1e-12).mean() < 0.4) == (kind == "few")


def test_five_limits_of_30_questions_are_seldom_accepted(benchmark):
    """4,000 releases: a share of 4.6 %, the highest of the 48 rows of AIME, exceeds 5.7 % once in 1,000 times."""
    names = [task.name for task in benchmark.tasks_of("reasoning")]
    truth = benchmark.Truth("", tuple(5.0 * (name == "aime-2025") for name in names), "few")
    row = cell_of_suite(benchmark, truth, "reasoning", 0.01, 0.3)
    assert benchmark.measure_release(row, 4000, seed=12)["suite"][0] <= 0.057


def test_an_evaluation_again_is_accepted_by_the_real_comparison(benchmark, tmp_path):
    """The benchmark deals a run's repeats into evaluations; here of answers that are right by chance."""
    random = np.random.default_rng(8)
    rows = [
        {"id": str(question), "repeat": repeat, "prompt_digest": str(question), "target_digest": "t",
         "answer": str(random.random()), "score": float(random.random() < chance)}
        for question, chance in enumerate(random.beta(3, 0.1, 300))
        for repeat in range(24)
    ]  # fmt: skip
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    fingerprint = {"a": {"sampling": {"temperature": 1.0}}}
    metadata = {"model": "m", "suite": "s", "fingerprint": fingerprint, "server": {"engine": "vllm"}}
    (tmp_path / "results.yml").write_text(json.dumps({"results": {}, "metadata": metadata}))
    runs = benchmark.deal(tmp_path, 8)
    assert [len(run.samples["a"]) for run in runs] == [2400] * 3
    assert all(benchmark.compare_runs(runs[0], other).criterion == "suite" for other in runs[1:])
    assert benchmark.measure_runs(tmp_path, 8, 0.02) is False  # for there are not 20 of them
