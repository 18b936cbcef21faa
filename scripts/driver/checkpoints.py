"""Checkpoints that are found to be done while the graph is extended.

An input function asks ``checkpoints.NAME.get`` whether a checkpoint's output is there. Snakemake 9.27.1 answers by a
set (``Checkpoints.created_output``) that ``DAG.update_checkpoint_dependencies`` fills with the checkpoints of the graph
as it was. Where finishing one extends the graph by jobs that wait for others, which an earlier run has finished, these
are not in the set: the new jobs keep a mark in the place of their inputs, their changes go unseen, and one that has to
run would run without its inputs. A search for a recipe extends the graph so, rung by rung. ``install`` repeats the step
until no such checkpoint is left, and looks for files that a crash has left incomplete (``DAG.check_incomplete``), which
Snakemake does only before it extends the graph: the verdict on a crash would count as what was found of a candidate.

Snakemake also looks at the whole graph again after each checkpoint, which grows with the square of the releases. Most
assessments pass, as the graph was built for, and leave the inputs of all that wait for them as they were: then it is
looked at once, after the last of them, for jobs whose parameters read what was found.
"""

from __future__ import annotations

from typing import Any

from snakemake.dag import DAG

update_checkpoint_dependencies = DAG.update_checkpoint_dependencies


async def done_but_unknown(dag: Any) -> list[Any]:
    """Checkpoint jobs whose output is there and need not be made again, but not yet known to input functions."""
    known = dag.workflow.checkpoints.created_output
    found = []
    for job in dag.jobs:
        is_new = job.is_checkpoint and not known.issuperset(job.output)
        is_done = is_new and (dag.finished(job) or not dag.needrun(job))
        if is_done and all([await output.exists() for output in job.output]):
            found.append(job)
    return found


async def redo_incomplete(dag: Any) -> None:
    """Have files made again that are marked as incomplete."""
    known = set(dag.forcefiles)
    await dag.check_incomplete()
    if not dag.forcefiles <= known:
        await dag.postprocess_after_update()


def _described(files: Any) -> list[tuple[str | None, list[tuple[str, dict[str, Any]]]]]:
    """Inputs with their names and flags; the mark of an unfinished checkpoint is a flag."""
    found = []
    for name, value in files._allitems():
        listed: list[Any] = [value] if isinstance(value, str) else list(value)
        found.append((name, [(str(file), dict(file.flags)) for file in listed]))
    return found


def changes_no_input(dag: Any, checkpoint: Any) -> bool:
    """Whether the jobs that wait for a finished checkpoint have the inputs that they had before it."""
    dag.workflow.checkpoints.created_output.update(checkpoint.output)
    return all(
        _described(waiting.rule.expand_input(waiting.wildcards_dict)[0]) == _described(waiting.input)
        for waiting in dag.depending[checkpoint]
    )


def is_last(dag: Any, jobs: Any) -> bool:
    """Whether the graph has no other checkpoint to run than those of these finished jobs, or nothing that can run."""
    below = (waiting for job in jobs for waiting in dag.depending[job])
    can_go_on = dag._running or dag._ready_jobs or any(map(dag.needrun, below))
    return not dag.checkpoint_jobs or not can_go_on


async def _update_checkpoint_dependencies(dag: Any, jobs: Any = None) -> bool:
    finished = [job for job in jobs or [] if job.is_checkpoint]
    if jobs is not None and all(changes_no_input(dag, job) for job in finished):
        dag.is_postponed = bool(finished) or getattr(dag, "is_postponed", False)
        if not dag.is_postponed or not is_last(dag, jobs):
            return False
        dag.is_postponed = False
        await dag.postprocess_after_update()
        return True
    dag.is_postponed = False
    updated = await update_checkpoint_dependencies(dag, jobs)
    if updated:
        await redo_incomplete(dag)
    while found := await done_but_unknown(dag):
        updated = await update_checkpoint_dependencies(dag, found) or updated
        await redo_incomplete(dag)
    return updated


def install() -> None:
    """Let input functions know of every checkpoint that is done."""
    DAG.update_checkpoint_dependencies = _update_checkpoint_dependencies
