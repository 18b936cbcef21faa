"""A stated score is held against its samples: what rounding and other units may change, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.base.artefacts import write_yaml
from day0.decision.assess_run import assess_run
from day0.decision.rescoring import find_difference, is_mean, rescored
from day0.records.policy import Scale
from day0.records.samples import Sample

UNIT, POINTS = Scale(max=1), Scale(max=100)


def samples_of(scores, subtask=""):
    return [Sample(id=f"{subtask}{number}", score=score) for number, score in enumerate(scores)]


THIRDS = samples_of([1, 0, 0])


@pytest.mark.parametrize(
    ("samples", "stated", "scale", "is_same"),
    [
        (THIRDS, 1 / 3, UNIT, True),
        (THIRDS, 0.3333, UNIT, True),
        (THIRDS, 0.333, UNIT, True),
        (THIRDS, 33.33, POINTS, True),
        (THIRDS, 1 / 3, POINTS, True),
        (THIRDS, 0.3339, UNIT, False),
        (THIRDS, 0.34, UNIT, False),
        (THIRDS, 0.3, UNIT, False),
        (THIRDS, 33.33, UNIT, False),
        (samples_of([0] * 10), 0.8, UNIT, False),
        (samples_of([1] * 10), 0.0, UNIT, False),
        (samples_of([50, 70]), 60, POINTS, True),
        (samples_of([50, 70]), 0.6, POINTS, False),
        (samples_of([1, 1, 1], "a/") + samples_of([0], "b/"), 0.75, UNIT, True),
        (samples_of([1, 1, 1], "a/") + samples_of([0], "b/"), 0.5, UNIT, True),
        (samples_of([1, 1, 1], "a/") + samples_of([0], "b/"), 0.6, UNIT, False),
        (samples_of([1e308, 1e308]), 1e308, Scale(max=1e99), True),
    ],
)
def test_a_stated_score(samples, stated, scale, is_same):
    assert (find_difference(rescored(samples), stated, scale) is None) is is_same


@pytest.mark.parametrize("samples", [[], samples_of([1, None])])
def test_without_all_scores_nothing_is_known(samples):
    assert rescored(samples) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(4, 17))
def test_the_mean_passes_with_four_decimals_or_more(scores, decimals):
    given = rescored(samples_of(scores))
    assert find_difference(given, round(given.mean, decimals), UNIT) is None
    assert find_difference(given, given.mean + 0.001, UNIT) is not None


@pytest.mark.parametrize("name", ["acc,none", "ifeval.prompt_level_strict_acc", "filter_f10", "pass@1", "after"])
def test_means_by_their_names(name):
    assert is_mean(name)


def run_folder(folder, scores, value, metric="acc"):
    counts = dict.fromkeys(("expected", "asked", "answered", "scored"), len(scores))
    counts |= dict.fromkeys(("empty", "cut", "unparsed", "failed"), 0)
    metadata = {"status": "COMPLETED", "failure_class": None, "detail": "", "accounting": {"a": counts}}
    results = {"tasks": {"a": {"metrics": {metric: {"scores": {metric: {"value": value}}}}}}}
    write_yaml(folder / "results.yml", {"results": results, "metadata": metadata})
    (folder / "samples").mkdir()
    lines = [f'{{"id": "{number}", "score": {score}}}\n' for number, score in enumerate(scores)]
    (folder / "samples" / "a.jsonl").write_text("".join(lines))
    return folder


def test_a_score_that_its_samples_do_not_give_fails_the_run(tmp_path):
    found = assess_run(run_folder(tmp_path, ["0"] * 9 + ["0.1"], 0.8))
    assert found.failure_class == "SAMPLE_ACCOUNTING_FAILED" and not found.scores
    assert "task a: its score is stated as 0.8, but its samples give 0.01, expected their mean" in found.detail


def test_a_metric_that_is_no_mean_is_noted_and_not_judged(tmp_path):
    found = assess_run(run_folder(tmp_path, ["0", "1", "1", "0", "1"], 0.8, "mcc"))
    assert found.passed and "no mean of samples" in found.notes[0]


@pytest.mark.parametrize(
    "score", ["NaN", "Infinity", "-Infinity", "1e999", '"1"', "true", "[1]", "{}", '"a"', '0, "score": 1', "[" * 99_999]
)
def test_a_sample_with_a_score_that_is_none_fails_with_its_line(tmp_path, score):
    scores = ["0.5", "1", "1", score, "0"]
    found = assess_run(run_folder(tmp_path, scores, 0.625))
    assert not found.passed and "line 4" in json.dumps(found.as_plain()), found.detail
