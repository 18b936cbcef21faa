"""How often jobs are selected, and what that looks at: Snakemake's share of a run grows with the square of its jobs.

Snakemake 9.27.1 limits how many jobs start in a span of time (``--max-jobs-per-timespan``), and after each selection
sets a timer of that span to select again, though the limit was not reached. Every timer that fires sets the next one,
so that each finished job adds one selection per second until the run ends: 5,448 for the 173 jobs of twelve releases.
Each asks for the size of every input of every job that could start. ``install`` sets a timer only where the limit holds
a job back, one at a time, and asks for a size once: a job that can start has inputs that are made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from snakemake.scheduling.job_scheduler import JobScheduler


class Reevaluation:
    """The next selection that no finished job brings about; one at a time for a scheduler."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_due = False

    def schedule(self, scheduler: Any, seconds: float) -> None:
        """Select jobs again after that many seconds, unless it is due sooner anyway."""
        with self._lock:
            if self._is_due:
                return
            self._is_due = True
        timer = threading.Timer(seconds, self._reevaluate, [scheduler])
        timer.daemon = True
        timer.start()

    def _reevaluate(self, scheduler: Any) -> None:
        with self._lock:
            self._is_due = False
        scheduler._open_jobs.release()


def _schedule_reevaluation(scheduler: Any, delay: float) -> None:
    limiter = scheduler.job_rate_limiter
    is_held_back = limiter is not None and limiter.get_free_jobs() == 0
    if is_held_back or scheduler.workflow.dag.has_unfinished_queue_input_jobs():
        scheduler.__dict__.setdefault("_reevaluation", Reevaluation()).schedule(scheduler, delay)


async def _update_input_sizes(scheduler: Any, jobs: Iterable[Any]) -> None:
    known, seen = scheduler._input_sizes, scheduler.__dict__.setdefault("_sized_jobs", set())
    new = set(jobs).difference(seen)
    seen.update(new)
    for path in {path for job in new for path in job.input}.difference(known):
        known[path] = await path.size() if await path.exists() else None


def install() -> None:
    """Select jobs when one has finished, and else only where the limit of starts asks for it."""
    JobScheduler._schedule_reevalutation = _schedule_reevaluation
    JobScheduler.update_input_sizes = _update_input_sizes
