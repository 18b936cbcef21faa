"""A verdict for every outcome, and no job below a failed gate."""

import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import TWO_RELEASES


@pytest.fixture
def project(equipped):
    """With environments and a model: what these tests look at comes after them."""
    return equipped


def decisions(project, *releases):
    verdicts = [project.read(f"tiny-llama/{release}/verdict.json") for release in releases or ("fp8",)]
    found = [(v["decision"], v["failure_class"]) for v in verdicts]
    return found if releases else found[0]


def test_a_good_candidate_is_bundled(project):
    run = project.snakemake("release")
    assert run.status == 0, run.output
    assert decisions(project) == ("ACCEPT", None)
    assert project.exists("tiny-llama/fp8/release/model.safetensors")
    assert project.exists("tiny-llama/fp8/report.html")
    assert "bundle: results/tiny-llama/fp8/release" in run.output


def test_a_regression_fails_the_release_with_the_decision_as_its_last_words(project):
    project.behave({"evaluate": {"fp8": {"scores": {"addition": 0.8}}}})
    run = project.snakemake("release")
    assert run.status == 1 and decisions(project) == ("REGRESSION", None), run.output
    assert not project.exists("tiny-llama/fp8/release")
    last = "\n".join(run.output.splitlines()[-8:])
    assert "tiny-llama fp8: REGRESSION" in last and "next:" in last
    assert "Traceback" not in run.output
    run = project.snakemake("verdict")
    assert run.status == 0, run.output


@pytest.mark.parametrize(
    ("behaviour", "expected", "evaluated"),
    [
        ({"quantize": {"fp8": {"failure_class": "MODEL_UNSUPPORTED"}}}, ("INFEASIBLE", "MODEL_UNSUPPORTED"), []),
        (
            {"validate": {"fp8": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}},
            ("INFEASIBLE", "DEPLOYMENT_HEALTH_FAILED"),
            [],
        ),
        (
            {"evaluate": {"fp8": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}},
            ("INFEASIBLE", "DEPLOYMENT_HEALTH_FAILED"),
            ["evaluate baseline", "evaluate fp8"],
        ),
        (
            {"evaluate": {"baseline": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}},
            ("ANOMALOUS", "DEPLOYMENT_HEALTH_FAILED"),
            ["evaluate baseline"],
        ),
        (
            {"preflight": {"tiny-llama": {"failure_class": "SYSTEMIC"}}},
            ("ANOMALOUS", "SYSTEMIC"),
            [],
        ),
        (
            {"preflight": {"tiny-llama/fp8": {"failure_class": "USER_CONFIG_ERROR"}}},
            ("ANOMALOUS", "USER_CONFIG_ERROR"),
            [],
        ),
    ],
)
def test_a_recorded_failure_ends_in_its_verdict_and_nothing_below_it_runs(project, behaviour, expected, evaluated):
    project.behave(behaviour)
    run = project.snakemake("verdict")
    assert run.status == 0 and decisions(project) == expected, run.output
    calls = project.calls()
    candidate_calls = [call for call in calls if call.startswith("evaluate") and (evaluated or "fp8" in call)]
    assert candidate_calls == evaluated
    assert project.exists("tiny-llama/fp8/report.html")
    run = project.snakemake("release")
    assert run.status == 1 and expected[0] in run.output.splitlines()[-4], run.output
    assert not project.exists("tiny-llama/fp8/release")
    assert project.calls() == [f"preflight {subject}" for subject in behaviour.get("preflight", {})]


@pytest.mark.parametrize("failure_class", ["SYSTEMIC", "USER_CONFIG_ERROR"])
def test_the_same_command_after_the_machine_is_mended_goes_on(project, failure_class):
    project.behave({"preflight": {"tiny-llama/baseline/demo": {"failure_class": failure_class}}})
    assert project.snakemake("release").status == 1
    assert decisions(project) == ("ANOMALOUS", failure_class)
    project.calls()
    project.behave({})
    run = project.snakemake("release")
    assert run.status == 0 and decisions(project) == ("ACCEPT", None), run.output
    assert [call for call in project.calls() if call.startswith("preflight")] == ["preflight tiny-llama/baseline/demo"]


def publish(project, score):
    entry = (
        f"{{model: tiny-llama, task: addition, metric: exact_match, score: {score}, source: 'https://a.org', notes: n}}"
    )
    (project.folder / "config" / "external_scores.yaml").write_text(f"scores:\n- {entry}\n")


MISMATCH = ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")


