"""A score is found by every spelling that its harness and its trackers give it, and never by one that fits several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.suite.score_names import find_score, spelling


def nested(*names):
    """{metric: {scores}} of (metric, score) pairs; the value of each is its place."""
    metrics = {}
    for place, (metric, score) in enumerate(names):
        metrics.setdefault(metric, {"scores": {}})["scores"][score] = {"value": place, "stats": {}}
    return metrics


AVERAGE = ("pass@1[avg-of-16]", "symbolic_correct")
ONE = ("pass@1", "subtask_accuracy")
ONE_NAMED = ("pass@1[avg-of-1]", "subtask_accuracy")
STRICT, FLEXIBLE = ("exact_match__strict-match",) * 2, ("exact_match__flexible-extract",) * 2


@pytest.mark.parametrize(
    ("key", "names", "place"),
    [
        ("pass@1[avg-of-16].symbolic_correct", [AVERAGE, ("pass@16", "symbolic_correct")], 0),
        ("pass_at_1_avg-of-16_symbolic_correct", [("pass@16", "symbolic_correct"), AVERAGE], 1),
        ("pass@1_avg-of-16.symbolic_correct", [AVERAGE], 0),
        ("gpqa_pass_at_1_avg-of-16_symbolic_correct", [("pass@16", "symbolic_correct"), AVERAGE], 1),
        ("tau2_bench_telecom_pass_at_1", [("pass@1", "pass@1"), ("pass@2", "pass@2")], 0),
        ("pass@1.subtask_accuracy", [ONE_NAMED], 0),
        ("pass@1[avg-of-1].subtask_accuracy", [("pass@1", "problem_accuracy"), ONE], 1),
        ("pass_at_1_avg-of-1_subtask_accuracy", [ONE], 0),
        ("pass@1.symbolic_correct", [("majority@16", "symbolic_correct"), AVERAGE], 1),
        ("score.micro_avg_of_64", [("score", "micro"), ("score", "micro_avg_of_64")], 1),
        ("score_micro_avg_of_64", [("score", "micro_avg_of_64")], 0),
        ("exact_match,flexible-extract", [STRICT, FLEXIBLE], 1),
        ("exact_match__flexible_extract", [STRICT, FLEXIBLE], 1),
        ("exact_match,flexible-extract", [("exact_match,strict-match",) * 2, ("exact_match,flexible-extract",) * 2], 1),
        ("exact_match,none", [("exact_match,none",) * 2], 0),
        ("acc_norm,none", [("acc", "acc"), ("acc_norm", "acc_norm")], 1),
        ("Pass@1.Judge_Correct", [("pass@1", "judge_correct")], 0),
    ],
)
def test_a_score_is_found_by_its_known_spellings(key, names, place):
    assert find_score(nested(*names), key)[2]["value"] == place


@pytest.mark.parametrize(
    ("key", "names", "words"),
    [
        ("pass@1.symbolic_correct", [AVERAGE, ("pass@1[avg-of-4]", "symbolic_correct")], "several scores fit"),
        ("exact_match__flexible.extract", [FLEXIBLE, ("exact_match__flexible_extract",) * 2], "several scores fit"),
        ("pass@1[avg-of-4].symbolic_correct", [AVERAGE], "has no score"),
        ("pass@16.symbolic_correct", [AVERAGE], "has no score"),
        ("exact_match,none", [STRICT, FLEXIBLE], "has no score"),
        ("acc,none", [("acc_norm", "acc_norm")], "has no score"),
        ("accuracy", [("subtask_accuracy", "subtask_accuracy")], "has no score"),
    ],
)
def test_what_fits_several_or_means_another_score_is_refused(key, names, words):
    with pytest.raises(LookupError, match=words):
        find_score(nested(*names), key)


@given(st.integers(2, 10**4), st.integers(2, 10**4), st.sampled_from(["symbolic_correct", "judge_correct"]))
def test_averages_over_other_repeats_are_other_scores(repeats, others, score):
    same = spelling(f"pass@1[avg-of-{repeats}].{score}") == spelling(f"pass_at_1_avg-of-{others}_{score}")
    assert same == (repeats == others)
