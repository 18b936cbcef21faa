"""Results that were copied into a fresh clone: taken over by the commands of the README, which trust no times."""

import os
import shutil

from conftest import Project

WEIGHTS = "results/tiny-llama/fp8/release/model.safetensors"


def test_results_without_snakemakes_records_are_taken_over_and_what_differs_is_named(tmp_path, released_project):
    folder, clone = tmp_path, Project(tmp_path, released_project)
    shutil.rmtree(folder / ".snakemake")
    for number, path in enumerate(sorted((folder / "results").rglob("*"))):
        os.utime(path, (10**9 - number, 10**9 - number))  # as a copy leaves them: in no order
    assert clone.snakemake("--touch", "release").status == 0
    run = clone.snakemake("release", "--config", "verify=full")
    assert run.status == 0 and clone.calls() == [] and "DAMAGED" not in run.output, run.output

    weights = folder / WEIGHTS
    before = weights.stat()
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    run = clone.snakemake("release", "--config", "verify=full")
    assert run.status == 1 and f"DAMAGED: {WEIGHTS}" in run.output and clone.calls() == [], run.output
