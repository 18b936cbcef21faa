"""Work that several processes share: its order, its mistakes, and processes that are ended."""

import os
import signal
from pathlib import Path

import pytest

import verify_release
from day0.base.cli import UnusableInput
from day0.base.processes import cores, in_processes

SCRIPTS = Path(__file__).parents[3] / "scripts"


class _Broken(UnusableInput):
    pass


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_results_come_in_the_order_of_the_items(count):
    assert list(in_processes(lambda item: (item, item * 2), range(7), count)) == [(n, n * 2) for n in range(7)]


def test_several_processes_share_the_work_and_one_item_starts_none():
    assert len(set(in_processes(lambda item: os.getpid(), range(8), 2))) == 2
    assert list(in_processes(lambda item: os.getpid(), [0], 2)) == [os.getpid()]


@pytest.mark.parametrize("count", [1, 2])
def test_an_exception_is_raised_here(count):
    def fails(item):
        if item == 1:
            raise _Broken("m.safetensors: ends at byte 3")
        return item

    found = in_processes(fails, range(4), count)
    assert next(found) == 0
    with pytest.raises(_Broken, match="ends at byte 3"):
        next(found)


def test_a_process_that_is_ended_is_said():
    def ends(item):
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(UnusableInput, match="too little memory"):
        list(in_processes(ends, range(4), 2))


def test_no_process_is_left_where_the_results_are_not_taken():
    def answer(item):
        return os.getpid(), bytes(1 << 20)

    found = in_processes(answer, range(50), 2)
    processes = {next(found)[0], next(found)[0]}
    found.close()
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("count", [cores, verify_release._cores])
def test_only_cores_that_the_process_may_run_on_count(count):
    """As a job of a cluster, or a container, has some of a machine's."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert count() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert count() == len(before)


def test_cores_are_counted_in_one_place():
    """But for what checks a release where it arrived, with nothing else of the project."""
    counting = {
        path.name
        for path in SCRIPTS.rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in ("cpu_count", "sched_getaffinity"))
    }
    assert counting == {"processes.py", "verify_release.py"}
