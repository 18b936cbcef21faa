"""The decision over scores and over runs: each class, each scale, and that no bad input is ever an ACCEPT."""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from decision_input import (
    RELEASE,
    SCORED,
    compare_runs,
    described_source,
    evaluate_comparison,
    evidence,
    make_verdict,
    published,
    rows,
    run,
    tasks_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import gate_compare
from day0.base.artefacts import digest_of_file, read_json, write_json, write_text, write_yaml
from day0.base.cli import run_cli
from day0.decision.comparability import Run
from day0.decision.policy import read_policy
from day0.records.failure_class import FailureClass
from day0.statistics.paired import NOTHING

SCRIPT = Path(__file__).parents[3] / "scripts" / "gate_compare.py"
RANK = {"ACCEPT": 2, "REGRESSION": 1, "ANOMALOUS": 0}
LOWER = {"min": 0, "max": 50, "direction": "lower"}
SIGNED = {"min": -100, "max": 100}


# Every case by its name: baseline, candidate, settings, and the decision.
DECIDED = {
    "equal": ({"a": 0.9}, {"a": 0.9}, {}, "ACCEPT"),
    "drop_at_the_limit": ({"a": 0.90}, {"a": 0.89}, {}, "ACCEPT"),
    "drop_at_the_limit_in_floating_point": ({"a": 0.3}, {"a": 0.29}, {}, "ACCEPT"),
    "drop_beyond_the_limit": ({"a": 0.9}, {"a": 0.8899}, {}, "REGRESSION"),
    "scale_of_100_at_the_limit": ({"a": 80}, {"a": 79}, {}, "ACCEPT"),
    "scale_of_100_beyond": ({"a": 80}, {"a": 78.9}, {}, "REGRESSION"),
    "wide_threshold": ({"a": 0.9}, {"a": 0.8}, {"threshold": 0.2}, "ACCEPT"),
    "threshold_0_and_no_drop": ({"a": 0.9}, {"a": 0.9}, {"threshold": 0}, "ACCEPT"),
    "threshold_0_and_a_drop": ({"a": 0.9}, {"a": 0.8999}, {"threshold": 0}, "REGRESSION"),
    "relative_at_the_limit": ({"a": 0.2}, {"a": 0.198}, {"relative": True}, "ACCEPT"),
    "relative_beyond": ({"a": 0.2}, {"a": 0.195}, {"relative": True}, "REGRESSION"),
    "absolute_where_relative_is_beyond": ({"a": 0.2}, {"a": 0.195}, {"relative": False}, "ACCEPT"),
    "one_of_two_zero": ({"a": 0.0, "b": 0.5}, {"a": 0.0, "b": 0.5}, {}, "ACCEPT"),
    "zero_is_the_best": ({"a": 0}, {"a": 0}, {"scales": {"a": LOWER}}, "ACCEPT"),
    "declared_scale_above_what_would_be_assumed": ({"a": 0}, {"a": 1}, {"scales": {"a": 100}}, "ACCEPT"),
    "declared_scale_widens_the_limit": ({"a": 1.0}, {"a": 0.5}, {"scales": {"a": 100}}, "ACCEPT"),
    "lower_is_better_at_the_limit": ({"a": 10}, {"a": 10.5}, {"scales": {"a": LOWER}}, "ACCEPT"),
    "lower_is_better_beyond": ({"a": 10}, {"a": 10.6}, {"scales": {"a": LOWER}}, "REGRESSION"),
    "lower_is_better_gain": ({"a": 10}, {"a": 9}, {"scales": {"a": LOWER}}, "ACCEPT"),
    "negative_scale_at_the_limit": ({"a": -10}, {"a": -12}, {"scales": {"a": SIGNED}}, "ACCEPT"),
    "negative_scale_beyond": ({"a": -10}, {"a": -12.1}, {"scales": {"a": SIGNED}}, "REGRESSION"),
    "negative_scale_relative_at_the_limit": (
        {"a": -50},
        {"a": -50.5},
        {"scales": {"a": SIGNED}, "relative": True},
        "ACCEPT",
    ),
    "negative_scale_relative_beyond": (
        {"a": -50},
        {"a": -50.6},
        {"scales": {"a": SIGNED}, "relative": True},
        "REGRESSION",
    ),
    "supporting_task_blocks": (
        {"a": 0.9, "b": 0.9},
        {"a": 0.9, "b": 0.7},
        {"tiers": {"b": "supporting"}},
        "REGRESSION",
    ),
    "advisory_task_does_not_block": (
        {"a": 0.9, "b": 0.9},
        {"a": 0.9, "b": 0.7},
        {"tiers": {"b": "advisory"}},
        "ACCEPT",
    ),
    "advisory_task_may_be_missing": ({"a": 0.9, "b": 0.9}, {"a": 0.9}, {"tiers": {"b": "advisory"}}, "ACCEPT"),
    "advisory_task_may_be_malformed": (
        {"a": 0.9, "b": 0.9},
        {"a": 0.9, "b": "x"},
        {"tiers": {"b": "advisory"}},
        "ACCEPT",
    ),
    "gain_of_5_percent": ({"a": 0.90}, {"a": 0.95}, {}, "ACCEPT"),
    "both_constant": ({"a": 0.25, "b": 50}, {"a": 0.25, "b": 50}, {}, "ACCEPT"),
    "within_the_limit": ({"a": 0.90}, {"a": 0.895}, {}, "ACCEPT"),
    "relative_within_the_limit": ({"a": 0.2}, {"a": 0.199}, {"relative": True}, "ACCEPT"),
    "one_task_of_many_beyond": ({"a": 0.9, "b": 0.9, "c": 80}, {"a": 0.9, "b": 0.88, "c": 80}, {}, "REGRESSION"),
}

# Baseline, candidate, settings, failure class, and words of the detail.
ANOMALIES = {
    "gain_above_5_percent": ({"a": 0.5}, {"a": 0.5601}, {}, "UNKNOWN", "gains 0.0601"),
    "lower_is_better_gain_above_5_percent": ({"a": 20}, {"a": 10}, {"scales": {"a": LOWER}}, "UNKNOWN", "gains 10"),
    "both_zero": ({"a": 0.0}, {"a": 0.0}, {}, "UNKNOWN", "nothing was measured"),
    "both_zero_relative": ({"a": 0.0}, {"a": 0.0}, {"relative": True}, "UNKNOWN", "nothing was measured"),
    "all_zero": ({"a": 0, "b": 0.0}, {"a": 0, "b": 0.0}, {"scales": {"a": 100}}, "UNKNOWN", "nothing was measured"),
    "all_at_the_worse_end": ({"a": 50}, {"a": 50}, {"scales": {"a": LOWER}}, "UNKNOWN", "nothing was measured"),
    "nan": ({"a": 0.9}, {"a": math.nan}, {}, "SAMPLE_ACCOUNTING_FAILED", "nan"),
    "infinity": ({"a": math.inf}, {"a": 0.9}, {}, "SAMPLE_ACCOUNTING_FAILED", "inf"),
    "text": ({"a": 0.9}, {"a": "0.9"}, {}, "SAMPLE_ACCOUNTING_FAILED", "'0.9'"),
    "bool": ({"a": 1.0}, {"a": True}, {}, "SAMPLE_ACCOUNTING_FAILED", "True"),
    "none": ({"a": 0.9}, {"a": None}, {}, "SAMPLE_ACCOUNTING_FAILED", "None"),
    "overflow": ({"a": 10**400}, {"a": 10**400}, {}, "SAMPLE_ACCOUNTING_FAILED", "expected a finite number"),
    "task_missing_in_the_candidate": (
        {"a": 0.9, "b": 0.9},
        {"a": 0.9},
        {},
        "SAMPLE_ACCOUNTING_FAILED",
        "b: no score from the candidate",
    ),
    "task_missing_in_the_baseline": (
        {"a": 0.9},
        {"a": 0.9, "b": 0.9},
        {},
        "SAMPLE_ACCOUNTING_FAILED",
        "b: no score from the baseline",
    ),
    "candidate_empty": ({"a": 0.9}, {}, {}, "SAMPLE_ACCOUNTING_FAILED", "no score from the candidate"),
    "required_task_in_neither": (
        {"a": 0.9},
        {"a": 0.9},
        {"tiers": {"b": "critical"}},
        "SAMPLE_ACCOUNTING_FAILED",
        "b: no score",
    ),
    "below_its_scale": ({"a": -0.1}, {"a": -0.1}, {}, "UNKNOWN", "outside its assumed scale"),
    "above_its_scale": ({"a": 101}, {"a": 101}, {}, "UNKNOWN", "outside its assumed scale 0 to 100"),
    "above_its_declared_scale": (
        {"a": 60},
        {"a": 60},
        {"scales": {"a": 1}},
        "UNKNOWN",
        "outside its declared scale 0 to 1",
    ),
    "both_empty": ({}, {}, {}, "USER_CONFIG_ERROR", "neither side has a score"),
    "no_mapping": ([], {"a": 1}, {}, "USER_CONFIG_ERROR", "expected a mapping"),
    "threshold_nan": ({"a": 0.9}, {"a": 0.9}, {"threshold": math.nan}, "USER_CONFIG_ERROR", "threshold"),
    "threshold_negative": ({"a": 0.9}, {"a": 0.9}, {"threshold": -0.01}, "USER_CONFIG_ERROR", "threshold"),
    "threshold_bool": ({"a": 0.9}, {"a": 0.9}, {"threshold": True}, "USER_CONFIG_ERROR", "threshold"),
    "threshold_text": ({"a": 0.9}, {"a": 0.9}, {"threshold": "1%"}, "USER_CONFIG_ERROR", "threshold"),
    "threshold_1": ({"a": 0.9}, {"a": 0.9}, {"threshold": 1}, "USER_CONFIG_ERROR", "threshold"),
    "relative_no_bool": ({"a": 0.9}, {"a": 0.9}, {"relative": 1}, "USER_CONFIG_ERROR", "relative"),
    "scale_0": ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": 0}}, "USER_CONFIG_ERROR", "scales.a"),
    "scale_nan": ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": math.nan}}, "USER_CONFIG_ERROR", "scales.a"),
    "scale_without_maximum": (
        {"a": 0.9},
        {"a": 0.9},
        {"scales": {"a": {"min": 1}}},
        "USER_CONFIG_ERROR",
        "scales.a",
    ),
    "scale_of_unknown_direction": (
        {"a": 0.9},
        {"a": 0.9},
        {"scales": {"a": {"max": 1, "direction": "up"}}},
        "USER_CONFIG_ERROR",
        "scales",
    ),
    "scale_of_unknown_task": ({"a": 0.9}, {"a": 0.9}, {"scales": {"aa": 1}}, "USER_CONFIG_ERROR", "scales: 'aa'"),
    "scales_no_mapping": ({"a": 0.9}, {"a": 0.9}, {"scales": 100}, "USER_CONFIG_ERROR", "scales"),
    "tier_unknown": ({"a": 0.9}, {"a": 0.9}, {"tiers": {"a": "minor"}}, "USER_CONFIG_ERROR", "tiers.a: found 'minor'"),
    "every_task_advisory": (
        {"a": 0.9},
        {"a": 0.9},
        {"tiers": {"a": "advisory"}},
        "USER_CONFIG_ERROR",
        "every task is advisory",
    ),
}


def runs_of(*sides):
    """Runs with these scores and nothing else, for the whole decision."""
    passed = {"pass": True, "failure_class": None, "detail": ""}
    return [Run({**passed, "scores": side}) for side in sides]


def verdict_on(comparison, policy):
    """The verdict of a release that came to this comparison."""
    digests = {key: held for key, held in evidence()["comparison"].content.items() if key.endswith("_sha256")}
    release = RELEASE | {"policy": read_policy(policy)[0].as_plain()}
    runs = {
        f"{side}_run": {
            "scores": {
                task: SCORED | {"score": entry[side], "samples": entry["paired"]["samples"]}
                for task, entry in comparison["tasks"].items()
                if entry[side] is not None
            }
        }
        for side in ("baseline", "candidate")
    }
    return make_verdict(release, evidence(comparison=comparison | digests, **runs))


def test_a_regressions_detail_names_what_regressed_first_and_the_rest_apart():
    settings = {"thresholds": {"tasks": {"b": 0.1}}}
    result = evaluate_comparison({"a": 0.9, "b": 0.9, "c": 0.9}, {"a": 0.88, "b": 0.82, "c": 0.9}, **settings)
    regressed, within = result["detail"].split("Within their limits: ")
    assert result["decision"] == "REGRESSION" and "a: 0.9 to 0.88" in regressed
    assert within.startswith("b: 0.9 to 0.82") and "c: 0.9 to 0.9" in within


def decide_wholly(baseline, candidate, options):
    """The comparison of two runs of these scores, and the verdict on it."""
    result = compare_runs(*runs_of(baseline, candidate), {"require_fingerprints": False, **options})
    return result, verdict_on(result, options)


@pytest.mark.parametrize(("baseline", "candidate", "options", "decision"), DECIDED.values(), ids=DECIDED)
def test_decisions(baseline, candidate, options, decision):
    result = evaluate_comparison(baseline, candidate, **options)
    assert (result["decision"], result["failure_class"]) == (decision, None), result["detail"]
    assert result["pass"] == (decision == "ACCEPT")
    for found in decide_wholly(baseline, candidate, options):
        assert (found["decision"], found["failure_class"]) == (decision, None), found["detail"]


@pytest.mark.parametrize(
    ("baseline", "candidate", "options", "failure_class", "quoted"), ANOMALIES.values(), ids=ANOMALIES
)
def test_anomalies(baseline, candidate, options, failure_class, quoted):
    result = evaluate_comparison(baseline, candidate, **options)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", failure_class)
    assert result["pass"] is False and quoted in result["detail"]
    json.dumps(result, allow_nan=False)
    if isinstance(baseline, dict):
        for found in decide_wholly(baseline, candidate, options):
            assert (found["decision"], found["failure_class"]) == ("ANOMALOUS", failure_class), found["detail"]
            assert found["pass"] is False


def test_what_a_task_says():
    result = evaluate_comparison({"a": 20, "b": 0.9}, {"a": 21, "b": 0.88}, scales={"a": LOWER})
    assert result["tasks"]["a"] == {
        "baseline": 20.0,
        "candidate": 21.0,
        "drop": 1.0,
        "drop_fraction": 0.02,
        "limit": 0.5,
        "within": False,
        "scale": {"min": 0.0, "max": 50.0, "direction": "lower"},
        "tier": "critical",
        "note": None,
        "metric": None,
        "answers": [],
        "tokens": None,
        "relative_guard": None,
        "paired": {
            **NOTHING,
            "flips": None,
            "evidence": "inconclusive",
            "sentence": "There are no paired samples; only the two scores were compared.",
        },
    }


@pytest.mark.parametrize(
    ("baseline", "candidate", "options", "decision"),
    [
        ({"a": 0.9}, {"a": 0.88}, {"thresholds": {"tasks": {"a": 0.02}}}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.88}, {"thresholds": {"tiers": {"critical": 0.02}}}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.88}, {"thresholds": {"tiers": {"supporting": 0.02}}}, "REGRESSION"),
        ({"a": 0.9}, {"a": 0.88}, {"thresholds": {"tiers": {"critical": 0.02}, "tasks": {"a": 0.01}}}, "REGRESSION"),
        ({"a": 0.9}, {"a": 0.895}, {"thresholds": {"tasks": {"a": 0}}}, "REGRESSION"),
        ({"a": 0.1}, {"a": 0.095}, {"max_relative_drop": 0.1}, "ACCEPT"),
        ({"a": 0.1}, {"a": 0.095}, {"max_relative_drop": 0.04}, "REGRESSION"),
        ({"a": 0.1}, {"a": 0.095}, {"max_relative_drop": 0.04, "relative_guard_below": 0.2}, "REGRESSION"),
        ({"a": 0.2}, {"a": 0.191}, {"max_relative_drop": 0.04, "relative_guard_below": 0.2}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.88}, {"max_relative_drop": 0.5, "relative_guard_below": 1.0}, "REGRESSION"),
        ({"a": 0.0, "b": 0.5}, {"a": 0.0, "b": 0.5}, {"max_relative_drop": 0.0}, "ACCEPT"),
        ({"a": 45}, {"a": 45.4}, {"max_relative_drop": 0.05, "scales": {"a": LOWER}}, "REGRESSION"),
        ({"a": 5}, {"a": 5.4}, {"max_relative_drop": 0.05, "scales": {"a": LOWER}}, "ACCEPT"),
        ({"a": -90}, {"a": -91}, {"max_relative_drop": 0.05, "scales": {"a": SIGNED}}, "REGRESSION"),
        ({"a": -90}, {"a": -91}, {"max_relative_drop": 0.1, "scales": {"a": SIGNED}}, "ACCEPT"),
    ],
)
def test_thresholds_of_tiers_and_tasks_and_the_relative_guard(baseline, candidate, options, decision):
    result = evaluate_comparison(baseline, candidate, **options)
    assert (result["decision"], result["failure_class"]) == (decision, None), result["detail"]


