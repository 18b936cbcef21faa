"""What a stage runs in: the image that stands in for its environment, and variables of no other launcher."""

import hashlib
import json
import os
import subprocess

RUNTIME = """#!/bin/sh
# Stand-in of enroot and apptainer: notes its arguments, and runs what comes after the image.
echo "$0 $*" >> "$RUNTIME_LOG"
while [ "$1" != "$IMAGE" ]; do shift; done
shift
exec "$@"
"""


def wrap(project, runtime):
    image = project.folder / "serve.image"
    image.write_bytes(b"an image")
    project.configure(
        containers={"runtime": runtime, "mounts": ["/models"], "serve": {"image": str(image), "python": "python3"}}
    )
    run = project.snakemake(".envs/serve.image.json")
    assert run.status == 0, run.output
    binaries = project.folder / "binaries"
    binaries.mkdir(exist_ok=True)
    (binaries / runtime).write_text(RUNTIME)
    (binaries / runtime).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "RUNTIME_LOG": str(project.folder / "runtime.log"),
        "IMAGE": str(image),
        "VLLM_API_KEY": "secret",
    }
    python = project.folder / ".envs/serve.image/bin/python"
    question = "import os, sys; print(os.getcwd(), os.getpid(), sys.argv[1:]); sys.exit(7)"
    process = subprocess.Popen(
        [python, "-c", question, "a b", "$HOME"],
        cwd=project.folder / "config",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer = process.communicate()[0]
    # Working directory, arguments and exit status are the caller's, and the process is the one that was started.
    assert answer == f"{project.folder / 'config'} {process.pid} ['a b', '$HOME']\n" and process.returncode == 7
    return (project.folder / "runtime.log").read_text()


def test_an_image_of_enroot_is_wrapped(project):
    called = wrap(project, "enroot")
    assert "start --rw --mount /tmp:/tmp --mount /models:/models" in called
    assert "--env VLLM_API_KEY" in called and "secret" not in called
    marker = json.loads((project.folder / ".envs/serve.image.json").read_text())
    assert marker["image_sha256"] == hashlib.sha256(b"an image").hexdigest()
    jobs = project.snakemake("-n", "release").jobs()
    assert jobs["build_environment"] == 2 and "wrap_image" not in jobs


def test_an_image_of_apptainer_is_wrapped(project):
    called = wrap(project, "apptainer")
    assert f"--pwd {project.folder / 'config'}" in called and "--bind /models:/models" in called


def test_a_missing_image_is_reported_with_how_to_make_it(project):
    project.configure(containers={"serve": {"image": "/nowhere/vllm.sqsh"}})
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "Traceback" not in run.output
    assert "containers.serve.image: found no file /nowhere/vllm.sqsh; make it with enroot import --output" in run.output


def test_a_stage_is_no_rank_of_another_launcher(project, monkeypatch):
    ranks = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "elsewhere", "SLURM_PROCID": "3", "PMI_RANK": "3"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    project.behave({"data": {"demo": {"environment": "environment.json"}}})
    run = project.snakemake("--cores", "1", "--", "results/demo/data/addition.jsonl")
    assert run.status == 0, run.output
    environment = json.loads((project.folder / "environment.json").read_text())
    assert not ranks.keys() & environment.keys() and environment["CUDA_VISIBLE_DEVICES"] == "5"
