"""One Slurm cluster for a session, and projects to run on it."""

import pytest
import yaml

from slurm_cluster import DAEMONS, SITE, graph, running_cluster


@pytest.fixture(scope="session")
def cluster():
    """Two CPU nodes and two GPU nodes with two GPUs each, without accounting."""
    with running_cluster() as made:
        yield made


@pytest.fixture(scope="session")
def accounted_cluster():
    """The same with slurmdbd and MariaDB, so that sacct answers."""
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
