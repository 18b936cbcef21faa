"""A server inside a real container: podman's and Apptainer's, of an image of empty folders over the machine's own."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from day0.serving.container import image_identity
from evaluate_stage import ROOT, SERVE, Stage

pytestmark = pytest.mark.e2e
IMAGE = "localhost/day0-serve:test"


class Podman:
    """Podman with a store of its own."""

    name, nowhere = "podman", "localhost/day0-nowhere:test"
    no_image = "day0-nowhere"

    def __init__(self, folder, root, mounted):
        if not shutil.which("podman") or os.geteuid() != 0:
            pytest.skip("needs podman and root (apt-get install podman runc catatonit)")
        limits = [min(resource.getrlimit(kind)[1], 20000) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)]
        ulimits = [f"{name}={limit}:{limit}" for name, limit in zip(("nofile", "nproc"), limits, strict=True)]
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = {json.dumps(ulimits)}\n[engine]\ncgroup_manager = "cgroupfs"\n'
            f'events_logger = "none"\nruntime = "runc"\n'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        self.environment = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }
        subprocess.run(["tar", "-C", root, "-cf", folder / "image.tar", "."], check=True)
        self.call("import", str(folder / "image.tar"), IMAGE)
        try:
            self.call("run", "--rm", "--init", "--network", "host", "--volume", "/usr:/usr:ro", IMAGE, "/usr/bin/true")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"podman starts no container here: {error.stderr.strip()}")
        self.identity = self.call("images", "--no-trunc", "--quiet", IMAGE).removeprefix("sha256:")
        volumes = [word for path in mounted for word in ("--volume", f"{path}:{path}:ro")]
        self.settings = {"image": IMAGE, "arguments": volumes}

    def call(self, *words):
        """What a command of podman's prints."""
        whole = os.environ | self.environment
        return subprocess.run(["podman", *words], env=whole, check=True, capture_output=True, text=True).stdout.strip()

    def containers(self):
        """Names of the containers that there are, running or not."""
        return self.call("ps", "--all", "--format", "{{.Names}}").split()

    def processes(self, name):
        """The first process of a container, which is no descendant of the stage, and its children."""
        process = psutil.Process(int(self.call("inspect", "--format", "{{.State.Pid}}", name)))
        return [process, *process.children(recursive=True)]

    def kill(self, name):
        """Kill a container from outside."""
        self.call("kill", "--signal", "KILL", name)

    def remove_all(self):
        """Remove what was left."""
        self.call("rm", "--all", "--force")


class Apptainer:
    """Apptainer with an image file: a container is the session of processes that was started from it."""

    name, environment, nowhere = "apptainer", {}, "/nowhere/vllm.sif"
    no_image = "/nowhere/vllm.sif"

    def __init__(self, folder, root, mounted):
        if not shutil.which("apptainer"):
            pytest.skip("needs apptainer")
        image = str(folder / "vllm.sif")
        binds = [word for path in mounted for word in ("--bind", f"{path}:{path}:ro")]
        for command in (["build", image, str(root)], ["exec", *binds, image, "true"]):
            done = subprocess.run(["apptainer", "--quiet", *command], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"apptainer starts no container here: {done.stderr.strip()}")
        self.identity = image_identity({"runtime": "apptainer", "image": image})
        self.settings = {"image": image, "arguments": binds}

    def processes(self, session=None):
        """Those that run in a container of the image, of one session or of all."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                started = process.environ().get("APPTAINER_CONTAINER") == self.settings["image"]
                if started and session in (None, os.getsid(process.pid)):
                    found.append(process)
        return found

    def containers(self):
        """Sessions: the stage gives each server one of its own."""
        return list({os.getsid(process.pid) for process in self.processes()})

    def kill(self, session):
        """Kill a container's processes from outside."""
        for process in self.processes(session):
            process.kill()

    def remove_all(self):
        """Kill what was left."""
        self.kill(None)


@pytest.fixture(scope="module", params=[Podman, Apptainer], ids=["podman", "apptainer"])
def runtime(request, project, tmp_path_factory):
    """A runtime with an image that has folders and links, no more."""
    folder = tmp_path_factory.mktemp(request.param.name)
    root = folder / "root"
    for name in ("etc", "proc", "sys", "dev", "tmp", "usr", "root"):
        (root / name).mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    interpreter = Path(os.path.realpath(SERVE)).parents[1]
    made = request.param(folder, root, sorted({"/usr", str(ROOT / ".envs"), str(interpreter)}))
    yield made
    left = made.containers()
    made.remove_all()
    assert not left, left


