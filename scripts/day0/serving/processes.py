"""The child processes of a stage: none of them outlives it, however it ends.

Every child runs in a session of its own, and a small guard process ends all of them when the stage itself is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from day0.base.secret_texts import without_secrets

# A process that one of these ended did not fail by itself: a retry may cure it.
TRANSIENT_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGBUS})


class Transient(Exception):
    """The stage was stopped by something that a retry may cure."""


_signals: dict[str, Any] = {"held": False, "waiting": None}


def stop_by(number: int) -> None:
    """What a signal handler does: raise Transient, at once or when a child that is being started is known.

    A child whose start is interrupted would be stopped by no one.
    """
    stopped = Transient(f"stopped by {signal.Signals(number).name}")
    if not _signals["held"]:
        raise stopped
    _signals["waiting"] = stopped


@contextmanager
def signals_held() -> Iterator[None]:
    """Let ``stop_by`` wait until the end of the block."""
    _signals["held"] = True
    try:
        yield
    finally:
        _signals["held"] = False
        stopped, _signals["waiting"] = _signals["waiting"], None
        if stopped is not None:
            raise stopped


_GUARD = """
import json, os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
left = {}
for line in sys.stdin:
    sign, name, command = json.loads(line)
    left.pop(name, None) if sign == "-" else left.update({name: command})
for name in left:
    try:
        isinstance(name, int) and os.killpg(name, signal.SIGKILL)
    except ProcessLookupError:
        pass
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    try:
        os.getsid(pid) in left and os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
for command in left.values():
    if command:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


class Children:
    """The child processes of a stage, and its scratch folder; none of them outlives it, however it ends."""

    def __init__(self) -> None:
        self._groups: dict[int, subprocess.Popen] = {}
        self._removals: dict[int, list[str]] = {}
        # The guard reads from a pipe: its end of file is the stage's death, also by SIGKILL.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            env=without_secrets(os.environ),
        )

    def start(
        self, command: Sequence[str], removal: list[str] | None = None, own_session: bool = True, **options: Any
    ) -> subprocess.Popen:
        """Start a command as the leader of a process group of its own.

        Args:
            removal: a command that removes what would outlive the group, such as a container; run at its end.
            own_session: whether in a session of its own, too. Linux shares processors between sessions (autogroup).
        """
        leading: dict[str, Any] = {"start_new_session": True} if own_session else {"process_group": 0}
        with signals_held():
            process = subprocess.Popen(command, **leading, **options)
            self._groups[process.pid] = process
            if removal:
                self._removals[process.pid] = removal
            self._tell("+", process.pid, removal)
        return process

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A temporary folder; where the stage itself is killed, the guard removes it."""
        with tempfile.TemporaryDirectory(prefix="evaluate-", ignore_cleanup_errors=True) as folder:
            self._tell("+", folder, ["rm", "-rf", "--", folder])
            yield Path(folder)
        self._tell("-", folder)

    def stop(self, process: subprocess.Popen, patience_seconds: float = 5.0) -> None:
        """End a child and everything it started: SIGTERM, then SIGKILL for what is left of its group and session."""
        self._signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.05)
        self._signal(process.pid, signal.SIGKILL)
        process.wait()
        _kill_session(process.pid)
        if removal := self._removals.pop(process.pid, None):
            subprocess.run(removal, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._groups.pop(process.pid, None)
        self._tell("-", process.pid)

    def stop_all(self) -> None:
        """End every child, then the guard."""
        for process in list(self._groups.values()):
            self._signal(process.pid, signal.SIGTERM)
        for process in list(self._groups.values()):
            self.stop(process)
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()

    def _tell(self, sign: str, name: int | str, removal: list[str] | None = None) -> None:
        """Name to the guard a group of processes (an int) or something else that must not be left, or was removed."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.write(json.dumps([sign, name, removal]) + "\n")
            self._guard.stdin.flush()

    @staticmethod
    def _signal(group: int, number: int) -> None:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            return


def _kill_session(leader: int) -> None:
    # Apptainer's helper that mounts the image leads a group of its own, and outlives a killed container.
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader:
                process.kill()


def _group_lives(process: subprocess.Popen) -> bool:
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
