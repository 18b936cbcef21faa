"""What a cluster does to jobs and drivers: the real profile, graph and Slurm; the stages are stand-ins."""

import json
import signal
import time

import pytest

from slurm_cluster import Driver, calls_of, jobs_of, releases, wait_until

pytestmark = pytest.mark.slurm


def test_a_job_killed_a_node_down_memory_and_time_run_out(cluster, project):
    faults = {
        "killed": {"crashes": 1, "environment": "environment.json"},
        "hungry": {"overeats": 1, "bytes": 1_500_000_000},
        "unsupported": {"failure_class": "MODEL_UNSUPPORTED"},
        "late": {"waits_for": ["never", "never"]},
        "orphan": {"waits_for": ["never"]},
        "refused": {"refuses": "recipe.yaml: found no quantizers"},
    }
    project.configure(
        accelerator="cuda",
        recipes={name: {"preset": "fp8"} for name in faults},
        releases=releases(*faults),
    )
    project.behave({"quantize": faults})
    ranks = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "elsewhere", "PMI_RANK": "3"}
    # The verdicts where something failed for good; of the others what the faults struck.
    failed, cured = ("unsupported", "late", "refused"), ("killed", "hungry", "orphan")
    targets = [f"results/tiny-llama/{name}/verdict.json" for name in failed]
    targets += [f"results/tiny-llama/{name}/validation.json" for name in cured]
    driver = Driver(cluster, project.folder, *targets, environment=ranks)

    def quantize(name):
        return jobs_of(cluster, project, f"quantize_candidate:tiny-llama/{name}")

    for attempt in (1, 2):
        wait_until(lambda n=attempt: calls_of(project, "quantize late") == n, "late runs", driver=driver)
        cluster.run("scontrol", "update", f"jobid={quantize('late')[-1]['id']}", "TimeLimit=0")
    wait_until(lambda: calls_of(project, "quantize hungry") == 2, "hungry runs again", driver=driver)
    wait_until(lambda: quantize("hungry")[-1]["state"] == "COMPLETED", "hungry ends", driver=driver)
    wait_until(lambda: quantize("killed")[-1]["state"] == "COMPLETED", "killed ends", driver=driver)
    wait_until(lambda: quantize("late")[-1]["state"] == "TIMEOUT", "late is out of time", driver=driver)
    node = quantize("orphan")[-1]["node"]
    cluster.kill_node(node)
    try:
        status = driver.wait()
    finally:
        cluster.start_node(node)
    assert status == 1 and "Traceback" not in driver.output, driver.output[-6000:]

    verdicts = {name: project.read(f"tiny-llama/{name}/verdict.json") for name in failed}
    assert {name: (verdict["decision"], verdict["failure_class"]) for name, verdict in verdicts.items()} == {
        "unsupported": ("INFEASIBLE", "MODEL_UNSUPPORTED"),
        "late": ("ANOMALOUS", "SYSTEMIC"),
        "refused": ("ANOMALOUS", "SYSTEMIC"),
    }
    assert all(project.read(f"tiny-llama/{name}/validation.json")["pass"] for name in cured)
    # Once more after each fault, and never after a failure that a retry cannot cure.
    assert {name: calls_of(project, f"quantize {name}") for name in faults} == {
        **dict.fromkeys(faults, 2),
        **{"unsupported": 1, "refused": 1},
    }
    # More memory where it ran out, and nowhere else.
    memory = {name: [job["mb"] for job in quantize(name)] for name in faults}
    assert memory == {
        **{name: ["700M", "700M"] for name in faults},
        "hungry": ["700M", "1050M"],
        **{name: ["700M"] for name in ("unsupported", "refused")},
    }
    assert quantize("orphan")[0]["state"] == "NODE_FAIL" and quantize("orphan")[1]["node"] != node
    verdict = verdicts["late"]
    for number, job in enumerate(quantize("late"), 1):
        assert f"attempt {number}: Slurm job {job['id']}, TIMEOUT, log .snakemake/slurm_logs/" in verdict["detail"]
    assert "longer runtime" in verdict["next_action"]
    (job,) = quantize("refused")
    assert f"Slurm job {job['id']}, FAILED" in verdicts["refused"]["detail"]
    assert "recipe.yaml: found no quantizers" in verdicts["refused"]["detail"]

    job = quantize("killed")[0]
    assert job["partition"] == "gpu"
    assert "TresPerJob=gres:gpu:a100:1" in cluster.run("scontrol", "show", "job", job["id"])
    assert job["comment"] == "stage=quantize_candidate model=tiny-llama recipe=killed releases=killed attempt=1"
    (describing,) = jobs_of(cluster, project, "describe_source:tiny-llama")
    assert (
        describing["partition"] == "cpu"
        and "releases=hungry,killed,late,orphan,refused,unsupported" in describing["comment"]
    )
    stages = {job["name"].split(":")[0] for job in cluster.jobs() if job["folder"] == str(project.folder)}
    assert stages == {"train_demo_model", "describe_source", "quantize_candidate", "evaluate_run"}
    environment = json.loads((project.folder / "environment.json").read_text())
    left = {name for name in environment if name in ranks or name.startswith(("SLURM_", "PMI_"))}
    assert not left and environment["CUDA_VISIBLE_DEVICES"]


