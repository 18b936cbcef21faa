"""Stages in images, with the real pyxis, enroot and Apptainer; each skipped where it is not installed.

PYXIS names spank_pyxis.so where it lies in none of Slurm's usual folders.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from day0.serving.container import NAMES_VARIABLE
from day0.serving.multinode import JOB_ID_VARIABLE
from slurm_cluster import ROOT, SITE, Driver, jobs_of, releases, running_cluster, wait_until

pytestmark = pytest.mark.slurm
PASSED, EVALUATION = ("fp8/validation.ok", "baseline/demo/run.ok"), "evaluate_run:tiny-llama/baseline/demo"
PLACES = ["/usr/local/lib/slurm", "/usr/lib/slurm", "/usr/lib64/slurm", "/usr/lib/x86_64-linux-gnu/slurm-wlm"]
NEEDS = {"pyxis": ["enroot", "mksquashfs"], "enroot": ["enroot", "mksquashfs"], "apptainer": ["apptainer"]}
# What another launcher leaves in the driver's environment, and what srun and the hooks of a site add for a task.
RANKS = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "elsewhere", "PMI_RANK": "3"}
RANK_NAMES = "^(RANK|LOCAL_RANK|NODE_RANK|WORLD_SIZE|MASTER_ADDR|MASTER_PORT|(SLURM|PMI|PMIX|OMPI)_[A-Za-z0-9_]*)="


def find_pyxis():
    """The plugin, or None."""
    there = (str(path) for path in (Path(place) / "spank_pyxis.so" for place in PLACES) if path.is_file())
    return os.environ.get("PYXIS") or next(there, None)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The root folder of an image, with nothing in it but the places where this machine's system is mounted."""
    root = tmp_path_factory.mktemp("image") / "root"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "run", "root", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    (root / "etc" / "os-release").write_text("NAME=day0-image\nID=day0\n")
    # Variables of the image: as enroot and pyxis read them, and as Apptainer does.
    own = "HF_HOME=/image/hub OF_THE_SITE=image"
    (root / "etc" / "environment").write_text(own.replace(" ", "\n") + "\n")
    (root / ".singularity.d" / "env").mkdir(parents=True)
    (root / ".singularity.d" / "env" / "95-image.sh").write_text(f"export {own}\n")
    return root


