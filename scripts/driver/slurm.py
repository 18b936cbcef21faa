"""The Slurm executor of this project: snakemake-executor-plugin-slurm, and what a release needs beyond it.

- The site's account, partitions and flags (``cluster:`` of the configuration) fill in what no resource says.
- squeue shows stage, model and recipe in a job's name, and the releases that wait for it in its comment.
- A job that ran out of memory, and only such a one, is submitted again with more; one that refused its input is not.
- A job's end is noticed in its log within seconds, without a question to the controller; the plugin's own polls, which
  grow to minutes, remain for jobs that die without a log line.
- No job is lost: states that the plugin takes for running (PREEMPTED without requeue, "CANCELLED by UID"), jobs that
  the status command no longer knows, and a status command that does not answer, each end in a poll that reports them.
- A driver that was killed is restarted with the same command: a job that it had submitted is adopted where it runs
  or waits, and its result taken where it finished, provided that command and inputs are still the same.

``install`` puts it in the plugin's place. It reaches into the plugin, so both are pinned in envs/workflow.lock.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import re
import shlex
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import snakemake_executor_plugin_slurm as plugin
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from day0.base.artefacts import digest_of, digest_of_file, write_json
from day0.cluster.jobs import (
    ENDED,
    LIVE_STATES,
    base_state,
    has_ended,
    job_comment,
    job_name,
    state_from_log,
    status_in_log,
)
from day0.cluster.resources import grown_memory
from day0.records.attempt import Attempt
from driver.refusals import REFUSAL, REFUSED

LOOK_SECONDS = 2.0  # between two looks at the logs of running jobs
LONGEST_POLL_SECONDS = 60  # between two questions to the controller
POLLS_UNTIL_LOST = 3
LOG_TAIL_BYTES, WHOLE_LOG_BYTES = 8192, 2**24
RECORDS = Path(".snakemake/slurm_jobs")
SMALL_FILE_BYTES = 1_000_000  # up to here an input is compared by its content, as Snakemake does
FINAL_STATES_OF_PLUGIN = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
    | {"ERROR", "UNKNOWN"}
)
# Why a job waits that will not start unless somebody acts: squeue's reasons, or the ends of them.
HOPELESS_REASON = re.compile(
    r"Partition(Time|Node|Config|Down|Inactive)\w*|Invalid\w+|Bad\w+|\w+NotAllowed|JobHeld\w+|\w+PerJob(Limit)?|"
    r"launch failed.*|\w*MaxWallDuration\w*"
)


def read_tail(log: Path | None, size: int = LOG_TAIL_BYTES) -> str:
    """The last bytes of a log, or nothing where it cannot be read."""
    try:
        with open(log, "rb") as stream:  # type: ignore[arg-type]
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - size))
            return stream.read().decode("utf-8", errors="replace")
    except (OSError, TypeError):
        return ""


def ask(*command: str) -> str | None:
    """What a Slurm command prints, or None where it fails or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def state_of(job_id: str) -> str | None:
    """A job's state by squeue, else by sacct; None where neither knows it."""
    for command in (
        ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job_id}"],
        ["sacct", "-X", "--noheader", "--parsable2", "--format=State", f"--jobs={job_id}"],
    ):
        answer = ask(*command)
        if answer and answer.strip():
            return base_state(answer.split("\n")[0])
    return None


def put(resources: Any, **values: Any) -> None:
    """Put values into a job's resources, also where these have some already, which their own ``update`` refuses."""
    known = set(resources.keys())
    for name, value in values.items():
        if name in known:
            setattr(resources, name, value)
        else:
            resources.update({name: value})


def digest_of_job(job: Any) -> str:
    """Digest of what a job does: its command, and the state of its inputs."""
    inputs = {}
    for name in sorted(map(str, job.input)):
        path = Path(name)
        if path.is_file():
            facts = path.stat()
            small = facts.st_size <= SMALL_FILE_BYTES
            inputs[name] = digest_of_file(path) if small else [facts.st_size, facts.st_mtime_ns]
    return digest_of({"command": job.shellcmd, "inputs": inputs})


