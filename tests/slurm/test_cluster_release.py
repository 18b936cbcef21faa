"""The embedded release with the real tools, through the profile, on a real Slurm; and its evaluation out of time."""

import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import yaml

from slurm_cluster import ROOT, SITE, Driver, wait_until

pytestmark = pytest.mark.slurm
COPIED = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs")


@pytest.fixture
def workspace(tmp_path, cluster):
    """A copy of the project with its environments and its trained model; made in the root where they are missing."""
    made = Driver(
        cluster, ROOT, "--nolock", "environments", "results/demo/model/model.safetensors", profile="none", log=tmp_path
    )
    assert made.wait(900) == 0, made.output
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "slurm").symlink_to("profiles/slurm")
    (tmp_path / ".envs").symlink_to(ROOT / ".envs")
    shutil.copytree(ROOT / "results" / "demo", tmp_path / "results" / "demo")
    (tmp_path / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE}))
    return tmp_path


def stop_server(folder):
    """Freeze the vLLM server that works in a folder, as one that hangs."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "vllm.entrypoints.openai.api_server" in (process.info["cmdline"] or []) and process.info["cwd"] == str(
            folder
        ):
            process.send_signal(signal.SIGSTOP)
            return


def test_two_recipes_reach_their_bundles_though_time_runs_out(cluster, workspace):
    path = workspace / "config" / "config.yaml"
    configuration = yaml.safe_load(path.read_text())
    configuration["releases"] = [{"model": "tiny-llama", "recipe": recipe} for recipe in ("fp8", "w4a16_nvfp4")]
    configuration["models"]["tiny-llama"]["resources"] = {"mem_mb": 6000}
    path.write_text(yaml.safe_dump(configuration))
    driver = Driver(cluster, workspace, "release")

    store = workspace / "results/tiny-llama/baseline/demo/cache"

    def answers():
        return sum(len(file.read_text().splitlines()) for file in store.glob("*.jsonl")) if store.is_dir() else 0

    def evaluations():
        name = "evaluate_run:tiny-llama/baseline/demo"
        return [job for job in cluster.jobs() if job["name"] == name and job["folder"] == str(workspace)]

    wait_until(answers, "the baseline's first answers are stored", driver=driver)
    stop_server(workspace)
    asked = answers()
    (running,) = evaluations()
    cluster.run("scontrol", "update", f"jobid={running['id']}", "TimeLimit=0")
    wait_until(lambda: len(evaluations()) == 2, "the evaluation is submitted once more", driver=driver)
    assert driver.wait(480) == 0, driver.output[-8000:]

    states = {job["id"]: job["state"] for job in evaluations()}
    assert states[running["id"]] == "TIMEOUT" and sorted(states.values()) == ["COMPLETED", "TIMEOUT"]
    results = yaml.safe_load((workspace / "results/tiny-llama/baseline/demo/results.yml").read_text())
    requests = results["metadata"]["requests"].values()
    assert asked and sum(task["from_store"] for task in requests) >= asked
    for recipe in ("fp8", "w4a16_nvfp4"):
        verdict = json.loads((workspace / f"results/tiny-llama/{recipe}/verdict.json").read_text())
        assert verdict["decision"] == "ACCEPT", verdict["detail"]
        assert (workspace / f"results/tiny-llama/{recipe}/release/SHA256SUMS").stat().st_size
    comments = {job["name"]: job["comment"] for job in cluster.jobs() if job["folder"] == str(workspace)}
    assert "releases=fp8,w4a16_nvfp4" in comments["evaluate_run:tiny-llama/baseline/demo"]
    assert {"bundle_release:tiny-llama/fp8", "bundle_release:tiny-llama/w4a16_nvfp4"} <= comments.keys()
    assert not list(Path(workspace, ".snakemake/locks").glob("*")) and os.path.isdir(
        workspace / ".snakemake/slurm_logs"
    )
