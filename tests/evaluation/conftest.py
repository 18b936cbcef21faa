"""One real vLLM server for all runs of these tests."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from day0.serving.processes import Children
from day0.serving.server import Server, server_command, server_environment
from evaluate_stage import ROOT, SERVE

MODEL = "results/demo/model"


@pytest.fixture(scope="session")
def project():
    """The project's own environments and embedded model, made where they are not there yet."""
    # Without a lock: other tests may ask for the same, and after `make test` there is nothing to do.
    snakemake = str(Path(sys.executable).parent / "snakemake")
    command = [snakemake, "--nolock", "environments", "results/tiny-llama/source.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT


@pytest.fixture(scope="session")
def backend(project, tmp_path_factory):
    """A real vLLM server with the embedded model: {port, key, log, python}."""
    children = Children()
    log, key = tmp_path_factory.mktemp("backend") / "server.log", secrets.token_hex(8)
    command = server_command(str(SERVE), MODEL, "tiny-llama", {"context_length": 64, "seed": 1234}, {}, True)
    # The stage names the model by the path that its record holds, relative to the root.
    command = ["env", f"--chdir={ROOT}", *command]
    server = Server(children, command, server_environment(os.environ, {}, True, key), log)
    try:
        server.wait(300)
        yield {"port": server.port, "key": key, "log": str(log), "python": str(SERVE)}
    finally:
        children.stop_all()
