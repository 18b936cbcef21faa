"""A copy of the project with stand-ins for its heavy stages and pages; graph, gates and decisions are the real ones."""

import compileall
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
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
    cpu_seconds: float  # of Snakemake itself, without its imports and jobs
    log: str = ""  # Snakemake's own, of a run

    def jobs(self):
        """How many jobs of each rule a plan or run announced, read from Snakemake's job statistics."""
        lines = iter(self.output.splitlines() + self.log.splitlines())
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


@functools.cache
def warm_server():
    """The process that runs this session's commands; it ends with this one."""
    command = [sys.executable, str(Path(__file__).parent / "warm_server.py")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Project:
    """A copy of the project, or of another copy with all that it has made, in a folder of its own."""

    def __init__(self, folder, origin=None):
        self.folder = folder
        if origin:
            subprocess.run(["cp", "--archive", f"{origin.folder}/.", str(folder)], check=True)
            return
        for name in ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "generated"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        (folder / "slurm").symlink_to("profiles/slurm")
        shutil.copytree(STAND_INS, folder / "scripts", dirs_exist_ok=True)
        defaults = {"suite": "demo", "expected_disagreement_rate": 0.01}
        self.configure(defaults=defaults, releases=[{"model": "tiny-llama", "recipe": "fp8"}])
        self.behave({})

    def behave(self, behaviour):
        """Say what the stand-ins do: {stage: {subject: {...}}}."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def use_real_pages(self):
        """Put the project's own scripts in the place of the stand-ins for the report and the index."""
        for name in ("report.py", "index.py"):
            shutil.copy2(ROOT / "scripts" / name, self.folder / "scripts" / name)

    def configure(self, **changes):
        """Change keys of config/config.yaml."""
        path = self.folder / "config" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    def release_many(self, count):
        """Give the copy that many recipes and a release of each; returns their names."""
        names = [f"r{number:04}" for number in range(count)]
        for name in names:
            text = f"description: Recipe {name}, one of many.\npreset: nvfp4_mlp_only\nkv_cache: fp8\n"
            (self.folder / "config" / "recipes" / f"{name}.yaml").write_text(text)
        self.configure(releases=[{"model": "tiny-llama", "recipe": name} for name in names])
        return names

    def snakemake(self, *arguments, longest_seconds=300):
        """Run snakemake in the copy and wait for it, so long at most."""
        earlier = set((self.folder / ".snakemake" / "log").glob("*.log"))
        with tempfile.NamedTemporaryFile("r") as output:
            command = {"folder": str(self.folder), "arguments": arguments, "environment": dict(os.environ)}
            command |= {"longest_seconds": longest_seconds}
            server = warm_server()
            server.stdin.write(json.dumps(command | {"output": output.name}) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
            assert answer, "the server of snakemake commands has ended; its message stands above"
            status, cpu_seconds = answer.split()
            logs = sorted(set((self.folder / ".snakemake" / "log").glob("*.log")) - earlier)
            return Run(int(status), output.read(), float(cpu_seconds), logs[-1].read_text() if logs else "")

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


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("fresh"))
    compileall.compile_dir(project.folder / "scripts", quiet=1)
    # What a plan leaves: the memory of what each script is made of, without which the first of each copy takes seconds.
    plan = project.snakemake("-n", "release")
    assert plan.status == 0, plan.output
    memory = project.folder / ".snakemake" / "code_digests.json"
    kept = memory.read_bytes()
    shutil.rmtree(memory.parent)
    memory.parent.mkdir()
    memory.write_bytes(kept)
    return project


@pytest.fixture(scope="session")
def equipped_project(tmp_path_factory, fresh_project):
    project = Project(tmp_path_factory.mktemp("equipped"), fresh_project)
    run = project.snakemake("environments", "results/demo/model/model.safetensors")
    assert run.status == 0, run.output
    project.calls()
    return project


@pytest.fixture(scope="session")
def released_project(tmp_path_factory, equipped_project):
    project = Project(tmp_path_factory.mktemp("released"), equipped_project)
    project.configure(releases=TWO_RELEASES)
    run = project.snakemake("release")
    assert run.status == 0, run.output
    project.calls()
    return project


@pytest.fixture
def project(tmp_path, fresh_project):
    """A fresh copy with one release, fp8."""
    return Project(tmp_path, fresh_project)


@pytest.fixture
def equipped(tmp_path, equipped_project):
    """A copy with one release, fp8, that has its environments and the embedded model."""
    return Project(tmp_path, equipped_project)


@pytest.fixture
def released(tmp_path, released_project):
    """A copy whose two releases, fp8 and nvfp4, were accepted."""
    return Project(tmp_path, released_project)
