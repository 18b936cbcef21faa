"""Who drives a run, whether it still lives, and the jobs that it left behind when it was killed.

Needs the standard library alone: as a command it is the guard that ends a killed driver's jobs within a second
(``python owners.py OWNER``, which waits for the end of its standard input).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

# Marks the commands of a driver's jobs, so that they are found when it is gone; see rules/common.smk.
VARIABLE = "DAY0_DRIVER"
PATIENCE_SECONDS = 15.0  # a stage ends its server and harnesses within five


@dataclass(frozen=True)
class Owner:
    """A process of this or another host. The number of a dead process may be another's by now, so there is more.

    Attributes:
        host: name of the host.
        machine: its /etc/machine-id, since names of hosts need not differ; empty where there is none.
        boot: identifies the host's present run, which ends all processes of the former.
        namespace: of its process numbers; containers have their own.
        pid: number of the process.
        started: when, in clock ticks since the host's start.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: int

    def __str__(self) -> str:
        return ":".join(map(str, astuple(self)))

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """What ``str`` made; None for any other text."""
        words = text.strip().split(":")
        if len(words) != 6 or not all(word.isdecimal() for word in words[4:]):
            return None
        host, machine, boot, namespace = words[:4]
        return cls(host, machine, boot, namespace, int(words[4]), int(words[5]))

    @property
    def is_of_this_host(self) -> bool:
        """Whether its number says something here."""
        here = this_process()
        same_host = (self.host, self.machine) == (here.host, here.machine)
        return same_host and (self.boot, self.namespace) == (here.boot, here.namespace)

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended; of another host's processes nothing is known."""
        here = this_process()
        if self.machine and (self.host, self.machine) == (here.host, here.machine) and self.boot != here.boot:
            return True  # the host was started anew
        return self.is_of_this_host and start_of(self.pid) != self.started


def read_text(path: str) -> str:
    """The text of a file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the host's start; None where it has ended, reaped or not."""
    # The name, which may hold anything, stands in parentheses; state and start are fields 3 and 22 of proc(5).
    fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def this_process() -> Owner:
    """This process."""
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    return Owner(
        host=socket.gethostname().replace(":", "-"),
        machine=read_text("/etc/machine-id"),
        boot=read_text("/proc/sys/kernel/random/boot_id"),
        namespace=namespace,
        pid=os.getpid(),
        started=start_of(os.getpid()) or 0,
    )


def jobs_of(owner: Owner) -> Iterator[int]:
    """Numbers of the living processes that a driver's jobs started, on this host."""
    mark = f"{VARIABLE}={owner}".encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if mark in environment.split(b"\0") and int(name) != os.getpid() and start_of(int(name)) is not None:
            yield int(name)


def end_jobs(owner: Owner, patience_seconds: float = PATIENCE_SECONDS) -> int:
    """End what a killed driver's jobs left on this host: SIGTERM, by which stages clean up, then SIGKILL.

    Returns:
        How many processes were there.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + patience_seconds
    while found := set(jobs_of(owner)):
        is_late = time.monotonic() > deadline
        for pid in found if is_late else found - signalled:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if is_late else signal.SIGTERM)
        signalled |= found
        time.sleep(0.05)
        if is_late and time.monotonic() > deadline + patience_seconds:
            break  # another user's, or in the kernel's hands
    return len(signalled)


def guard() -> None:
    """End the jobs of the driver that started this process, unless it says that it ends by itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    owner = Owner.parse(sys.argv[1])
    if owner and not sys.stdin.read():
        end_jobs(owner)


if __name__ == "__main__":
    guard()
