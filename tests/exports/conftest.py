"""The exports, made once a session with the quantize environment."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from warm_environment import warm_interpreter, warm_quantize

ROOT = Path(__file__).parents[2]
OF_VLLM = ["vllm.config.model", "vllm.model_executor.model_loader.weight_utils", "vllm.model_executor.models"]
OF_VLLM += ["vllm.platforms", "vllm.transformers_utils.config", "vllm.model_executor.layers.quantization.modelopt"]


@dataclass(frozen=True)
class Exports:
    """The folder of the exports and what became of each combination."""

    folder: Path
    made: dict

    def checkpoint(self, name):
        return self.folder / name / "checkpoint"

    def record(self, name):
        return self.folder / name / "quantization.json"

    def source(self, name):
        return self.folder / "sources" / self.made[name]["source"]


def _quiet(*command):
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.fixture(scope="session")
def quantize(tmp_path_factory):
    """The interpreter of the quantize environment, once it has imported ModelOpt."""
    _quiet(Path(sys.executable).parent / "snakemake", "--nolock", "--quiet", "all", "--", ".envs/quantize.cpu.json")
    with warm_quantize(tmp_path_factory.mktemp("quantize"), ROOT / ".envs") as warm:
        yield warm


@pytest.fixture(scope="session")
def exports(request, tmp_path_factory):
    """All exports; DAY0_EXPORTS names a folder of them that was made before, while one works on the gate."""
    made_before = os.environ.get("DAY0_EXPORTS")
    folder = Path(made_before) if made_before else tmp_path_factory.mktemp("exports") / "all"
    if not made_before:
        _quiet(request.getfixturevalue("quantize"), Path(__file__).parent / "make_exports.py", folder)
    made = json.loads((folder / "exports.json").read_text())
    return Exports(folder, {entry["name"]: entry for entry in made})


@pytest.fixture(scope="session")
def warm_vllm(tmp_path_factory):
    """The interpreter of the serve environment, once it has imported what reads a checkpoint's configuration."""
    python = ROOT / ".envs" / "serve.cpu" / "bin" / "python"
    with warm_interpreter(tmp_path_factory.mktemp("vllm"), python, OF_VLLM) as warm:
        yield warm
