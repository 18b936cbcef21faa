"""What is logged of a release, and that a tracking server which fails never holds a release up."""

import json
import sys

import decision_input
import pytest
from decision_input import make_verdict

import log_mlflow
from day0.base.artefacts import write_json
from day0.base.cli import run_cli
from day0.records.speed import SpeedComparison, SpeedMeasure

POLICY = {"threshold": 0.01, "tiers": {"a": "x"}}
RELEASE = {"model": "m", "name": "fp8", "recipe": "fp8", "suite": "s", "policy": POLICY}
PAIRED = {"samples": 1000, "wins": 1, "losses": 3, "mcnemar_p": 0.6, "interval": [-0.001, 0.004]}
TASK = {"baseline": 1.0, "candidate": 0.998, "drop": 0.002, "limit": 0.01, "within": True, "paired": PAIRED}
EVIDENCE = {
    "validation": {"size_ratio": 0.5, "bits_per_weight": 8.1, "output_bytes": 10},
    "comparison": {"criterion": "point", "tasks": {"add:ition": TASK, "lost": {"baseline": None, "drop": None}}},
}


def test_parameters_are_the_policy_flat():
    params = log_mlflow.get_params(RELEASE, EVIDENCE)
    assert params["policy.threshold"] == "0.01" and params["policy.tiers.a"] == "x" and params["release"] == "fp8"
    assert params["criterion"] == "point" and all(isinstance(value, str) for value in params.values())


def test_metrics_are_numbers_with_names_that_mlflow_takes():
    metrics = log_mlflow.get_metrics(EVIDENCE)
    assert metrics["add_ition/drop"] == 0.002 and metrics["add_ition/drop_interval_high"] == 0.004
    assert metrics["size_ratio"] == 0.5 and "within" not in str(metrics) and not any("lost" in key for key in metrics)
    assert log_mlflow.get_metrics({}) == {}


def test_the_ratio_of_speed_is_a_metric_and_whether_it_is_the_formats_own():
    measure = SpeedMeasure(baseline=[100.0], candidate=[150.0], ratio=1.5, interval=[1.4, 1.6])
    speed = SpeedComparison(sentence="faster", is_native=True, output_tokens_per_second=measure).model_dump()
    metrics = log_mlflow.get_metrics({"comparison": {"tasks": {}, "speed": speed}})
    name = "speed/output_tokens_per_second_ratio"
    assert metrics == {"speed/is_native": 1.0, name: 1.5, f"{name}_low": 1.4, f"{name}_high": 1.6}
    assert log_mlflow.get_metrics({"comparison": {"tasks": {}, "speed": None}}) == {}


def log(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["log_mlflow.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run_cli(log_mlflow.main)
    return ended.value.code


def test_a_server_that_fails_is_recorded_and_nothing_else(tmp_path, monkeypatch):
    write_json(tmp_path / "validation.json", {"pass": True})
    settings = json.dumps({"tracking_uri": "http://127.0.0.1:9", "experiment": "e"})

    def refuse(settings):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(log_mlflow, "connect", refuse)
    evidence = json.dumps({"validation": str(tmp_path / "validation.json")})
    record = tmp_path / "mlflow.json"
    arguments = ["--settings", settings, "--release", json.dumps(RELEASE), "--evidence", evidence]
    assert log(monkeypatch, *arguments, "--output", record) == 0
    content = json.loads(record.read_text())
    assert (content["status"], content["run_id"]) == ("failed", None) and "nobody answers" in content["detail"]
    write_json(tmp_path / "verdict.json", make_verdict(decision_input.RELEASE, decision_input.evidence()))
    arguments = ["--settings", settings, "--run", record, "--verdict", tmp_path / "verdict.json"]
    assert log(monkeypatch, *arguments, "--output", tmp_path / "decision.json") == 0
    content = json.loads((tmp_path / "decision.json").read_text())
    assert (content["status"], content["decision"]) == ("failed", "ACCEPT")


def test_the_decision_is_tagged_and_the_run_ended(tmp_path, monkeypatch):
    calls = []

    class Client:
        def __getattr__(self, name):
            return lambda *arguments: calls.append((name, *arguments))

    monkeypatch.setattr(log_mlflow, "connect", lambda settings: (Client(), "1"))
    verdict = {"decision": "REGRESSION", "failure_class": None, "digests": {"checkpoint_digest": "5e"}}
    log_mlflow.log_decision({}, "run", verdict, [tmp_path / "verdict.json"])
    assert ("set_tag", "run", "day0.decision", "REGRESSION") in calls
    assert ("set_tag", "run", "day0.checkpoint_digest", "5e") in calls
    assert calls[-1] == ("set_terminated", "run", "FINISHED")


def test_neither_half_of_the_work_can_be_left_out(monkeypatch, tmp_path):
    assert log(monkeypatch, "--settings", "{}", "--output", tmp_path / "x") == 2
