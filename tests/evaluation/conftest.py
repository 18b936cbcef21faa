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
from warm_environment import warm_lm_eval, warm_nemo_evaluator

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
def lm_eval(project, tmp_path_factory):
    """A warm interpreter of lm-eval, for runs whose subject is not the harness's process."""
    with warm_lm_eval(tmp_path_factory.mktemp("lm-eval"), ROOT / ".envs") as python:
        yield python


@pytest.fixture(scope="session")
def nemo_evaluator(project, tmp_path_factory):
    """The same of NeMo Evaluator."""
    with warm_nemo_evaluator(tmp_path_factory.mktemp("nemo-evaluator"), ROOT / ".envs") as python:
        yield python


@pytest.fixture
def nemo_backend(backend, nemo_evaluator):
    """The server, and both harnesses."""
    return {**backend, "warm": {**backend["warm"], "nemo-evaluator": nemo_evaluator}}


@pytest.fixture(scope="session")
def backend(lm_eval, tmp_path_factory):
    """A real vLLM server with the embedded model: {port, key, log, python}, and what asks it: {warm}."""
    children = Children()
    log, key = tmp_path_factory.mktemp("backend") / "server.log", secrets.token_hex(8)
    command = server_command(str(SERVE), MODEL, "tiny-llama", {"context_length": 64, "seed": 1234}, {}, True)
    # The stage names the model by the path that its record holds, relative to the root.
    command = ["env", f"--chdir={ROOT}", *command]
    server = Server(children, command, server_environment(os.environ, {}, True, key), log)
    try:
        server.wait(300)
        address = {"port": server.port, "key": key, "log": str(log), "python": str(SERVE)}
        yield {**address, "warm": {"lm-eval": lm_eval}}
    finally:
        children.stop_all()