def test_a_driver_killed_and_restarted_and_interrupted(cluster, project):
    recipes = {name: {"preset": "fp8"} for name in ("done", "running", "changed")}
    project.configure(recipes=recipes, releases=releases(*recipes))
    waits = {name: {"waits_for": [f"go-{name}"]} for name in recipes}
    project.behave({"quantize": waits, "evaluate": {"baseline": {"waits_for": ["never"]}}})
    targets = [f"results/tiny-llama/{name}/validation.json" for name in recipes]
    driver = Driver(cluster, project.folder, *targets)
    for name in recipes:
        wait_until(lambda n=name: calls_of(project, f"quantize {n}") == 1, f"{name} runs", driver=driver)
    driver.process.kill()
    driver.process.wait()

    def quantize(name):
        return jobs_of(cluster, project, f"quantize_candidate:tiny-llama/{name}")

    (project.folder / "go-done").touch()
    wait_until(lambda: quantize("done")[0]["state"] == "COMPLETED", "the job ends without its driver")
    project.configure(recipes=recipes | {"changed": {"preset": "nvfp4"}})
    assert project.snakemake("--unlock").status == 0
    targets += ["results/tiny-llama/baseline/demo/results.yml"]
    driver = Driver(cluster, project.folder, *targets)
    wait_until(lambda: calls_of(project, "quantize changed") == 2, "the changed recipe is redone", driver=driver)
    (project.folder / "go-running").touch()
    wait_until(lambda: calls_of(project, "evaluate baseline") == 1, "the evaluation runs", driver=driver)
    for name in ("running", "changed"):
        # Assessed where the driver runs, once it has seen that the job is over: Ctrl-C must find no such job half done.
        validation = f"tiny-llama/{name}/validation.json"
        wait_until(lambda path=validation: project.exists(path), f"{name} is quantized", driver=driver)
    assert "of an earlier run is RUNNING; waiting for it" in driver.output
    assert "CANCELLED" in {job["state"] for job in quantize("changed")}

    def live():
        mine = [job for job in cluster.jobs() if job["folder"] == str(project.folder)]
        return [job for job in mine if job["state"] in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")]

    assert live()
    began = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    wait_until(lambda: not live(), "Ctrl-C cancels the jobs", seconds=15, driver=driver)
    assert driver.wait(20) == 1 and time.monotonic() - began < 20

    project.behave({})
    driver = Driver(cluster, project.folder, *targets)
    assert driver.wait() == 0, driver.output[-6000:]
    assert all((project.folder / target).exists() for target in targets)
    counts = {name: calls_of(project, f"quantize {name}") for name in recipes}
    assert counts == {"done": 1, "running": 1, "changed": 2} and calls_of(project, "evaluate baseline") == 2
