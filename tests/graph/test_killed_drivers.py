"""A snakemake that was killed: nothing of it runs on, and the same command goes on; a living one is not disturbed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from driver.owners import VARIABLE

LONGEST_SECONDS = 120


def wait_for(true, process=None):
    """Wait until something is true, as long as a process that should bring it about lives."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not true():
        assert time.monotonic() < deadline and (process is None or process.poll() is None)
        time.sleep(0.02)


def start(project, *arguments):
    command = [sys.executable, "-m", "snakemake", *arguments]
    output = (project.folder / "driver.log").open("w")
    return subprocess.Popen(command, cwd=project.folder, stdout=output, stderr=output, start_new_session=True)


def stages_of(driver):
    """Processes that the jobs of a driver started, dead or alive, by their mark."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as stream:
                marks = [entry for entry in stream.read().split(b"\0") if entry.startswith(VARIABLE.encode() + b"=")]
        except OSError:
            continue
        found += [name for mark in marks if mark.split(b":")[-2] == str(driver.pid).encode()]
    return found


@pytest.mark.parametrize(
    ("stage", "subject", "log"),
    [
        ("quantize", "fp8", "tiny-llama/fp8/logs/quantize.log"),
        ("evaluate", "baseline", "tiny-llama/baseline/demo/evaluate.log"),
    ],
)
def test_after_a_kill_the_same_command_goes_on(equipped, stage, subject, log):
    equipped.behave({stage: {subject: {"waits_for": ["never"]}}})
    driver = start(equipped, "release")
    log = equipped.folder / "results" / log
    wait_for(lambda: log.exists() and f"{stage} {subject}: waits" in log.read_text(), driver)
    assert stages_of(driver)

    second = equipped.snakemake("release")
    assert second.status == 1 and f"another snakemake (process {driver.pid} of this host)" in second.output
    assert "Traceback" not in second.output and driver.poll() is None
    plan = equipped.snakemake("-n", "release")
    assert plan.status == 0 and stages_of(driver), plan.output

    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not stages_of(driver))
    equipped.behave({})
    equipped.calls()
    run = equipped.snakemake("release")
    assert run.status == 0, run.output
    removed = [line for line in run.output.splitlines() if "The lock of a snakemake that was killed" in line]
    assert len(removed) == 1 and f"(process {driver.pid}) was removed" in removed[0], run.output
    assert equipped.calls().count(f"{stage} {subject}") == 1
    assert equipped.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"
    assert list((equipped.folder / "results" / ".locks").iterdir()) == []


def test_two_clones_that_share_a_results_folder_exclude_each_other(equipped, tmp_path_factory):
    """By a link here, as by a shared file system; while both live, and where one is killed."""
    other = tmp_path_factory.mktemp("clone") / "b"
    shutil.copytree(equipped.folder, other, symlinks=True, ignore=shutil.ignore_patterns("results"))
    (other / "results").symlink_to(equipped.folder / "results")

    def run_other(*arguments):
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        done = subprocess.run(command, cwd=other, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    equipped.behave({"quantize": {"fp8": {"waits_for": ["never"]}}})
    driver = start(equipped, "quantize")
    log = equipped.folder / "results/tiny-llama/fp8/logs/quantize.log"
    wait_for(lambda: log.exists() and "quantize fp8: waits" in log.read_text(), driver)
    status, output = run_other("quantize")
    assert status == 1 and f"another snakemake (process {driver.pid} of this host)" in output, output
    assert str(equipped.folder) in output and "Traceback" not in output and driver.poll() is None
    status, output = run_other("--unlock")
    assert f"(process {driver.pid} in {equipped.folder}) was kept" in output, output
    assert run_other("quantize")[0] == 1
    assert run_other("-n", "quantize")[0] == 0 and stages_of(driver)

    driver.send_signal(signal.SIGKILL)
    driver.wait()
    wait_for(lambda: not stages_of(driver))
    equipped.behave({})
    status, output = run_other("quantize")
    assert f"(process {driver.pid} in {equipped.folder}) was removed" in output, output
    assert status == 0 and equipped.snakemake("quantize").status == 0, output
    assert list((equipped.folder / "results" / ".locks").iterdir()) == []


def test_stages_whose_guard_was_killed_too_are_ended_by_the_next_run(equipped):
    equipped.behave({"quantize": {"fp8": {"waits_for": ["never"]}}})
    driver = start(equipped, "quantize")
    log = equipped.folder / "results/tiny-llama/fp8/logs/quantize.log"
    wait_for(lambda: log.exists() and "quantize fp8: waits" in log.read_text(), driver)
    driver.send_signal(signal.SIGSTOP)  # so that it cannot say that it ends by itself
    (guard,) = [
        int(name)
        for name in filter(str.isdigit, os.listdir("/proc"))
        if (command := read(f"/proc/{name}/cmdline")) and "owners.py" in command and f":{driver.pid}:" in command
    ]
    os.kill(guard, signal.SIGKILL)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert stages_of(driver)
    equipped.behave({})
    run = equipped.snakemake("quantize")
    assert run.status == 0 and "of its jobs were ended" in run.output, run.output
    assert not stages_of(driver)


def read(path):
    try:
        with open(path, "rb") as stream:
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
