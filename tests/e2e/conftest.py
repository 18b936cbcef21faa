"""One workspace for all end-to-end tests: a copy of the project with real environments and a real trained model."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from warm_environment import warm_lm_eval, warm_nemo_evaluator, warm_quantize

ROOT = Path(__file__).parents[2]
LOAD = {"requests": 16, "input_tokens": 24, "output_tokens": 16, "concurrency": 4, "warmup": 4, "repeats": 3}
COPIED = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs")


WARM = {"lm-eval": warm_lm_eval, "nemo-evaluator": warm_nemo_evaluator, "quantize.cpu": warm_quantize}


class Workspace:
    """A copy of the project in which snakemake runs."""

    def __init__(self, folder):
        self.folder = folder

    def start_warm(self, environment, python):
        """Let stages start that interpreter in the place of an environment's own."""
        link = self.folder / ".envs" / environment
        link.unlink()
        (link / "bin").mkdir(parents=True)
        (link / "bin" / "python").symlink_to(python)

    def snakemake(self, *arguments):
        """Run snakemake as a user does, from the root; returns (status, output)."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / "snakemake"), *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )
        return done.returncode, done.stdout

    def read(self, path):
        """A JSON artefact below results/."""
        return json.loads((self.folder / "results" / path).read_text())

    def path(self, path):
        """A path below results/."""
        return self.folder / "results" / path


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """The workspace after the default release, taken to its bundle with the real tools.

    The environments and the embedded model are the project's own: made in its root where they are not there yet. After
    this release, harnesses and quantization begin by warm starts.
    """
    prepared = Workspace(ROOT)
    # Without a lock: other tests may ask for the same, and after `make test` there is nothing to do.
    status, output = prepared.snakemake("--nolock", "environments", "results/demo/model/model.safetensors")
    assert status == 0, output
    folder = tmp_path_factory.mktemp("workspace")
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, folder / name)
    (folder / ".envs").mkdir()
    for entry in (ROOT / ".envs").iterdir():
        # A link's own time would be that of an input that has changed.
        place = folder / ".envs" / entry.name
        shutil.copy2(entry, place) if entry.is_file() else place.symlink_to(entry)
    shutil.copytree(ROOT / "results" / "demo", folder / "results" / "demo")
    # Every evaluation is measured, so that no test starts a server for the sake of speed alone.
    path = folder / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["models"]["tiny-llama"]["speed"] = LOAD
    path.write_text(yaml.safe_dump(config))
    made = Workspace(folder)
    status, output = made.snakemake("release")
    assert status == 0, output[-20000:]
    made.output = output
    with contextlib.ExitStack() as stack:
        for name, warm in WARM.items():
            made.start_warm(name, stack.enter_context(warm(tmp_path_factory.mktemp(name), ROOT / ".envs")))
        yield made