def test_the_guard_is_told_with_its_numbers():
    result = evaluate_comparison({"a": 0.1}, {"a": 0.095}, max_relative_drop=0.04, relative_guard_below=0.2)
    guard = result["tasks"]["a"]["relative_guard"]
    assert guard == {"relative_drop": pytest.approx(0.05), "limit": 0.04, "within": False}
    assert "5.00% of what the baseline reaches, beyond the relative limit of 4 %" in result["detail"]


@pytest.mark.parametrize(
    ("options", "quoted"),
    [
        ({"thresholds": {"tasks": {"b": 0.1}}}, "thresholds.tasks: 'b' is named"),
        ({"thresholds": {"tasks": {"a": -1}}}, "thresholds.tasks.a: found -1"),
        ({"thresholds": {"tiers": {"minor": 0.1}}}, "thresholds.tiers.minor.[key]: found 'minor'"),
        ({"thresholds": {"a": 0.1}}, "thresholds.a: unknown key; allowed here: tasks, tiers"),
        ({"thresholds": 0.1}, "thresholds: found 0.1; input should be a valid dictionary"),
        ({"max_relative_drop": 2}, "max_relative_drop: found 2"),
        ({"relative_guard_below": 0}, "relative_guard_below: found 0; input should be greater than 0"),
        ({"relative_guard_below": 0.2}, "relative_guard_below: found 0.2; guards nothing without max_relative_drop"),
        ({"criterion": "sure"}, "criterion: found 'sure'; input should be 'suite', 'point' or 'confident'"),
        ({"expected_disagreement_rate": 0}, "expected_disagreement_rate: found 0"),
        ({"treshold": 0.1}, "treshold: unknown key"),
    ],
)
def test_a_wrong_setting_is_named(options, quoted):
    result = evaluate_comparison({"a": 0.9}, {"a": 0.9}, **options)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "USER_CONFIG_ERROR")
    assert quoted in result["detail"]


