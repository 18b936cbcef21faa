"""What a run leaves behind where jobs crashed: verdicts of their releases, marks of what must be redone, the decisions.

Called by the Snakefile's ``onsuccess`` and ``onerror``. It reads Snakemake's insides, as of 9.27.1:
``workflow.scheduler.failed`` and ``remaining_jobs`` (sets of jobs), ``workflow.scheduler._executor`` and
``_user_kill`` (how a run was asked to stop, or None), ``workflow.dag.jobs``, ``dag.bfs(dag.depending, job)``,
``dag.needrun(job)``, ``dag.finished(job)``, and ``workflow.persistence.started(job)``, which marks a job's outputs as
incomplete.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.workflow import Workflow

from day0.base.cli import UnusableInput
from day0.checkpoint.names import first_of
from day0.decision.failures import RECIPE_STAGE, decide
from day0.decision.verdict import ReleaseRequest, make_crash_verdict
from day0.records.assessment import AnyAssessment
from day0.records.failure_class import Decision, FailureClass
from day0.records.history import write_verdict
from day0.records.verdict import Verdict
from day0.release.damage import find_damage
from day0.release.made_with import stamp
from driver.refusals import REFUSED, error_in
from summarize import MANY, format_decisions

DECISION_RULE, PREFLIGHT_RULE = "decide_release", "check_preflight"
GATES = ("gate_preflight", "gate_ptq", "gate_run", "gate_release")
RESULTS, PROBE_BYTES = Path("results"), 1 << 20
SAID: set[str] = set()
DISK_ACTION = (
    "Free some space there, or make it writable, then run the same command again: it goes on from what is finished."
)
SCRIPTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Releases:
    """What the graph knows of its releases.

    Attributes:
        verdicts: path of every release's verdict, in the configuration's order.
        request_of: from a decision's wildcards to what its verdict holds about the release besides the evidence.
        verdicts_on: from a preflight's wildcards to those of ``verdicts`` that it is evidence of.
        name_of_rule: how the graph names a rule, since a workflow that uses these as a module may change their names.
    """

    verdicts: tuple[Path, ...]
    request_of: Callable[[Any], Mapping[str, Any]]
    verdicts_on: Callable[[Any], Sequence[Path]]
    name_of_rule: Callable[[str], str] = str


def end_well(workflow: Workflow, releases: Releases) -> None:
    """After a run in which no job failed.

    Raises:
        WorkflowError: the scheduler lost a job. A retry that waits for resources while a checkpoint finishes can be
            lost; it counts as a crash.
    """
    redo_failed_preflights(workflow, releases)
    if lost := workflow.scheduler.remaining_jobs:
        record_crashes(workflow, releases)
        names = ", ".join(sorted({str(job) for job in lost}))
        raise WorkflowError(f"the scheduler lost {names}; run the same command again")


def end_with_failures(workflow: Workflow, releases: Releases) -> None:
    """After a run in which jobs failed."""
    try:
        redo_failed_preflights(workflow, releases)
        record_crashes(workflow, releases)
    except OSError as error:
        say_disk_problem(find_disk_problem() or f"{error.filename or RESULTS}: {error.strerror or error}")


def redo_failed_preflights(workflow: Workflow, releases: Releases) -> None:
    """Let the next run repeat a preflight that failed: the machine may have been repaired, which changes no input.

    Not where that is no question: a recipe that is infeasible is so by inputs, whose change redoes it anyway; and a
    search that was accepted in spite of a candidate's failure waits for nobody to mend it.
    """
    for job in workflow.dag.jobs:
        if job.rule.name == releases.name_of_rule(PREFLIGHT_RULE):
            path = Path(str(job.output[0]))
            try:
                found = AnyAssessment.read(path)
            except UnusableInput:
                continue  # it is missing, or will be refused by the job that reads it
            if (
                found.passed
                or decide(FailureClass.of(found.failure_class), RECIPE_STAGE).decision is Decision.INFEASIBLE
            ):
                continue
            verdicts = releases.verdicts_on(job.wildcards)
            if not (verdicts and all(is_accepted_after(verdict, path) for verdict in verdicts)):
                workflow.persistence.started(job)


def is_accepted_after(verdict: Path, failure: Path) -> bool:
    """Whether a verdict accepts its release, and was made when a failed assessment was already there."""
    try:
        return not is_older(verdict, failure) and AnyAssessment.read(verdict).passed
    except UnusableInput:
        return False


def record_crashes(workflow: Workflow, releases: Releases) -> None:
    """Write a verdict for every release below a crashed job, and mark what is below it as incomplete.

    A gate that refused is no crash, and what ends while a run is being stopped (SIGTERM, by which a service manager or
    ``timeout`` ends the stages, too) decides nothing. The mark makes the next run redo what an earlier run has left
    there.
    """
    dag = workflow.dag
    is_stopped = bool(workflow.scheduler._user_kill)
    attempts = getattr(workflow.scheduler._executor, "attempts", {})  # only the Slurm executor keeps them
    lost = {job for job in workflow.scheduler.remaining_jobs if job.attempt > 1}
    problem = find_disk_problem()
    decision_rule, gates = releases.name_of_rule(DECISION_RULE), set(map(releases.name_of_rule, GATES))
    for job in {*workflow.scheduler.failed, *lost}:
        if job.rule.name in gates:
            continue
        for below in dag.bfs(dag.depending, job):
            if below is not job:
                workflow.persistence.started(below)
            if below.rule.name == decision_rule and not is_stopped:
                release = ReleaseRequest.model_validate(releases.request_of(below.wildcards))
                log = str(job.log[0]) if job.log else None
                refusal = error_in(log) if job in REFUSED else None
                verdict = make_crash_verdict(release, job.rule.name, job.attempt, log, attempts.get(job, []), refusal)
                if problem:
                    verdict = verdict.model_copy(
                        update={"detail": f"{verdict.detail} {problem}.", "next_action": DISK_ACTION}
                    )
                write_verdict(Path(below.output[0]), verdict.model_copy(update=stamp()))
    if workflow.is_main_process:
        show_decisions(dag, releases)


def show_decisions(dag: Any, releases: Releases) -> None:
    """Bring the pages up to the verdicts, and make the decisions the last lines of the run.

    A verdict that this run was to make again but did not reach is of an earlier state, and is not shown.
    """
    everything = releases.verdicts
    waiting = (job for job in dag.jobs if job.rule.name == releases.name_of_rule(DECISION_RULE) and dag.needrun(job))
    outdated = {str(job.output[0]) for job in waiting if not dag.finished(job)}
    # The verdict of a crash is written here, by no job.
    decided = [path for path in everything if path.exists() and (str(path) not in outdated or is_crash_verdict(path))]
    for path in decided:
        if is_older(path.with_name("report.html"), path):
            run_quietly("report.py", "--verdict", path, "--output", path.with_name("report.html"))
    if decided and any(is_older(Path("results/index.html"), path) for path in decided):
        pages = {"--output": "index.html", "--table": "decisions.csv", "--figures": "figures"}
        options = [word for option, name in pages.items() for word in (option, f"results/{name}")]
        run_quietly("index.py", *decided, "--others", "results", *options)
    open_ones = [f"{path.parts[-3]} {path.parts[-2]}" for path in everything if path not in decided]
    if len(open_ones) > MANY:
        open_ones = [first_of(open_ones, MANY)]
    rest = [f"{names}: not decided in this run\n  next: Run the same command again." for names in open_ones]
    text = "\n".join(
        [*([format_decisions(decided, {path: find_damage(path) for path in decided})] if decided else []), *rest]
    )
    say_last(text)


def say_last(text: str) -> None:
    """Print a text when the process ends, below Snakemake's own last lines."""
    atexit.register(lambda: print(f"\n{text}", file=sys.stderr))


