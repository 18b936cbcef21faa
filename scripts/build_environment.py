"""Build the virtual environment of a stage from its lock file with uv.

The environment is built beside its place and renamed into it when complete, and the marker (``--output``) is written
last: an interrupted or failed build leaves nothing that looks finished. The marker holds the lock's sha256 and nothing
that varies between two builds of the same lock, so that a rebuilt environment makes no stage run again.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from day0.base.artefacts import digest_of_file
from day0.base.build_place import check_places
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.folders import unfinished_folder
from day0.records.environment import Environment

PYTHON = "3.11"
PR_SET_PDEATHSIG = 1


def uv_environment(cpu: bool) -> tuple[dict[str, str], list[str]]:
    """Environment variables and options that let uv find a CPU build of torch.

    A wheel folder that pip is configured with is passed on to uv; where there is none, uv's own torch backend finds it.
    """
    environment = dict(os.environ)
    if "UV_FIND_LINKS" not in environment and environment.get("PIP_FIND_LINKS"):
        environment["UV_FIND_LINKS"] = ",".join(environment["PIP_FIND_LINKS"].split())
    return environment, ["--torch-backend", "cpu"] if cpu and "UV_FIND_LINKS" not in environment else []


def end_with_parent() -> None:
    """Have this process killed where its parent is, on Linux: it would write on into a folder that the next removes."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def build(lock: Path, environment: Path) -> None:
    """Install a lock into a new virtual environment, whole or not at all.

    Raises:
        RuntimeError: uv failed; its own message is on standard error.
    """
    variables, options = uv_environment(cpu=environment.name.endswith(".cpu"))
    uv = [sys.executable, "-m", "uv"]
    strict = ["--require-hashes", "--no-deps", *options, "--requirements", str(lock)]
    with unfinished_folder(environment) as unfinished:
        steps = [
            [*uv, "venv", "--quiet", "--clear", "--relocatable", "--python", PYTHON, str(unfinished)],
            [
                *uv,
                "pip",
                "install",
                "--python",
                str(unfinished / "bin" / "python"),
                *strict,
                "--requirements",
                str(lock),
            ],
        ]
        for step in steps:
            if subprocess.run(step, env=variables, preexec_fn=end_with_parent).returncode:
                raise RuntimeError(f"{lock}: the environment could not be built; uv's message is above")
        shutil.rmtree(environment, ignore_errors=True)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(environment)
        except OSError as error:
            raise UnusableInput(
                f"{environment}: found what cannot be replaced ({error.strerror}); remove it, "
                "then run the same command again"
            ) from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", type=Path, required=True, help="lock file, envs/NAME.lock")
    parser.add_argument(
        "--output", type=Path, required=True, help="marker FOLDER/NAME.json; the environment is FOLDER/NAME"
    )
    arguments = parser.parse_args()

    environment = arguments.output.with_suffix("")
    check_places(environment, arguments.output)
    arguments.output.unlink(missing_ok=True)
    try:
        build(arguments.lock, environment)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED_CHECK
    python = subprocess.run(
        [str(environment / "bin" / "python"), "-c", "import platform; print(platform.python_version())"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    Environment(lock_sha256=digest_of_file(arguments.lock), python=python).write(arguments.output)
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
