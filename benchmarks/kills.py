"""kill -9 of every part of a real release at random moments: nothing is left, lost, asked twice or accepted wrongly.

The real tools take the embedded model, quantized to fp8 (ACCEPT) and to nvfp4 (REGRESSION), through a suite of few
questions, once undisturbed. Then each run starts from a copy of what was made up to some stage, a victim is killed at a
random moment of its life, and the same command is given until it has ended well:

    driver       snakemake itself           exporter     scripts/quantize.py
    stage        scripts/evaluate.py        bundler      scripts/bundle.py
    server       vLLM, or its engine        environment  scripts/build_environment.py, or its uv
    harness      lm-eval's process          training     scripts/make_demo_model.py, of few steps

After each: no process and no listening port is left; decisions, scores, checkpoint and files are those of the
undisturbed run; no answer that was stored is asked of the server again, counted by a recorder within the server; what
lies there between the kill and the next command is accepted only if it is whole. Half of the kills of stage, server and
harness fall when the server has given some of a run's answers, all of them with ``--asking``. ``--results`` keeps a
line of JSON for each run. Exits 1 where a check fails.

Needs the built environments and the embedded model (``make environments``), and Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from verify_release import verify  # noqa: E402

COPIED = ("Snakefile", "rules", "scripts", "config", "envs", "profiles", "docs")
SUITE, MODEL = "kills", "tiny-llama"
QUESTIONS = {"addition": 240, "reversal": 240, "sorting": 120}
IN_FLIGHT = 32
AT_ONCE = max(IN_FLIGHT, 16 * len(QUESTIONS))  # each harness may always send one request of 16 prompts
RELEASES = {"fp8": "ACCEPT", "nvfp4": "REGRESSION"}
ENDS_WITHIN_SECONDS = 30.0  # what a killed driver leaves
LOOKS_SECONDS = 0.05
TRAINING_STEPS = 15  # of about 720
MADE = ("results", ".snakemake", ".envs")
PLANNING_SECONDS = 12.0  # of a driver: the plan, and the short stages
LONGEST_SECONDS = 1500.0
TRIES = 4  # of the same command, the killed one included
PR_SET_CHILD_SUBREAPER = 36

SCRIPTS = {
    "evaluate.py": "stage",
    "harness_lm_eval.py": "harness",
    "quantize.py": "exporter",
    "bundle.py": "bundler",
    "build_environment.py": "environment",
    "make_demo_model.py": "training",
}
STAGES = {"evaluate_run", "quantize_candidate", "train_demo_model", "build_environment", "bundle_release"}
MADE_BEFORE = ("checkpoint", "source")  # a decision
SERVER = "vllm.entrypoints.openai.api_server"
VICTIMS = ("driver", "stage", "server", "harness", "exporter", "bundler", "environment", "training")
WITHOUT_SERVERS = {"exporter", "environment", "training"}
ASKING = ("stage", "server", "harness")
ENVIRONMENT = "mlflow"  # the smallest of the project's own


def kind_of(command: Sequence[str], parent: str | None) -> str | None:
    """Which victim a process is, by its command line and its parent's kind."""
    if command and (command[0].startswith("VLLM::") or SERVER in command):
        return "server"
    if parent == "environment":
        return "environment"
    # A shell's command line holds the whole command as one word.
    return next((SCRIPTS[name] for word in command[:5] if (name := word.rpartition("/")[2]) in SCRIPTS), None)