@pytest.fixture(scope="module", params=NEEDS)
def containers(request, root, tmp_path_factory):
    """A cluster whose nodes can start images, and the site file's ``containers`` with an image for each stage."""
    runtime, plugin, settings = request.param, find_pyxis(), {}
    missing = [name for name in NEEDS[runtime] if not shutil.which(name)]
    missing += ["spank_pyxis.so (PYXIS)"] if runtime == "pyxis" and plugin is None else []
    if missing:
        pytest.skip(f"found no {' and no '.join(missing)}")
    folder = tmp_path_factory.mktemp(runtime)
    if runtime == "apptainer":
        image = folder / "image.sif"
        trial = ["apptainer", "exec", "--bind", "/usr", str(image), "true"]
        for command in (["apptainer", "--quiet", "build", str(image), str(root)], trial):
            done = subprocess.run(command, text=True, capture_output=True)
            if done.returncode:
                pytest.skip(f"apptainer starts no container here: {done.stderr.strip()}")
    else:
        image = folder / "image.sqsh"
        command = ["mksquashfs", str(root), str(image), "-no-progress"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        settings = {f"ENROOT_{name}_PATH": str(folder / name) for name in ("DATA", "CACHE", "RUNTIME", "TEMP")}
        for place in settings.values():
            Path(place).mkdir()
        settings |= {"PYXIS": plugin} if runtime == "pyxis" else {}
    mounts = ["/usr", sys.base_prefix, str((ROOT / ".envs").resolve())]
    with running_cluster(**settings) as cluster:
        yield cluster, {"runtime": runtime, "mounts": mounts, "image": str(image)}


def contain(workspace, containers, *stages):
    """Let stages run in the image; each notes beside the project in which system it runs, and which ranks it sees."""
    settings = dict(containers)
    image = settings.pop("image")
    for stage in stages:
        # The environment's interpreter as it is seen within the image.
        python = workspace.folder / f"{stage}-python"
        where, ranks = (shlex.quote(str(workspace.folder / f"{name}-{stage}")) for name in ("ran", "ranks"))
        python.write_text(
            f"#!/bin/sh\ngrep -h ^NAME= /etc/os-release >> {where}\nenv | grep -E '{RANK_NAMES}' >> {ranks}\n"
            f'exec {(ROOT / ".envs").resolve()}/{stage}.cpu/bin/python "$@"\n'
        )
        python.chmod(0o755)
        settings[stage] = {"image": image, "python": str(python)}
    site = {"cluster": SITE, "containers": settings}
    (workspace.folder / "config" / "site.yaml").write_text(yaml.safe_dump(site))


def test_a_model_is_quantized_and_served_within_images(containers, workspace):
    cluster, settings = containers
    # A model of its own: the embedded one would be trained anew by another image.
    shutil.copytree(workspace.folder / "results/demo/model", workspace.folder / "model")
    workspace.configure(model={"path": "model"}, releases=releases("fp8"))
    workspace.ask(100)
    contain(workspace, settings, "quantize", "serve")

    targets = [f"results/tiny-llama/{path}" for path in PASSED]
    driver = Driver(cluster, workspace.folder, *targets, environment=RANKS)
    assert driver.wait(600) == 0, driver.output[-8000:]
    assert all((workspace.results / path).exists() for path in PASSED)
    for stage in ("quantize", "serve"):
        assert set((workspace.folder / f"ran-{stage}").read_text().splitlines()) == {"NAME=day0-image"}
        assert not (workspace.folder / f"ranks-{stage}").read_text()
    assert [job["state"] for job in jobs_of(cluster, workspace, EVALUATION)] == ["COMPLETED"]


def test_an_interpreter_in_an_image_gets_what_it_is_told_and_its_end_is_seen(containers, tmp_path):
    cluster, settings = containers
    settings, question, answer = dict(settings), tmp_path / "question.py", tmp_path / "answer.json"
    python = tmp_path / "stage.image" / "bin" / "python"
    wrap = [sys.executable, ROOT / "scripts/wrap_image.py", "--output", tmp_path / "stage.image.json"]
    wrap += ["--runtime", settings["runtime"], "--image", settings["image"], "--mount", *settings["mounts"]]
    subprocess.run([*wrap, "--python", Path(os.path.realpath(sys.executable))], check=True)
    question.write_text(
        "import json, os, sys\n"
        f"told = {{'arguments': sys.argv[1:], 'folder': os.getcwd(), 'input': sys.stdin.read(), **os.environ}}\n"
        f"json.dump(told, open({str(answer)!r}, 'w'))\n"
        "sys.exit(7)\n"
    )
    # Of those that an image sets, too, a stage's stand above: by their beginning, or as serving.environment names them.
    variables = {"VLLM_API_KEY": "a key", "HF_HOME": "/h", "CUDA_VISIBLE_DEVICES": "1", "GLOO_SOCKET_IFNAME": "lo"}
    variables |= {"OF_THE_SITE": "stage", "OF_THE_SERVER": "x", NAMES_VARIABLE: "OF_THE_SITE OF_THE_SERVER"}
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    (tmp_path / "job").write_text(
        f"#!/bin/sh\ncd {tmp_path}\n"
        f"echo asked | {given} {JOB_ID_VARIABLE}=$SLURM_JOB_ID {python} {question} 'a b' '$HOME' '' '*'\n"
    )
    job = ["sbatch", "--wait", f"--output={tmp_path}/job.log", str(tmp_path / "job")]
    status = subprocess.run(job, env=cluster.environment, timeout=60, capture_output=True).returncode
    assert status == 7, (tmp_path / "job.log").read_text()
    told = json.loads(answer.read_text())
    assert told["arguments"] == ["a b", "$HOME", "", "*"] and told["input"] == "asked\n"
    assert told["folder"] == str(tmp_path)
    del variables[NAMES_VARIABLE]
    assert {name: told.get(name) for name in variables} == variables
    assert told["PYTHONNOUSERSITE"] == "1"


def processes_of(workspace, image):
    """Processes that work for a project or with an image: by working directory, command line or environment."""
    found, marks = [], (str(workspace.folder), image)
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if any(mark in word for mark in marks for word in words) and process.pid != os.getpid():
            found.append(process)
    return found


def assert_nothing_is_left(workspace, image, of, driver):
    """Wait for the end of what works for a project or with an image."""
    with contextlib.suppress(pytest.fail.Exception):
        return wait_until(lambda: not processes_of(workspace, image), of, 20)
    left = [f"{process.pid} {process.name()}: {process.cmdline()}" for process in processes_of(workspace, image)]
    pytest.fail(f"left of {of}: {left}\n{driver.output[-6000:]}")


def test_an_evaluation_that_is_stopped_leaves_no_process_and_goes_on(containers, workspace):
    cluster, settings = containers
    workspace.ask(400)
    contain(workspace, settings, "serve")

    def evaluations():
        return jobs_of(cluster, workspace, EVALUATION)

    def start():
        """A driver, its job once that has stored answers of its own, and how many there are."""
        before, jobs = workspace.stored_answers(), len(evaluations())
        driver = Driver(cluster, workspace.folder, "results/tiny-llama/baseline/demo/run.ok")
        wait_until(lambda: len(evaluations()) > jobs, "the evaluation is submitted", driver=driver)
        wait_until(lambda: workspace.stored_answers() > before, "further answers are stored", driver=driver)
        return driver, evaluations()[-1]["id"], workspace.stored_answers()

    driver, _, asked = start()
    assert len(processes_of(workspace, settings["image"])) > 5
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait(60) == 1, driver.output[-6000:]
    assert_nothing_is_left(workspace, settings["image"], "an interrupted run", driver)

    driver, job, more = start()
    assert more > asked
    served = [process for process in processes_of(workspace, settings["image"]) if process.name() == "VLLM::EngineCore"]
    cluster.run("scancel", job)
    assert served and not psutil.wait_procs(served, timeout=20)[1]
    assert driver.wait(300) == 0, driver.output[-6000:]
    assert_nothing_is_left(workspace, settings["image"], "a cancelled job and its retry", driver)
    assert [job["state"] for job in evaluations()] == ["CANCELLED", "CANCELLED", "COMPLETED"]
    results = yaml.safe_load((workspace.results / "baseline/demo/results.yml").read_text())
    assert sum(task["from_store"] for task in results["metadata"]["requests"].values()) >= more