def contained(folder, runtime, **container):
    """A stage whose server runs in a container, and the arguments that it is started with."""
    stage = Stage(folder, limit=400, suite={"concurrency": 16})
    stage.environment |= runtime.environment
    serving = {"container": {"runtime": runtime.name, "python": str(SERVE), **runtime.settings, **container}}
    return stage, ("--serving", json.dumps(serving))


@contextmanager
def in_the_middle(stage, serving, runtime):
    """A started run of which some requests have been answered, and the name of its container."""
    process = stage.start(*serving)
    try:
        deadline = time.monotonic() + 300
        while not any(file.stat().st_size for file in stage.output.glob("cache/*")):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "no request was answered"
            time.sleep(0.05)
        (name,) = runtime.containers()
        yield process, name
        stage.said, _ = process.communicate(timeout=300)
        stage.status = process.returncode
    finally:
        process.kill()


def test_a_whole_evaluation_with_the_server_in_a_container(runtime, tmp_path):
    stage, serving = contained(tmp_path, runtime)
    with in_the_middle(stage, serving, runtime) as (process, name):
        family = [*psutil.Process(process.pid).children(recursive=True), *runtime.processes(name)]
        keys = {one.environ().get("VLLM_API_KEY") for one in family} - {None}
        words = " ".join(word for one in family for word in one.cmdline())
    assert stage.status == 0, stage.said
    (key,) = keys
    assert len(key) > 20 and key not in words + stage.said
    for file in (file for file in stage.output.rglob("*") if file.is_file()):
        assert key.encode() not in file.read_bytes(), file
    assert not psutil.wait_procs(family, timeout=15)[1] and not runtime.containers()
    assert stage.assessment()["pass"], stage.assessment()
    metadata = stage.metadata
    assert metadata["server"]["command"].startswith(f"{runtime.name} ")
    assert (f"--name {name}" in metadata["server"]["command"]) is (runtime.name == "podman")
    assert metadata["server"]["engine_version"] == "0.32.0"
    assert metadata["accounting"]["addition"]["scored"] == 400
    assert metadata["server"]["image"] == runtime.identity


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_container_does_not_outlive_its_stage(runtime, tmp_path, stop):
    stage, serving = contained(tmp_path, runtime)
    with in_the_middle(stage, serving, runtime) as (process, name):
        family = [*psutil.Process(process.pid).children(recursive=True), *runtime.processes(name)]
        process.send_signal(stop)
    assert stage.status == (75 if stop == signal.SIGTERM else -stop), stage.said
    assert not psutil.wait_procs(family, timeout=20)[1]
    deadline = time.monotonic() + 10
    while runtime.containers():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_container_that_is_killed_is_transient_and_the_run_goes_on(runtime, tmp_path):
    stage, serving = contained(tmp_path, runtime)
    with in_the_middle(stage, serving, runtime) as (_, name):
        runtime.kill(name)
    assert stage.status == 75 and "the server was killed" in stage.said, stage.said
    assert not runtime.containers()
    stage.run(*serving)
    assert stage.status == 0 and stage.assessment()["pass"], stage.said
    assert 0 < stage.metadata["requests"]["addition"]["from_store"] < 400


def test_two_side_by_side_do_not_meet(runtime, tmp_path):
    runs = [contained(tmp_path / name, runtime) for name in ("one", "other")]
    processes = [stage.start(*serving) for stage, serving in runs]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, len(runtime.containers()))
        time.sleep(0.2)
    said = [process.stdout.read() for process in processes]
    assert most == 2 and [process.returncode for process in processes] == [0, 0], said
    for stage, _ in runs:
        assert stage.assessment()["pass"] and stage.metadata["requests"]["addition"]["answered"] == 400
    assert not runtime.containers()


@pytest.mark.parametrize("lacking", ["image", "python", "server"])
def test_a_container_that_cannot_start_names_the_reason(runtime, tmp_path, lacking):
    container, words = {
        "image": ({"image": runtime.nowhere}, runtime.no_image),
        "python": ({"python": "/nowhere/python3"}, "/nowhere/python3: not found"),
        "server": ({"python": "/usr/bin/false"}, "exit status 1"),
    }[lacking]
    stage, serving = contained(tmp_path, runtime, **container)
    stage.run(*serving)
    assert stage.status == 0 and "Traceback" not in stage.said, stage.said
    assert stage.metadata["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"
    assert words in stage.metadata["detail"], stage.metadata["detail"]
    assert not runtime.containers()