class Family:
    """All processes that this one has started, also those whose parents have ended; their kinds and ports."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._kinds: dict[psutil.Process, str] = {}
        self._lives: dict[psutil.Process, tuple[float, float]] = {}
        self.first: dict[str, float] = {}
        self.ports: set[int] = set()

    def begin(self) -> None:
        """Forget what was seen."""
        self._kinds, self._lives, self.first, self.ports = {}, {}, {}, set()

    def look(self, driver: int | None = None) -> dict[str, list[psutil.Process]]:
        """Living processes by kind ("" where they are no victims); ends zombies other than the driver's."""
        found: dict[str, list[psutil.Process]] = {}
        now = time.monotonic()
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    if process.pid != driver:
                        with suppress(ChildProcessError):
                            os.waitpid(process.pid, os.WNOHANG)
                    continue
                kind = "driver" if process.pid == driver else self._kinds.get(process)
                if kind is None:
                    kind = kind_of(process.cmdline(), self._kinds.get(process.parent()))
            except psutil.Error:
                continue
            if kind:
                self._kinds[process] = kind
                self.first.setdefault(kind, now)
                self._lives[process] = (self._lives.get(process, (now, now))[0], now)
            found.setdefault(kind or "", []).append(process)
        return found

    def spans(self) -> dict[str, float]:
        """Seconds that each kind lived, the longest of its processes."""
        found: dict[str, float] = {}
        for process, (first, last) in self._lives.items():
            kind = self._kinds[process]
            found[kind] = max(found.get(kind, 0.0), last - first)
        return found

    def note_ports(self, processes: Sequence[psutil.Process]) -> None:
        """Keep the ports on which they listen."""
        for process in processes:
            with suppress(psutil.Error):
                connections = process.net_connections("inet")
                self.ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}

    def left(self, within_seconds: float) -> list[str]:
        """Processes that still live after a while, by number and command; they are ended."""
        deadline = time.monotonic() + within_seconds
        while (found := [one for group in self.look().values() for one in group]) and time.monotonic() < deadline:
            time.sleep(LOOKS_SECONDS)
        named = []
        for process in found:
            with suppress(psutil.Error):
                named.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
                process.kill()
        return named

    def open_ports(self) -> list[int]:
        """Which of the ports seen still answer."""
        found = []
        for port in sorted(self.ports):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    found.append(port)
        return found


@dataclass
class Strike:
    """A kill: of whom, and how long after its start, or once how many answers were given."""

    victim: str
    seconds: float = 0.0
    answers: int = 0
    choice: float = 0.0  # among several processes of the victim
    hit: str | None = None  # the process that was killed
    at: float | None = None  # seconds after the command was given
    at_stake: int = 0  # answers of the releases that were stored then


@dataclass
class Command:
    """What became of a command."""

    status: int
    output: str
    seconds: float
    orphans: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)