def test_a_candidate_that_cannot_be_served_hides_no_external_mismatch(project):
    publish(project, 50)
    project.behave({"evaluate": {"fp8": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}})
    run = project.snakemake("release")
    assert run.status == 1 and decisions(project) == MISMATCH, run.output
    verdict = project.read("tiny-llama/fp8/verdict.json")
    assert verdict["failure_classes"][:2] == ["EXTERNAL_BASELINE_MISMATCH", "DEPLOYMENT_HEALTH_FAILED"]
    assert "Serve the checkpoint alone" in run.output.splitlines()[-3] + run.output.splitlines()[-2], run.output


def test_an_infeasible_candidate_is_held_against_the_baseline_at_hand_and_has_none_evaluated(project):
    publish(project, 50)
    project.configure(releases=TWO_RELEASES)
    project.behave({"quantize": {"nvfp4": {"failure_class": "MODEL_UNSUPPORTED"}}})
    assert project.snakemake("verdict").status == 0
    evaluated = ["evaluate baseline", "evaluate fp8"]
    assert [call for call in project.calls() if call.startswith("evaluate")] == evaluated
    run = project.snakemake("verdict")  # the first may have decided on nvfp4 before the baseline had been evaluated
    assert decisions(project, "fp8", "nvfp4") == [MISMATCH, MISMATCH] and project.calls() == [], run.output
    assert set(project.snakemake("-n", "verdict").jobs()) <= {"verdict"}
    publish(project, 90)
    run = project.snakemake("verdict")
    assert decisions(project, "fp8", "nvfp4") == [("ACCEPT", None), ("INFEASIBLE", "MODEL_UNSUPPORTED")], run.output
    assert project.read("tiny-llama/nvfp4/verdict.json")["external"]["status"] == "verified"
    with open(project.folder / "config" / "suites" / "demo" / "addition.yaml", "a") as task:
        task.write("\nshould_decontaminate: false\n")
    run = project.snakemake("results/tiny-llama/nvfp4/report.html")
    assert run.status == 0 and project.calls() == [], run.output


def test_a_gate_refuses_a_named_target_below_it(project):
    project.behave({"quantize": {"fp8": {"failure_class": "MODEL_UNSUPPORTED"}}})
    run = project.snakemake("results/tiny-llama/fp8/demo/results.yml")
    assert run.status == 1 and "MODEL_UNSUPPORTED" in run.output, run.output
    assert "evaluate fp8" not in project.calls()


def test_a_failed_candidate_leaves_the_others_alone(project):
    project.configure(releases=TWO_RELEASES)
    project.behave({"quantize": {"nvfp4": {"failure_class": "MODEL_UNSUPPORTED"}}})
    run = project.snakemake("release")
    assert run.status == 1, run.output
    assert decisions(project, "fp8", "nvfp4") == [("ACCEPT", None), ("INFEASIBLE", "MODEL_UNSUPPORTED")]
    assert project.exists("tiny-llama/fp8/release") and not project.exists("tiny-llama/nvfp4/release")


def test_a_killed_job_is_retried_once(project):
    project.behave({"quantize": {"fp8": {"crashes": 1}}})
    run = project.snakemake("release")
    assert run.status == 0 and decisions(project) == ("ACCEPT", None), run.output
    assert project.calls().count("quantize fp8") == 2


def test_a_stage_that_refuses_its_input_is_not_tried_again_and_the_verdict_tells_why(project):
    project.behave({"quantize": {"fp8": {"refuses": "recipe.yaml: found no quantizers"}}})
    run = project.snakemake("release")
    assert run.status == 1 and decisions(project) == ("ANOMALOUS", "SYSTEMIC"), run.output
    assert project.calls().count("quantize fp8") == 1 and "not tried again" in run.output
    verdict = project.read("tiny-llama/fp8/verdict.json")
    assert verdict["detail"] == (
        "Rule quantize_candidate cannot use its input: recipe.yaml: found no quantizers; "
        "its log is results/tiny-llama/fp8/logs/quantize.log."
    )
    assert "Correct what the stage names" in run.output.splitlines()[-1] + run.output.splitlines()[-2], run.output


@pytest.mark.parametrize(("transient", "expected"), [(1, ("ACCEPT", None)), (2, ("ANOMALOUS", "SYSTEMIC"))])
def test_a_transient_failure_of_an_evaluation_is_tried_once_more_and_then_systemic(project, transient, expected):
    """Exit status 75 is the evaluate stage's word for what a retry may cure."""
    project.behave({"evaluate": {"fp8": {"transient": transient}}})
    run = project.snakemake("release")
    assert run.status == (expected[0] != "ACCEPT") and decisions(project) == expected, run.output
    assert project.calls().count("evaluate fp8") == 2


