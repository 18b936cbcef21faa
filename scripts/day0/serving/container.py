"""A server inside a container: the command that runs an image with Apptainer, Podman or Docker."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Names the variables that serving.environment gives a server: the launcher of an image passes them on.
NAMES_VARIABLE = "DAY0_PASSED_ON"


def runtime_error(text: str) -> str | None:
    """The error that a container runtime reports: enroot, also as pyxis quotes it, or Apptainer; else None."""
    found = re.search(r"(?:\[ERROR\]|^FATAL:)\s+(.+)", text, re.MULTILINE)
    return found and found.group(1).strip()


def image_command(runtime: str, file: str | Path) -> str:
    """The command that makes the image file of a stage (``containers``)."""
    how = "apptainer pull" if runtime == "apptainer" else "enroot import --output"
    return f"{how} {file} docker://IMAGE"


def container_command(
    container: Mapping[str, Any],
    name: str,
    folders: Iterable[Path],
    environment: Iterable[str],
    has_gpu: bool,
    modules: Iterable[Path] = (),
) -> tuple[list[str], list[str] | None]:
    """The words before the command that runs inside, and the command that removes the container (None: not needed).

    The container shares the host's network, so that the server is reached on the loopback interface, and its processes
    end with it. Variables are passed by name: their values are on no command line.

    Args:
        container: image, runtime, arguments; see ``ServerContainer`` in day0/plan/config.py.
        name: a name for the container that nothing else has.
        folders: what the server reads, seen at the same place inside.
        environment: names of the variables that it is given.
        modules: folders whose modules its interpreter finds, before those of a PYTHONPATH that the image sets.
    """
    image, extra = container["image"], [str(argument) for argument in container.get("arguments") or []]
    binds = sorted({str(folder.resolve()) for folder in [*folders, *modules]})
    inner: list[str] = []
    if paths := ":".join(str(folder.resolve()) for folder in modules):
        script = f'export PYTHONPATH={shlex.quote(paths)}"${{PYTHONPATH:+:$PYTHONPATH}}"; exec "$0" "$@"'
        inner = ["sh", "-c", script]
    if container["runtime"] == "apptainer":
        mounts = [word for folder in binds for word in ("--bind", f"{folder}:{folder}:ro")]
        return ["apptainer", "exec", *(["--nv"] if has_gpu else []), *mounts, *extra, image, *inner], None
    runtime = container["runtime"]
    mounts = [word for folder in binds for word in ("--volume", f"{folder}:{folder}:ro")]
    variables = [word for variable in sorted(environment) for word in ("--env", variable)]
    gpus = {"podman": ["--device", "nvidia.com/gpu=all"], "docker": ["--gpus", "all"]}[runtime] if has_gpu else []
    command = [runtime, "run", "--rm", "--init", "--name", name, "--network", "host", "--ipc", "host"]
    command += [*gpus, *mounts, *variables, *extra, "--entrypoint", "", image, *inner]
    at_once = ["--time", "0"] if runtime == "podman" else []  # as docker does anyway
    return command, [runtime, "rm", "--force", *at_once, name]


def image_identity(container: Mapping[str, Any]) -> str | None:
    """Distinguishes two contents of one image name: its id, or a file's size and date; None where there is no image.

    An image that the runtime still has to fetch has none, so that no answer of it is taken for another's.
    """
    file = Path(container["image"])
    if file.is_file():
        status = file.stat()
        return f"{status.st_size} bytes of {status.st_mtime_ns}"
    if container["runtime"] == "apptainer":
        return None
    command = [container["runtime"], "image", "inspect", "--format", "{{.Id}}", container["image"]]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer.stdout.strip() or None if answer.returncode == 0 else None
