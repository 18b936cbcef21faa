"""The command that runs a server's image."""

import subprocess
import sys
from pathlib import Path

import pytest

from day0.serving.container import container_command, image_identity
from day0.serving.server import GUARD, GUARD_FOLDER, PLUGIN_FOLDER, python_folders

FOLDERS = [Path("/models/m"), Path("/models/m")]


@pytest.mark.parametrize("runtime", ["podman", "docker"])
def test_podman_and_docker(runtime):
    container = {"image": "registry/vllm:1", "runtime": runtime, "arguments": ["--shm-size", "8g"]}
    command, removal = container_command(container, "day0-x", FOLDERS, {"VLLM_API_KEY", "B"}, has_gpu=True)
    assert command[:2] == [runtime, "run"] and command[-1] == "registry/vllm:1"
    assert command[command.index("--network") + 1] == "host" and command.count("/models/m:/models/m:ro") == 1
    assert [command[i + 1] for i, word in enumerate(command) if word == "--env"] == ["B", "VLLM_API_KEY"]
    at_once = ["--time", "0"] if runtime == "podman" else []
    assert (
        removal == [runtime, "rm", "--force", *at_once, "day0-x"] and command[command.index("--name") + 1] == "day0-x"
    )
    assert "--gpus" in command if runtime == "docker" else "nvidia.com/gpu=all" in command


def test_apptainer():
    container = {"image": "vllm.sif", "runtime": "apptainer", "arguments": []}
    command, removal = container_command(container, "day0-x", FOLDERS, {"VLLM_API_KEY"}, has_gpu=True)
    assert command == ["apptainer", "exec", "--nv", "--bind", "/models/m:/models/m:ro", "vllm.sif"] and removal is None
    assert "--nv" not in container_command(container, "x", FOLDERS, set(), has_gpu=False)[0]


@pytest.mark.parametrize("runtime", ["podman", "docker", "apptainer"])
@pytest.mark.parametrize("of_the_image", [None, "/opt/of the image"])
@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_server_in_an_image_finds_the_guard_and_what_the_image_has_on_its_path(runtime, of_the_image, on_cpu):
    """What stands after the image is run here, as the runtime would run it within."""
    container = {"image": "vllm:1", "runtime": runtime, "arguments": []}
    modules = python_folders(on_cpu)
    command, _ = container_command(container, "x", FOLDERS, {"VLLM_API_KEY"}, not on_cpu, modules)
    assert any(f"{GUARD_FOLDER}:{GUARD_FOLDER}:ro" in word for word in command)
    code = f"import sys, {GUARD.rpartition('.')[0]} as guard; print(guard.__file__, sys.path)"
    inside = [*command[command.index("vllm:1") + 1 :], sys.executable, "-c", code, "a 'b'"]
    environment = {"PATH": "/usr/bin:/bin"} | ({"PYTHONPATH": of_the_image} if of_the_image else {})
    found = subprocess.run(inside, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.startswith(str(GUARD_FOLDER)) and (str(PLUGIN_FOLDER) in found) is on_cpu
    assert ("/opt/of the image" in found) is bool(of_the_image)


def test_an_image_of_another_content_is_another_image(tmp_path):
    image = tmp_path / "vllm.sif"
    container = {"image": str(image), "runtime": "apptainer"}
    assert image_identity(container) is None
    image.write_bytes(b"one")
    first = image_identity(container)
    image.write_bytes(b"another")
    assert first is not None and image_identity(container) not in (None, first)