def test_a_run_that_recorded_a_transient_failure_is_systemic_until_it_is_made_again(project):
    project.behave({"evaluate": {"fp8": {"failure_class": "INFRA_TRANSIENT"}}})
    run = project.snakemake("release")
    verdict = project.read("tiny-llama/fp8/verdict.json")
    assert run.status == 1 and decisions(project) == ("ANOMALOUS", "SYSTEMIC"), run.output
    assert verdict["failure_classes"][:2] == ["SYSTEMIC", "INFRA_TRANSIENT"]
    assert "snakemake --force RUN/results.yml" in verdict["next_action"]
    project.behave({})
    run = project.snakemake("--force", "results/tiny-llama/fp8/demo/results.yml")
    assert run.status == 0, run.output
    run = project.snakemake("release")
    assert run.status == 0 and decisions(project) == ("ACCEPT", None), run.output


def test_a_job_that_keeps_crashing_is_anomalous_and_the_next_run_redoes_it(project):
    project.configure(releases=TWO_RELEASES)
    project.behave({"quantize": {"fp8": {"crashes": 2}}})
    run = project.snakemake("release")
    assert run.status == 1 and "Traceback" not in run.output, run.output
    crash, other = (project.read(f"tiny-llama/{release}/verdict.json") for release in ("fp8", "nvfp4"))
    found = (crash["decision"], crash["failure_class"], crash["stage"])
    assert found == ("ANOMALOUS", "SYSTEMIC", "quantize_candidate")
    assert "attempt 2" in crash["detail"] and "results/tiny-llama/fp8/logs/quantize.log" in crash["detail"]
    assert other["decision"] == "ACCEPT"
    run = project.snakemake("release")
    assert run.status == 0 and decisions(project, "fp8", "nvfp4") == [("ACCEPT", None)] * 2, run.output
    assert project.calls().count("quantize fp8") == 3


def test_a_crash_in_a_rerun_never_leaves_an_old_accept_standing(released):
    released.behave({"evaluate": {"fp8": {"crashes": 99}}})
    released.configure(quantization={"seed": 7, "calibration": {"dataset": "results/demo/data/calibration.jsonl"}})
    run = released.snakemake("release")
    assert run.status == 1 and decisions(released) == ("ANOMALOUS", "SYSTEMIC"), run.output
    released.behave({})
    run = released.snakemake("release")
    assert run.status == 0 and decisions(released) == ("ACCEPT", None), run.output


def test_a_mended_recipe_plans_the_whole_way_again(project):
    recipes = {"mine": {"preset": "fp8"}}
    project.configure(recipes=recipes, releases=[{"model": "tiny-llama", "recipe": "mine"}])
    project.behave({"quantize": {"mine": {"failure_class": "MODEL_UNSUPPORTED"}}})
    assert project.snakemake("release").status == 1
    assert decisions(project, "mine") == [("INFEASIBLE", "MODEL_UNSUPPORTED")]
    project.configure(recipes={"mine": {"preset": "nvfp4"}})
    jobs = project.snakemake("-n", "release").jobs()
    assert jobs["bundle_release"] == 1 and jobs["quantize_candidate"] == 1 and "describe_source" not in jobs
    project.behave({})
    project.calls()
    assert project.snakemake("release").status == 0
    assert "train demo" not in project.calls()


def stop_while(project, target, stage, log, number):
    """Send a signal to the driver and its jobs, as a terminal or a service manager does, while a stage waits."""
    command = [sys.executable, "-m", "snakemake", target]
    process = subprocess.Popen(
        command,
        cwd=project.folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell starts what it puts into the background with SIGINT ignored, and so would pytest.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    log = project.folder / "results/tiny-llama" / log
    deadline = time.monotonic() + 300
    while not (log.exists() and f"{stage}: waits" in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    return output, log.read_text()


def test_the_last_words_of_an_interrupted_stage_are_in_its_log(equipped):
    equipped.behave({"evaluate": {"baseline": {"waits_for": ["never"]}}})
    _, log = stop_while(equipped, "evaluate", "evaluate baseline", "baseline/demo/evaluate.log", signal.SIGINT)
    assert "evaluate baseline: interrupted" in log, log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_decides_nothing(equipped, number):
    equipped.behave({"quantize": {"fp8": {"waits_for": ["never", "never"]}}})
    output, _ = stop_while(equipped, "release", "quantize fp8", "fp8/logs/quantize.log", number)
    assert "tiny-llama fp8: not decided in this run" in output, output
    assert not equipped.exists("tiny-llama/fp8/verdict.json")