class Workshop:
    """A copy of the project in which snakemake runs, and copies of what it had made up to some stage."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / "asked.jsonl"
        self.family = Family()
        self.starts = folder.parent / "starts"
        self.starts.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
        (folder / ".envs").mkdir()
        for entry in sorted((ROOT / ".envs").iterdir()):
            if entry.suffix == ".json":
                shutil.copy(entry, folder / ".envs" / entry.name)  # later than its lock, whatever the checkout's times
            elif not entry.name.startswith((".", "serve.")):
                (folder / ".envs" / entry.name).symlink_to(entry)
        self._record_the_server()
        suite = yaml.safe_load((ROOT / "config/suites/demo.yaml").read_text())
        suite["concurrency"] = IN_FLIGHT
        for name, limit in QUESTIONS.items():
            suite["tasks"][name]["limit"] = limit
        (folder / "config/suites" / f"{SUITE}.yaml").write_text(yaml.safe_dump(suite))
        for name in RELEASES:
            self._configure(name, [name])
        self._configure("both", list(RELEASES))

    def _configure(self, name: str, recipes: list[str]) -> None:
        # By drops alone, which so few questions can decide.
        releases = [{"model": MODEL, "recipe": recipe, "criterion": "point"} for recipe in recipes]
        releases = [release | {"early_stopping": False} for release in releases]
        content = {"defaults": {"suite": SUITE, "expected_disagreement_rate": 0.01}, "releases": releases}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def _record_the_server(self) -> None:
        """The serving environment, whose interpreter notes what a server is asked."""
        binaries = self.folder / ".envs" / "serve.cpu" / "bin"
        binaries.mkdir(parents=True)
        recorder, real = ROOT / "benchmarks" / "recorder", ROOT / ".envs/serve.cpu/bin/python"
        (binaries / "python").write_text(
            f'#!/bin/sh\nexport RECORDER_NOTES="{self.notes}" PYTHONPATH="{recorder}:$PYTHONPATH"\nexec "{real}" "$@"\n'
        )
        (binaries / "python").chmod(0o755)

    def keep(self, name: str, spans: dict[str, float]) -> None:
        """Keep what is there, as a start of runs."""
        place = self.starts / f".{name}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for part in (*MADE, self.notes.name):
            if (self.folder / part).exists():
                subprocess.run(["cp", "--archive", str(self.folder / part), str(place / part)], check=True)
        (place / "spans.json").write_text(json.dumps(spans))
        place.rename(self.starts / name)

    def restore(self, name: str, with_notes: bool = False) -> None:
        """Go back to what was kept; the notes of what was asked begin anew."""
        self.notes.unlink(missing_ok=True)
        for part in (*MADE, *([self.notes.name] if with_notes else [])):
            shutil.rmtree(self.folder / part, ignore_errors=True)
            if (self.starts / name / part).exists():
                subprocess.run(["cp", "--archive", str(self.starts / name / part), str(self.folder / part)], check=True)

    def snakemake(self, *arguments: str, strike: Strike | None = None) -> Command:
        """Run snakemake as a user does, kill the victim at its moment, and wait until nothing of it runs."""
        self.family.begin()
        began = time.monotonic()
        command = [sys.executable, "-m", "snakemake", *arguments]
        with tempfile.TemporaryFile("w+") as output:
            driver = subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
            while driver.poll() is None:
                living = self.family.look(driver.pid)
                now = time.monotonic()
                self.family.note_ports(living.get("server", []) + living.get("harness", []))
                if strike and strike.hit is None and (victims := living.get(strike.victim)):
                    is_due = now >= self.family.first[strike.victim] + strike.seconds
                    if is_due and self.answers_given() >= strike.answers:
                        self._kill(victims[int(strike.choice * len(victims))], strike, now - began)
                if now > began + LONGEST_SECONDS:
                    driver.kill()
                time.sleep(LOOKS_SECONDS)
            orphans = self.family.left(ENDS_WITHIN_SECONDS)
            output.seek(0)
            text = output.read()
        seconds = time.monotonic() - began
        return Command(driver.returncode, text, seconds, orphans, self.family.open_ports())

    def answers_given(self) -> int:
        """How many prompts were answered since the notes began."""
        return self.notes.read_bytes().count(b'"answered"') if self.notes.exists() else 0

    def _kill(self, process: psutil.Process, strike: Strike, seconds: float) -> None:
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())[:160]
            process.send_signal(signal.SIGKILL)
            strike.hit, strike.at = f"{process.pid} {name}", round(seconds, 2)
            strike.at_stake = sum(sum(self.stored(release).values()) for release in RELEASES)

    def shorten_training(self, is_short: bool) -> None:
        """Let the embedded model be trained by few steps, to no accuracy; or as it is."""
        script = self.folder / "scripts" / "make_demo_model.py"
        text = (ROOT / "scripts" / "make_demo_model.py").read_text()
        if is_short:
            text = re.sub(r"^(MOST_STEPS, .* =) \d+", rf"\1 {TRAINING_STEPS}", text, flags=re.MULTILINE)
            text = re.sub(r"^REQUIRED_ACCURACY = .*$", "REQUIRED_ACCURACY = 0.0", text, flags=re.MULTILINE)
        script.write_text(text)

    # --- what was made

    def read(self, path: str) -> dict[str, Any]:
        """A JSON artefact of the model; empty where it is not there."""
        file = self.folder / "results" / MODEL / path
        return json.loads(file.read_text()) if file.exists() else {}

    def decision(self, release: str) -> dict[str, Any]:
        """Decision, scores and checkpoint of a release."""
        verdict = self.read(f"{release}/verdict.json")
        return {
            "decision": verdict.get("decision"),
            "failure_class": verdict.get("failure_class"),
            "tasks": verdict.get("tasks"),
            "checkpoint": self.read(f"{release}/quantization.json").get("checkpoint_digest"),
            "source": self.read("source.json").get("source_digest"),
        }

    def files(self) -> set[str]:
        """What lies below results/, and the names in .envs/."""
        below = {str(path.relative_to(self.folder)) for path in (self.folder / "results").rglob("*") if path.is_file()}
        return below | {f".envs/{path.name}" for path in (self.folder / ".envs").iterdir()}

    def bundle_problems(self, release: str) -> list[str]:
        """What is wrong with a bundle; nothing where there is none."""
        bundle = self.folder / "results" / MODEL / release / "release"
        if not bundle.exists():
            return []
        if release not in RELEASES or RELEASES[release] != "ACCEPT":
            return ["a release that was not accepted has a bundle"]
        return list(verify(bundle)[0])

    def wrongly_accepted(self) -> list[str]:
        """Releases that are accepted and should not be, and accepted bundles that are not whole."""
        found = []
        for release, decision in RELEASES.items():
            accepted = self.read(f"{release}/verdict.json").get("decision") == "ACCEPT"
            if accepted and decision != "ACCEPT":
                found.append(f"{release} was accepted")
            found += [f"{release}: {problem}" for problem in self.bundle_problems(release)]
        return found

    def stored(self, candidate: str) -> Counter[str]:
        """How often each answer of a run was stored."""
        folder = self.folder / "results" / MODEL / candidate / SUITE
        counts: Counter[str] = Counter()
        for file in [*folder.glob("answers/*.jsonl"), *folder.glob("cache/*.jsonl")]:
            for line in file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    counts[json.loads(line)["key"]] += 1
        return counts

    def asked(self, candidate: str) -> dict[str, Counter[str]]:
        """How often each prompt of a run was asked of its servers, and answered by them."""
        served = "results/demo/model" if candidate == "baseline" else f"results/{MODEL}/{candidate}/checkpoint"
        counts: dict[str, Counter[str]] = {"asked": Counter(), "answered": Counter()}
        for line in self.notes.read_text().splitlines() if self.notes.exists() else ():
            entry = json.loads(line)
            if entry["served"] == served:
                counts[entry["event"]][entry["key"]] += 1
        return counts


@dataclass
class Reference:
    """The undisturbed run."""

    decisions: dict[str, dict[str, Any]]
    stored: dict[str, set[str]]
    files: set[str]
    environment: set[str]
    model: dict[str, bytes]  # of a short training
    spans: dict[str, float]  # seconds that each victim lives, by kind


def environment_files(root: Path) -> set[str]:
    """Names of the files of the small environment, without what is compiled when it is used."""
    folder = root / ".envs" / ENVIRONMENT
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def model_files(root: Path) -> dict[str, bytes]:
    """The embedded model."""
    return {path.name: path.read_bytes() for path in (root / "results/demo/model").iterdir() if path.is_file()}


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Undisturbed:
    """Makes the release stage by stage, and keeps each as a start of runs; what an earlier call kept is taken up."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self.spans: dict[str, float] = {}

    def make(self, start: str, *targets: str, configuration: str = "both") -> bool:
        """Make targets, and keep the start; returns whether there was something to do."""
        workshop = self._workshop
        if (workshop.starts / start).exists():
            workshop.restore(start, with_notes=True)
            self.spans |= json.loads((workshop.starts / start / "spans.json").read_text())
            return False
        if targets:
            done = workshop.snakemake("--configfile", f"{configuration}.yaml", "--", *targets)
            assert done.status == 0 and not done.orphans, done.output[-8000:] + str(done.orphans)
            self.spans |= workshop.family.spans()
            say(f"undisturbed: {targets[-1]} in {done.seconds:.0f} s")
        workshop.keep(start, self.spans)
        return True


