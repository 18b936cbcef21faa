"""A driver that was killed leaves its lock and its jobs; the next one with the same command ends both and goes on.

Snakemake 9.27.1 keeps the names of the files that a run reads and writes in ``.snakemake/locks``, but not whose they
are: after ``kill -9`` somebody has to look for a living snakemake and call ``--unlock``; and two clones that share one
results folder do not see each other. ``install`` puts the locks into that folder, with the owner and where it runs in
the first two lines of each, removes the locks of owners that are known to be dead, and names the living one in its
refusal. A run that ends removes its own locks alone, where Snakemake removes those of all that run beside it.

It reaches into ``FilePersistence``: ``lock``, ``locked``, ``cleanup_locks``, ``_read_locks``, ``_write_locks``,
``_delete_locks``, ``_lockfile``. Dry runs take ``lock_warn_only`` instead of ``lock``, and jobs on other hosts none.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.persistence.file import FilePersistence

from driver import owners
from driver.crashes import say_disk_problem
from driver.owners import Owner, end_jobs, this_process

FOLDER = Path("results/.locks")  # below what clones share, where everything that a run writes lies


@dataclass(frozen=True)
class Lock:
    """What a run reads or writes.

    Attributes:
        file: where that stands.
        kind: "input" or "output".
        owner: whose it is; None where the file is cut off or not ours.
        place: the folder in which the owner runs.
        files: as :func:`names_of` has them.
    """

    file: Path
    kind: str
    owner: Owner | None
    place: str
    files: list[str]


def names_of(files: Iterable[str]) -> list[str]:
    """Names by which drivers in different folders know the same file: below results/ the relative one."""
    return [name if name.startswith("results/") else os.path.realpath(name) for name in map(str, files)]


def read_locks() -> Iterator[Lock]:
    """The locks of all runs that write below results/."""
    for file in sorted(FOLDER.glob("*.lock")):
        try:
            lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        except OSError:
            continue  # its run has just ended
        kind = file.name.split(".")[-2]
        owner, place = Owner.parse(lines[0]) if lines else None, lines[1] if len(lines) > 1 else ""
        yield Lock(file, kind, owner, place, lines[2:])


def remove_dead_locks() -> None:
    """Remove the locks of drivers that were killed, and end what they left running."""
    dead = {}
    for lock in read_locks():
        if lock.owner and lock.owner.is_dead:
            dead[lock.owner] = lock.place
            lock.file.unlink(missing_ok=True)
    for owner, place in dead.items():
        left = end_jobs(owner)
        jobs = f", and {left} processes of its jobs were ended" if left else ""
        where = "" if place == os.getcwd() else f" in {place}"
        logger.warning(f"The lock of a snakemake that was killed (process {owner.pid}{where}) was removed{jobs}.")


def find_conflicts(persistence: Any) -> list[Lock]:
    """Locks of others that read what this run writes, or write what it reads or writes."""
    written = set(names_of(persistence.all_outputfiles()))
    touched = written | set(names_of(persistence.all_inputfiles()))
    own = {Path(file) for file in persistence._lockfile.values()}
    return [
        lock
        for lock in read_locks()
        if lock.file not in own
        and not (lock.owner and lock.owner.is_dead)
        and not (written if lock.kind == "input" else touched).isdisjoint(lock.files)
    ]


def refusal(lock: Lock) -> str:
    """Why this run may not start, and what to do."""
    results = FOLDER.parent.resolve()
    if lock.owner is None:
        return (
            f"{results} is locked by a snakemake that left no name; if none runs there, on no host, remove the lock by "
            "snakemake --unlock, then run the same command again"
        )
    if lock.owner.is_of_this_host:
        return (
            f"another snakemake (process {lock.owner.pid} of this host) makes the same files in {results}, from "
            f"{lock.place}; wait until it has ended, or end it, then run the same command again"
        )
    return (
        f"another snakemake (process {lock.owner.pid} of host {lock.owner.host}) makes the same files in {results}, "
        f"from {lock.place}; wait until it has ended. If it is gone, remove its lock by snakemake --unlock, then run "
        "the same command again"
    )


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Of two drivers that start at once, let one look and lock before the other, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def jobs_guarded() -> Iterator[None]:
    """Have the jobs of this run ended where it is killed."""
    assert owners.__file__
    command = [sys.executable, "-I", "-S", owners.__file__, str(this_process())]
    # Its end of file is this process's death, also by SIGKILL.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, text=True, env={}) as guard:
        try:
            yield
        finally:
            with suppress(BrokenPipeError):
                guard.communicate("ended by itself")


def _lock(persistence: Any, begin: Callable[[], None]) -> Iterator[None]:
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(FOLDER):
            remove_dead_locks()
            # Written before it is asked who else is there: of two that cannot exclude each other, neither starts.
            persistence._write_locks("input", persistence.all_inputfiles())
            persistence._write_locks("output", persistence.all_outputfiles())
            if conflicts := find_conflicts(persistence):
                raise WorkflowError(refusal(conflicts[0]))
    except OSError as error:
        persistence.unlock()
        problem = f"{FOLDER.parent}: {error.strerror or error}"
        say_disk_problem(problem)
        raise WorkflowError(problem) from None
    except WorkflowError:
        persistence.unlock()
        raise
    try:
        if any(True for _ in persistence.dag.needrun_jobs()):
            begin()
        with jobs_guarded():
            yield
    finally:
        persistence.unlock()


def _read_locks(persistence: Any) -> Iterator[tuple[str, str]]:
    for lock in read_locks():
        yield from ((lock.kind, name) for name in lock.files)


def _write_locks(persistence: Any, kind: str, files: Iterable[str]) -> None:
    if names := names_of(files):
        file = FOLDER / f"{uuid4().hex}.{kind}.lock"
        persistence._lockfile[kind] = file
        text = "\n".join([str(this_process()), os.getcwd(), *names])
        # Whole at once: another host may be reading.
        unfinished = file.with_suffix(".unfinished")
        try:
            unfinished.write_text(f"{text}\n", encoding="utf-8", errors="surrogateescape")
            unfinished.rename(file)
        finally:
            unfinished.unlink(missing_ok=True)


def _delete_locks(persistence: Any) -> None:
    for file in persistence._lockfile.values():
        with suppress(OSError):  # of a disk that is gone: the next run finds that this one has ended
            Path(file).unlink(missing_ok=True)
    persistence._lockfile.clear()


def _cleanup_locks(persistence: Any) -> None:
    for lock in read_locks():
        if lock.owner and lock.owner.is_of_this_host and not lock.owner.is_dead:
            logger.warning(f"The lock of a snakemake that runs (process {lock.owner.pid} in {lock.place}) was kept.")
        else:
            lock.file.unlink(missing_ok=True)


def install(begin: Callable[[], None] = lambda: None) -> None:
    """Let Snakemake know whose its locks are, and keep them where all see them who share results/.

    Args:
        begin: called when a run that has something to do has taken its lock; a dry run never does.
    """

    @contextmanager
    def lock(persistence: Any) -> Iterator[None]:
        yield from _lock(persistence, begin)

    FilePersistence.lock = lock
    FilePersistence.locked = property(lambda self: bool(find_conflicts(self)))
    FilePersistence._read_locks, FilePersistence._write_locks = _read_locks, _write_locks
    FilePersistence._delete_locks, FilePersistence.cleanup_locks = _delete_locks, _cleanup_locks
