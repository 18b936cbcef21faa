"""Checkpoints that are done are made known to input functions; Snakemake's inside is as it was read."""

import asyncio
import collections
import inspect
import itertools
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.checkpoints import Checkpoint, CheckpointJob, Checkpoints
from snakemake.common.tbdstring import TBDString
from snakemake.dag import DAG
from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import IOFile, checkpoint_target, flag
from snakemake.iocontainers import InputFiles, OutputFiles
from snakemake.jobs import Job as Job_
from snakemake.rules import Rule

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
    assert "return CheckpointJob(self.rule, output)" in inspect.getsource(checkpoints.get)
    assert "return TBDString()" in inspect.getsource(Rule.expand_params)
    assert "self._params is None" in inspect.getsource(Job_.params.fget)
    assert "self._evicted_checkpoint_outputs" in text
    text = inspect.getsource(DAG.check_incomplete)
    assert "self.forcefiles.update(incomplete_files)" in text and parameters(DAG.check_incomplete) == ["self"]
    assert inspect.iscoroutinefunction(DAG.postprocess_after_update)
    assert parameters(Rule.expand_input) == ["self", "wildcards", "groupid"]
    text = inspect.getsource(DAG.finish)
    assert "self.checkpoint_jobs.difference_update(" in text and "self._running.remove(job)" in text
    assert text.index("self.checkpoint_jobs.difference_update(") < text.index(
        "self.update_checkpoint_dependencies(jobs)"
    )
    assert "if not updated_dag:" in text and "self._n_until_ready[job] -= 1" in text
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


class Job(SimpleNamespace):
    """A job as a key of dictionaries."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def job(*outputs, finished=False, needrun=False, is_checkpoint=True):
    return Job(output=list(outputs), is_finished=finished, must_run=needrun, is_checkpoint=is_checkpoint, below=[])


def files(*plain, **named):
    """Inputs as Snakemake keeps them."""
    found = InputFiles()
    for value in plain:
        found.append(IOFile(value))
    for name, values in named.items():
        begin = len(found)
        found.extend(map(IOFile, values))
        found._set_name(name, begin, end=len(found))
    return found


def waiting(before, after, needrun=True):
    """A job that waits for a checkpoint, with its inputs before and after the checkpoint."""
    rule = SimpleNamespace(expand_input=lambda wildcards: (after, {}, {}, False))
    return Job(input=before, rule=rule, wildcards_dict={}, must_run=needrun, _params=None)


class Graph:
    """The part of Snakemake's DAG that is read, and its own step as of 9.27.1."""

    def __init__(self, *jobs, incomplete=()):
        self.jobs, self.incomplete, self.forcefiles, self.processed = list(jobs), set(incomplete), set(), 0
        known = SimpleNamespace(created_output=set())
        self.workflow = SimpleNamespace(checkpoints=known)
        self._running, self._ready_jobs, self.checkpoint_jobs = set(), set(), set()
        self._evicted_checkpoint_outputs, self.updated = set(), []
        # Who waits for a checkpoint that adds to the graph gets other inputs.
        self.depending = collections.defaultdict(list)
        self.depending |= {one: [waiting(files("before"), files("after"))] for one in jobs if one.below}

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
        self.updated.append(jobs)
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
    assert update(graph) is False
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