def prepare(workshop: Workshop, victims: set[str]) -> Reference:
    """Make what the runs of these victims need, undisturbed; keeps their starts."""
    undisturbed, folder = Undisturbed(workshop), workshop.folder
    for name in (ENVIRONMENT, f"{ENVIRONMENT}.json"):
        (folder / ".envs" / name).unlink()
    undisturbed.make("environment", f".envs/{ENVIRONMENT}.json")
    shutil.rmtree(folder / ".envs" / ENVIRONMENT)
    (folder / ".envs" / f"{ENVIRONMENT}.json").unlink()
    undisturbed.make("nothing")
    shutil.copytree(ROOT / "results/demo/data", folder / "results/demo/data")
    undisturbed.make("data")
    # Made after its data and its environment.
    shutil.copytree(ROOT / "results/demo/model", folder / "results/demo/model", copy_function=shutil.copy)
    undisturbed.make("source", f"results/{MODEL}/source.json")
    undisturbed.make("quantized", *(f"results/{MODEL}/{recipe}/validation.ok" for recipe in RELEASES))
    stored = {}
    if victims - WITHOUT_SERVERS:
        undisturbed.make("baseline", f"results/{MODEL}/baseline/{SUITE}/run.ok")
        undisturbed.make("judged", "verdict")
        undisturbed.make("released", "release", configuration="fp8")
        stored = check_undisturbed(workshop)
    decisions, files = {release: workshop.decision(release) for release in RELEASES}, workshop.files()
    if "training" in victims:
        workshop.restore("data")
        workshop.shorten_training(True)
        undisturbed.make("trained", "results/demo/model/model.safetensors")
        workshop.shorten_training(False)
    return Reference(decisions, stored, files, environment_files(ROOT), model_files(folder), undisturbed.spans)


