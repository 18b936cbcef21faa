"""Which GPUs of a machine a stage works on: each is used by one stage at a time, also without a cluster.

A stage holds a lock per GPU, by its UUID, until its process ends, however that happens. Under Slurm a job sees its own
GPUs only, and gets them without waiting.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
PATIENCE_SECONDS = 2.0
_held: list[int] = []


def visible_gpus(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """UUID by the name under which CUDA_VISIBLE_DEVICES takes a GPU, of those that this process may use."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    there = dict(line.replace(" ", "").split(",") for line in answer.splitlines() if line.count(",") == 1)
    if VISIBLE not in environment:
        return there
    chosen = [name.strip() for name in environment[VISIBLE].split(",") if name.strip()]
    return {name: there.get(name, name) for name in chosen}


def reserve_gpus(count: int | None, say: Callable[[str], None] = print, folder: Path | None = None) -> list[str]:
    """Take GPUs that no other stage on this machine holds, waiting for them, and make them the only visible ones.

    Args:
        count: how many; None: all. More than there are is the same as all.
        say: called once, with a sentence, where there is something to wait for.
        folder: of the locks.

    Returns:
        Their names; none where the machine has no GPU to be asked for.
    """
    there = visible_gpus()
    wanted = min(count or len(there), len(there))
    if not wanted:
        return []
    folder = folder or Path(tempfile.gettempdir())
    turn = _open(folder / "day0-gpus.lock")  # a stage that takes several takes them at once
    waits = False
    while True:
        fcntl.flock(turn, fcntl.LOCK_EX)
        taken = {name: lock for name, uuid in there.items() if (lock := _try(folder / f"day0-gpu-{uuid}.lock"))}
        chosen = list(taken)[:wanted]
        for name, lock in taken.items():
            if len(chosen) < wanted or name not in chosen:
                os.close(lock)
        fcntl.flock(turn, fcntl.LOCK_UN)
        if len(chosen) == wanted:
            break
        if not waits:
            say(f"waits for {wanted} of {len(there)} GPUs ({', '.join(there)}): other stages hold them")
        waits = True
        time.sleep(PATIENCE_SECONDS)
    os.close(turn)
    _held.extend(taken[name] for name in chosen)
    if VISIBLE not in os.environ:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts
    os.environ[VISIBLE] = ",".join(chosen)
    return chosen


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    except PermissionError:
        return os.open(path, os.O_RDONLY)  # another user's, in a folder where only that user may create it


def _try(path: Path) -> int | None:
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
