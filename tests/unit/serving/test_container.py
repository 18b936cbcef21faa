"""The command that runs a server's image."""

from pathlib import Path

import pytest

from day0.serving.container import container_command, image_identity

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


def test_an_image_of_another_content_is_another_image(tmp_path):
    image = tmp_path / "vllm.sif"
    container = {"image": str(image), "runtime": "apptainer"}
    assert image_identity(container) is None
    image.write_bytes(b"one")
    first = image_identity(container)
    image.write_bytes(b"another")
    assert first is not None and image_identity(container) not in (None, first)
