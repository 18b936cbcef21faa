"""Checkpoints that are done are made known to input functions; Snakemake's inside is as it was read."""

import asyncio
import inspect
import itertools
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.checkpoints import Checkpoints
from snakemake.dag import DAG

from driver import checkpoints

STEP = checkpoints.update_checkpoint_dependencies


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/checkpoints.py to it."""
    text = inspect.getsource(STEP)
    assert text.count("self.workflow.checkpoints.created_output.update(job.output)") == 1
    assert "(self.finished(job) or not self.needrun(job)) and all(" in text
    assert parameters(STEP) == ["self", "jobs"]
    assert isinstance(inspect.getattr_static(Checkpoints, "created_output"), property)
    assert isinstance(Checkpoints().created_output, set)
    text = inspect.getsource(DAG.check_incomplete)
    assert "self.forcefiles.update(incomplete_files)" in text and parameters(DAG.check_incomplete) == ["self"]
    assert inspect.iscoroutinefunction(DAG.postprocess_after_update)
    assert all(
        parameter.default is not inspect.Parameter.empty
        for name, parameter in inspect.signature(DAG.postprocess_after_update).parameters.items()
        if name != "self"
    )


class Output:
    """An output file of a job."""

    def __init__(self, name, is_there=True):
        self.name, self.is_there = name, is_there

    async def exists(self):
        return self.is_there


def job(*outputs, finished=False, needrun=False, is_checkpoint=True):
    return SimpleNamespace(
        output=list(outputs), is_finished=finished, must_run=needrun, is_checkpoint=is_checkpoint, below=[]
    )


class Graph:
    """The part of Snakemake's DAG that is read, and its own step as of 9.27.1."""

    def __init__(self, *jobs, incomplete=()):
        self.jobs, self.incomplete, self.forcefiles, self.processed = list(jobs), set(incomplete), set(), 0
        known = SimpleNamespace(created_output=set())
        self.workflow = SimpleNamespace(checkpoints=known)

    def finished(self, job):
        return job.is_finished

    def needrun(self, job):
        return job.must_run

    async def check_incomplete(self):
        self.forcefiles |= self.incomplete

    async def postprocess_after_update(self):
        self.processed += 1

    async def update(self, jobs=None):
        """Make checkpoints known and add the jobs that wait for them; says whether there were any."""
        if jobs is None:
            jobs = await checkpoints.done_but_unknown(self)
        added = []
        for one in jobs:
            self.workflow.checkpoints.created_output.update(one.output)
            added += one.below
        self.jobs += added
        return bool(added)


def unknown(graph):
    return asyncio.run(checkpoints.done_but_unknown(graph))


def update(graph, jobs=None):
    return asyncio.run(checkpoints._update_checkpoint_dependencies(graph, jobs))


@pytest.fixture(autouse=True)
def own_step(monkeypatch):
    monkeypatch.setattr(checkpoints, "update_checkpoint_dependencies", Graph.update)


@pytest.mark.parametrize(
    ("found", "is_done"),
    [
        (job(Output("a")), True),
        (job(Output("a"), needrun=True), False),
        (job(Output("a"), needrun=True, finished=True), True),
        (job(Output("a", is_there=False)), False),
        (job(Output("a"), Output("b", is_there=False)), False),
        (job(Output("a"), Output("b")), True),
        (job(Output("a"), is_checkpoint=False), False),
    ],
)
def test_a_checkpoint_is_done_where_all_its_files_are_there_and_it_need_not_run(found, is_done):
    assert unknown(Graph(found)) == ([found] if is_done else [])


def test_what_is_known_is_not_found_again():
    both = job(Output("a"), Output("b"))
    graph = Graph(both)
    graph.workflow.checkpoints.created_output.add(both.output[0])
    assert unknown(graph) == [both]
    graph.workflow.checkpoints.created_output.add(both.output[1])
    assert unknown(graph) == []


def test_a_chain_that_an_earlier_run_has_finished_is_followed_to_its_end():
    """Each rung of a search adds the verdicts it asked for and the next rung, all of which may be there already."""
    rungs = [job(Output(f"rung-{number}")) for number in range(4)]
    for above, below in itertools.pairwise(rungs):
        above.below = [below]
    graph = Graph(rungs[0])
    assert update(graph, [rungs[0]]) is True
    assert graph.jobs == rungs
    assert graph.workflow.checkpoints.created_output == {rung.output[0] for rung in rungs}


def test_a_chain_is_followed_up_to_the_first_that_has_to_run():
    third = job(Output("c"))
    second, first = job(Output("b"), needrun=True), job(Output("a"))
    first.below, second.below = [second], [third]
    graph = Graph(first)
    assert update(graph, [first]) is True
    assert graph.jobs == [first, second] and graph.workflow.checkpoints.created_output == {first.output[0]}


def test_a_checkpoint_that_adds_nothing_becomes_known_and_ends_the_loop():
    alone = job(Output("a"))
    graph = Graph(alone)
    assert update(graph, []) is False
    assert graph.workflow.checkpoints.created_output == {alone.output[0]}


def test_what_a_crash_left_incomplete_in_an_added_part_is_made_again():
    second, first = job(Output("b")), job(Output("a"))
    first.below = [second]
    graph = Graph(first, incomplete=["verdict.json"])
    update(graph, [first])
    assert graph.forcefiles == {"verdict.json"} and graph.processed == 1


@pytest.mark.parametrize("forced", [(), ("verdict.json",)])
def test_a_graph_in_which_nothing_new_is_incomplete_is_not_worked_out_again(forced):
    second, first = job(Output("b")), job(Output("a"))
    first.below = [second]
    graph = Graph(first, incomplete=forced)
    graph.forcefiles.update(forced)
    update(graph, [first])
    assert graph.processed == 0 and graph.forcefiles == set(forced)


def test_install_replaces_the_step_of_every_graph(monkeypatch):
    monkeypatch.setattr(DAG, "update_checkpoint_dependencies", None)
    checkpoints.install()
    assert DAG.update_checkpoint_dependencies is checkpoints._update_checkpoint_dependencies
