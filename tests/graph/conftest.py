"""A copy of the project whose heavy stages are replaced by stand-ins; graph, gates and decisions are the real ones."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
TWO_RELEASES = [{"model": "tiny-llama", "recipe": "fp8"}, {"model": "tiny-llama", "recipe": "nvfp4"}]


@dataclass
class Run:
    """A finished snakemake command."""

    status: int
    output: str

    def jobs(self):
        """How many jobs of each rule a plan or run announced, read from Snakemake's job statistics."""
        lines = iter(self.output.splitlines())
        counts = {}
        for line in lines:
            if line.split() == ["job", "count"]:
                next(lines)
                for row in lines:
                    if not row.strip() or row.startswith("total"):
                        break
                    rule, count = row.split()
                    counts[rule] = int(count)
        return counts


class Project:
    """The copy, in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        (folder / "slurm").symlink_to("profiles/slurm")
        shutil.copytree(STAND_INS, folder / "scripts", dirs_exist_ok=True)
        self.behave({})

    def behave(self, behaviour):
        """Say what the stand-ins do: {stage: {subject: {...}}}."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def configure(self, **changes):
        """Change keys of config/config.yaml."""
        path = self.folder / "config" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def snakemake(self, *arguments):
        """Run snakemake in the copy and wait for it."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        return Run(done.returncode, done.stdout)

    def calls(self):
        """Calls of the stand-ins since the last question, sorted."""
        path = self.folder / "calls.log"
        lines = sorted(path.read_text().splitlines()) if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def read(self, path):
        """An artefact below results/."""
        return json.loads((self.folder / "results" / path).read_text())

    def exists(self, path):
        """Whether an artefact below results/ is there."""
        return (self.folder / "results" / path).exists()


@pytest.fixture
def project(tmp_path):
    """A fresh copy with one release, fp8."""
    return Project(tmp_path)


@pytest.fixture
def released(project):
    """A copy whose two releases, fp8 and nvfp4, were accepted."""
    project.configure(releases=TWO_RELEASES)
    run = project.snakemake("release")
    assert run.status == 0, run.output
    project.calls()
    return project
