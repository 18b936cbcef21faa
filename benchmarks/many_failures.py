"""Hundreds of releases with crashes, failed gates and a killed driver: each is decided, as it should be, and once.

Takes the stand-ins of tests/graph in the place of the heavy stages; graph, gates, retries and decisions are the real
ones. A release is one more recipe of the embedded model. One in twenty crashes (``kill -9`` of a stage, once or as
often as a run tries it), one in twenty fails a gate (preflight, quantization, validation, server, samples), one in
twenty loses. The driver is killed at a random moment, once about half of the releases are decided; then the same
command is given until it ends well. No stage may be called oftener than it crashed, but for the jobs that ran when the
driver was killed, and a failed preflight, which each command makes anew. Prints what each command decided and took;
exits 1 where a release has no verdict, another than it should have, or a second one.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "graph")]

from conftest import Project, Run, warm_server  # noqa: E402

EACH = 0.05  # of the releases: crashes, failed gates, losses
AT_ONCE = 8  # outputs at most, of two jobs
COMMANDS = 4  # at most: the one that is killed, two in which what crashes twice fails, and one that ends well
STAGES = ("preflight", "quantize", "evaluate")
FAILURES = (
    ("preflight", "USER_CONFIG_ERROR", "ANOMALOUS"),
    ("quantize", "QUANT_COVERAGE_FAILURE", "INFEASIBLE"),
    ("validate", "MODEL_UNSUPPORTED", "INFEASIBLE"),
    ("evaluate", "DEPLOYMENT_HEALTH_FAILED", "INFEASIBLE"),
    ("evaluate", "SAMPLE_ACCOUNTING_FAILED", "ANOMALOUS"),
)


def subject_of(stage: str, name: str) -> str:
    """How a stand-in calls a candidate."""
    return f"tiny-llama/{name}" if stage == "preflight" else name


def plan(names: list[str], draw: random.Random) -> tuple[dict[str, Any], dict[str, str], Counter[str]]:
    """What the stand-ins do, the decision on each release, and how often each call crashes."""
    behaviour: dict[str, Any] = {"preflight": {}, "quantize": {}, "validate": {}, "evaluate": {}}
    decisions, crashes = dict.fromkeys(names, "ACCEPT"), Counter[str]()
    share = max(1, round(EACH * len(names)))
    chosen = draw.sample(names, 3 * share)
    for number, name in enumerate(chosen[:share]):
        stage, failure, decisions[name] = FAILURES[number % len(FAILURES)]
        behaviour[stage][subject_of(stage, name)] = {"failure_class": failure}
    for name in chosen[share : 2 * share]:
        behaviour["evaluate"][name], decisions[name] = {"scores": {"addition": 0.8}}, "REGRESSION"
    for name in chosen[2 * share :]:
        stage = draw.choice(STAGES)
        behaviour[stage][subject_of(stage, name)] = {"crashes": (times := draw.choice((1, 2)))}
        crashes[f"{stage} {subject_of(stage, name)}"] = times
    return behaviour, decisions, crashes


def verdicts(project: Project) -> dict[str, Path]:
    """The verdict of each release that has one."""
    return {path.parent.name: path for path in project.folder.glob("results/tiny-llama/*/verdict.json")}


def kill_driver(project: Project) -> None:
    """End the process that runs Snakemake, as ``kill -9`` does."""
    processes = psutil.Process(warm_server().pid).children(recursive=True)
    # Those in the project's folder are it and its jobs, which it has begun.
    ours = [process for process in processes if process.cwd() == str(project.folder)]
    min(ours, key=lambda process: process.create_time()).kill()


def running(project: Project) -> set[str]:
    """Outputs of the jobs that ran when the driver was killed, as Snakemake marks them."""
    marks = (path for path in (project.folder / ".snakemake/incomplete").rglob("*") if path.is_file())
    parts = (path.relative_to(project.folder / ".snakemake/incomplete").parts for path in marks)
    return {base64.urlsafe_b64decode("".join(part.lstrip("@") for part in names)).decode() for names in parts}


def run_and_kill(project: Project, after: int, seconds: float) -> Run:
    """Give the command, and kill it so long after so many releases are decided."""
    ended: list[Run] = []
    command = threading.Thread(target=lambda: ended.append(project.snakemake("verdict", longest_seconds=7200)))
    command.start()
    while command.is_alive() and len(verdicts(project)) < after:
        time.sleep(0.1)
    command.join(seconds)
    if command.is_alive():
        kill_driver(project)
    command.join()
    return ended[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time, which is printed")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    draw = random.Random(seed)
    print(f"{arguments.releases} releases, seed {seed}", flush=True)

    with tempfile.TemporaryDirectory(prefix="many-failures-") as name:
        project = Project(Path(name))
        names = project.release_many(arguments.releases)
        behaviour, decisions, crashes = plan(names, draw)
        project.behave(behaviour)
        made = project.snakemake("environments", "results/demo/model/model.safetensors")
        if made.status:
            raise SystemExit(made.output[-3000:])
        project.calls()

        wrong: list[str] = []
        begun = time.monotonic()
        run = run_and_kill(project, draw.randint(len(names) * 4 // 10, len(names) * 6 // 10), draw.uniform(0, 10))
        first = {name: path.stat().st_mtime_ns for name, path in verdicts(project).items()}
        print(f"killed with {len(first)} releases decided, after {time.monotonic() - begun:.0f} s", flush=True)
        if run.status != -9:
            wrong.append(f"the first command ended by itself, with status {run.status}: {run.output[-2000:]}")
        cut = running(project)
        print(f"running then: {', '.join(sorted(cut))}", flush=True)
        if len(cut) > AT_ONCE:
            wrong.append(f"{len(cut)} outputs were being made")
        for number in range(2, COMMANDS + 1):
            run = project.snakemake("verdict", longest_seconds=7200)
            decided = len(verdicts(project))
            print(
                f"command {number}: status {run.status}, {decided} decided, driver {run.cpu_seconds:.1f} CPU s",
                flush=True,
            )
            if run.status == 0:
                break
        else:
            wrong.append(f"still not done after {COMMANDS} commands: {run.output[-2000:]}")

        found = {name: json.loads(path.read_text())["decision"] for name, path in verdicts(project).items()}
        wrong += [
            f"{name}: {found.get(name)}, expected {it}" for name, it in decisions.items() if found.get(name) != it
        ]
        times = {name: path.stat().st_mtime_ns for name, path in verdicts(project).items()}
        may_repeat = {name for name in names if any(f"/{name}/" in path for path in cut)}
        may_repeat |= {name for name in names if subject_of("preflight", name) in behaviour["preflight"]}
        wrong += [f"{one}: decided again" for one in first if times[one] != first[one] and one not in may_repeat]
        calls = Counter(project.calls())
        again = {call: count - 1 - crashes[call] for call, count in calls.items() if count > 1 + crashes[call]}
        wrong += [
            f"{call}: called {count} times too often"
            for call, count in again.items()
            if call.split()[1].removeprefix("tiny-llama/") not in may_repeat
        ]
        print(f"decisions: {dict(Counter(found.values()))}; called again: {sorted(again) or 'none'}")
    print("\n".join(wrong) or "every release is decided, once")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
