"""The embedded release with the real tools, through the profile, on a real Slurm; and its evaluation out of time."""

import json
import signal

import psutil
import pytest
import yaml

from slurm_cluster import Driver, jobs_of, releases, wait_until

pytestmark = pytest.mark.slurm
BASELINE = "evaluate_run:tiny-llama/baseline/demo"


def stop_server(folder):
    """Freeze the vLLM server that works in a folder, as one that hangs."""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        if "vllm.entrypoints.openai.api_server" in (process.info["cmdline"] or []) and process.info["cwd"] == str(
            folder
        ):
            process.send_signal(signal.SIGSTOP)
            return


def test_two_recipes_reach_their_bundles_though_time_runs_out(cluster, workspace):
    # As many questions as decide at this threshold, and as leave time to stop the server before the last is answered.
    workspace.configure(releases=releases("fp8", "w4a16_nvfp4"), defaults={"suite": "demo", "threshold": 0.03})
    workspace.ask(400)
    driver = Driver(cluster, workspace.folder, "release")

    def evaluations():
        return jobs_of(cluster, workspace, BASELINE)

    wait_until(workspace.stored_answers, "the baseline's first answers are stored", driver=driver)
    stop_server(workspace.folder)
    asked = workspace.stored_answers()
    (running,) = evaluations()
    cluster.run("scontrol", "update", f"jobid={running['id']}", "TimeLimit=0")
    wait_until(lambda: len(evaluations()) == 2, "the evaluation is submitted once more", driver=driver)
    assert driver.wait(480) == 0, driver.output[-8000:]

    states = {job["id"]: job["state"] for job in evaluations()}
    assert states[running["id"]] == "TIMEOUT" and sorted(states.values()) == ["COMPLETED", "TIMEOUT"]
    results = yaml.safe_load((workspace.results / "baseline/demo/results.yml").read_text())
    requests = results["metadata"]["requests"].values()
    assert asked and sum(task["from_store"] for task in requests) >= asked
    for recipe in ("fp8", "w4a16_nvfp4"):
        verdict = json.loads((workspace.results / recipe / "verdict.json").read_text())
        assert verdict["decision"] == "ACCEPT", verdict["detail"]
        assert (workspace.results / recipe / "release/SHA256SUMS").stat().st_size
    comments = {job["name"]: job["comment"] for job in cluster.jobs() if job["folder"] == str(workspace.folder)}
    assert "releases=fp8,w4a16_nvfp4" in comments[BASELINE]
    assert {"bundle_release:tiny-llama/fp8", "bundle_release:tiny-llama/w4a16_nvfp4"} <= comments.keys()
    left = workspace.folder / ".snakemake"
    assert not list((left / "locks").glob("*")) and (left / "slurm_logs").is_dir()


def test_a_server_over_two_nodes_answers_as_one_over_one(cluster, workspace):
    # On CPU by tensor parallelism: pipelines of vLLM 0.32's CPU build fail at their first request.
    workspace.configure(model={"serving": {"tensor_parallel_size": 2, "nodes": 2}})
    workspace.ask(100)
    driver = Driver(cluster, workspace.folder, "results/tiny-llama/baseline/demo/run.json")
    assert driver.wait(600) == 0, driver.output[-8000:]

    assert json.loads((workspace.results / "baseline/demo/run.json").read_text())["pass"] is True
    (job,) = jobs_of(cluster, workspace, BASELINE)
    assert job["node"] == "c[0-1]"
    log = (workspace.results / "baseline/demo/logs/server.node-1.log").read_text()
    assert "headless multiproc executor" in log and "rank 1" in log
    left = [p for p in psutil.process_iter(["cwd", "name"]) if p.info["cwd"] == str(workspace.folder)]
    assert not [process.info["name"] for process in left if "VLLM" in process.info["name"]]
