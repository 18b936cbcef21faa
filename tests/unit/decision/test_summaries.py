"""Summaries of the original design (NVIDIA/Model-Optimizer, pull request 1596): each kind that its own tests have."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from decision_input import evaluate_comparison, evaluate_run

from day0.records.failure_class import FailureClass

SCRIPTS = Path(__file__).parents[3] / "scripts"


def compared(baseline, candidate, **settings):
    return evaluate_comparison(baseline, candidate, **{"threshold": 0.01, **settings})


def task(**changes):
    given = {"status": "SUCCESS", "expected_samples": 100, "scored_samples": 100, "score": 42.0, "errors": []}
    given |= changes
    return {key: value for key, value in given.items() if value is not KeyError}


def run_of(**changes):
    return evaluate_run({"tasks": {"math": task(**changes)}})


COMPARISONS = {
    "drops within a point": ({"math": 60, "code": 20.0}, {"math": 59.4, "code": 19.5}, {}, "ACCEPT", None),
    "a drop of two points": ({"math": 60.0}, {"math": 58.0}, {}, "REGRESSION", None),
    "a gain of ten points": ({"math": 60.0}, {"math": 70.0}, {}, "ANOMALOUS", "UNKNOWN"),
    "above 100": ({"math": 60.0}, {"math": 160.0}, {}, "ANOMALOUS", "UNKNOWN"),
    "other tasks": ({"math": 60.0}, {"code": 60.0}, {}, "ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED"),
    "no task": ({}, {}, {}, "ANOMALOUS", "USER_CONFIG_ERROR"),
    "within a hundredth of the baseline": ({"x": 40.0}, {"x": 39.7}, {"relative": True}, "ACCEPT", None),
    "beyond a hundredth of the baseline": ({"x": 40.0}, {"x": 39.5}, {"relative": True}, "REGRESSION", None),
    "a collapse from 1 to 0": ({"tool-calls": 1.0}, {"tool-calls": 0.0}, {}, "REGRESSION", None),
    "half a hundredth from 0 to 1": ({"x": 0.800}, {"x": 0.795}, {}, "ACCEPT", None),
    "a scale of 100 for scores below 1": ({"x": 0.8}, {"x": 0.6}, {"scales": {"x": 100.0}}, "ACCEPT", None),
    "two scales in a suite": ({"math": 60.0, "x": 1.0}, {"math": 59.9, "x": 0.0}, {}, "REGRESSION", None),
    **{
        f"no scales, as {value!r}": ({"x": 60.0}, {"x": 59.5}, {"scales": value}, "ACCEPT", None)
        for value in (None, {}, [], "", ())
    },
    **{
        f"scales as {value!r}": ({"x": 60.0}, {"x": 59.5}, {"scales": value}, "ANOMALOUS", "USER_CONFIG_ERROR")
        for value in ([100], 7, 0, False, "100", {"x": "100"}, {"x": 0}, {"x": -1}, {"x": math.nan}, {"x": []})
    },
    **{
        f"a score of {value!r}": ({"x": 60.0}, {"x": value}, {}, "ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED")
        for value in ("60", None, math.nan, math.inf, True, [60.0], {})
    },
}


@pytest.mark.parametrize(
    ("baseline", "candidate", "settings", "decision", "failure_class"), COMPARISONS.values(), ids=COMPARISONS
)
def test_scores_of_the_original_design(baseline, candidate, settings, decision, failure_class):
    result = compared(baseline, candidate, **settings)
    assert (result["decision"], result["failure_class"]) == (decision, failure_class), result["detail"]
    assert result["pass"] is (decision == "ACCEPT")


def test_of_two_scales_the_one_that_collapsed_is_named_as_such():
    detail = compared({"math": 60.0, "x": 1.0}, {"math": 59.9, "x": 0.0})["detail"]
    assert "x: 1 to 0" in detail.split("Within their limits")[0]
    assert "math" not in detail.split("Within their limits")[0]


RUNS = {
    "whole": ({}, None),
    "completed, by our name": ({"status": "COMPLETED"}, None),
    "no errors, as none": ({"errors": None}, None),
    "no errors, left out": ({"errors": KeyError}, None),
    "a score from 0 to 1": ({"score": 0.42}, None),
    "dropped samples": ({"scored_samples": 90}, "SAMPLE_ACCOUNTING_FAILED"),
    "more samples than expected": ({"scored_samples": 101}, "SAMPLE_ACCOUNTING_FAILED"),
    "0 of 0 samples": ({"expected_samples": 0, "scored_samples": 0}, "SAMPLE_ACCOUNTING_FAILED"),
    "no count of the expected": ({"expected_samples": None}, "SAMPLE_ACCOUNTING_FAILED"),
    "no count of the scored": ({"scored_samples": KeyError}, "SAMPLE_ACCOUNTING_FAILED"),
    "no counts": ({"expected_samples": KeyError, "scored_samples": KeyError}, "SAMPLE_ACCOUNTING_FAILED"),
    "a count as text": ({"expected_samples": "100"}, "SAMPLE_ACCOUNTING_FAILED"),
    "a count as a bool": ({"expected_samples": True, "scored_samples": True}, "SAMPLE_ACCOUNTING_FAILED"),
    "a count with a fraction": ({"scored_samples": 100.0}, "SAMPLE_ACCOUNTING_FAILED"),
    "a rate limit of the judge": ({"errors": ["judge rate limit exceeded"]}, "EVAL_JUDGE_FAILED"),
    "a rate limit and dropped samples": (
        {"errors": ["x", "HTTP 429 from the endpoint"], "scored_samples": 90},
        "EVAL_JUDGE_FAILED",
    ),
    "a refused key": ({"errors": "Unauthorized"}, "EVAL_JUDGE_FAILED"),
    "the judge and an end by time": ({"errors": ["judge failed"], "status": "TIMEOUT"}, "EVAL_JUDGE_FAILED"),
    "another error": ({"errors": ["could not parse the author's name"]}, "UNKNOWN"),
    "an error that is no text": ({"errors": [{"code": 3}]}, "UNKNOWN"),
    "no score": ({"score": None}, "SAMPLE_ACCOUNTING_FAILED"),
    "a score as text": ({"score": "42"}, "SAMPLE_ACCOUNTING_FAILED"),
    "a score that is no number": ({"score": math.nan}, "SAMPLE_ACCOUNTING_FAILED"),
    "an infinite score": ({"score": math.inf}, "SAMPLE_ACCOUNTING_FAILED"),
    "a score above its scale": ({"score": 1e308}, "SAMPLE_ACCOUNTING_FAILED"),
    "a negative score": ({"score": -1.0}, "SAMPLE_ACCOUNTING_FAILED"),
    "no status": ({"status": KeyError}, "UNKNOWN"),
    "a status that is no text": ({"status": ["SUCCESS"]}, "UNKNOWN"),
    **{
        f"status {status}": ({"status": status, "score": None}, "INFRA_TRANSIENT")
        for status in ("TIMEOUT", "RUNNING", "PENDING", "RESUMING", "NODE_FAIL", "PREEMPTED", "SUSPENDED", "REQUEUED")
    },
    **{
        f"status {status}": ({"status": status}, "UNKNOWN")
        for status in ("FAILED", "CANCELLED", "CANCELLED by 0", "OUT_OF_MEMORY", "DEADLINE", "KILLED", "")
    },
}


@pytest.mark.parametrize(("changes", "failure_class"), RUNS.values(), ids=RUNS)
def test_runs_of_the_original_design(changes, failure_class):
    result = run_of(**changes)
    assert (result["pass"], result["failure_class"]) == (failure_class is None, failure_class), result["detail"]
    assert failure_class is None or "math" in result["detail"]


def test_one_task_of_several_fails_the_run():
    result = evaluate_run({"tasks": {"math": task(), "code": task(scored_samples=9)}})
    assert result["failure_class"] == "SAMPLE_ACCOUNTING_FAILED" and "task code" in result["detail"]
    assert evaluate_run({"tasks": {"math": task(), "code": task(score=30.0)}})["pass"] is True


@pytest.mark.parametrize("summary", [{"tasks": {}}, {}, {"tasks": None}, {"tasks": []}, None, [], "text"])
def test_a_run_without_tasks_is_the_users_mistake(summary):
    assert evaluate_run(summary)["failure_class"] == "USER_CONFIG_ERROR"


def test_a_run_that_failed_before_its_first_task_keeps_its_cause():
    failed = {"status": "FAILED", "failure_class": "DEPLOYMENT_HEALTH_FAILED", "detail": "no server", "tasks": {}}
    assert evaluate_run(failed)["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"
    assert evaluate_run({"status": "TIMEOUT", "tasks": {}})["failure_class"] == "INFRA_TRANSIENT"


def checkpoint(**changes):
    counts = {"NVFP4": 180, "BF16_or_excluded": 4, "unexpected_unquantized": 0, "declaration_mismatch": 0}
    given = {"source_bytes": 10_000_000, "output_bytes": 4_500_000, "recipe": "nvfp4", "metadata_diffs": []}
    counts |= changes.pop("counts", {})
    given |= {"layer_precision_counts": {key: value for key, value in counts.items() if value is not KeyError}}
    return given | changes


CHECKPOINTS = {
    "whole": ({}, None),
    "another case of the recipe's name": ({"recipe": "NVFP4"}, None),
    "INT4, by the bucket's name": (
        {"recipe": "int4_awq", "counts": {"NVFP4": KeyError, "INT4": 180}, "output_bytes": 3_500_000},
        None,
    ),
    "not smaller": ({"output_bytes": 10_000_000}, "QUANT_COVERAGE_FAILURE"),
    "nothing quantized": ({"counts": {"NVFP4": 0}}, "MODEL_UNSUPPORTED"),
    "nothing but layers left alone": ({"counts": {"NVFP4": KeyError}}, "MODEL_UNSUPPORTED"),
    "another precision": ({"counts": {"NVFP4": 0, "FP8": 180}}, "QUANT_COVERAGE_FAILURE"),
    "layers left out": ({"counts": {"unexpected_unquantized": 9}}, "QUANT_COVERAGE_FAILURE"),
    "layers declared as something else": ({"counts": {"declaration_mismatch": 1}}, "QUANT_COVERAGE_FAILURE"),
    "metadata that differs": ({"metadata_diffs": ["chat_template changed"]}, "QUANT_COVERAGE_FAILURE"),
    "a recipe that is not known": ({"recipe": "riddle"}, "USER_CONFIG_ERROR"),
    "no recipe": ({"recipe": ""}, "USER_CONFIG_ERROR"),
    "no size": ({"source_bytes": None}, "USER_CONFIG_ERROR"),
    "a size that is no number": ({"output_bytes": math.nan}, "USER_CONFIG_ERROR"),
    "a count that is missing": ({"counts": {"declaration_mismatch": KeyError}}, "USER_CONFIG_ERROR"),
    "a count below 0": ({"counts": {"NVFP4": -1}}, "USER_CONFIG_ERROR"),
    "a count as a bool": ({"counts": {"unexpected_unquantized": False}}, "USER_CONFIG_ERROR"),
    "no counts": ({"layer_precision_counts": {}}, "USER_CONFIG_ERROR"),
}


@pytest.mark.parametrize(("changes", "failure_class"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints_of_the_original_design(tmp_path, monkeypatch, capsys, changes, failure_class):
    import gate_ptq

    file = tmp_path / "summary.json"
    file.write_text(json.dumps(checkpoint(**changes)))
    monkeypatch.setattr(sys, "argv", ["gate_ptq.py", "--summary", str(file)])
    with pytest.raises(SystemExit) as ended:
        gate_ptq.run_cli(gate_ptq.main, unusable_as=FailureClass.USER_CONFIG_ERROR)
    result = json.loads(capsys.readouterr().out)
    assert (result["pass"], result["failure_class"]) == (failure_class is None, failure_class), result["detail"]
    assert ended.value.code == 0 if failure_class is None else ended.value.code in (1, 2)


def test_a_recipe_of_the_command_line_takes_the_place_of_the_summarys(tmp_path):
    file = tmp_path / "summary.json"
    file.write_text(json.dumps(checkpoint(recipe="riddle")))
    command = [sys.executable, SCRIPTS / "gate_ptq.py", "--summary", file, "--recipe", "nvfp4"]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_the_run_gate_reads_the_file(tmp_path):
    file = tmp_path / "run.json"
    command = [sys.executable, SCRIPTS / "gate_run.py", "--run", file]
    for summary, status in (({"tasks": {"math": task()}}, 0), ({"tasks": {}}, 1), ("no JSON", 2)):
        file.write_text(summary if isinstance(summary, str) else json.dumps(summary))
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == status and "Traceback" not in done.stderr
        assert json.loads(done.stdout)["pass"] is (status == 0)
