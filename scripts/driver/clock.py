"""Times in the future, which a clock that was wrong leaves behind: Snakemake refuses every job that reads such a file.

It compares the time of each output with those of its inputs, and takes one that is older for a clock skew, until the
time of the input has come. What the files hold is compared by digests, so only the order of their times counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from snakemake.logging import logger

TOLERANCE_SECONDS = 60  # of the clocks of a cluster's hosts


def made_by_the_graph() -> Iterator[Path]:
    """All below results/, and the markers of environments, whose own files nothing compares."""
    for parent, folders, files in os.walk("results"):
        yield from (Path(parent, name) for name in (*folders, *files))
    yield from Path(".envs").glob("*.json")


def bring_back(paths: Iterable[Path]) -> int:
    """Set the times of files and folders that lie in the future to now, in their order; returns how many.

    Of a link its own time counts.
    """
    now = time.time_ns()
    ahead = []
    for path in paths:
        try:
            modified = path.lstat().st_mtime_ns
        except OSError:
            continue  # another run has just removed it
        if modified > now + TOLERANCE_SECONDS * 10**9:
            ahead.append((modified, path))
    if not ahead:
        return 0
    latest = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(ahead)[0] / 1e9))
    changed = 0
    for number, (_, path) in enumerate(sorted(ahead), 1 - len(ahead)):
        try:
            os.utime(path, ns=(now, now + number * 1000), follow_symlinks=False)
            changed += 1
        except OSError:
            continue  # read-only, or another user's; Snakemake names it where it matters
    logger.warning(
        f"{len(ahead)} files have times in the future, the latest {latest}: a clock was wrong, or this machine's is. "
        f"{changed} of them were set to now, in their order. If this machine's clock is the wrong one, correct it."
    )
    return changed
