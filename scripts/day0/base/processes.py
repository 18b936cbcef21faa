"""Work through a list in several processes: for what Python's threads, of which one runs at a time, hold up."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from day0.base.cli import UnusableInput

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], count: int) -> Iterator[Result]:
    """What a function gives for each item, in their order; an exception of it is raised here.

    Each of ``count`` forked processes takes every ``count``-th item and is no further ahead than a pipe holds. Function
    and items need not be pickled, results and exceptions must be. With a count of 1 no process is started.

    Raises:
        UnusableInput: a process was ended, as for want of memory.
    """
    count = min(count, len(items))
    if count <= 1:
        yield from map(function, items)
        return
    started: list[tuple[int, BinaryIO]] = []
    try:
        for number in range(count):
            started.append(_start(function, items[number::count], [pipe for _, pipe in started]))
        for place in range(len(items)):
            _, pipe = started[place % count]
            try:
                is_result, value = pickle.load(pipe)
            except (EOFError, pickle.UnpicklingError):
                raise UnusableInput("a process that reads the files was ended: is there too little memory?") from None
            if not is_result:
                raise value
            yield value
    finally:
        for process, pipe in started:
            pipe.close()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _start(function: Callable[[Item], Result], items: Sequence[Item], others: list[BinaryIO]) -> tuple[int, BinaryIO]:
    """Fork a process that works through items; its number and the pipe that its results come from."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, open(reading, "rb")
    with contextlib.suppress(BaseException):  # nothing of the caller's code runs in this process
        for pipe in others:
            pipe.close()
        os.close(reading)
        with open(writing, "wb") as stream:
            for item in items:
                try:
                    message: tuple[bool, Result | Exception] = (True, function(item))
                except Exception as error:
                    message = (False, error)
                stream.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
                stream.flush()
    os._exit(0)
