"""Remake envs/*.lock from envs/*.in with uv: exact versions and hashes, no addresses.

Stage environments are locked for CPython 3.11 on Linux x86-64, the driver, the development tools and
the documentation for every platform.
A lock changes only where its .in changed or ``--upgrade`` is given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from build_environment import uv_environment
from day0.base.cli import run_cli
from day0.suite.harness import HARNESSES

ENVIRONMENTS = Path("envs")
UNIVERSAL = ("workflow", "develop", "docs")
NEVER_INSTALLED = ("example-data",)
HEADER = "# Made by `make locks` from {source}; every file is checked against its hash.\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="environments to lock (default: all)")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that the .in files allow")
    arguments = parser.parse_args()

    names = arguments.names or [
        "workflow",
        "develop",
        "docs",
        "quantize.cpu",
        "quantize.cuda",
        "serve.cpu",
        "serve.cuda",
        "mlflow",
        "example.cpu",
        "example-data",
        *(harness.environment for harness in HARNESSES.values()),
    ]
    for name in names:
        source, lock = ENVIRONMENTS / f"{name}.in", ENVIRONMENTS / f"{name}.lock"
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
        command += ["--python-version", "3.11", "--output-file", str(lock), str(source)]
        command += ["--universal"] if name in UNIVERSAL else ["--python-platform", "x86_64-manylinux_2_28"]
        command += ["--no-deps"] if name in NEVER_INSTALLED else []
        environment = dict(os.environ)
        if name.endswith(".cpu"):
            command += ["--override", str(ENVIRONMENTS / "cpu.overrides")]
            environment, options = uv_environment(cpu=True)
            command += options
        command += ["--upgrade"] if arguments.upgrade else []
        subprocess.run(command, check=True, env=environment)
        lock.write_text(HEADER.format(source=source) + lock.read_text().removeprefix(HEADER.format(source=source)))
        print(f"{lock}: {sum(line[:1].isalnum() for line in lock.read_text().splitlines())} packages")
    return 0


if __name__ == "__main__":
    run_cli(main)
