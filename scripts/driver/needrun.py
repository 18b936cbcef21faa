"""What makes a job run again, where one of its inputs is a gate's token.

A token lets a job start; it is no ingredient of its result. Rules take it as ``ancient``: a check that was changed is
made again, and with it the gate, but the evaluation below, whose checkpoint and suite are the same, is not.

Snakemake 9.27.1 does not look for other reasons to run a job while a job above it is to run, since that alone makes it
run; behind an ancient input, which does not, a changed parameter would go unseen until the next command. ``install``
lets it look there. It reaches into ``DAG.update_needrun``, which calls ``DAG.bfs(self.depending, job)`` for the jobs
that it need not look at, and for nothing else.

It looks again while jobs run, whose outputs Snakemake removes when they start. The token of a gate that is running is
not missing: the evaluation below it would be made again. ``_IOFile.exists`` answers so for ancient files meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from snakemake.dag import DAG
from snakemake.io import _IOFile

update_needrun = DAG.update_needrun
exists = _IOFile.exists


def jobs_made_to_run(dag: Any, job: Any) -> Iterator[Any]:
    """The job and those below it that run because it does: what follows an edge of ancient files alone is left out."""
    queue, seen = deque([job]), {job}
    while queue:
        current = queue.popleft()
        yield current
        for below, files in dag.depending[current].items():
            if below not in seen and not all(file.is_ancient for file in files):
                seen.add(below)
                queue.append(below)


async def exists_or_is_made(being_made: set[str], file: Any) -> bool:
    """Whether a file exists, or is one that lets a job start and is being made."""
    return bool((file.is_ancient and str(file) in being_made) or await exists(file))


async def _update_needrun(dag: Any, *arguments: Any, **options: Any) -> None:
    being_made = {str(file) for job in dag._running for file in job.output}
    dag.bfs = lambda direction, job: jobs_made_to_run(dag, job)
    _IOFile.exists = lambda file: exists_or_is_made(being_made, file)
    try:
        await update_needrun(dag, *arguments, **options)
    finally:
        del dag.bfs
        _IOFile.exists = exists


def install() -> None:
    """Let Snakemake look at the jobs behind ancient inputs."""
    DAG.update_needrun = _update_needrun
