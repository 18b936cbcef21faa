"""One Slurm cluster for a session, and projects to run on it."""

import os
import shutil

import pytest
import yaml

from slurm_cluster import DAEMONS, ROOT, SITE, Cluster, Driver, Workspace, graph, running_cluster

COPIED = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs")


@pytest.fixture(scope="session")
def cluster():
    """Two CPU nodes and two GPU nodes with two GPUs each, without accounting."""
    with running_cluster() as made:
        yield made


@pytest.fixture
def accounted_cluster():
    """The same with slurmdbd and MariaDB, so that sacct answers; each test its own, since one stops slurmdbd."""
    with running_cluster((*DAEMONS, "slurmdbd", "mariadbd"), ACCT="1") as made:
        yield made


@pytest.fixture
def project(tmp_path):
    """The project with stand-ins for its heavy stages, and a site file for the cluster."""
    made = graph.Project(tmp_path)
    # Two snakemake processes and a stand-in need no more, and the test machine has no more to give.
    models = {"tiny-llama": {"path": "results/demo/model", "resources": {"mem_mb": 700}}}
    made.configure(models=models)
    (tmp_path / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE}))
    return made


@pytest.fixture
def workspace(tmp_path):
    """A copy of the project with its environments and its trained model; made in the root where they are missing."""
    targets = ["--nolock", "environments", "results/demo/model/model.safetensors"]
    made = Driver(Cluster(None, os.environ), ROOT, *targets, profile="none", log=tmp_path)
    assert made.wait(900) == 0, made.output
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "slurm").symlink_to("profiles/slurm")
    (tmp_path / ".envs").mkdir()
    for entry in (ROOT / ".envs").iterdir():
        # A link's own time would be that of an input that has changed.
        if entry.is_file():
            shutil.copy2(entry, tmp_path / ".envs" / entry.name)
        else:
            (tmp_path / ".envs" / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / "results" / "demo", tmp_path / "results" / "demo")
    (tmp_path / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE}))
    return Workspace(tmp_path)
