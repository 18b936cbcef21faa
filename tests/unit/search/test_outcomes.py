"""Verdicts on candidates, as the search reads them."""

import pytest

from day0.records.comparison import Comparison
from day0.records.early_stopping import EarlyStop
from day0.records.speed import SpeedComparison
from day0.records.verdict import Verdict
from day0.search.outcomes import outcome_of
from day0.statistics.paired import NOTHING

MEAN = {"drop": 0.01, "error": 0.001, "largest": 0.012, "limit": 0.02}


def task(drop, limit=0.02, tier="critical", width=1.0, within=None, samples=100):
    paired = {**NOTHING, "samples": samples, "evidence": "conclusive", "sentence": "", "flips": None}
    return {
        "baseline": 0.9 * width,
        "candidate": 0.9 * width - drop,
        "drop": drop,
        "drop_fraction": drop / width,
        "limit": limit,
        "within": drop <= limit if within is None else within,
        "relative_guard": None,
        "scale": {"max": width},
        "tier": tier,
        "note": None,
        "paired": paired,
    }


def verdict(decision="REGRESSION", failure_class=None, stage="comparison", tasks=None, strength="conclusive", **fields):
    return Verdict.model_validate(
        {
            "release": "r", "model": "m", "recipe": "nvfp4", "candidate": "nvfp4", "suite": "s", "policy": {},
            "decision": decision, "pass": decision == "ACCEPT", "failure_class": failure_class,
            "failure_classes": [], "stage": stage, "detail": "d", "next_action": "n",
            "evidence_strength": strength, "evidence_sentence": "e", "warnings": [], "external": None,
            "baseline_precision": "bf16", "size_ratio": 0.3, "bits_per_weight": 4.8, "tasks": tasks or {},
            "evidence": {}, "digests": {}, **fields,
        }
    )  # fmt: skip


def test_drops_are_in_limits_and_the_worst_task_comes_first():
    tasks = {"a": task(0.03), "b": task(4.0, limit=1.0, width=100), "c": task(0.5, tier="advisory"), "d": task(-0.1)}
    found = outcome_of("nvfp4", "screen", verdict(tasks=tasks))
    assert found.worst_drop == pytest.approx(4) and found.regressed == ("b", "a") and found.samples_asked == 400
    assert found.score == pytest.approx(((0.9 - 0.03) + 0.86 + 1.0) / 3) and found.size_ratio == 0.3


@pytest.mark.parametrize(("drop", "expected"), [(0.1, 1e6), (0.0, 0.0), (-0.1, 0.0)])
def test_a_limit_of_nothing(drop, expected):
    assert outcome_of("n", "final", verdict(tasks={"a": task(drop, limit=0.0)})).worst_drop == expected


@pytest.mark.parametrize(
    ("decision", "failure_class", "confident", "low", "conclusive"),
    [
        ("REGRESSION", None, "REGRESSION", 0.0, True),
        ("REGRESSION", None, "ANOMALOUS", 0.019, False),
        ("REGRESSION", None, "ANOMALOUS", 0.021, True),
        ("REGRESSION", "TOKEN_GROWTH", "REGRESSION", 0.03, False),
        ("ACCEPT", None, "REGRESSION", 0.03, False),
        ("ANOMALOUS", "INSUFFICIENT_EVIDENCE", "REGRESSION", 0.03, False),
    ],
)
def test_only_a_loss_proven_beyond_the_limits_is_conclusive(decision, failure_class, confident, low, conclusive):
    mean = {"drop": low + 0.0196, "error": 0.01, "largest": 0.05, "limit": 0.02}
    evidence = {"plain": mean, "weighted": mean, "proven_by": None, "no_loss_p": 0.5, "likely_drops": {}}
    criteria = {"suite": {"decision": decision, "sentence": ""}, "confident": {"decision": confident, "sentence": ""}}
    made = verdict(decision, failure_class, criteria=criteria, suite_evidence=evidence)
    assert outcome_of("n", "screen", made).conclusive is conclusive


@pytest.mark.parametrize(("strength", "conclusive"), [("conclusive", True), ("inconclusive", False), (None, False)])
def test_a_comparison_without_criteria_is_as_conclusive_as_it_says(strength, conclusive):
    assert outcome_of("n", "screen", verdict(strength=strength)).conclusive is conclusive


@pytest.mark.parametrize(
    ("decision", "failure_class", "stage", "of_baseline"),
    [
        ("ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED", "baseline_run", True),
        ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH", "external_check", True),
        ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH", "comparison", True),
        ("INFEASIBLE", "MODEL_UNSUPPORTED", "preflight_model", True),
        ("ANOMALOUS", "USER_CONFIG_ERROR", "preflight_suite", True),
        ("INFEASIBLE", "MODEL_UNSUPPORTED", "preflight_recipe", False),
        ("INFEASIBLE", "QUANT_COVERAGE_FAILURE", "validation", False),
        ("ANOMALOUS", "ANSWERS_MALFORMED", "comparison", False),
        ("ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED", "candidate_run", False),
        ("ACCEPT", None, "comparison", False),
    ],
)
def test_what_fails_for_every_candidate(decision, failure_class, stage, of_baseline):
    assert outcome_of("n", "screen", verdict(decision, failure_class, stage)).of_baseline is of_baseline


def test_the_mean_loss_has_an_interval():
    evidence = {"plain": MEAN, "weighted": MEAN, "proven_by": None, "no_loss_p": 0.5, "likely_drops": {}}
    found = outcome_of("n", "final", verdict(tasks={"a": task(0.0)}, suite_evidence=evidence)).loss
    assert (found.low + found.high) / 2 == pytest.approx(0.01) and found.high - found.drop == pytest.approx(
        0.00196, 1e-3
    )
    assert outcome_of("n", "final", verdict()).loss is None and outcome_of("n", "final", verdict()).worst_drop is None


@pytest.mark.parametrize("end", ["accepted", "rejected", None])
def test_an_evaluation_that_ended_early_is_known_by_its_comparison(end):
    stop = {"end": end, "tasks_decided": [], "mode": "both", "baseline_digest": "0" * 64, "tasks": {}}
    made = Comparison.model_construct(early_stop=EarlyStop.model_validate(stop) if end else None)
    assert outcome_of("n", "screen", verdict(), made).early_end == end
    assert outcome_of("n", "screen", verdict()).early_end is None


@pytest.mark.parametrize("is_native", [True, False])
def test_the_measured_speed_of_a_candidate_is_kept_and_whether_it_is_the_formats_own(is_native):
    measure = {"baseline": [2.0] * 3, "candidate": [3.0] * 3, "ratio": 1.5, "interval": [1.4, 1.6]}
    speed = SpeedComparison(sentence="x", is_native=is_native, output_tokens_per_second=measure)
    found = outcome_of("n", "final", verdict(speed=speed))
    assert (found.speed_ratio, found.speed_is_native) == (1.5, is_native)
    without = outcome_of("n", "final", verdict(speed=SpeedComparison(sentence="x", is_native=False)))
    assert (without.speed_ratio, without.speed_is_native) == (None, None)
