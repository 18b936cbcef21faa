"""A driver that was killed leaves its lock and its jobs; the next one with the same command ends both and goes on.

Snakemake 9.27.1 keeps the names of the files that a run reads and writes in ``.snakemake/locks``, but not whose they
are: after ``kill -9`` somebody has to look for a living snakemake and call ``--unlock``. ``install`` puts the owner
into the first line of each lock, removes the locks of owners that are known to be dead, and names the living one in its
refusal. A run that ends removes its own locks alone, where Snakemake removes those of all that run beside it.

It reaches into ``FilePersistence``: ``lock``, ``cleanup_locks``, ``_read_locks``, ``_write_locks``, ``_delete_locks``,
``_lockdir``, ``_lockfile``.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.persistence.file import FilePersistence

from driver import owners
from driver.owners import Owner, end_jobs, this_process

write_locks, delete_locks = FilePersistence._write_locks, FilePersistence._delete_locks


def read_locks(folder: Path) -> Iterator[tuple[Path, Owner | None, list[str]]]:
    """File, owner (None: not known) and locked files of each lock."""
    for kind in ("input", "output"):
        for file in sorted(folder.glob(f"[0-9]*.{kind}.lock")):
            try:
                lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            except OSError:
                continue  # its run has just ended
            owner = Owner.parse(lines[0]) if lines else None
            yield file, owner, lines[1:] if owner else lines


def remove_dead_locks(folder: Path) -> None:
    """Remove the locks of drivers that were killed, and end what they left running."""
    dead = set()
    for file, owner, locked in read_locks(folder):
        if owner and owner.is_dead:
            dead.add(owner)
            file.unlink(missing_ok=True)
        elif not locked:  # killed while it was written
            file.unlink(missing_ok=True)
    for owner in dead:
        left = end_jobs(owner)
        jobs = f", and {left} processes of its jobs were ended" if left else ""
        logger.warning(f"The lock of a snakemake that was killed (process {owner.pid}) was removed{jobs}.")


def refusal(folder: Path) -> str:
    """Why this run may not start, and what to do."""
    here = Path.cwd()
    for _, owner, _ in read_locks(folder):
        if owner is None:
            return (
                f"{here} is locked by a snakemake that left no name; if none runs here, on no host, remove the lock by "
                "snakemake --unlock, then run the same command again"
            )
        if owner.is_of_this_host:
            return (
                f"another snakemake (process {owner.pid} of this host) makes the same files in {here}; wait until it "
                "has ended, or end it, then run the same command again"
            )
        return (
            f"another snakemake (process {owner.pid} of host {owner.host}) makes the same files in {here}; wait until "
            "it has ended. If it is gone, remove its lock by snakemake --unlock, then run the same command again"
        )
    return f"{here} is locked by another snakemake; run the same command again"


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


@contextmanager
def _lock(persistence: Any) -> Iterator[None]:
    folder = Path(persistence._lockdir)
    with one_at_a_time(folder):
        remove_dead_locks(folder)
        if persistence.locked:
            raise WorkflowError(refusal(folder))
        persistence._write_locks("input", map(str, persistence.all_inputfiles()))
        persistence._write_locks("output", map(str, persistence.all_outputfiles()))
    try:
        with jobs_guarded():
            yield
    finally:
        persistence.unlock()


def _read_locks(persistence: Any) -> Iterator[tuple[str, str]]:
    for file, owner, locked in read_locks(Path(persistence._lockdir)):
        if not (owner and owner.is_dead):
            yield from ((file.name.split(".")[1], name) for name in locked)


def _write_locks(persistence: Any, kind: str, files: Iterable[str]) -> None:
    if files := list(files):
        write_locks(persistence, kind, [str(this_process()), *files])


def _delete_locks(persistence: Any) -> None:
    for file in persistence._lockfile.values():
        Path(file).unlink(missing_ok=True)
    persistence._lockfile.clear()


def install() -> None:
    """Let Snakemake know whose its locks are."""
    FilePersistence.lock = _lock
    FilePersistence._read_locks, FilePersistence._write_locks = _read_locks, _write_locks
    FilePersistence._delete_locks, FilePersistence.cleanup_locks = _delete_locks, delete_locks
