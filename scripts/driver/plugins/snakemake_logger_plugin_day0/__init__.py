"""What a person wants to see of a run: `logger: day0` in the profiles; a plugin of Snakemake's logger interface.

A job is named by its rule's message once it has run for some seconds, with its progress, read from the last lines of
its log; a failure takes three lines. Snakemake's own log, with every job, is the file that the first line names.
Dry runs, ``--verbose`` and ``--debug-dag`` print what Snakemake prints by itself; ``--verbose`` also what the jobs log.
A record is shown as it is where it is a warning or an error, or bears ``on_terminal=True``. The page results/run.html
has the same, with about when the run ends (:mod:`.run_page`).

It is found by the folder's name in an .pth file (envs/driver.pth), and imports nothing of the project. Snakemake
imports it before it reads the command line, so that it explains the mistakes in that, too (:mod:`.command_line`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from . import command_line
from .progress import Progress, about, last_words, read_tail, shown, span
from .run_page import REFRESHED_EVERY, Running, run_page, write_page

ANNOUNCED_AFTER = 10.0  # seconds; a job that ends sooner is not worth a line
REPORTED_EVERY = 60.0  # seconds between two lines of progress, or a tenth of the run where that is more
TICK = 1.0  # second
WIDTH, LONGEST_LINE = 118, 240
OF_A_JOB = ("RuleException", "CalledProcessError")
STATUS = re.compile(r"((?:exit status \d+)|(?:signal \S+))\W*$")
SHOWN_JOBS = 2  # in a line of progress
SHOWN_LINES = 3  # of a message while jobs run
command_line.install()


class Job:
    """A job that was started: what it does, since when, and what it has logged."""

    def __init__(self, record: Any, now: float, is_submitted: bool) -> None:
        text = getattr(record, "rule_msg", None)
        wildcards = " ".join(map(str, (getattr(record, "wildcards", None) or {}).values()))
        self.text = str(text).splitlines()[0] if text else f"{record.rule_name} {wildcards}".strip()
        self.log = next(iter(map(str, getattr(record, "log", None) or [])), None)
        self.output = list(map(str, getattr(record, "output", None) or []))
        self.rule = str(record.rule_name)
        self.began, self.since = now, time.time()
        self.is_submitted = is_submitted  # to a cluster, and has not written a log yet
        self.is_announced = False
        self.followed = 0  # bytes of the log that --verbose has shown

    def has_logged(self) -> bool:
        """Whether the log is of this attempt, which on a cluster says that the job runs."""
        try:
            return self.log is None or Path(self.log).stat().st_mtime >= self.since - 1
        except OSError:
            return False


class LogHandler(LogHandlerBase):
    """See the module."""

    def __post_init__(self) -> None:
        """Set up what a run will fill in."""
        settings = self.common_settings
        self.stream = sys.stdout if settings.stdout else sys.stderr
        self.is_terminal = self.stream.isatty()
        self.plain: logging.Handler | None = None
        if settings.verbose or settings.dryrun or settings.debug_dag:
            from snakemake.logging import ColorizingTextHandler

            self.plain = ColorizingTextHandler(nocolor=settings.nocolor, stream=self.stream)
        self.progress = Progress()
        self.running: dict[int, Job] = {}
        self.failed: dict[int, str] = {}
        self.exits: list[str] = []  # what Snakemake said of commands that failed
        self.held: list[str] = []  # what it said before any job
        self.has_begun = self.is_cluster = self.has_status = False
        self.events: deque[str] = deque(maxlen=200)  # what happened
        self.began = self.reported = time.monotonic()
        self.paged = self.began - REFRESHED_EVERY
        self.cores = ""
        self.ended = threading.Event()
        self.ticker: threading.Thread | None = None

    writes_to_stream = property(lambda self: True)
    writes_to_file = property(lambda self: False)
    has_filter = property(lambda self: False)
    has_formatter = property(lambda self: False)
    needs_rulegraph = property(lambda self: False)

    # --- what Snakemake reports ---

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record, or keep what it says for the lines to come."""
        try:
            event = getattr(record, "event", None)
            if self.plain:
                self.plain.setFormatter(self.formatter)
                self.plain.emit(record)
                if not self.common_settings.verbose:
                    return
            handle = {
                LogEvent.RESOURCES_INFO: self._resources,
                LogEvent.RUN_INFO: self._run,
                LogEvent.JOB_INFO: self._job,
                LogEvent.JOB_FINISHED: self._finished,
                LogEvent.JOB_ERROR: self._failed,
                LogEvent.GROUP_ERROR: self._failed_group,
                LogEvent.PROGRESS: self._counted,
                LogEvent.SHELLCMD: lambda record: self._say(str(getattr(record, "shellcmd", ""))),
                LogEvent.ERROR: self._text,
                None: self._text,
            }.get(event)
            if handle:
                handle(record)
        except BrokenPipeError:
            self.ended.set()
        except Exception:
            self.handleError(record)

    def _text(self, record: Any) -> None:
        text = str(record.getMessage())
        if self.has_begun and getattr(record, "exception", None) in OF_A_JOB:
            self.exits.append(text)  # the failure itself comes next
            return
        if self.has_begun and record.module == "job_scheduler":
            return  # that a job failed was shown, and the end says that not all are done
        if record.levelno < logging.WARNING and not getattr(record, "on_terminal", False):
            # Of a command that runs no jobs it is the answer; of one that does, the log holds it.
            if not self.has_begun and record.levelno >= logging.INFO and text != "None":
                self.held.append(text)
            return
        if plan := getattr(record, "seconds_by_rule", None):
            self.progress.expect(plan)
        if record.levelno >= logging.ERROR:
            self.held.clear()
        lines = text.splitlines()
        if self.has_begun and len(lines) > 1 and lines[0].endswith("Error:"):
            lines[:2] = [" ".join(lines[:2])]
        if self.has_begun and record.levelno >= logging.WARNING and len(lines) > SHOWN_LINES:
            lines = [*lines[: SHOWN_LINES - 1], f"  all of it: {self._log()}"]
        for line in lines:
            self._say(line)

    def _resources(self, record: Any) -> None:
        if cores := getattr(record, "cores", None):
            self.cores = f", {cores} {'core' if cores == 1 else 'cores'}"
        if getattr(record, "nodes", None):
            self.is_cluster, self.cores = True, ", on the cluster"

    def _run(self, record: Any) -> None:
        self.held.clear()
        stats = {rule: count for rule, count in dict(getattr(record, "stats", None) or {}).items() if rule != "total"}
        self.progress.plan(stats)
        if not self.has_begun:
            total = sum(stats.values())
            log = f"; all of it: {self._log()}" if self._log() else ""
            self._say(f"{total} {'job' if total == 1 else 'jobs'}{self.cores}{log}")
        self.has_begun = True

    def _job(self, record: Any) -> None:
        is_submitted = self.is_cluster and not getattr(record, "local", True)
        job = Job(record, time.monotonic(), is_submitted)
        self.running[record.jobid] = job
        if record.jobid in self.failed:
            self._tell(f"tried again: {job.text}")
            del self.failed[record.jobid]
            job.is_announced = True
        elif is_submitted:
            self._tell(f"submitted: {job.text}")
        if not self.ticker:
            self.ticker = threading.Thread(target=self._tick, name="terminal", daemon=True)
            self.ticker.start()

    def _finished(self, record: Any) -> None:
        job = self.running.pop(record.job_id, None)
        if not job:
            return
        seconds = time.monotonic() - job.began
        self.progress.measured(job.rule, seconds)
        self._follow(job)
        decision = next((_decision(path) for path in job.output if Path(path).name == "verdict.json"), None)
        if decision:
            self._tell(decision)
        elif job.is_announced or job.is_submitted:
            self._tell(f"{job.text}: done in {span(seconds)}")

    def _failed(self, record: Any) -> None:
        job = self.running.pop(record.jobid, None)
        text = job.text if job else f"{record.rule_name}, job {record.jobid}"
        after = f", after {span(time.monotonic() - job.began)}" if job else ""
        if job:
            self._follow(job)
        after += self._exit_status(str(getattr(record, "shellcmd", None) or ""))
        logs = list(map(str, getattr(record, "log", None) or []))
        words = next(filter(None, (last_words(read_tail(log)) for log in logs)), None)
        # Without a log, or on a cluster, Snakemake's own reason is the one to show.
        reason = " ".join(str(getattr(record, "rule_msg", None) or "").split())
        self.failed[record.jobid] = text
        self._tell(f"FAILED: {text}{after}")
        self._say(
            f"  {words or reason or 'it ended with an exit status other than 0, and wrote no log'}"[:LONGEST_LINE]
        )
        self._say(f"  all of it: {logs[0] if logs else self._log()}")

    def _exit_status(self, command: str) -> str:
        """How a command ended, by what Snakemake said of it."""
        said = next((text for text in reversed(self.exits) if command and command in text), "")
        self.exits = [text for text in self.exits if text != said]
        status = STATUS.search(said)
        return f" ({status[1]})" if status else ""

    def _failed_group(self, record: Any) -> None:
        self._tell(f"FAILED: a group of jobs: {' '.join(str(getattr(record, 'msg', '')).split())}"[:LONGEST_LINE])
        self._say(f"  all of it: {self._log()}")

    def _counted(self, record: Any) -> None:
        self.progress.count(record.done, record.total)

    # --- what is shown by itself ---

    def _tick(self) -> None:
        while not self.ended.wait(TICK):
            with contextlib.suppress(Exception):
                self.acquire()
                try:
                    self.look(time.monotonic())
                finally:
                    self.release()

    def look(self, now: float) -> None:
        """Show what has changed by itself: jobs that take long, their progress, and the time left."""
        for job in self.running.values():
            self._follow(job)
            if job.is_submitted and job.has_logged():
                job.is_submitted, job.began, job.is_announced = False, now, True
                self._tell(f"running: {job.text}")
            elif not job.is_submitted and not job.is_announced and now - job.began >= ANNOUNCED_AFTER:
                job.is_announced = True
                if not self.plain:
                    self._tell(job.text)
        if not self.running:
            return
        if now - self.paged >= REFRESHED_EVERY:
            self.paged = now
            self._write_page(now)
        if self.plain:
            return
        if self.is_terminal:
            self._show_status(now)
        elif now - self.reported >= max(REPORTED_EVERY, (now - self.began) / 10):
            self.reported = now
            self._tell(self.status(now), is_event=False)

    def state(self, now: float) -> tuple[float | None, list[Running]]:
        """Seconds left, and the running jobs, the longest first."""
        jobs = sorted((job for job in self.running.values() if not job.is_submitted), key=lambda job: job.began)
        logs = [read_tail(job.log) if job.has_logged() else "" for job in jobs]
        shown_jobs = [
            Running(job.text, self.progress.of_log(log) or span(now - job.began))
            for job, log in zip(jobs, logs, strict=True)
        ]
        running = [
            (job.rule, now - job.began, self.progress.said_left(log)) for job, log in zip(jobs, logs, strict=True)
        ]
        submitted = [(job.rule, 0.0, None) for job in self.running.values() if job.is_submitted]
        return self.progress.left([*running, *submitted]), shown_jobs

    def status(self, now: float) -> str:
        """A line: jobs done, time left, and how far the longest running jobs are."""
        left, jobs = self.state(now)
        parts = [f"{job.text}: {job.far}" for job in jobs[:SHOWN_JOBS]]
        if len(jobs) > SHOWN_JOBS:
            parts.append(f"{len(jobs) - SHOWN_JOBS} more run")
        if waiting := sum(job.is_submitted for job in self.running.values()):
            parts.append(f"{waiting} wait in the queue")
        head = f"{self.progress.done} of {self.progress.total} jobs done" + (
            f", about {about(left)} left" if left else ""
        )
        return "; ".join([head, *parts])[:LONGEST_LINE]

    def _show_status(self, now: float) -> None:
        if any(job.log is None for job in self.running.values()):
            self._clear()  # such a job prints by itself
            return
        self.stream.write(f"\r\x1b[K{shown(self.status(now))[:WIDTH]}")
        self.stream.flush()
        self.has_status = True

    def _write_page(self, now: float, ended: str | None = None) -> None:
        if self.has_begun and not self.common_settings.dryrun:
            left, jobs = self.state(now)
            write_page(run_page(self.progress.done, self.progress.total, left, jobs, list(self.events), ended))

    def _clear(self) -> None:
        if self.has_status:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
        self.has_status = False

    def _follow(self, job: Job) -> None:
        """With --verbose: show what a job has logged since the last look."""
        if not (self.plain and self.common_settings.verbose and job.log and job.has_logged()):
            return
        with contextlib.suppress(OSError), open(job.log, "rb") as stream:
            stream.seek(job.followed)
            lines, end, _ = stream.read().rpartition(b"\n")
            job.followed += len(lines) + len(end)
            for line in lines.decode("utf-8", errors="replace").splitlines():
                self.stream.write(f"    {job.rule}: {shown(line)}\n")

    def _log(self) -> str:
        handlers = logging.getLogger("snakemake.logging").handlers
        paths = [handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)]
        return _short(paths[0]) if paths else ""

    def _tell(self, text: str, is_event: bool = True) -> None:
        line = f"[{time.strftime('%H:%M:%S')}] {text}"
        if is_event:
            self.events.append(shown(line))
        self._say(line)

    def _say(self, text: str) -> None:
        if self.plain:
            return
        self._clear()
        self.stream.write(f"{shown(text)}\n")
        self.stream.flush()

    def close(self) -> None:
        """End with what a command without jobs had to say, or with the time that the run took."""
        self.ended.set()
        if self.ticker:
            self.ticker.join()
        with contextlib.suppress(OSError, ValueError):
            for text in self.held:
                self._say(text)
            if self.has_begun:
                took = span(time.monotonic() - self.began)
                done = self.progress.done == self.progress.total
                ended = (
                    f"done in {took}"
                    if done
                    else f"ended after {took}, {self.progress.done} of {self.progress.total} jobs done"
                )
                self._say(ended)
                self._write_page(time.monotonic(), ended)
        self.held = []
        self.has_begun = False
        super().close()


def _decision(path: str) -> str | None:
    try:
        verdict = json.loads(Path(path).read_text(encoding="utf-8"))
        return f"{verdict['model']} {verdict['release']}: {verdict['decision']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _short(path: str) -> str:
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(Path.cwd()))
    return path
