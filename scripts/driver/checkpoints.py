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
looked at once, after the last of them, for jobs whose parameters read what was found. Where a command begins, those
that an earlier one has finished change nothing either, unless they failed: the graph stands as it was built.

``Checkpoint.get`` copies the whole set for each question; a finished checkpoint is looked up in it instead.
"""

from __future__ import annotations

from typing import Any

from snakemake.checkpoints import Checkpoint, CheckpointJob
from snakemake.common.tbdstring import TBDString
from snakemake.dag import DAG

update_checkpoint_dependencies = DAG.update_checkpoint_dependencies
get = Checkpoint.get


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


def keeps_inputs(job: Any) -> bool:
    """Whether a job has the inputs that it would have by what is known now of checkpoints."""
    return _described(job.rule.expand_input(job.wildcards_dict)[0]) == _described(job.input)


def changes_no_input(dag: Any, checkpoint: Any) -> bool:
    """Whether the jobs that wait for a finished checkpoint have the inputs that they had before it."""
    dag.workflow.checkpoints.created_output.update(checkpoint.output)
    return all(map(keeps_inputs, dag.depending[checkpoint]))


async def changing(dag: Any) -> list[Any]:
    """The checkpoints, of those that an earlier command has finished, by which the graph that was built is not right.

    Makes all of them known. A job's parameters that asked for one before that hold a string to be determined.
    """
    done = await done_but_unknown(dag)
    for checkpoint in done:
        dag.workflow.checkpoints.created_output.update(checkpoint.output)
    jobs = {job for checkpoint in done for job in dag.depending[checkpoint]}
    changed = {
        job for job in jobs if any(isinstance(value, TBDString) for value in job._params or []) or not keeps_inputs(job)
    }
    return [checkpoint for checkpoint in done if not changed.isdisjoint(dag.depending[checkpoint])]


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
    if jobs is None and not dag._evicted_checkpoint_outputs:
        jobs = await changing(dag)
    updated = await update_checkpoint_dependencies(dag, jobs)
    if updated:
        await redo_incomplete(dag)
    while found := await done_but_unknown(dag):
        updated = await update_checkpoint_dependencies(dag, found) or updated
        await redo_incomplete(dag)
    return updated


def _get(checkpoint: Any, **wildcards: Any) -> Any:
    if checkpoint.rule.wildcard_names <= wildcards.keys():
        output, _ = checkpoint.rule.expand_output(wildcards)
        if checkpoint.checkpoints.created_output.issuperset(output):
            return CheckpointJob(checkpoint.rule, output)
    return get(checkpoint, **wildcards)


def install() -> None:
    """Let input functions know of every checkpoint that is done."""
    Checkpoint.get = _get
    DAG.update_checkpoint_dependencies = _update_checkpoint_dependencies
