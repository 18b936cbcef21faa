"""Jobs behind a gate's token are looked at for reasons of their own; Snakemake's inside is as it was read."""

import asyncio
import inspect
import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.dag import DAG
from snakemake.io import IOFile, _IOFile, flag

from driver import needrun


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/needrun.py to it."""
    text = inspect.getsource(needrun.update_needrun)
    assert text.count("self.bfs(") == 1 and text.count(".bfs") == 1
    assert text.count("masked.update(self.bfs(self.depending, job))") == 1
    assert inspect.iscoroutinefunction(needrun.update_needrun)
    assert list(inspect.signature(DAG.bfs).parameters) == ["self", "direction", "jobs", "stop"]
    assert "if all([f.is_ancient and await f.exists() for f in files]):" in text
    assert list(inspect.signature(_IOFile.exists).parameters) == ["self"]
    assert DAG.__dictoffset__, "bfs of one graph can be replaced"


def dag(*edges):
    """A graph of edges 'job above, job below, and for each file between them whether it is ancient'."""
    depending = defaultdict(dict)
    for above, below, *ancient in edges:
        depending[above][below] = [SimpleNamespace(is_ancient=flag) for flag in ancient]
    return SimpleNamespace(depending=depending)


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ([], "a"),
        ([("a", "b", False), ("b", "c", False)], "abc"),
        ([("a", "gate", False), ("gate", "job", True)], ["a", "gate"]),
        # Whatever follows a job that is left out is left out too, unless another way leads there.
        ([("a", "b", True), ("b", "c", False)], "a"),
        ([("a", "b", True), ("b", "c", False), ("a", "c", False)], "ac"),
        # One file that is an ingredient is enough.
        ([("a", "b", True, False)], "ab"),
        ([("a", "b", True, True)], "a"),
        ([("a", "b", False), ("a", "c", False), ("b", "d", True), ("c", "d", False)], "abcd"),
    ],
)
def test_jobs_behind_ancient_files_alone_are_left_out(edges, expected):
    assert list(needrun.jobs_made_to_run(dag(*edges), "a")) == list(expected)


def test_each_job_is_named_once():
    diamond = dag(("a", "b", False), ("a", "c", False), ("b", "d", False), ("c", "d", False), ("d", "e", False))
    assert list(needrun.jobs_made_to_run(diamond, "a")) == list("abcde")


@pytest.mark.parametrize("fails", [False, True])
def test_the_graph_has_its_own_search_again_afterwards(monkeypatch, fails):
    seen = []

    async def update(graph, *arguments, **options):
        seen.append((list(graph.bfs(graph.depending, "a")), arguments, options))
        if fails:
            raise KeyError("x")

    class Graph:
        _running = ()
        depending = dag(("a", "b", True), ("a", "c", False)).depending

        def bfs(self, direction, *jobs):
            return "its own"

    monkeypatch.setattr(needrun, "update_needrun", update)
    graph = Graph()
    if fails:
        with pytest.raises(KeyError):
            asyncio.run(needrun._update_needrun(graph, 1, create_inventory=True))
    else:
        asyncio.run(needrun._update_needrun(graph, 1, create_inventory=True))
    assert seen == [(["a", "c"], (1,), {"create_inventory": True})]
    assert graph.bfs(None) == "its own"


def test_install_replaces_the_update_of_every_graph(monkeypatch):
    monkeypatch.setattr(DAG, "update_needrun", needrun.update_needrun)
    needrun.install()
    assert DAG.update_needrun is needrun._update_needrun


@pytest.mark.parametrize(
    ("name", "flags", "expected"),
    [
        ("made.ok", ["ancient"], True),
        ("made.ok", [], False),
        ("missing.ok", ["ancient"], False),
        ("there.ok", ["ancient"], True),
        ("there.ok", [], True),
    ],
)
def test_a_token_that_is_being_made_is_not_missing(tmp_path, monkeypatch, name, flags, expected):
    """Its gate runs, so that Snakemake has removed it; what is behind it would be made again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.ok").touch()
    file = IOFile(flag(name, "ancient") if flags else name)
    found = []

    async def update(graph):
        found.append(await file.exists())

    async def exists(file):
        return os.path.exists(file)

    monkeypatch.setattr(needrun, "update_needrun", update)
    monkeypatch.setattr(needrun, "exists", exists)
    monkeypatch.setattr(_IOFile, "exists", exists)
    running = SimpleNamespace(output=[IOFile("made.ok")])
    graph = SimpleNamespace(_running={id(running): running}.values(), depending={})
    asyncio.run(needrun._update_needrun(graph))
    assert found == [expected]
    assert _IOFile.exists is exists
