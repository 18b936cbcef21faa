"""Jobs are selected where something has changed, and not by timers that set one another."""

import asyncio
import inspect
import threading
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.scheduling.job_scheduler import JobRateLimiter, JobScheduler
from snakemake.settings.types import MaxJobsPerTimespan

from driver import scheduling


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/scheduling.py to it."""
    text = inspect.getsource(JobScheduler.schedule)
    assert text.count("self._schedule_reevalutation(") == 2
    assert "self._schedule_reevalutation(self.job_rate_limiter.timespan)" in text
    assert "self._open_jobs.acquire()" in text
    assert list(inspect.signature(JobScheduler._schedule_reevalutation).parameters) == ["self", "delay"]
    assert "self._input_sizes.update(" in inspect.getsource(JobScheduler.update_input_sizes)
    assert JobScheduler.job_selector and "self.update_input_sizes(jobs)" in inspect.getsource(JobScheduler.job_selector)


class Scheduler(SimpleNamespace):
    """What the timers read of Snakemake's scheduler."""

    def __init__(self, limit="2/1h", started=0, queued=False):
        limiter = limit and JobRateLimiter(MaxJobsPerTimespan.parse_choice(limit))
        if started:
            limiter.register_jobs(started)
        dag = SimpleNamespace(has_unfinished_queue_input_jobs=lambda: queued)
        super().__init__(
            job_rate_limiter=limiter,
            workflow=SimpleNamespace(dag=dag),
            _open_jobs=threading.Semaphore(0),
            _input_sizes={},
        )


@pytest.fixture
def timers(monkeypatch):
    """Timers that were started, to be fired by hand."""
    started = []

    class Timer:
        def __init__(self, seconds, function, arguments):
            self.seconds, self.fire = seconds, lambda: function(*arguments)

        def start(self):
            started.append(self)

    monkeypatch.setattr(scheduling.threading, "Timer", Timer)
    return started


@pytest.mark.parametrize(
    ("state", "count"),
    [
        ({}, 0),
        ({"started": 1}, 0),
        ({"started": 2}, 1),
        ({"limit": None, "queued": True}, 1),
        ({"queued": True}, 1),
    ],
)
def test_a_timer_is_set_only_where_the_limit_or_a_queue_holds_jobs_back(timers, state, count):
    scheduling._schedule_reevaluation(Scheduler(**{"limit": "2/1h", **state}), 7)
    assert [timer.seconds for timer in timers] == [7] * count


def test_one_timer_at_a_time_and_a_new_one_after_it_fired(timers):
    scheduler = Scheduler(started=2)
    for _ in range(3):
        scheduling._schedule_reevaluation(scheduler, 1)
    assert len(timers) == 1 and not scheduler._open_jobs.acquire(blocking=False)
    timers[0].fire()
    assert scheduler._open_jobs.acquire(blocking=False) and not scheduler._open_jobs.acquire(blocking=False)
    scheduling._schedule_reevaluation(scheduler, 1)
    assert len(timers) == 2


class File(str):
    """An input; counts how often it was asked."""

    asked = 0

    async def exists(self):
        self.asked += 1
        return self != "gone"

    async def size(self):
        return len(self)


class Job:
    """A job that could start; counts how often its inputs were looked at."""

    def __init__(self, *files):
        self.files, self.looked = files, 0

    @property
    def input(self):
        self.looked += 1
        return self.files


def test_a_size_is_asked_for_once_and_a_job_that_waits_is_looked_at_once():
    scheduler, first, second, gone = Scheduler(), File("a"), File("bb"), File("gone")
    waiting, later = Job(first, gone), Job(first, second)
    asyncio.run(scheduling._update_input_sizes(scheduler, [waiting]))
    asyncio.run(scheduling._update_input_sizes(scheduler, [waiting, later]))
    assert scheduler._input_sizes == {"a": 1, "bb": 2, "gone": None}
    assert (first.asked, second.asked, gone.asked) == (1, 1, 1)
    assert (waiting.looked, later.looked) == (1, 1)


def test_install_replaces_what_every_scheduler_does(monkeypatch):
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", None)
    monkeypatch.setattr(JobScheduler, "update_input_sizes", None)
    scheduling.install()
    assert JobScheduler._schedule_reevalutation is scheduling._schedule_reevaluation
    assert JobScheduler.update_input_sizes is scheduling._update_input_sizes