MARK = checkpoint_target("a")


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (files("a", "b"), files("a", "b"), True),
        (files("a", run=["b", "c"]), files("a", run=["b", "c"]), True),
        (files(), files(), True),
        (files("a", "b"), files("a"), False),
        (files("a", "b"), files("b", "a"), False),
        (files(run=["a"]), files(gate=["a"]), False),
        (files(run=["a"]), files("a"), False),
        (files(run=["a", "b"]), files(run=["a"], gate=["b"]), False),
        (files(MARK), files("a"), False),
        (files(flag("a", "ancient")), files("a"), False),
        (files(flag("a", "ancient")), files(flag("a", "ancient")), True),
    ],
)
def test_a_checkpoint_that_changes_nobodys_inputs_leaves_the_graph_until_the_last(before, after, same):
    """Names, order and flags count: a gate that is ancient, and the mark of a checkpoint that had not finished."""
    checkpoint, other = job(Output("a"), finished=True), job(Output("o"), needrun=True)
    graph = Graph(checkpoint, other)
    graph.checkpoint_jobs = {other}
    graph.depending[checkpoint] = [waiting(files("x"), files("x")), waiting(before, after)]
    assert checkpoints.changes_no_input(graph, checkpoint) is same
    update(graph, [checkpoint])
    assert graph.processed == 0 and graph.workflow.checkpoints.created_output == {checkpoint.output[0]}
    graph.checkpoint_jobs = set()
    ordinary = job(Output("b"), finished=True, is_checkpoint=False)
    assert update(graph, [ordinary]) is same  # what was postponed is made up for, once
    assert update(graph, [ordinary]) is False and graph.processed == same


def test_where_a_checkpoint_failed_the_graph_is_looked_at_when_nothing_can_run():
    checkpoint, failed, below = job(Output("a")), job(Output("b"), needrun=True), waiting(files("a"), files("a"))
    graph = Graph(checkpoint)
    graph.checkpoint_jobs, graph.depending[checkpoint] = {failed}, [below]
    assert update(graph, [checkpoint]) is False  # the job below it can run now
    end = job(Output("c"), is_checkpoint=False)
    graph._running = {"another"}
    assert update(graph, [end]) is False
    graph._running = set()
    assert update(graph, [end]) is True and graph.processed == 1


@pytest.mark.parametrize(
    ("params", "before", "changes"),
    [
        (None, files("a"), False),
        (["plain", 3], files("a"), False),
        (["plain", TBDString()], files("a"), True),
        (None, files(MARK), True),
    ],
)
def test_what_an_earlier_command_finished_changes_a_graph_that_did_not_know_of_it(params, before, changes):
    first, second = job(Output("a")), job(Output("b"))
    graph = Graph(first, second)
    graph.depending[first], graph.depending[second] = [waiting(before, files("a"))], [waiting(files("b"), files("b"))]
    graph.depending[first][0]._params = params
    assert update(graph) is False
    assert graph.updated == [[first] if changes else []]
    assert graph.workflow.checkpoints.created_output == {first.output[0], second.output[0]}


def test_all_is_looked_at_where_jobs_left_the_graph_for_their_inputs_are_missing():
    graph = Graph(job(Output("a")))
    graph._evicted_checkpoint_outputs = {"gone"}
    update(graph)
    assert graph.updated == [None]


def test_a_finished_checkpoint_is_looked_up_and_another_refused_as_ever():
    rule = SimpleNamespace(name="check", wildcard_names={"model"})
    rule.expand_output = lambda wildcards: (OutputFiles([wildcards["model"] + ".json"]), {})
    known = Checkpoints()
    checkpoint = Checkpoint(rule, known)
    known.created_output.add("a.json")
    found = checkpoints._get(checkpoint, model="a")
    assert isinstance(found, CheckpointJob) and found.output == ["a.json"]
    with pytest.raises(IncompleteCheckpointException) as refused:
        checkpoints._get(checkpoint, model="b")
    assert refused.value.targetfile == "b.json"
    with pytest.raises(WorkflowError, match="Missing wildcard"):
        checkpoints._get(checkpoint)


def test_an_ordinary_job_looks_at_no_part_of_the_graph():
    graph = Graph(job(Output("a")))
    graph.finished = None  # asked of every checkpoint where they are looked at
    assert update(graph, [job(Output("b"), is_checkpoint=False)]) is False


def test_install_replaces_the_step_of_every_graph(monkeypatch):
    monkeypatch.setattr(DAG, "update_checkpoint_dependencies", None)
    monkeypatch.setattr(Checkpoint, "get", None)
    checkpoints.install()
    assert Checkpoint.get is checkpoints._get
    assert DAG.update_checkpoint_dependencies is checkpoints._update_checkpoint_dependencies