def check_undisturbed(workshop: Workshop) -> dict[str, set[str]]:
    """Hold what was made against what it should be, so that no check of the runs is about nothing.

    Returns:
        Keys of the answers of each run, each of which was asked and stored once.
    """
    for release, decision in RELEASES.items():
        made = workshop.decision(release)
        assert made["decision"] == decision, (release, made)
    assert not workshop.wrongly_accepted(), workshop.wrongly_accepted()
    stored = {}
    for candidate in ("baseline", *RELEASES):
        counts, asked = workshop.stored(candidate), workshop.asked(candidate)
        assert counts == asked["asked"] == asked["answered"] and set(counts.values()) == {1}, candidate
        stored[candidate] = set(counts)
    assert len(stored["baseline"]) == QUESTIONS["addition"] + QUESTIONS["reversal"] + 4 * QUESTIONS["sorting"]
    return stored


@dataclass
class Plan:
    """Where a run starts and what is asked for."""

    start: str
    release: str
    target: str


def plan_of(victim: str, dice: random.Random) -> Plan:
    """Where a run with this victim starts, and what it makes; what follows from the same files is the same."""
    release = dice.choice(list(RELEASES))
    quantized = f"results/{MODEL}/{release}/validation.ok"
    if victim == "environment":
        return Plan("nothing", "", f".envs/{ENVIRONMENT}.json")
    if victim == "training":
        return Plan("data", "", "results/demo/model/model.safetensors")
    if victim == "bundler":
        return Plan("judged", "fp8", "release")
    if victim == "exporter":
        return Plan("source", release, quantized)
    if victim == "driver":
        return dice.choice(
            [
                Plan("source", release, quantized),
                Plan("baseline", release, "verdict"),
                Plan("baseline", "fp8", "release"),
                Plan("judged", "fp8", "release"),
            ]
        )
    return Plan("baseline", release, "verdict")


def strike_of(victim: str, plan: Plan, reference: Reference, dice: random.Random, asking: bool) -> Strike:
    """A random moment of the victim's life; with ``asking`` one when some answers, and not all, are there."""
    spans = reference.spans
    if victim == "driver":
        is_decided = plan.target in ("verdict", "release")
        runs = is_decided * {"source": 2, "baseline": 1}.get(plan.start, 0)
        exports = plan.start == "source"
        length = PLANNING_SECONDS + runs * spans["stage"] + exports * spans["exporter"]
        return Strike(victim, dice.uniform(0, 0.95 * length))
    if victim in ASKING and (asking or dice.random() < 0.5):
        answers = dice.uniform(0.02, 0.9) * len(reference.stored[plan.release])
        return Strike(victim, answers=math.ceil(answers), choice=dice.random())
    return Strike(victim, dice.uniform(0, 0.9 * spans[victim]), choice=dice.random())


def judge(workshop: Workshop, reference: Reference, plan: Plan, victim: str) -> tuple[list[str], int]:
    """What is not as in the undisturbed run, and how many prompts were asked again for want of a stored answer."""
    if victim == "environment":
        there = environment_files(workshop.folder)
        problems = (
            [] if there == reference.environment else [f"environment: {sorted(there ^ reference.environment)[:5]}"]
        )
        names = {path.name for path in (workshop.folder / ".envs").iterdir()}
        return problems + [f"left: {name}" for name in sorted(names) if name.startswith(".")], 0
    if victim == "training":
        model, left = (
            model_files(workshop.folder),
            sorted(path.name for path in (workshop.folder / "results/demo").iterdir()),
        )
        changed = [name for name in sorted({*model, *reference.model}) if model.get(name) != reference.model.get(name)]
        problems = [f"the model is another: {changed}"] if changed else []
        return problems + [f"left: {name}" for name in left if name.startswith(".")], 0
    problems = [f"wrong ACCEPT: {found}" for found in workshop.wrongly_accepted()]
    is_decided = plan.target in ("verdict", "release")
    decision, expected = workshop.decision(plan.release), reference.decisions[plan.release]
    if wrong := {key for key in expected if decision[key] != expected[key] and (is_decided or key in MADE_BEFORE)}:
        problems.append(f"another decision, in {sorted(wrong)}: {decision}, undisturbed {expected}")
    if plan.target == "release" and not (workshop.folder / f"results/{MODEL}/fp8/release/SHA256SUMS").exists():
        problems.append("no bundle")
    if more := sorted(workshop.files() - reference.files):
        problems.append(f"left: {more}")
    again = 0
    for candidate in ("baseline", plan.release) if is_decided else ():
        stored, asked = workshop.stored(candidate), workshop.asked(candidate)
        if lost := reference.stored[candidate] - set(stored):
            problems.append(f"lost answers of {candidate}: {len(lost)}")
        if twice := [key for key, count in stored.items() if count > 1]:
            problems.append(f"asked twice of {candidate}: {len(twice)}")
        repeated = sum(count - 1 for count in asked["asked"].values() if count > 1)
        if repeated > AT_ONCE:
            problems.append(f"asked again of {candidate}: {repeated}, more than the {AT_ONCE} in flight")
        again += repeated
    return problems, again


