"""What the site's file and a model's serving settings say, read off the jobs that Slurm got."""

import re

import pytest
import yaml

from slurm_cluster import SITE, Driver, jobs_of, releases

pytestmark = pytest.mark.slurm

EVALUATION, QUANTIZATION = "evaluate_run:tiny-llama/baseline/demo", "quantize_candidate:tiny-llama/fp8"


def described(cluster, project, name):
    """A job of that name as `scontrol show job` tells it."""
    text = cluster.run("scontrol", "show", "job", "--oneliner", jobs_of(cluster, project, name)[-1]["id"])
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def test_flags_of_the_site_and_nodes_of_a_server_reach_the_jobs(cluster, project):
    site = {"account": "llm-release", "constraint": "gpu", "extra": ["--nice=5", "--reservation=release"]}
    project.configure(
        accelerator="cuda",
        models={
            "tiny-llama": {
                "path": "results/demo/model",
                "resources": {"mem_mb": 700, "evaluate": {"runtime": 17}},
                "serving": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nodes": 2},
            }
        },
        releases=releases("fp8"),
    )
    (project.folder / "config" / "site.yaml").write_text(
        yaml.safe_dump({"cluster": SITE | site | {"gpu_extra": ["--signal=TERM@60"], "cpus_per_gpu": 2}})
    )
    reservation = [
        "reservation=release",
        "starttime=now",
        "duration=60",
        "users=root",
        "nodes=ALL",
        "flags=ignore_jobs",
    ]
    cluster.run("scontrol", "create", *reservation)
    try:
        targets = ["results/tiny-llama/fp8/quantization.json", "results/tiny-llama/baseline/demo/results.yml"]
        by_hand = ["--set-resources", "describe_source:runtime=7", "describe_source:slurm_partition=gpu"]
        driver = Driver(cluster, project.folder, *targets, *by_hand)
        assert driver.wait() == 0, driver.output[-6000:]
        describing = described(cluster, project, "describe_source:tiny-llama")
        quantizing, evaluating = (described(cluster, project, name) for name in (QUANTIZATION, EVALUATION))
    finally:
        cluster.run("scontrol", "delete", "reservation=release")

    for job in (describing, quantizing, evaluating):
        assert (job["Account"], job["Reservation"], job["Nice"]) == ("llm-release", "release", "5")
    assert (describing["Partition"], describing["TimeLimit"]) == ("gpu", "00:07:00")
    assert describing["Features"] == "(null)" and "TresPerJob" not in describing
    for job in (quantizing, evaluating):
        assert (job["Partition"], job["Features"]) == ("gpu", "gpu")
    assert (quantizing["NumNodes"], quantizing["TresPerJob"]) == ("1", "gres:gpu:a100:1")
    assert (quantizing["CPUs/Task"], evaluating["CPUs/Task"]) == ("2", "4")
    assert (evaluating["NumNodes"], evaluating["NumTasks"], evaluating["TimeLimit"]) == ("2", "2", "00:17:00")
    assert (evaluating["TresPerJob"], evaluating["TresPerNode"]) == ("gres:gpu:a100:4", "gres:gpu:a100:2")
    assert evaluating["MinMemoryNode"] == "700M"


def test_account_and_qos_are_those_of_the_accounting_and_an_unknown_one_is_named(accounted_cluster, project):
    cluster = accounted_cluster
    for words in (
        ["add", "account", "llm"],
        ["add", "qos", "urgent"],
        ["add", "user", "root", "account=llm", "qos=normal,urgent"],
    ):
        cluster.run("sacctmgr", "-i", *words)

    def configure(**site):
        (project.folder / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE | site}))

    configure(account="llm", qos="urgent")
    target = "results/tiny-llama/source.json"
    driver = Driver(cluster, project.folder, target)
    assert driver.wait() == 0, driver.output[-6000:]
    (job,) = jobs_of(cluster, project, "describe_source:tiny-llama")
    told = cluster.run("sacct", "-X", "-n", "-P", "-o", "Account,QOS,Partition,State", "-j", job["id"])
    assert told.strip() == "llm|urgent|cpu|COMPLETED"

    (project.folder / target).unlink()
    configure(account="llm-typo")
    driver = Driver(cluster, project.folder, target)
    assert driver.wait() == 1 and "Traceback" not in driver.output
    assert "llm-typo" in driver.output and "config/site.yaml" in driver.output, driver.output[-6000:]
