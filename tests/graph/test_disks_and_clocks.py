"""A disk that is full or read-only and a clock that jumps: what to do is said, and the same command goes on."""

import os
import subprocess
import time
from contextlib import contextmanager

import pytest

NEXT = "Free some space there, or make it writable, then run the same command again"


@contextmanager
def small_results(project, size):
    """A file system of its own as results/."""
    results, before = project.folder / "results", project.folder / "before"
    results.rename(before)
    results.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(results)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["cp", "--archive", f"{before}/.", str(results)], check=True)
        yield results
    finally:
        subprocess.run(["umount", str(results)], check=True)


def half_written(results):
    hidden = {path for path in results.rglob(".*") if path.name != ".snakemake_timestamp"}
    return [*(hidden - {results / ".locks"}), *(results / ".locks").glob("*")]


@pytest.mark.parametrize("left", [0, 120])
def test_a_full_disk_ends_with_what_to_do_and_the_same_command_goes_on(equipped, left):
    """Without room for a verdict, and with."""
    with small_results(equipped, "2m") as results:
        statistics = os.statvfs(results)
        room = statistics.f_bavail * statistics.f_frsize - left * 1024
        (results / "ballast").write_bytes(bytes(room))
        run = equipped.snakemake("release")
        # Without any room not even the lock can be written.
        last = run.output.partition("At least one job did not complete successfully." if left else "WorkflowError:")[2]
        assert run.status == 1 and "results: No space left on device" in last and NEXT in last, run.output
        assert "Traceback" not in last and "ACCEPT" not in last and not half_written(results)
        (results / "ballast").unlink()
        run = equipped.snakemake("release")
        assert run.status == 0 and equipped.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT", run.output


def test_read_only_results_end_with_what_to_do_and_the_same_command_goes_on(equipped):
    with small_results(equipped, "8m") as results:
        subprocess.run(["mount", "-o", "remount,ro", str(results)], check=True)
        run = equipped.snakemake("release")
        last = "\n".join(run.output.splitlines()[-3:])
        assert run.status == 1 and "results: Read-only file system" in last and NEXT in last, run.output
        assert "Traceback" not in run.output
        subprocess.run(["mount", "-o", "remount,rw", str(results)], check=True)
        assert equipped.snakemake("release").status == 0


def test_files_of_a_clock_that_was_wrong_are_brought_back_and_nothing_is_made_again(equipped):
    assert equipped.snakemake("quantize").status == 0
    made = sorted((equipped.folder / "results/tiny-llama").rglob("*"), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(made):
        ahead = time.time_ns() + 400 * 86400 * 10**9 + number * 10**6
        os.utime(path, ns=(ahead, ahead))
    equipped.calls()
    run = equipped.snakemake("release")
    assert run.status == 0 and "have times in the future" in run.output, run.output
    calls = equipped.calls()
    assert "quantize fp8" not in calls and calls.count("evaluate fp8") == 1
    again = equipped.snakemake("release")
    assert again.status == 0 and "in the future" not in again.output and not equipped.calls()


def state_of(folder):
    """Size and times of all below a folder."""
    return {
        str(path): (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for path in folder.rglob("*")
        if (status := path.lstat())
    }


@pytest.mark.parametrize("is_made", [False, True])
def test_a_dry_run_changes_nothing_below_results(equipped, is_made):
    """Neither where all is to be made nor where nothing is, not even a time in the future or what a probe leaves."""
    if is_made:
        assert equipped.snakemake("release").status == 0
        decision = equipped.folder / "results/tiny-llama/fp8/verdict.json"
        ahead = time.time_ns() + 400 * 86400 * 10**9
        os.utime(decision, ns=(ahead, ahead))
    results = equipped.folder / "results"
    # A file that is made and removed again changes the folder's time.
    before = state_of(results), results.stat().st_mtime_ns
    run = equipped.snakemake("-n", "release")
    assert run.status == 0 and (state_of(results), results.stat().st_mtime_ns) == before, run.output
