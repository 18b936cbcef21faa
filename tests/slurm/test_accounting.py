"""Status by sacct, with slurmdbd and MariaDB; needs slurmdbd and mariadb-server, and takes longer than CI gives it."""

import os
import signal

import pytest
import yaml

from slurm_cluster import SITE, Driver, calls_of, jobs_of, releases, wait_until

pytestmark = pytest.mark.slurm


def test_cancelled_preempted_and_without_slurmdbd(accounted_cluster, project):
    cluster = accounted_cluster
    (project.folder / "config" / "site.yaml").write_text(yaml.safe_dump({"cluster": SITE | {"partition": "low"}}))
    project.configure(releases=releases("fp8", "nvfp4"))
    project.behave({"quantize": {"fp8": {"waits_for": ["never"]}, "nvfp4": {"waits_for": ["never"]}}})
    driver = Driver(cluster, project.folder, "quantize", "--slurm-status-command", "sacct")

    def last(recipe):
        return jobs_of(cluster, project, f"quantize_candidate:tiny-llama/{recipe}")[-1]

    for recipe in ("fp8", "nvfp4"):
        wait_until(lambda r=recipe: calls_of(project, f"quantize {r}") == 1, f"{recipe} runs", driver=driver)
    cluster.run("scancel", last("fp8")["id"])
    wait_until(lambda: calls_of(project, "quantize fp8") == 2, "fp8 runs again", driver=driver)
    wait_until(lambda: last("fp8")["state"] == "COMPLETED", "fp8 ends", driver=driver)

    preempted = last("nvfp4")["id"]
    cluster.run("sbatch", "-p", "gpu", "-N2", "--exclusive", "-t1", "-o", "/dev/null", "--wrap", "sleep 1")
    state = ["sacct", "-X", "-n", "-P", "-o", "State", "-j", preempted]
    wait_until(lambda: cluster.run(*state).strip() == "PREEMPTED", "nvfp4 is preempted", driver=driver)
    os.kill(int((cluster.folder / "run" / "slurmdbd.pid").read_text()), signal.SIGTERM)
    assert driver.wait() == 0, driver.output[-6000:]
    assert f"Slurm job {preempted}, PREEMPTED" in driver.output
    assert f"{calls_of(project, 'quantize fp8')} {calls_of(project, 'quantize nvfp4')}" == "2 2"