class Executor(plugin.Executor):
    """See the module."""

    site: Mapping[str, Any] = {}
    releases_of: Callable[[Mapping[str, str]], Iterable[str]] = staticmethod(lambda wildcards: ())

    def __init__(self, workflow: Any, logger: Any) -> None:
        # Before the base class's: its last act is to start the thread that polls.
        self.attempts: dict[Any, list[Attempt]] = {}
        self._asked: dict[str, SubmittedJobInfo] = {}
        self._reported: set[str | None] = set()
        self._states: dict[str, str] = {}
        self._absences: dict[str, int] = {}
        self._looks: dict[str, tuple[float, float]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._earlier_jobs: list[tuple[str, str]] | None = None
        self._accounts: list[str] | None = None
        plugin.get_submit_command = self._submit_command
        plugin.query_job_status = self._query
        plugin.query_job_status_squeue = lambda run: "squeue --me --noheader --states=all --format=%i|%T"
        plugin.query_job_status_sacct = lambda run: (
            f"sacct -X --noheader --parsable2 --format=JobIdRaw,State --jobs={','.join(self._asked)}"
        )
        super().__init__(workflow, logger)

    # --- submission ---

    def run_job(self, job: Any) -> None:
        """Submit a job, unless a driver that is gone has submitted it."""
        try:
            if self._adopt(job):
                return
        except Exception as error:  # submitted all the same, it might be the second that writes these outputs
            message = f"could not find out whether a job of an earlier run still makes {', '.join(job.output)}: {error}"
            self._report_job_error_threadsafe(SubmittedJobInfo(job), message)
            return
        try:
            refusal = self._refusal(job)
            if refusal is None:
                self._complete(job.resources, self.attempts.get(job, []))
        except Exception as error:  # in a thread whose exceptions are not read: the driver would wait forever
            refusal = f"could not make out what to ask of Slurm: {error!r}"
        if refusal:
            REFUSED.add(job)
            self._report_job_error_threadsafe(SubmittedJobInfo(job), refusal)
            return
        super().run_job(job)

    def _complete(self, resources: Any, failed: Sequence[Attempt]) -> None:
        """Put into a job's resources what the site's file, its failed attempts and its server's nodes say."""
        site = self._site_resources(resources)
        put(resources, **{name: value for name, value in site.items() if resources.get(name) is None})
        if memory := resources.get("mem_mb"):
            put(resources, mem_mb=grown_memory(memory, failed, self.site["max_mem_mb"]))
        if (nodes := resources.get("server_nodes") or 1) > 1:
            # Within the job Snakemake starts the stage on the first node, and the stage the rest.
            gpus = resources.get("gpu") or 0
            kind = ":".join(map(str, filter(None, [resources.get("gpu_model"), gpus])))
            flags = ["--ntasks-per-node=1", *([f"--gpus-per-node={kind}"] if gpus else [])]
            extra = " ".join([*filter(None, [resources.get("slurm_extra")]), *flags])
            whole = {"gpu": gpus * nodes} if gpus else {"tasks": nodes}
            put(resources, nodes=nodes, slurm_extra=extra, **whole)

    def _site_resources(self, resources: Any) -> dict[str, Any]:
        """The settings of the site file for a job, as resources that the plugin knows."""
        site, on_gpu = self.site, bool(resources.get("gpu"))
        flags = [*site["extra"], *(site["gpu_extra"] if on_gpu else [])]
        said = {
            "slurm_account": site["account"],
            "slurm_partition": (on_gpu and site["gpu_partition"]) or site["partition"],
            "qos": (on_gpu and site["gpu_qos"]) or site["qos"],
            "constraint": site["constraint"] if on_gpu else None,
            "gpu_model": site["gpu_type"] if on_gpu else None,
            "slurm_extra": " ".join(map(shlex.quote, flags)) or None,
        }
        return {name: value for name, value in said.items() if value is not None}

    def get_account_arg(self, job: Any) -> Iterable[str]:
        """The account's flag; without one Slurm takes the user's default, so there is nothing to guess."""
        account = job.resources.get("slurm_account")
        return iter([f" -A {shlex.quote(str(account))}" if account else ""])

    def _refusal(self, job: Any) -> str | None:
        """Why a job's account cannot be charged, or None, also where the cluster keeps no accounts."""
        account = job.resources.get("slurm_account") or self.site["account"]
        if account is None:
            return None
        with self.lock:
            if self._accounts is None:
                user = f"user={getpass.getuser()}"
                answer = ask("sacctmgr", "--noheader", "--parsable2", "list", "associations", user, "format=account")
                self._accounts = sorted(set((answer or "").split()))
        if not self._accounts or str(account).lower() in map(str.lower, self._accounts):
            return None
        return (
            f"cluster.account: found {account}, expected an account of {getpass.getuser()}: "
            f"{', '.join(self._accounts)}; mend config/site.yaml"
        )

    def get_partition_arg(self, job: Any) -> str:
        """The partition's flag; without one Slurm takes its default."""
        if not job.resources.get("slurm_partition") and not self._partitions:
            return ""
        return super().get_partition_arg(job)

    def _submit_command(self, job: Any, params: Mapping[str, Any], **settings: Any) -> str:
        if job.is_group():
            return submit_command(job, params, **settings)
        wildcards = dict(job.wildcards.items())
        named = {
            **params,
            "run_uuid": job_name(job.rule.name, wildcards),
            "comment_str": job_comment(job.rule.name, wildcards, self.releases_of(wildcards), job.attempt),
        }
        return submit_command(job, named, **settings)

    def format_job_exec(self, job: Any) -> str:
        """The job's command, which leaves its status as the last line of the log."""
        command = super().format_job_exec(job)
        return f"{command} && echo '{ENDED} 0' || {{ echo '{ENDED} 1'; false; }}"

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Register a submitted job, and keep what a restarted driver needs to know it again."""
        super().report_job_submission(job_info, register_job)
        if job_info.external_jobid is None:
            return
        record = {"digest": digest_of_job(job_info.job), "log": str(job_info.aux["slurm_logfile"])}
        RECORDS.mkdir(parents=True, exist_ok=True)
        write_json(RECORDS / f"{job_info.external_jobid}.json", record)

    # --- a restarted driver ---

    def _adopt(self, job: Any) -> bool:
        """Whether a job that an earlier driver submitted stands for this one.

        A job that runs or waits is watched as if it had just been submitted; one that finished counts as done. One
        whose command or inputs have changed since is cancelled first: two jobs must never write the same output.
        """
        if job.is_group() or job.attempt > 1:
            return False
        for job_id in {*self.workflow.persistence.external_jobids(job), *self._jobs_named_like(job)}:
            record_file = RECORDS / f"{job_id}.json"
            state = state_of(job_id)
            try:
                record = json.loads(record_file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                record = {}
            log = Path(record["log"]) if record.get("log") else None
            same = record.get("digest") == digest_of_job(job)
            if state in LIVE_STATES and not same:
                self._say(f"Slurm job {job_id} makes {job.output} from what has changed since; cancelling it.")
                self._cancel(job_id)
                continue
            finished = state == "COMPLETED" or (state is None and status_in_log(read_tail(log)) == 0)
            if not same or not (state in LIVE_STATES or (finished and all(Path(f).exists() for f in job.output))):
                continue
            info = SubmittedJobInfo(job, external_jobid=job_id, aux={"slurm_logfile": log})
            if finished:
                self._say(f"Slurm job {job_id} of an earlier run has finished this: {', '.join(job.output)}")
                self._in_main_loop(self.report_job_success, info)
            else:
                self._say(f"Slurm job {job_id} of an earlier run is {state}; waiting for it (log: {log}).")
                self._report_job_submission_threadsafe(info)
            return True
        return False

    def _say(self, text: str) -> None:
        self.logger.info(text, extra={"on_terminal": True})

    def _jobs_named_like(self, job: Any) -> list[str]:
        """Ids of live jobs of this project's folder and this job's name, from before this driver started."""
        with self.lock:
            if self._earlier_jobs is None:
                self._earlier_jobs = []
                for line in (ask("squeue", "--me", "--noheader", "--format=%i|%Z|%j") or "").splitlines():
                    job_id, folder, name = line.split("|", 2)
                    if folder == self.workflow.workdir_init:
                        self._earlier_jobs.append((job_id, name))
        name = job_name(job.rule.name, dict(job.wildcards.items()))
        return [job_id for job_id, other in self._earlier_jobs if other == name]

    def _cancel(self, job_id: str, patience_seconds: float = 120) -> None:
        ask("scancel", job_id)
        deadline = time.monotonic() + patience_seconds
        while state_of(job_id) in LIVE_STATES:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Slurm job {job_id} does not end after scancel; end it, then run again")
            time.sleep(1)

    def _in_main_loop(self, function: Callable[[SubmittedJobInfo], None], info: SubmittedJobInfo) -> None:
        if self._main_event_loop is not None:
            self._main_event_loop.call_soon_threadsafe(function, info)
        else:
            function(info)

    # --- status ---

    async def sleep(self) -> None:
        """Sleep until the next poll is due, a job's log says that it ended, or the executor is shut down."""
        began = time.monotonic()
        while self.wait and time.monotonic() - began < min(
            self.next_seconds_between_status_checks, LONGEST_POLL_SECONDS
        ):
            await asyncio.sleep(LOOK_SECONDS)
            if any([self._is_due(info) for info in list(self.active_jobs)]):
                return

    def _is_due(self, info: SubmittedJobInfo) -> bool:
        """Whether to ask for this job: its log has ended, and the last question was long enough ago."""
        now = time.monotonic()
        due, pause = self._looks.get(info.external_jobid, (now, 1.0))
        if now < due or not has_ended(read_tail(info.aux.get("slurm_logfile"))):
            return False
        self._looks[info.external_jobid] = (now + pause, min(2 * pause, LONGEST_POLL_SECONDS))
        return True

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Poll once; a job that the plugin neither reported nor kept stays active."""
        self._asked = {info.external_jobid: info for info in active_jobs}
        kept = set()
        async for info in super().check_active_jobs(active_jobs):
            kept.add(info.external_jobid)
            yield info
        for info in active_jobs:
            if info.external_jobid not in kept | self._reported:
                yield info
        if "PENDING" in self._states.values():
            self._warn_of_hopeless()

    def _warn_of_hopeless(self) -> None:
        """Say once of a waiting job that no free node will start it."""
        for line in (ask("squeue", "--me", "--noheader", "--states=PENDING", "--format=%i|%r") or "").splitlines():
            job_id, reason = line.split("|", 1)
            if job_id in self._asked and (job_id, reason) not in self._warned and HOPELESS_REASON.fullmatch(reason):
                self._warned.add((job_id, reason))
                self.logger.warning(
                    f"Slurm job {job_id} does not start: {reason}. Mend config/site.yaml or the model's resources, "
                    f"or ask the site; then scancel {job_id}: it is submitted once more."
                )

    async def _query(self, command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        """States by the plugin's command, completed by squeue, and by the logs of jobs unknown to Slurm."""
        states, seconds = await query(command, logger)
        states = {job_id: base_state(state) for job_id, state in (states or {}).items()}
        if command.startswith("sacct") and self._asked.keys() - states.keys():
            others, squeue_seconds = await query(plugin.query_job_status_squeue(""), logger)
            states = {job_id: base_state(state) for job_id, state in (others or {}).items()} | states
            seconds = squeue_seconds if seconds is None else seconds
        if seconds is None:
            return None, None
        for job_id, info in self._asked.items():
            text = read_tail(info.aux.get("slurm_logfile"))
            if job_id not in states:
                self._absences[job_id] = self._absences.get(job_id, 0) + 1
                if self._absences[job_id] < POLLS_UNTIL_LOST:
                    continue
                states[job_id] = "COMPLETED" if status_in_log(text) == 0 else "LOST"
            self._absences[job_id] = 0 if states[job_id] != "LOST" else POLLS_UNTIL_LOST
            self._states[job_id] = state_from_log(states[job_id], text)
            is_final = states[job_id] not in LIVE_STATES
            if is_final and states[job_id] not in FINAL_STATES_OF_PLUGIN:
                requeued = states[job_id] in ("PREEMPTED", "NODE_FAIL") and self.workflow.executor_settings.requeue
                states[job_id] = "RUNNING" if requeued else "ERROR"
        return states, seconds

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel all jobs, those too that a poll is asking for at this moment."""
        known = {info.external_jobid: info for info in [*self._asked.values(), *active_jobs]}
        super().cancel_jobs([info for job_id, info in known.items() if job_id not in self._reported])

    def shutdown(self) -> None:
        """Shut down; records of jobs that are over are of no use to another driver."""
        super().shutdown()
        for job_id in filter(None, self._reported):
            (RECORDS / f"{job_id}.json").unlink(missing_ok=True)

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Report a success."""
        self._reported.add(job_info.external_jobid)
        super().report_job_success(job_info)

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **details: Any) -> None:
        """Report a failed attempt, and keep its job id, state and log for the verdict."""
        job_id = job_info.external_jobid
        self._reported.add(job_id)
        state = self._states.get(job_id or "", "SUBMISSION FAILED")
        log = (job_info.aux or {}).get("slurm_logfile")
        if REFUSAL in read_tail(log, WHOLE_LOG_BYTES).splitlines():
            REFUSED.add(job_info.job)
        if log and Path(log).is_relative_to(Path.cwd()):
            log = Path(log).relative_to(Path.cwd())
        attempt = Attempt(job_info.job.attempt, job_id, state, str(log) if log else None)
        self.attempts.setdefault(job_info.job, []).append(attempt)
        super().report_job_error(job_info, msg=f"{attempt}. {msg or ''} ", **details)


submit_command, query = plugin.get_submit_command, plugin.query_job_status


def install(site: Mapping[str, Any], releases_of: Callable[[Mapping[str, str]], Iterable[str]]) -> None:
    """Let ``--executor slurm`` take this executor.

    Args:
        site: ``cluster`` of the configuration.
        releases_of: names of the releases that wait for a job with these wildcards.
    """
    Executor.site, Executor.releases_of = site, staticmethod(releases_of)
    ExecutorPluginRegistry().get_plugin("slurm").executor = Executor