def run_one(
    workshop: Workshop, reference: Reference, victim: str, dice: random.Random, asking: bool = False
) -> dict[str, Any]:
    """One kill and what followed; ``hit`` is None where the victim had ended before its moment."""
    plan = plan_of(victim, dice)
    strike = strike_of(victim, plan, reference, dice, asking)
    workshop.restore(plan.start)
    workshop.shorten_training(victim == "training")
    arguments = ["--configfile", f"{plan.release or 'both'}.yaml", "--", plan.target]
    began = time.monotonic()
    commands = [workshop.snakemake(*arguments, strike=strike)]
    facts = {"victim": victim, "start": plan.start, "release": plan.release, "answers_given": strike.answers}
    facts |= {"moment": round(strike.seconds, 2), "at": strike.at, "hit": strike.hit}
    if strike.hit is None:
        return facts | {"problems": []}
    problems = [f"wrong ACCEPT after the kill: {found}" for found in workshop.wrongly_accepted()]
    while commands[-1].status and len(commands) < TRIES:
        commands.append(workshop.snakemake(*arguments))
    if commands[-1].status:
        problems.append(f"the same command still fails: {commands[-1].output[-3000:]}")
    for number, command in enumerate(commands):
        problems += [f"orphan after command {number + 1}: {orphan}" for orphan in command.orphans]
        problems += [f"port {port} still listens after command {number + 1}" for port in command.ports]
    settled = workshop.snakemake("-n", *arguments)
    planned = set(re.findall(r"^(\w+) +\d+$", settled.output, re.MULTILINE)) & STAGES
    if settled.status or planned:
        problems.append(f"the same command would make again: {sorted(planned)} (status {settled.status})")
    found, asked_again = judge(workshop, reference, plan, victim)
    facts |= {
        "statuses": [command.status for command in commands],
        "asked_again": asked_again,
        "at_stake": strike.at_stake,
    }
    return facts | {"seconds": round(time.monotonic() - began), "problems": problems + found}


def runs_of(arguments: argparse.Namespace) -> Iterator[str]:
    """The victims, in turn."""
    if arguments.victims:
        yield from arguments.victims
        return
    for number in range(arguments.runs):
        yield VICTIMS[number % len(VICTIMS)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=32, help="kills, the victims in turn (default: %(default)s)")
    parser.add_argument("--victims", nargs="*", choices=VICTIMS, help="the victims by name, one for each run, instead")
    parser.add_argument("--asking", action="store_true", help="kill stage, server and harness only while they ask")
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: drawn, and printed")
    parser.add_argument(
        "--folder", type=Path, help="where to work, and take up what was prepared there; default: a temporary folder"
    )
    parser.add_argument("--results", type=Path, help="file that gets a line of JSON for each run")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    say(f"seed {seed}")
    dice = random.Random(seed)
    results = []
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = arguments.folder.resolve() if arguments.folder else Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        workshop = Workshop(folder / "project")
        victims = list(runs_of(arguments))
        reference = prepare(workshop, set(victims))
        say(f"lives in seconds: { ({kind: round(span, 1) for kind, span in reference.spans.items()}) }")
        for victim in victims:
            for _ in range(3):  # one that has ended before its moment is drawn anew
                facts = run_one(workshop, reference, victim, dice, arguments.asking)
                if facts["hit"]:
                    break
            results.append(facts)
            say(json.dumps(facts))
            if arguments.results:
                with arguments.results.open("a") as stream:
                    stream.write(json.dumps({"seed": seed, **facts}) + "\n")
    hits = [facts for facts in results if facts["hit"]]
    handled = [facts for facts in hits if not facts["problems"]]

    def count(word: str) -> int:
        return sum(word in problem for facts in hits for problem in facts["problems"])

    say(
        f"tried {len(hits)}, handled {len(handled)}, wrong ACCEPT {count('wrong ACCEPT')}, lost answers "
        f"{count('lost answers')}, asked twice {count('asked twice')}, orphans {count('orphan')}, "
        f"ports {count('port ')}; asked again, as no answer was stored: {sum(f['asked_again'] for f in hits)}"
    )
    return int(len(handled) < len(results))


if __name__ == "__main__":
    sys.exit(main())
