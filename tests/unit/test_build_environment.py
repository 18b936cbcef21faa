"""An environment is there whole, with the digest of its lock, or it is not there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build_environment.py"


def command(lock, marker):
    return [sys.executable, str(SCRIPT), "--lock", str(lock), "--output", str(marker)]


def build(lock, marker):
    return subprocess.run(command(lock, marker), capture_output=True, text=True)


@pytest.fixture
def empty_lock(tmp_path):
    lock = tmp_path / "nothing.lock"
    lock.write_text("# no packages\n")
    return lock


def test_a_built_environment_has_a_python_and_a_marker_that_never_varies(tmp_path, empty_lock):
    marker = tmp_path / "envs" / "stage.cpu.json"
    assert build(empty_lock, marker).returncode == 0
    first = marker.read_bytes()
    python = tmp_path / "envs" / "stage.cpu" / "bin" / "python"
    assert subprocess.run([str(python), "-c", "pass"]).returncode == 0
    assert build(empty_lock, marker).returncode == 0
    assert marker.read_bytes() == first
    empty_lock.write_text("# another text\n")
    assert build(empty_lock, marker).returncode == 0
    assert json.loads(marker.read_text())["lock_sha256"] != json.loads(first)["lock_sha256"]


def test_a_failed_build_leaves_neither_environment_nor_marker(tmp_path, empty_lock):
    marker = tmp_path / "envs" / "stage.json"
    assert build(empty_lock, marker).returncode == 0
    broken = tmp_path / "broken.lock"
    broken.write_text("no-such-package-here==1.0 --hash=sha256:" + "0" * 64 + "\n")
    environment = {**os.environ, "UV_OFFLINE": "1"}
    done = subprocess.run(command(broken, marker), capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "could not be built" in done.stderr and "Traceback" not in done.stderr
    assert not marker.exists()
    assert not list((tmp_path / "envs").glob(".stage.unfinished-*"))


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_quantizing_installs_nothing_that_modelopt_imports_for_others(variant):
    """Trainers, adapters and image models: ModelOpt imports them wherever they are, and no stage uses them."""
    lock = (SCRIPT.parents[1] / "envs" / f"quantize.{variant}.lock").read_text()
    installed = {line.partition("==")[0] for line in lock.splitlines() if "==" in line}
    assert "nvidia-modelopt" in installed and not installed & {"deepspeed", "diffusers", "peft"}


def lay(kind, place, elsewhere):
    """Something that is no environment, where one is to be built."""
    if kind == "link to a folder":
        (elsewhere / "bin").mkdir(parents=True)
        place.symlink_to(elsewhere)
    elif kind == "dangling link":
        place.symlink_to(elsewhere)
    elif kind == "file":
        place.write_text("mine")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
        (place / "mine").touch()


@pytest.mark.parametrize("script", ["build_environment.py", "wrap_image.py"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("stage", kind) for kind in ("link to a folder", "dangling link", "file", "pipe")]
    + [("stage.json", kind) for kind in ("link to a folder", "dangling link", "folder")]
    + [("", "file"), ("", "dangling link")],
)
def test_what_lies_where_an_environment_is_built_is_named_and_kept(tmp_path, empty_lock, script, name, kind):
    envs = tmp_path / "envs"
    if name:
        envs.mkdir()
    place = envs / name if name else envs
    lay(kind, place, tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    what = ["--lock", empty_lock] if script.startswith("build") else ["--runtime", "enroot", "--image", empty_lock]
    done = subprocess.run(
        [sys.executable, SCRIPT.with_name(script), *what, "--output", envs / "stage.json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{place}: " in done.stderr and "expected" in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_killed_build_leaves_no_marker(tmp_path, empty_lock):
    marker = tmp_path / "envs" / "stage.json"
    assert build(empty_lock, marker).returncode == 0
    running = subprocess.Popen(command(empty_lock, marker), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while marker.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not marker.exists()
    assert build(empty_lock, marker).returncode == 0 and marker.exists()


def is_running(process):
    """Whether a process that no parent here has waited for still runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_a_killed_build_has_started_ends_with_it(tmp_path, empty_lock):
    """It wrote on into a folder that the next build had removed."""
    told = tmp_path / "process"
    (tmp_path / "uv.py").write_text(
        f"import os, signal\nopen({str(told)!r} + '~', 'w').write(str(os.getpid()))\n"
        f"os.rename({str(told)!r} + '~', {str(told)!r})\nsignal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(command(empty_lock, tmp_path / "envs" / "stage.json"), env=environment) as running:
        deadline = time.monotonic() + 60
        while not told.exists():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        running.kill()
    process = int(told.read_text())
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = is_running(process)
    if left:
        os.kill(process, signal.SIGKILL)
    assert not left
