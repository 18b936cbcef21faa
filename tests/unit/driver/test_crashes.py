"""What reaches into Snakemake's insides: the insides are as they were read, and what is made of them is right."""

import dataclasses
import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake
import snakemake.api  # the order in which Snakemake itself imports its modules, which form a circle
import snakemake_executor_plugin_slurm as plugin
from decision_input import RELEASE
from snakemake.dag import DAG
from snakemake.exceptions import WorkflowError
from snakemake.executors import local
from snakemake.jobs import Job
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

from driver import crashes, refusals


def test_snakemake_is_the_version_that_was_read():
    assert snakemake.__version__ == "9.27.1", "read scripts/driver against the new version, then change its docstrings"
    lock = (Path(__file__).parents[3] / "envs" / "workflow.lock").read_text()
    assert "\nsnakemake==9.27.1" in lock and "\nsnakemake-executor-plugin-slurm==2.8.0" in lock


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_insides_of_snakemake_are_as_they_were_read():
    """A failure means: read the new version, and adapt scripts/driver/crashes.py to it."""
    scheduler = inspect.getsource(JobScheduler)
    assert "self.failed = set()" in scheduler and "self.failed.add(job)" in scheduler
    assert "self._executor = executor_plugin.executor(" in scheduler
    assert 'self._user_kill = "graceful"' in scheduler
    assert isinstance(inspect.getattr_static(JobScheduler, "remaining_jobs"), property)
    assert "self.depending = defaultdict(" in inspect.getsource(DAG.__init__)
    assert parameters(DAG.bfs) == ["self", "direction", "jobs", "stop"]
    assert parameters(DAG.needrun) == parameters(DAG.finished) == ["self", "job"]
    assert isinstance(inspect.getattr_static(DAG, "jobs"), property)
    assert parameters(PersistenceBase.started) == ["self", "job", "external_jobid"]


def test_the_insides_that_take_retries_from_refused_jobs_are_as_they_were_read():
    """A failure means: read the new version, and adapt scripts/driver/refusals.py to it."""
    assert parameters(refusals.report_end) == ["self", "job_info", "future"]
    assert "partial(self._callback, job_info)" in inspect.getsource(local.Executor)
    assert isinstance(inspect.getattr_static(Job, "restart_times"), property)
    assert "job.restart_times" in inspect.getsource(JobScheduler)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("run_job", ["self", "job"]),
        ("get_account_arg", ["self", "job"]),
        ("get_partition_arg", ["self", "job"]),
        ("format_job_exec", ["self", "job"]),
        ("report_job_submission", ["self", "job_info", "register_job"]),
        ("check_active_jobs", ["self", "active_jobs"]),
        ("cancel_jobs", ["self", "active_jobs"]),
        ("shutdown", ["self"]),
        ("report_job_success", ["self", "job_info"]),
    ],
)
def test_the_methods_of_the_slurm_plugin_are_as_they_were_read(name, expected):
    """A failure means: read the new version, and adapt scripts/driver/slurm.py to it."""
    assert parameters(getattr(plugin.Executor, name)) == expected


def test_the_functions_that_are_replaced_in_the_slurm_plugin_are_called_by_it():
    """A failure means: read the new version, and adapt scripts/driver/slurm.py to it."""
    source = inspect.getsource(plugin)
    for name in ("get_submit_command", "query_job_status_squeue", "query_job_status_sacct", "query_job_status"):
        assert f"{name}(" in source and callable(getattr(plugin, name)), name


class FakeDag:
    """The part of Snakemake's DAG that is read; a job is a namespace."""

    def __init__(self, *jobs, below=()):
        self.jobs, self.depending, self.below = jobs, object(), below

    def bfs(self, direction, job):
        assert direction is self.depending
        return [job, *self.below]

    def needrun(self, job):
        return True

    def finished(self, job):
        return job.is_finished


class FakeWorkflow:
    def __init__(self, dag, failed=(), remaining=()):
        self.dag, self.marked = dag, []
        self.scheduler = SimpleNamespace(failed=set(failed), remaining_jobs=set(remaining))
        self.scheduler._executor = self.scheduler._user_kill = None
        self.persistence = SimpleNamespace(started=self.marked.append)
        self.is_main_process = False


class FakeJob:
    def __init__(self, rule, output, attempt=1, log=()):
        self.rule, self.output, self.attempt, self.log = SimpleNamespace(name=rule), [str(output)], attempt, log
        self.wildcards, self.is_finished = {}, False

    def __str__(self):
        return self.rule.name


@pytest.fixture
def releases(tmp_path):
    verdicts = (tmp_path / "m" / "fp8" / "verdict.json",)
    return crashes.Releases(verdicts, request_of=lambda wildcards: RELEASE, verdicts_on=lambda wildcards: verdicts)


def assessment(path, passed, failure_class="SYSTEMIC"):
    content = {"schema_version": 1, "pass": passed, "failure_class": None if passed else failure_class, "detail": "x"}
    path.write_text(json.dumps(content))
    return path


def test_only_a_preflight_that_failed_is_looked_at_again(tmp_path, releases):
    failed = FakeJob("check_preflight", assessment(tmp_path / "failed.json", False))
    passed = FakeJob("check_preflight", assessment(tmp_path / "passed.json", True))
    missing = FakeJob("check_preflight", tmp_path / "missing.json")
    other = FakeJob("assess_run", assessment(tmp_path / "run.json", False))
    workflow = FakeWorkflow(FakeDag(failed, passed, missing, other))
    crashes.redo_failed_preflights(workflow, releases)
    assert workflow.marked == [failed]


