"""The table of failure classes: every class once, and nothing but a passed comparison is ACCEPT."""

import ast
import io
import tokenize
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.decision.failures import CONSEQUENCES, decide, lasting, severity
from day0.records.failure_class import Decision, FailureClass

ROOT = Path(__file__).parents[3]
ANY = st.one_of(st.none(), st.text(), st.integers(), st.sampled_from(list(FailureClass)))
NAMES = {*FailureClass, *Decision}


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


@pytest.mark.parametrize("failure_class", ["MODEL_UNSUPPORTED", "DEPLOYMENT_HEALTH_FAILED"])
def test_what_the_preflight_of_a_recipe_refuses_was_never_quantized(failure_class):
    decision, next_action = decide(failure_class, "preflight_recipe")
    assert decision == "INFEASIBLE" and "nothing was quantized" in next_action


@given(ANY, st.text() | st.just("comparison"), st.booleans() | st.none() | st.integers() | st.text())
def test_accept_only_for_a_passed_comparison(failure_class, stage, within_limits):
    decision, _ = decide(failure_class, stage, within_limits)
    assert (decision == "ACCEPT") == (failure_class is None and stage == "comparison" and within_limits is True)


def test_every_class_stands_in_the_table_once():
    keys = [
        node.attr
        for table in ast.walk(ast.parse((ROOT / "scripts/day0/decision/failures.py").read_text()))
        if isinstance(table, ast.AnnAssign) and isinstance(table.target, ast.Name) and table.target.id == "CONSEQUENCES"
        for node in table.value.keys
    ]
    assert sorted(keys) == sorted(FailureClass), "a class that is missing, or written twice (the later one would win)"
    assert list(CONSEQUENCES) == list(FailureClass), "the enum lists the classes by severity, too"
    assert sorted(FailureClass, key=severity) == list(FailureClass)


def test_the_verdict_names_no_transient_failure():
    assert lasting(FailureClass.INFRA_TRANSIENT) is FailureClass.SYSTEMIC
    assert all(lasting(other) is other for other in FailureClass if other is not FailureClass.INFRA_TRANSIENT)


def texts_of(source):
    """The string literals of a Python file or a Snakefile."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.STRING and not token.string.lower().startswith(("f", "rf", "fr", "b")):
            yield token.start[0], ast.literal_eval(token.string)


def files_that_name_classes():
    for pattern in ("scripts/day0/**/*.py", "scripts/driver/*.py", "rules/*.smk"):
        for path in sorted(ROOT.glob(pattern)):
            if path.name != "failure_class.py":
                yield path


# To be emptied as the packages take up the enums; of slurm.py it is a state of Slurm's.
NOT_YET = {
    "scripts/driver/slurm.py",
}


def test_no_class_or_decision_is_written_as_a_text():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in files_that_name_classes()
        if str(path.relative_to(ROOT)) not in NOT_YET
        for line, text in texts_of(path.read_text())
        if text in NAMES
    ]
    assert not found, "use FailureClass and Decision of day0.records.failure_class"
