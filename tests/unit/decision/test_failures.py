"""The table of decisions: every class of the design, and nothing but a passed comparison is ACCEPT."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.decision.failures import TABLE, decide

ANY = st.one_of(st.none(), st.text(), st.integers(), st.sampled_from(sorted(TABLE)))


@pytest.mark.parametrize(
    ("failure_class", "stage", "decision"),
    [
        ("MODEL_UNSUPPORTED", "validation", "INFEASIBLE"),
        ("QUANT_COVERAGE_FAILURE", "validation", "INFEASIBLE"),
        ("DEPLOYMENT_HEALTH_FAILED", "validation", "INFEASIBLE"),
        ("DEPLOYMENT_HEALTH_FAILED", "candidate_run", "INFEASIBLE"),
        ("DEPLOYMENT_HEALTH_FAILED", "baseline_run", "ANOMALOUS"),
        ("MODEL_UNSUPPORTED", "baseline_run", "ANOMALOUS"),
        ("SAMPLE_ACCOUNTING_FAILED", "candidate_run", "ANOMALOUS"),
        ("EVAL_JUDGE_FAILED", "candidate_run", "ANOMALOUS"),
        ("EXTERNAL_BASELINE_MISMATCH", "comparison", "ANOMALOUS"),
        ("NOT_COMPARABLE", "comparison", "ANOMALOUS"),
        ("INFRA_TRANSIENT", "candidate_run", "ANOMALOUS"),
        ("INSUFFICIENT_EVIDENCE", "comparison", "ANOMALOUS"),
        ("SYSTEMIC", "preflight_model", "ANOMALOUS"),
        ("USER_CONFIG_ERROR", "comparison", "ANOMALOUS"),
        ("UNKNOWN", "comparison", "ANOMALOUS"),
        ("NO_SUCH_CLASS", "comparison", "ANOMALOUS"),
    ],
)
def test_the_table(failure_class, stage, decision):
    found, next_action = decide(failure_class, stage)
    assert found == decision and next_action.endswith(".")
    assert decide(failure_class, stage, within_limits=True).decision == decision


def test_a_comparison_without_a_failure():
    assert decide(None, "comparison", within_limits=True).decision == "ACCEPT"
    assert decide(None, "comparison", within_limits=False).decision == "REGRESSION"
    assert decide(None, "comparison").decision == "REGRESSION"
    assert decide(None, "candidate_run", within_limits=True).decision == "ANOMALOUS"


def test_the_baselines_next_action_names_the_unquantized_model():
    assert "unquantized" in decide("DEPLOYMENT_HEALTH_FAILED", "baseline_run").next_action


def test_an_engine_that_refuses_on_paper_was_never_started():
    assert "nothing was served" in decide("DEPLOYMENT_HEALTH_FAILED", "validation").next_action
    assert "server command" in decide("DEPLOYMENT_HEALTH_FAILED", "candidate_run").next_action


@given(ANY, st.text() | st.just("comparison"), st.booleans() | st.none() | st.integers() | st.text())
def test_accept_only_for_a_passed_comparison(failure_class, stage, within_limits):
    decision, _ = decide(failure_class, stage, within_limits)
    assert (decision == "ACCEPT") == (failure_class is None and stage == "comparison" and within_limits is True)