def say_disk_problem(problem: str) -> None:
    """Say last, and once, that nothing can be written."""
    text = f"{problem}: nothing can be written there\n  next: {DISK_ACTION}"
    if text not in SAID:
        say_last(text)
    SAID.add(text)


def warn_of_disk(folder: Path = RESULTS) -> None:
    """Say last that nothing can be written below a folder that is there, whatever else Snakemake makes of it."""
    if folder.exists() and (problem := find_disk_problem(folder)):
        say_disk_problem(problem)


def find_disk_problem(folder: Path = RESULTS) -> str | None:
    """Why nothing more can be written below a folder: full, over its quota, read-only, broken; None where it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            stream.write(bytes(PROBE_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return None


def is_crash_verdict(path: Path) -> bool:
    """Whether a verdict was written because a job crashed."""
    try:
        verdict = Verdict.read(path)
    except UnusableInput:
        return False
    return verdict.failure_class == FailureClass.SYSTEMIC and not verdict.evidence


def is_older(path: Path, than: Path) -> bool:
    """Whether a file is older than another, or missing."""
    return not path.exists() or path.stat().st_mtime < than.stat().st_mtime


def run_quietly(script: str, *arguments: str | Path) -> None:
    """Run a script whose failure must not hide the decisions; what it prints is shown only where it fails."""
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