@pytest.mark.parametrize(
    ("failure_class", "accepted", "is_redone"),
    [
        ("SYSTEMIC", [], True),
        ("SYSTEMIC", [None], True),
        ("SYSTEMIC", ["later"], False),
        ("USER_CONFIG_ERROR", ["later", "later"], False),
        ("USER_CONFIG_ERROR", ["later", "never"], True),
        ("USER_CONFIG_ERROR", ["later", None], True),
        ("USER_CONFIG_ERROR", ["earlier"], True),  # not in spite of this failure
        ("MODEL_UNSUPPORTED", ["never"], False),
        ("DEPLOYMENT_HEALTH_FAILED", [None], False),
        ("UNKNOWN", ["never"], True),
    ],
)
def test_a_preflight_that_nobody_waits_for_is_not_looked_at_again(tmp_path, failure_class, accepted, is_redone):
    failed = FakeJob("check_preflight", assessment(tmp_path / "failed.json", False, failure_class))
    os.utime(tmp_path / "failed.json", (50, 50))
    verdicts = [tmp_path / f"{number}.json" for number in range(len(accepted))]
    for path, when in zip(verdicts, accepted, strict=True):
        if when:
            time = 40 if when == "earlier" else 60
            os.utime(assessment(path, when != "never"), (time, time))
    releases = crashes.Releases((), request_of=None, verdicts_on=lambda wildcards: verdicts)
    workflow = FakeWorkflow(FakeDag(failed))
    crashes.redo_failed_preflights(workflow, releases)
    assert workflow.marked == ([failed] if is_redone else [])


def test_a_crash_is_a_verdict_and_marks_what_is_below_it(releases):
    verdict = releases.verdicts[0]
    decision = FakeJob("decide_release", verdict)
    between = FakeJob("assess_run", verdict.with_name("run.json"))
    job = FakeJob("evaluate_run", verdict.with_name("results.yml"), attempt=2, log=["e.log"])
    workflow = FakeWorkflow(FakeDag(job, between, decision, below=[between, decision]), failed=[job])
    crashes.record_crashes(workflow, releases)
    assert workflow.marked == [between, decision]
    found = json.loads(verdict.read_text())
    assert (found["decision"], found["failure_class"], found["stage"]) == ("ANOMALOUS", "SYSTEMIC", "evaluate_run")
    assert "attempt 2" in found["detail"] and "e.log" in found["detail"]
    assert crashes.is_crash_verdict(verdict)


def test_a_gate_that_refused_is_no_crash(releases):
    gate = FakeJob("gate_ptq", releases.verdicts[0].with_name("validation.ok"))
    workflow = FakeWorkflow(FakeDag(gate, below=[FakeJob("decide_release", releases.verdicts[0])]), failed=[gate])
    crashes.record_crashes(workflow, releases)
    assert workflow.marked == [] and not releases.verdicts[0].exists()


def test_what_ends_while_a_run_is_stopped_is_marked_and_not_decided(releases):
    stopped = FakeJob("quantize_candidate", releases.verdicts[0].with_name("quantization.json"))
    decision = FakeJob("decide_release", releases.verdicts[0])
    workflow = FakeWorkflow(FakeDag(stopped, below=[decision]), failed=[stopped])
    workflow.scheduler._user_kill = "graceful"
    crashes.record_crashes(workflow, releases)
    assert workflow.marked == [decision] and not releases.verdicts[0].exists()


def test_a_lost_retry_fails_the_run_and_is_a_crash(releases):
    lost = FakeJob("evaluate_run", releases.verdicts[0].with_name("results.yml"), attempt=2)
    decision = FakeJob("decide_release", releases.verdicts[0])
    workflow = FakeWorkflow(FakeDag(lost, below=[decision]), remaining=[lost])
    with pytest.raises(WorkflowError, match="lost evaluate_run; run the same command again"):
        crashes.end_well(workflow, releases)
    assert releases.verdicts[0].exists()


def test_a_run_without_failures_ends_well(releases):
    workflow = FakeWorkflow(FakeDag())
    crashes.end_well(workflow, releases)
    assert workflow.marked == []


def test_a_verdict_of_an_earlier_state_is_not_shown(releases, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(crashes.atexit, "register", lambda show: shown.append(show))
    verdict = releases.verdicts[0]
    crashes.show_decisions(FakeDag(FakeJob("decide_release", verdict)), releases)
    assert len(shown) == 1 and "not decided in this run" in str(inspect.getclosurevars(shown[0]).nonlocals["text"])
    assert not crashes.is_crash_verdict(verdict)


def test_many_releases_that_are_not_decided_share_a_line(releases, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(crashes, "say_last", shown.append)
    verdicts = tuple(tmp_path / "m" / f"r{number:02}" / "verdict.json" for number in range(23))
    crashes.show_decisions(FakeDag(), dataclasses.replace(releases, verdicts=verdicts))
    first, second = shown[0].splitlines()
    assert first.startswith("m r00, m r01, ") and first.endswith(", m r19 and 3 more: not decided in this run")
    assert second == "  next: Run the same command again."


def test_older_is_what_is_missing_or_was_written_before(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    new.write_text("")
    assert crashes.is_older(old, new)
    old.write_text("")
    os.utime(old, (1, 1))
    assert crashes.is_older(old, new) and not crashes.is_older(new, old)


def test_what_a_quiet_script_prints_is_shown_where_it_fails(capfd, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[3])
    crashes.run_quietly("summarize.py", "none.json")
    assert "none.json" in capfd.readouterr().err
    crashes.run_quietly("summarize.py", "--help")
    assert capfd.readouterr().err == ""