def test_the_detail_quotes_numbers_worst_first():
    detail = evaluate_comparison({"a": 0.9, "b": 0.9}, {"a": 0.88, "b": 0.8})["detail"]
    assert detail.startswith("2 of 2 blocking tasks dropped by more than the limit.")
    assert detail.index("b: 0.9 to 0.8, a drop of 0.1, beyond the limit of 0.01") < detail.index("a: 0.9 to 0.88")


def test_all_classes_are_told_and_the_first_decides():
    found = evaluate_comparison({"a": 0.9, "b": 0.2}, {"b": 0.8})
    assert found["failure_class"] == "SAMPLE_ACCOUNTING_FAILED"
    assert found["failure_classes"] == ["SAMPLE_ACCOUNTING_FAILED", "UNKNOWN"]


SCORES = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_SCORES = st.dictionaries(st.sampled_from("abc"), JSON | st.floats(0, 1) | st.booleans(), max_size=3)


@settings(max_examples=400)
@given(JSON | ANY_SCORES, JSON | ANY_SCORES, JSON | st.just(0.01), JSON | st.just(False), JSON, JSON)
def test_any_input_gets_a_sound_answer(baseline, candidate, threshold, relative, scales, tiers):
    result = evaluate_comparison(baseline, candidate, threshold, relative, scales, tiers)
    json.dumps(result, allow_nan=False)
    assert result["decision"] in RANK and result["detail"]
    assert (result["failure_class"] is not None) == (result["decision"] == "ANOMALOUS")


