"""A checkout may lie anywhere: every rule runs where its path holds what a shell or a format would take for its own."""

import pytest

from conftest import TWO_RELEASES, Project

HOSTILE = "a 'quoted' $(touch x) & {braced} checkout"


@pytest.fixture
def hostile(tmp_path, fresh_project):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    return Project(folder, fresh_project)


def test_a_release_from_a_folder_with_a_hostile_name_is_accepted(hostile):
    hostile.configure(releases=TWO_RELEASES[:1])
    plan = hostile.snakemake("-n", "release")
    assert plan.status == 0, plan.output
    run = hostile.snakemake("release")
    assert run.status == 0 and hostile.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT", run.output
    assert set(run.jobs()) == set(plan.jobs())
    assert not (hostile.folder / "x").exists() and not (hostile.folder.parent / "x").exists()
