"""A server inside a real container: podman and an image made here, of empty folders over the machine's own."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from evaluate_stage import ROOT, SERVE, Stage

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not shutil.which("podman") or os.geteuid() != 0,
        reason="needs podman and root (apt-get install podman runc catatonit)",
    ),
]
IMAGE = "localhost/day0-serve:test"


@pytest.fixture(scope="module")
def podman(project, tmp_path_factory):
    """Podman with a store of its own: {environment, image, arguments}; the image has folders and links, no more."""
    folder = tmp_path_factory.mktemp("podman")
    limits = [min(resource.getrlimit(kind)[1], 20000) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
    ulimits = [f"{name}={limit}:{limit}" for name, limit in zip(("nofile", "nproc"), limits, strict=True)]
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = {json.dumps(ulimits)}\n[engine]\ncgroup_manager = "cgroupfs"\n'
        f'events_logger = "none"\nruntime = "runc"\n'
    )
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    root = folder / "root"
    for name in ("etc", "proc", "sys", "dev", "tmp", "usr", "root"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run(["tar", "-C", root, "-cf", folder / "image.tar", "."], check=True)
    environment = {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
    }
    whole = os.environ | environment
    subprocess.run(["podman", "import", folder / "image.tar", IMAGE], env=whole, check=True, capture_output=True)
    trial = ["podman", "run", "--rm", "--init", "--network", "host", "--volume", "/usr:/usr:ro", IMAGE, "/usr/bin/true"]
    done = subprocess.run(trial, env=whole, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"podman starts no container here: {done.stderr.strip()}")
    interpreter = Path(os.path.realpath(SERVE)).parents[1]
    mounted = sorted({"/usr", str(ROOT / ".envs"), str(interpreter)})
    arguments = [word for path in mounted for word in ("--volume", f"{path}:{path}:ro")]
    inspect = ["podman", "images", "--no-trunc", "--quiet", IMAGE]
    identity = subprocess.run(inspect, env=whole, check=True, capture_output=True, text=True).stdout.strip()
    yield {
        "environment": environment,
        "image": IMAGE,
        "arguments": arguments,
        "identity": identity.removeprefix("sha256:"),
    }
    left = containers(environment)
    subprocess.run(["podman", "rm", "--all", "--force"], env=whole, capture_output=True)
    assert not left, left


def containers(environment):
    """Names of the containers that there are, running or not."""
    command = ["podman", "ps", "--all", "--format", "{{.Names}}"]
    return subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout.split()


def contained(folder, podman, **container):
    """A stage whose server runs in a container, and the arguments that it is started with."""
    stage = Stage(folder, limit=400, suite={"concurrency": 16})
    stage.environment |= podman["environment"]
    settings = {key: podman[key] for key in ("image", "arguments")}
    serving = {"container": {"runtime": "podman", "python": str(SERVE), **settings, **container}}
    return stage, ("--serving", json.dumps(serving))


@contextmanager
def in_the_middle(stage, serving, podman):
    """A started run of which some requests have been answered, and the name of its container."""
    process = stage.start(*serving)
    try:
        deadline = time.monotonic() + 300
        while not any(file.stat().st_size for file in stage.output.glob("cache/*")):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "no request was answered"
            time.sleep(0.05)
        (name,) = containers(podman["environment"])
        yield process, name
        stage.said, _ = process.communicate(timeout=300)
        stage.status = process.returncode
    finally:
        process.kill()


def server_of(name, podman):
    """The first process of a container, which is no descendant of the stage, and its children."""
    command = ["podman", "inspect", "--format", "{{.State.Pid}}", name]
    first = subprocess.run(command, env=os.environ | podman["environment"], check=True, capture_output=True, text=True)
    process = psutil.Process(int(first.stdout))
    return [process, *process.children(recursive=True)]


def test_a_whole_evaluation_with_the_server_in_a_container(podman, tmp_path):
    stage, serving = contained(tmp_path, podman)
    with in_the_middle(stage, serving, podman) as (process, name):
        family = [*psutil.Process(process.pid).children(recursive=True), *server_of(name, podman)]
        keys = {one.environ().get("VLLM_API_KEY") for one in family} - {None}
        words = " ".join(word for one in family for word in one.cmdline())
    assert stage.status == 0, stage.said
    (key,) = keys
    assert len(key) > 20 and key not in words + stage.said
    for file in (file for file in stage.output.rglob("*") if file.is_file()):
        assert key.encode() not in file.read_bytes(), file
    assert not psutil.wait_procs(family, timeout=15)[1] and not containers(podman["environment"])
    assert stage.assessment()["pass"], stage.assessment()
    metadata = stage.metadata
    assert f"--name {name}" in metadata["server"]["command"] and metadata["server"]["engine_version"] == "0.32.0"
    assert metadata["accounting"]["addition"]["scored"] == 400
    assert metadata["server"]["image"] == podman["identity"]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_container_does_not_outlive_its_stage(podman, tmp_path, stop):
    stage, serving = contained(tmp_path, podman)
    with in_the_middle(stage, serving, podman) as (process, name):
        family = [*psutil.Process(process.pid).children(recursive=True), *server_of(name, podman)]
        process.send_signal(stop)
    assert stage.status == (75 if stop == signal.SIGTERM else -stop), stage.said
    assert not psutil.wait_procs(family, timeout=20)[1]
    deadline = time.monotonic() + 10
    while containers(podman["environment"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_container_that_is_killed_is_transient_and_the_run_goes_on(podman, tmp_path):
    stage, serving = contained(tmp_path, podman)
    with in_the_middle(stage, serving, podman) as (_, name):
        command = ["podman", "kill", "--signal", "KILL", name]
        subprocess.run(command, env=os.environ | podman["environment"], check=True, capture_output=True)
    assert stage.status == 75 and "the server was killed" in stage.said, stage.said
    assert not containers(podman["environment"])
    stage.run(*serving)
    assert stage.status == 0 and stage.assessment()["pass"], stage.said
    assert 0 < stage.metadata["requests"]["addition"]["from_store"] < 400


def test_two_side_by_side_do_not_meet(podman, tmp_path):
    runs = [contained(tmp_path / name, podman) for name in ("one", "other")]
    processes = [stage.start(*serving) for stage, serving in runs]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, len(containers(podman["environment"])))
        time.sleep(0.2)
    said = [process.stdout.read() for process in processes]
    assert most == 2 and [process.returncode for process in processes] == [0, 0], said
    for stage, _ in runs:
        assert stage.assessment()["pass"] and stage.metadata["requests"]["addition"]["answered"] == 400
    assert not containers(podman["environment"])


@pytest.mark.parametrize(
    ("container", "words"),
    [
        ({"image": "localhost/day0-nowhere:test"}, "day0-nowhere"),
        ({"python": "/nowhere/python3"}, "failed to exec"),
        ({"python": "/usr/bin/false"}, "exit status 1"),
    ],
)
def test_a_container_that_cannot_start_names_the_reason(podman, tmp_path, container, words):
    stage, serving = contained(tmp_path, podman, **container)
    stage.run(*serving)
    assert stage.status == 0 and "Traceback" not in stage.said, stage.said
    assert stage.metadata["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"
    assert words in stage.metadata["detail"], stage.metadata["detail"]
    assert not containers(podman["environment"])