@settings(max_examples=400)
@given(ANY_SCORES, ANY_SCORES, st.floats(0, 0.99), st.booleans(), st.sampled_from([None, {"a": "advisory"}]))
def test_accept_means_every_blocking_task_is_there_and_within(baseline, candidate, threshold, relative, tiers):
    result = evaluate_comparison(baseline, candidate, threshold, relative, tiers=tiers)
    if not result["pass"]:
        return
    blocking = (set(baseline) | set(candidate)) - set(tiers or {})
    assert blocking
    for task in blocking:
        old, new = baseline[task], candidate[task]
        assert not isinstance(old, bool) and not isinstance(new, bool)
        assert math.isfinite(old) and math.isfinite(new)
        width = 1 if 0 <= old <= 1 and 0 <= new <= 1 else 100
        assert -1e-6 <= old <= width + 1e-6 and -1e-6 <= new <= width + 1e-6
        assert old - new <= threshold * (abs(old) if relative else width) + 1e-8 * width


@settings(max_examples=400)
@given(SCORES, st.data(), st.floats(0, 0.99), st.booleans())
def test_a_worse_candidate_never_gets_a_better_decision(baseline, data, threshold, relative):
    """Save where the better one is suspect for its gain."""
    better = {task: data.draw(st.floats(0, min(1, score + 0.05))) for task, score in baseline.items()}
    worse = {task: data.draw(st.floats(0, score)) for task, score in better.items()}
    results = [evaluate_comparison(baseline, scores, threshold, relative) for scores in (better, worse)]
    assert RANK[results[0]["decision"]] >= RANK[results[1]["decision"]]
    lost = {task: score for task, score in better.items() if task != min(better)}
    assert evaluate_comparison(baseline, lost, threshold, relative)["decision"] == "ANOMALOUS"


@given(SCORES, SCORES, st.randoms())
def test_the_order_of_tasks_is_irrelevant(baseline, candidate, random):
    def shuffled(scores):
        items = list(scores.items())
        random.shuffle(items)
        return dict(items)

    one = evaluate_comparison(baseline, candidate)
    other = evaluate_comparison(shuffled(baseline), shuffled(candidate))
    assert json.dumps(one) == json.dumps(other)


CONFIDENT, POINT = {"criterion": "confident"}, {"criterion": "point"}


# --- runs -----------------------------------------------------------------------------------------------------------


def test_equal_runs_are_accepted_with_their_evidence():
    result = compare_runs(run(), run(388), POINT)
    paired = result["tasks"]["a"]["paired"]
    assert result["decision"] == "ACCEPT" and result["comparability"]["pass"]
    assert (paired["losses"], paired["wins"], paired["ties"]) == (2, 0, 398)
    assert paired["flips"]["lost"][0] == {"id": "388", "repeat": 0, "baseline": "388", "candidate": "388"}
    assert result["evidence"] == "inconclusive" and "publish" in result["next_action"].lower()
    assert "sampling.temperature" in result["comparability"]["fields"]
    json.dumps(result, allow_nan=False)


def test_many_samples_make_it_conclusive():
    assert compare_runs(run(4000, 4000), run(3999, 4000))["evidence"] == "conclusive"
    for policy, words in ((POINT, "lies beyond"), ({}, "a lossless candidate would not have it")):
        result = compare_runs(run(4000, 4000), run(3800, 4000), policy)
        assert (result["decision"], result["evidence"]) == ("REGRESSION", "conclusive")
        assert words in result["evidence_sentence"]


def test_samples_of_0_and_1_support_a_score_in_percent():
    paired = compare_runs(run(unit=100), run(388, unit=100))["tasks"]["a"]["paired"]
    assert paired["drop"] == pytest.approx(0.5) and paired["interval"][1] > 0.5


def test_samples_that_do_not_give_the_score_support_nothing():
    other = run()
    other = Run(other.assessment, other.metadata, {"a": rows(300)})
    paired = compare_runs(run(), other)["tasks"]["a"]["paired"]
    assert paired["evidence"] == "inconclusive" and "not the means" in paired["sentence"]


