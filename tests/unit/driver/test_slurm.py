"""What the Slurm executor makes of the controller's answers, and of none; tests/slurm runs it on a real cluster."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import ResourceList
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from day0.cluster.jobs import ENDED
from day0.records.attempt import Attempt
from driver import refusals, slurm


@pytest.fixture
def executor(monkeypatch):
    """An executor without its thread; ``answers`` holds what the next status commands answer, by command."""
    made = slurm.Executor.__new__(slurm.Executor)
    made._states, made._absences, made._looks, made._reported = {}, {}, {}, set()
    made.workflow = SimpleNamespace(executor_settings=SimpleNamespace(requeue=False))
    made.answers = {"squeue": {}, "sacct": {}}

    async def query(command, logger):
        answer = made.answers[command.split()[0]]
        return (None, None) if answer is None else (dict(answer), 0.1)

    monkeypatch.setattr(slurm, "query", query)
    monkeypatch.setattr(slurm.plugin, "query_job_status_squeue", lambda run: "squeue")
    return made


def asking(executor, tmp_path, **logs):
    """Let the executor watch jobs, given by their ids and what their logs hold."""
    executor._asked = {}
    for job_id, text in logs.items():
        log = tmp_path / job_id
        log.write_text(text)
        executor._asked[job_id] = SubmittedJobInfo(None, external_jobid=job_id, aux={"slurm_logfile": log})
    return lambda command: asyncio.run(executor._query(command, None))


def test_no_answer_is_no_state(executor, tmp_path):
    ask = asking(executor, tmp_path, j1="")
    executor.answers = {"squeue": None, "sacct": None}
    assert ask("squeue") == (None, None) and ask("sacct") == (None, None)
    assert not executor._absences


def test_what_sacct_does_not_know_squeue_tells(executor, tmp_path):
    ask = asking(executor, tmp_path, j1="", j2="")
    executor.answers = {"sacct": {"j1": "CANCELLED by 0"}, "squeue": {"j1": "RUNNING", "j2": "COMPLETED"}}
    assert ask("sacct")[0] == {"j1": "CANCELLED", "j2": "COMPLETED"}
    executor.answers["sacct"] = None
    assert ask("sacct")[0] == {"j1": "RUNNING", "j2": "COMPLETED"}


def test_a_job_that_nobody_knows_is_judged_by_its_log_in_the_end(executor, tmp_path):
    ask = asking(executor, tmp_path, good=f"{ENDED} 0\n", bad="half a li")
    assert ask("squeue")[0] == ask("squeue")[0] == {}
    assert ask("squeue")[0] == {"good": "COMPLETED", "bad": "ERROR"}
    assert executor._states == {"good": "COMPLETED", "bad": "LOST"}


def test_a_job_that_is_seen_again_is_not_lost(executor, tmp_path):
    ask = asking(executor, tmp_path, j1="")
    ask("squeue"), ask("squeue")
    executor.answers["squeue"] = {"j1": "RUNNING"}
    assert ask("squeue")[0] == {"j1": "RUNNING"}
    executor.answers["squeue"] = {}
    assert ask("squeue")[0] == {}


@pytest.mark.parametrize(
    ("state", "requeue", "told"),
    [
        ("PREEMPTED", False, "ERROR"),
        ("PREEMPTED", True, "RUNNING"),
        ("REVOKED", True, "ERROR"),
        ("COMPLETING", False, "COMPLETING"),
        ("NODE_FAIL", False, "NODE_FAIL"),
    ],
)
def test_states_that_the_plugin_takes_for_running_end(executor, tmp_path, state, requeue, told):
    executor.workflow.executor_settings.requeue = requeue
    ask = asking(executor, tmp_path, j1="")
    executor.answers["squeue"] = {"j1": state}
    assert ask("squeue")[0] == {"j1": told}
    assert executor._states == {"j1": state}


def test_a_poll_that_ends_without_a_word_loses_no_job(executor, monkeypatch):
    async def silent(self, active_jobs):
        return
        yield

    monkeypatch.setattr(slurm.plugin.Executor, "check_active_jobs", silent)
    jobs = [SubmittedJobInfo(None, external_jobid=job_id, aux={}) for job_id in ("j1", "j2")]
    executor._reported = {"j2"}

    async def poll():
        return [info async for info in executor.check_active_jobs(jobs)]

    assert asyncio.run(poll()) == jobs[:1]


def test_a_log_that_has_ended_is_asked_for_at_once_and_then_ever_more_rarely(executor, tmp_path, monkeypatch):
    asking(executor, tmp_path, j1="", j2=f"{ENDED} 1\n")
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=0.0)
    monkeypatch.setattr(slurm, "time", clock)
    running, ended = executor._asked.values()
    due = []
    for clock.now in range(20):
        assert not executor._is_due(running)
        if executor._is_due(ended):
            due.append(clock.now)
    assert due == [0, 1, 3, 7, 15]


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("PartitionTimeLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("AssocMaxCpuPerJobLimit", True),
        ("InvalidAccount", True),
        ("BadConstraints", True),
        ("JobHeldUser", True),
        ("launch failed requeued held", True),
        ("Resources", False),
        ("Priority", False),
        ("Dependency", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("BeginTime", False),
    ],
)
def test_reasons_to_wait_are_told_from_those_without_hope(reason, hopeless):
    assert bool(slurm.HOPELESS_REASON.fullmatch(reason)) is hopeless


SITE = {"account": "a", "partition": "cpu", "gpu_partition": "gpu", "gpu_type": "h100", "qos": None, "gpu_qos": None}
SITE |= {"constraint": None, "extra": ["--nice=5"], "gpu_extra": [], "max_mem_mb": 4000}


def completed(executor, failed=(), **given):
    """The resources of a job that asks for so much, as they reach sbatch."""
    executor.site = SITE
    resources = ResourceList(fromdict=given)
    executor._complete(resources, failed)
    return dict(resources.items())


def test_a_job_is_given_what_the_site_says_and_it_does_not():
    asked = completed(slurm.Executor.__new__(slurm.Executor), mem_mb=1000, gpu=2, slurm_extra=None)
    assert asked["slurm_account"] == "a" and asked["slurm_partition"] == "gpu" and asked["gpu_model"] == "h100"
    assert asked["slurm_extra"] == "--nice=5" and asked["mem_mb"] == 1000 and "nodes" not in asked
    assert completed(slurm.Executor.__new__(slurm.Executor), slurm_partition="own")["slurm_partition"] == "own"


def test_only_a_lack_of_memory_is_met_with_more(executor):
    short, lost = (Attempt(1, "17", state, None) for state in ("OUT_OF_MEMORY", "NODE_FAIL"))
    memory = [completed(executor, failed, mem_mb=3000)["mem_mb"] for failed in ([], [lost], [short])]
    assert memory == [3000, 3000, 4000]


def test_a_server_over_nodes_gets_whole_parts_of_them(executor):
    asked = completed(executor, nodes=1, server_nodes=2, gpu=8)
    assert (asked["nodes"], asked["gpu"]) == (2, 16)
    assert asked["slurm_extra"] == "--nice=5 --ntasks-per-node=1 --gpus-per-node=h100:8"
    asked = completed(executor, nodes=1, server_nodes=2)
    assert (asked["nodes"], asked["tasks"], asked["slurm_extra"]) == (2, 2, "--nice=5 --ntasks-per-node=1")


def test_a_fault_before_a_submission_is_reported_and_does_not_hang(executor, monkeypatch):
    told = []
    executor._report_job_error_threadsafe = lambda info, message: told.append(message)
    executor.lock, executor._accounts, executor.attempts, executor.site = threading.Lock(), None, {}, SITE
    monkeypatch.setattr(slurm.Executor, "_adopt", lambda self, job: False)
    monkeypatch.setattr(slurm, "ask", lambda *command: "llm\nother\n")
    job = type("Job", (), {"resources": ResourceList(fromdict={})})()
    executor.run_job(job)
    assert job in refusals.REFUSED
    assert "cluster.account: found a, expected an account of" in told[0] and "llm, other" in told[0]
    monkeypatch.setattr(slurm, "ask", lambda *command: None)
    executor._accounts, executor.site = None, {**SITE, "extra": 5}
    job = type("Job", (), {"resources": ResourceList(fromdict={})})()
    executor.run_job(job)
    assert job in refusals.REFUSED
    assert "TypeError" in told[1]
