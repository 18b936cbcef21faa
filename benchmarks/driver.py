"""What the driver costs: CPU seconds of Snakemake itself to plan, to find nothing to do, and to run many releases.

Takes the stand-ins of tests/graph in the place of the heavy stages; graph, gates and decisions are the real ones. A
release is one more recipe of the embedded model. ``plan`` reads the plan of that many candidates from nothing; ``run``
takes that many releases to their verdicts, and the same command again finds nothing to do. The reference of the session
is Snakemake on a workflow of as many jobs that has nothing of this project. Exits 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "graph")]

from conftest import Project  # noqa: E402

PLAIN = """
rule all:
    input: expand("{n}-12.txt", n=range(COUNT))

rule link:
    input: lambda wildcards: f"{wildcards.n}-{int(wildcards.m) - 1}.txt" if int(wildcards.m) else []
    output: "{n}-{m}.txt"
    shell: "touch {output}"
"""
GOALS = {"plan of 1000": 10.0, "no-op of 100": 4.0, "run of 100": 25.0, "exponent": 1.15}


def cpu_of(folder: Path, *arguments: str) -> float:
    """CPU seconds of a Snakemake command that starts no job, its start and imports included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(name: str, seconds: float, reference: float | None = None) -> bool:
    """Print a figure, and whether it reaches its goal."""
    goal = GOALS.get(name)
    ratio = f", {seconds / reference:.1f} times the reference of {reference:.1f}" if reference else ""
    missed = goal is not None and seconds > goal
    said = "" if goal is None else f" (goal {goal:g}: {'missed' if missed else 'reached'})"
    print(f"{name}: {seconds:.2f}{ratio}{said}", flush=True)
    return not missed


def plan(count: int, folder: Path) -> bool:
    """Plan that many candidates."""
    (folder / f"plan-{count}").mkdir()
    project = Project(folder / f"plan-{count}")
    project.release_many(count)
    plain = folder / f"plain-plan-{count}"
    plain.mkdir()
    (plain / "Snakefile").write_text(PLAIN.replace("COUNT", str(count)))
    reference = cpu_of(plain, "-n")
    cpu_of(project.folder, "-n", "--quiet", "all", "--", "release")  # compiles, and remembers the digests of the code
    return report(f"plan of {count}", cpu_of(project.folder, "-n", "release"), reference)


def run(count: int, folder: Path) -> tuple[bool, float]:
    """Run that many releases, then find nothing to do; the second figure is the driver's seconds of the run."""
    (folder / f"run-{count}").mkdir()
    project = Project(folder / f"run-{count}")
    project.release_many(count)
    for arguments in (["environments", "results/demo/model/model.safetensors"], ["--cores", "2", "release"]):
        done = project.snakemake(*arguments, longest_seconds=7200)
        if done.status:
            raise SystemExit(done.output[-3000:])
    reached = report(f"run of {count}", done.cpu_seconds)
    return report(f"no-op of {count}", cpu_of(project.folder, "release")) and reached, done.cpu_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=int, nargs="*", default=[1000], help="numbers of candidates to plan")
    parser.add_argument("--run", type=int, nargs="*", default=[100, 300], help="numbers of releases to run, rising")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="driver-") as name:
        reached = [plan(count, Path(name)) for count in arguments.plan]
        runs = {count: run(count, Path(name)) for count in arguments.run}
    reached += [good for good, _ in runs.values()]
    if len(runs) > 1:
        first, last = min(runs), max(runs)
        reached.append(report("exponent", math.log(runs[last][1] / runs[first][1]) / math.log(last / first)))
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