@pytest.mark.parametrize(
    ("fingerprint", "quoted"),
    [
        ({"task_hash": "2", "sampling": {"seed": 1, "temperature": 0.0}}, "task_hash is '1' in the baseline and '2'"),
        ({"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.6}}, "sampling.temperature is 0.0"),
        ({"task_hash": "1", "sampling": {"temperature": 0.0}}, "sampling.seed is 1 in the baseline and 'absent'"),
    ],
)
def test_runs_made_differently_are_not_comparable(fingerprint, quoted):
    result = compare_runs(run(), run(fingerprint=fingerprint))
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "NOT_COMPARABLE")
    assert quoted in result["detail"] and result["comparability"]["differences"][0]["task"] == "a"
    assert "matched settings" in result["next_action"]


def test_quantization_itself_is_no_difference():
    fingerprint = {"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.0}, "quantization": "fp8", "dtype": "x"}
    assert compare_runs(run(), run(fingerprint=fingerprint))["pass"]


def test_whole_run_differences_and_absent_fingerprints():
    assert "suite is 's'" in compare_runs(run(), run(suite="other"))["detail"]
    bare = Run(run().assessment, {}, run().samples)
    assert compare_runs(bare, bare)["failure_class"] == "NOT_COMPARABLE"
    assert compare_runs(bare, bare, {"require_fingerprints": False})["pass"]
    assert compare_runs(run(), bare, {"require_fingerprints": False})["failure_class"] == "NOT_COMPARABLE"


@pytest.mark.parametrize(
    ("change", "failure_class", "quoted"),
    [
        (lambda found: found[:-3], "SAMPLE_ACCOUNTING_FAILED", "3 samples of the baseline are not among"),
        (lambda found: [*found, found[0]], "SAMPLE_ACCOUNTING_FAILED", "twice"),
        (lambda found: [{**found[0], "score": None}, *found[1:]], "SAMPLE_ACCOUNTING_FAILED", "finite score"),
        (lambda found: ["x", *found[1:]], "SAMPLE_ACCOUNTING_FAILED", "finite score"),
        (lambda found: [{**found[0], "prompt_digest": "q"}, *found[1:]], "NOT_COMPARABLE", "prompt_digest differs"),
    ],
)
def test_samples_that_do_not_pair(change, failure_class, quoted):
    candidate = run()
    candidate = Run(candidate.assessment, candidate.metadata, {"a": change(rows(390))})
    result = compare_runs(run(), candidate)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", failure_class)
    assert quoted in result["detail"]


def test_a_run_that_failed_decides():
    failed = {"pass": False, "failure_class": "DEPLOYMENT_HEALTH_FAILED", "detail": "no answer to the canary."}
    assert compare_runs(run(**failed), run())["decision"] == "ANOMALOUS"
    result = compare_runs(run(), run(**failed))
    assert result["decision"] == "INFEASIBLE" and result["pass"] is False and "canary" in result["detail"]
    assert compare_runs(run(), run(**{"pass": "yes"}))["failure_class"] == "UNKNOWN"


@pytest.mark.parametrize("policy", [{"treshold": 0.1}, {"threshold": -1}, {"require_fingerprints": "no"}, [1]])
def test_a_bad_policy_is_a_config_error(policy):
    result = compare_runs(run(), run(), policy)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "USER_CONFIG_ERROR")


def test_the_policy_overrides_tiers_and_scales():
    assert compare_runs(run(), run(380), {"threshold": 0.05})["pass"]
    assert compare_runs(run(), run(380), {"tiers": {"a": "advisory"}})["failure_class"] == "USER_CONFIG_ERROR"
    assert compare_runs(run(), run(380), {"scales": {"a": 10}})["tasks"]["a"]["scale"]["max"] == 10


@pytest.mark.parametrize(
    ("before", "after", "samples", "expected"),
    [
        (4000, 3999, 4000, ("ACCEPT", None, "conclusive")),
        (4000, 3800, 4000, ("REGRESSION", None, "conclusive")),
        (390, 390, 400, ("ACCEPT", None, "conclusive")),
        (390, 388, 400, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE", "inconclusive")),
        (390, 384, 400, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE", "inconclusive")),
    ],
)
def test_the_confident_criterion(before, after, samples, expected):
    result = compare_runs(run(before, samples), run(after, samples), CONFIDENT)
    assert (result["decision"], result["failure_class"], result["evidence"]) == expected, result["detail"]
    if expected[1]:
        assert "needs about" in result["detail"] and "more samples" in result["next_action"].lower()


def test_confidence_needs_paired_samples():
    bare = [Run(made.assessment, made.metadata) for made in (run(4000, 4000), run(4000, 4000))]
    assert compare_runs(*bare, CONFIDENT)["failure_class"] == "INSUFFICIENT_EVIDENCE"
    assert compare_runs(*bare)["decision"] == "ACCEPT"


def test_one_interval_beyond_among_many_tasks_may_be_chance():
    names = [f"t{number}" for number in range(20)]
    before, after = tasks_run(dict.fromkeys(names, 390)), tasks_run({**dict.fromkeys(names, 390), "t0": 376})
    alone = compare_runs(run(390), run(376), CONFIDENT)
    among = compare_runs(before, after, CONFIDENT)
    assert alone["decision"] == "REGRESSION" and among["failure_class"] == "INSUFFICIENT_EVIDENCE"
    assert among["tasks"]["t0"]["paired"]["interval"][0] > 0.01
    point = compare_runs(before, after, POINT)
    assert (point["decision"], point["evidence"]) == ("REGRESSION", "inconclusive")
    assert "20 tasks" in point["evidence_sentence"]
    p_values = {task: entry["paired"]["mcnemar_p"] for task, entry in point["tasks"].items()}
    assert point["tasks"]["t0"]["paired"]["mcnemar_p_holm"] == pytest.approx(min(1, 20 * p_values["t0"]))


def flipped(won, lost, samples, tail=0):
    """Two runs of which the candidate has ``won`` samples more and ``lost`` others less, ``tail`` right in both."""

    def made(right):
        scores = [float(right(i)) for i in range(samples)]
        held = [{**row, "score": score} for row, score in zip(rows(0, samples), scores, strict=True)]
        one = run(round(sum(scores)), samples)
        return Run(one.assessment, one.metadata, {"a": held})

    both = lambda i: won + lost <= i < won + lost + tail  # noqa: E731
    return made(lambda i: won <= i < won + lost or both(i)), made(lambda i: i < won or both(i))


@pytest.mark.parametrize(
    ("won", "lost", "samples", "decision"),
    [
        (4, 1, 30, "ACCEPT"),
        (3, 0, 30, "ACCEPT"),
        (9, 0, 30, "ANOMALOUS"),
        (25, 5, 198, "ANOMALOUS"),
        (20, 9, 198, "ACCEPT"),
    ],
)
def test_a_gain_is_anomalous_unless_small_numbers_explain_it(won, lost, samples, decision):
    result = compare_runs(*flipped(won, lost, samples, tail=samples // 3), POINT)
    assert (won - lost) / samples > 0.05
    assert result["decision"] == decision, result["detail"]
    sentences = [warning["sentence"] for warning in result["warnings"] if "gains" in warning["sentence"]]
    assert bool(sentences) == (decision == "ACCEPT")
    if sentences:
        assert f"{samples} samples cannot tell it from none" in sentences[0]
    else:
        assert result["failure_class"] == "UNKNOWN" and "suspect the baseline" in result["detail"]


@pytest.mark.parametrize(("size", "decision"), [(2, "ANOMALOUS"), (20, "ACCEPT")])
def test_of_grouped_samples_the_interval_alone_explains_a_gain(size, decision):
    """40 samples won of 400 are 20 of 200 groups, or 2 of 20, which two lucky passages could be."""

    def grouped(made):
        samples = [{**row, "group": str(place // size)} for place, row in enumerate(made.samples["a"])]
        return Run(made.assessment, made.metadata, {"a": samples})

    result = compare_runs(*map(grouped, flipped(40, 0, 400, tail=100)), POINT)
    assert result["tasks"]["a"]["paired"]["mcnemar_p"] is None
    assert result["decision"] == decision, result["detail"]


def test_plain_scores_explain_no_gain():
    assert evaluate_comparison({"a": 0.5}, {"a": 0.56})["decision"] == "ANOMALOUS"


def test_warnings_say_what_the_samples_cannot_resolve():
    result = compare_runs(*flipped(10, 10, 198, tail=90))
    (warning,) = result["warnings"]
    assert warning["task"] == "a" and "198 samples, 10.10% of them scored differently" in warning["sentence"]
    assert f"{result['tasks']['a']['paired']['samples_needed']:,} samples" in warning["sentence"]
    assert compare_runs(run(4000, 4000), run(4000, 4000))["warnings"] == []


def test_samples_of_one_group_count_as_one():
    def grouped(made, size, mark="g"):
        return Run(
            made.assessment,
            made.metadata,
            {"a": [{**r, "group": f"{mark}{i // size}"} for i, r in enumerate(made.samples["a"])]},
        )

    before, after = run(400), run(380)
    alone = compare_runs(before, after)["tasks"]["a"]["paired"]
    result = compare_runs(grouped(before, 20), grouped(after, 20))
    paired = result["tasks"]["a"]["paired"]
    assert (alone["clusters"], paired["clusters"]) == (400, 20) and paired["mcnemar_p"] is None
    assert paired["interval"][1] - paired["interval"][0] > 3 * (alone["interval"][1] - alone["interval"][0])
    other = compare_runs(grouped(before, 20), grouped(after, 20, mark="h"))
    assert other["failure_class"] == "NOT_COMPARABLE" and "group differs in 400" in other["detail"]


def test_repeats_of_a_sample_stand_in_one_group():
    def repeated(groups):
        made = run(400)
        held = [{**made.samples["a"][0], "repeat": i, "group": group} for i, group in enumerate(groups)]
        return Run({**made.assessment, "scores": {"a": {"score": 1.0}}}, made.metadata, {"a": held})

    result = compare_runs(repeated("xy"), repeated("xy"))
    assert result["failure_class"] == "SAMPLE_ACCOUNTING_FAILED" and "two groups" in result["detail"]
    assert compare_runs(repeated("xx"), repeated("xx"), POINT)["pass"]


BF16 = {"dtypes": {"BF16": 1000}, "config": {}}
FP8 = {
    "dtypes": {"BF16": 100, "F8_E4M3": 900},
    "config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
}


@pytest.mark.parametrize(
    ("source", "server", "precision"),
    [
        (BF16, {}, "BF16"),
        (BF16, {"kv_cache_dtype": "fp8"}, "BF16, KV cache fp8"),
        ({"dtypes": {"BF16": 990, "F32": 10}}, {}, "BF16 99.00%, FP32 1.00%"),
        (FP8, {"quantization": "fp8"}, "natively quantized (fp8): F8_E4M3 90.00%, BF16 10.00%"),
        ({**FP8, "config": {}}, {}, "natively quantized (F8_E4M3): F8_E4M3 90.00%, BF16 10.00%"),
        (None, {"dtype": "bfloat16"}, "BF16, as served"),
        (None, {"dtype": "bfloat16", "quantization": "fp8"}, "fp8, as served"),
        (None, {}, "not stated"),
        ({"dtypes": "?", "config": 3}, {}, "precision not stated"),
    ],
)
def test_the_baselines_own_precision_is_stated(source, server, precision):
    made = run()
    made.metadata["server"] = server
    result = compare_runs(made, run(), {"require_fingerprints": False}, source)
    assert result["baseline_precision"] == precision


def test_a_baseline_quantized_by_the_server_is_no_baseline_of_its_source():
    made = run()
    assert compare_runs(made, run(), source=FP8)["pass"]
    result = compare_runs(made, run(), source=BF16)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "NOT_COMPARABLE")
    assert "served with quantization 'fp8', which its source does not have" in result["detail"]
    assert result["comparability"]["differences"][0]["field"] == "server.quantization"


@pytest.mark.parametrize(
    ("entries", "status"),
    [
        ([], "unverified"),
        (published(97.5), "verified"),
        (published(92.5), "verified"),
        (published(92.4), "failed"),
        (published(0.975, 1), "verified"),
        (published(0.5, 1), "failed"),
        (published(50.0, task="b"), "unverified"),
        (published(50.0, metric="acc"), "unverified"),
        ([*published(97.5), *published(50.0, metric="acc")], "verified"),
    ],
)
def test_external_sanity(entries, status):
    result = compare_runs(run(390), run(390), external=entries)
    assert result["external"]["status"] == status
    if status == "failed":
        assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")
        assert "https://example.org/card" in result["detail"] and "baseline" in result["next_action"]
    else:
        assert result["decision"] == "ACCEPT"
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(
    "candidate", [run(390), run(300), run(**{"pass": False, "failure_class": "DEPLOYMENT_HEALTH_FAILED"})]
)
def test_an_external_mismatch_decides_whatever_the_candidate_did(candidate):
    result = compare_runs(run(390), candidate, external=published(50.0))
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")


@pytest.mark.parametrize("advisory_side", [0, 1])
def test_the_stricter_tier_of_both_runs_holds(advisory_side):
    runs = [run(), run(300)]
    runs[advisory_side].assessment["scores"]["a"]["tier"] = "advisory"
    assert compare_runs(*runs)["decision"] == "REGRESSION"


@settings(max_examples=150, deadline=None)
@given(JSON, JSON, JSON, JSON)
def test_any_run_gets_a_sound_answer(scores, fingerprint, samples, policy):
    other = Run({"pass": True, "scores": {"a": scores}}, {"fingerprint": fingerprint}, {"a": samples})
    result = compare_runs(run(), other, policy)
    json.dumps(result, allow_nan=False)
    assert not result["pass"]


# Text with halves of surrogate pairs, which JSON can spell and UTF-8 cannot hold, and numbers that floats barely hold.
ODD = st.text(st.characters(exclude_categories=[]), max_size=3) | st.sampled_from([1e308, -1e308, 10**400, "\ud800"])
ODD_JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD.map(str), inner, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(
    ODD_JSON, ODD_JSON, ODD_JSON, ODD_JSON, ODD_JSON, ODD.map(str), st.sampled_from([1e308, 9e99, 1.0, 2e-100, 1e-320])
)
def test_what_cannot_be_written_as_it_is_still_makes_a_file(scores, fingerprint, samples, policy, detail, task, widest):
    score = {"score": scores, "metric": detail, "scale": {"min": 0, "max": widest}}
    assessment = {"pass": False, "detail": detail, "failure_class": detail, "suite": detail, "scores": {task: score}}
    metadata = {"fingerprint": {task: fingerprint}, "server": {"quantization": detail, "dtype": detail}}
    rows_of_both = [{"id": detail, "score": widest, "answer": detail}, samples]
    one = Run(
        assessment | {"pass": True, "scores": {task: score | {"score": widest}}}, metadata, {task: rows_of_both[:1]}
    )
    other = Run(assessment, {"fingerprint": {task: scores}}, {task: rows_of_both})
    policies = [{"scales": {task: widest}}, policy]
    for pair, rules in [((one, one), policies[0]), ((one, other), policies[0]), ((one, other), policy)]:
        result = compare_runs(*pair, rules, {"dtypes": {task: 1}}, published(50.0, task=task, notes=detail))
        assert json.dumps(result, allow_nan=False, ensure_ascii=False).encode()
    plain_scores = evaluate_comparison({task: scores}, {task: widest}, tiers={task: detail})
    assert json.dumps(plain_scores, allow_nan=False, ensure_ascii=False).encode()


COUNTS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 80), min_size=1)


@st.composite
def policies(draw, tasks):
    """A policy for these tasks, of which at least one blocks."""
    tiers = {task: draw(st.sampled_from(["critical", "supporting", "advisory"])) for task in tasks}
    return {
        "threshold": draw(st.sampled_from([0, 0.01, 0.05, 0.3])),
        "criterion": draw(st.sampled_from(["suite", "point", "confident"])),
        "max_relative_drop": draw(st.sampled_from([None, 0.02, 0.5])),
        "thresholds": {"tasks": {task: 0.02 for task in tasks if draw(st.booleans())}},
        "tiers": {**tiers, min(tasks): "critical"},
    }


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.data())
def test_a_run_is_accepted_only_whole_and_within_its_limits(before, data):
    lost = st.sampled_from([0, 0, 0, 0, 1, 2, 8, 30, -1])
    after = {task: min(80, max(0, count - data.draw(lost))) for task, count in before.items()}
    policy = data.draw(policies(before))
    base, candidate = tasks_run(before, 80), tasks_run(after, 80)
    damage = data.draw(st.sampled_from([None, "score", "samples", "task"]))
    damaged = data.draw(st.sampled_from(sorted(after)))
    if damage == "score":
        wrong = data.draw(st.sampled_from([math.nan, math.inf, True, "0.9", None, [0.9]]))
        candidate.assessment["scores"][damaged] = {**candidate.assessment["scores"][damaged], "score": wrong}
    elif damage == "samples":
        candidate.samples[damaged].pop()
    elif damage == "task":
        del candidate.assessment["scores"][damaged], candidate.samples[damaged]
    result = compare_runs(base, candidate, policy)
    verdict = verdict_on(result, policy)
    assert (verdict["decision"], verdict["failure_class"]) == (result["decision"], result["failure_class"])
    if not verdict["pass"]:
        return
    if policy["criterion"] == "suite":
        means = result["suite_evidence"]
        proven = means[means["proven_by"]]
        assert proven["largest"] <= proven["limit"] + 1e-9
    blocking = [task for task in before if policy["tiers"][task] != "advisory"]
    assert blocking and (damage is None or damaged not in blocking)
    for task in blocking:
        limit = policy["thresholds"]["tasks"].get(task, policy["threshold"])
        if policy["criterion"] == "suite":
            assert result["tasks"][task]["paired"]["largest_drop"] <= 5 * limit + 1e-9
            continue
        assert (before[task] - after[task]) / 80 <= limit + 1e-9
        if policy["max_relative_drop"] is not None:
            assert before[task] - after[task] <= policy["max_relative_drop"] * before[task] + 1e-6
        if policy["criterion"] == "confident":
            assert result["tasks"][task]["paired"]["interval"][1] <= limit + 1e-9


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.data())
def test_a_worse_run_never_gets_a_better_decision(before, data):
    """By every criterion, for samples that stand for themselves; save where the better one is suspect for its gain."""
    better = {task: data.draw(st.integers(0, min(80, count + 4))) for task, count in before.items()}
    worse = {task: data.draw(st.integers(0, count)) for task, count in better.items()}
    policy = data.draw(policies(before))
    rank = RANK if policy["criterion"] == "point" else {"ACCEPT": 2, "ANOMALOUS": 1, "REGRESSION": 0}
    base = tasks_run(before, 80)
    results = [verdict_on(compare_runs(base, tasks_run(scores, 80), policy), policy) for scores in (better, worse)]
    assert rank[results[0]["decision"]] >= rank[results[1]["decision"]]


@settings(max_examples=30, deadline=None)
@given(COUNTS, st.randoms(), st.data())
def test_the_order_of_tasks_and_samples_is_irrelevant(before, random, data):
    after = {task: max(0, count - 5) for task, count in before.items()}
    names = list(after)
    random.shuffle(names)
    policy = data.draw(policies(before))
    shuffled = [tasks_run({task: side[task] for task in names}, 80) for side in (before, after)]
    for run_of_side in shuffled:
        for samples in run_of_side.samples.values():
            random.shuffle(samples)
    pairs = ([tasks_run(before, 80), tasks_run(after, 80)], shuffled)
    one, two = (verdict_on(compare_runs(*pair, policy), policy) for pair in pairs)
    assert json.dumps(one) == json.dumps(two)


# --- the command line -----------------------------------------------------------------------------------------------


def gate(*arguments):
    """Run the command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["gate_compare.py", *map(str, arguments)])
        run_cli(gate_compare.main, unusable_as=FailureClass.USER_CONFIG_ERROR)
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


POINT_ONLY = ("--policy", '{"criterion": "point"}')


def test_the_script_runs_by_itself():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--baseline" in done.stdout


def write_folder(folder, correct, metadata=None, with_run=True):
    made = run(correct)
    value = made.assessment["scores"]["a"]["score"]
    metrics = {"exact_match": {"scores": {"exact_match": {"value": value}}}}
    content = {"results": {"tasks": {"a": {"metrics": metrics}}}, "metadata": made.metadata}
    write_yaml(folder / "results.yml", content if metadata is None else {**content, "metadata": metadata})
    write_text(folder / "samples" / "a.jsonl", "".join(json.dumps(row) + "\n" for row in made.samples["a"]))
    if with_run:
        write_json(folder / "run.json", made.assessment)
    return folder


def test_command_line_over_score_files(tmp_path):
    for name, scores in (("b", {"a": 0.9}), ("same", {"a": 0.9}), ("worse", {"a": 0.8}), ("empty", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(scores))
    base = tmp_path / "b.json"
    done = gate("--baseline", base, "--candidate", tmp_path / "same.json", "--output", tmp_path / "out.json")
    assert done.returncode == 0 and json.loads(done.stdout)["decision"] == "ACCEPT"
    assert read_json(tmp_path / "out.json")["pass"] is True
    worse = ("--baseline", base, "--candidate", tmp_path / "worse.json")
    assert gate(*worse).returncode == 1
    assert gate(*worse, "--threshold", "0.12", "--relative").returncode == 0
    assert gate(*worse, "--scales", '{"a": 100}').returncode == 0
    assert gate(*worse, "--threshold", "nan").returncode == 2
    for candidate in ("absent.json", "empty.json/x"):
        done = gate("--baseline", base, "--candidate", tmp_path / candidate)
        assert done.returncode == 2 and json.loads(done.stdout)["failure_class"] == "USER_CONFIG_ERROR"
        assert "Traceback" not in done.stderr


def test_command_line_over_runs(tmp_path):
    base, good = write_folder(tmp_path / "b", 390), write_folder(tmp_path / "c", 389)
    bad = write_folder(tmp_path / "d", 370)
    results = [
        gate("--baseline", base / name, "--candidate", good / name, *POINT_ONLY)
        for name in ("", "results.yml", "run.json")
    ]
    contents = [json.loads(done.stdout) for done in results]
    assert contents[0] == contents[1] == contents[2] and contents[0]["pass"]
    assert contents[0]["baseline_sha256"] == digest_of_file(base / "run.json")
    assert contents[0]["tasks"]["a"]["paired"]["losses"] == 1
    output = tmp_path / "comparison.json"
    policy = ("--policy", '{"threshold": 0.01, "relative": false, "criterion": "point"}')
    done = gate("--baseline", base, "--candidate", bad, *policy, "--assess", "--output", output)
    assert done.returncode == 0 and read_json(output)["decision"] == "REGRESSION"
    assert gate("--baseline", base, "--candidate", bad, *policy).returncode == 1


def test_command_line_states_precision_and_external_sanity(tmp_path):
    base, good = write_folder(tmp_path / "b", 390), write_folder(tmp_path / "c", 389)
    write_json(tmp_path / "source.json", described_source(**FP8))
    write_yaml(tmp_path / "scores.yaml", {"scores": [*published(50.0), *published(97.0, model="other")]})
    both = ("--baseline", base, "--candidate", good, "--external", tmp_path / "scores.yaml", *POINT_ONLY)
    done = gate(*both, "--model", "other", "--source-record", tmp_path / "source.json")
    result = json.loads(done.stdout)
    assert done.returncode == 0 and result["external"]["status"] == "verified"
    assert result["baseline_precision"].startswith("natively quantized (fp8)")
    assert json.loads(gate(*both).stdout)["failure_class"] == "EXTERNAL_BASELINE_MISMATCH"
    write_yaml(tmp_path / "scores.yaml", {"scores": [{"model": "m", "score": 101}]})
    done = gate(*both)
    assert done.returncode == 2 and "scores.yaml: scores[0].task: missing" in done.stderr
    write_json(tmp_path / "plain.json", {"a": 0.9})
    plain = ("--baseline", tmp_path / "plain.json", "--candidate", tmp_path / "plain.json")
    done = gate(*plain, "--source-record", tmp_path / "source.json")
    assert done.returncode == 2 and "give run folders" in done.stderr
    assert gate(*plain, "--policy", '{"thresholds": {"tasks": {"a": 0.1}}}').returncode == 0
    assert gate(*plain, "--policy", '{"criterion": "confident"}').returncode == 2


def test_command_line_over_foreign_results(tmp_path):
    base = write_folder(tmp_path / "b", 390, metadata={}, with_run=False)
    good = write_folder(tmp_path / "c", 389, metadata={}, with_run=False)
    failed = write_folder(tmp_path / "d", 389, metadata={"status": "FAILED"}, with_run=False)
    done = gate("--baseline", base / "results.yml", "--candidate", good, *POINT_ONLY)
    assert done.returncode == 0 and json.loads(done.stdout)["comparability"]["checked"] is False
    done = gate("--baseline", base, "--candidate", good, "--assess", "--output", tmp_path / "out.json")
    assert read_json(tmp_path / "out.json")["failure_class"] == "NOT_COMPARABLE"
    assert gate("--baseline", base, "--candidate", failed).returncode == 1
