"""No retry for a job that refused its input: a stage that ends with exit status 2 would do so again.

Snakemake's retries are the same for all failures of a rule. ``install`` takes them from a refused job, wherever it ran:
the local executor sees the exit status, and logs a line that a Slurm job's log holds as well.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from snakemake.executors import local
from snakemake.jobs import Job
from snakemake.logging import logger

from day0.base.cli import EXIT_UNUSABLE_INPUT

REFUSAL = f"The stage could not use its input (exit status {EXIT_UNUSABLE_INPUT}): it is not tried again."
REFUSED: set[Any] = set()

report_end = local.Executor._callback


def _report_end(executor: local.Executor, job_info: Any, future: Future) -> None:
    # Snakemake raises its own exception while it handles that of the command.
    failure = None if future.cancelled() else getattr(future.exception(), "__context__", None)
    if getattr(failure, "returncode", None) == EXIT_UNUSABLE_INPUT:
        REFUSED.add(job_info.job)
    report_end(executor, job_info, future)
    if job_info.job in REFUSED:
        logger.error(REFUSAL)


def error_in(log: str | None) -> str | None:
    """The last error in a stage's log, without the prefix "error: "; None where there is none."""
    try:
        lines = Path(log or "").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)


def install() -> None:
    """Let refused jobs have no retries."""
    Job.restart_times = property(lambda job: 0 if job in REFUSED else job.rule.restart_times)
    local.Executor._callback = _report_end
