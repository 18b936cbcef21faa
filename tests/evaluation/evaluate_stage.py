"""The evaluate stage as a command, run in a folder of its own against a proxy before a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from day0.base.artefacts import read_json
from day0.decision.assess_run import evaluate_run, read_run
from day0.suite.suites import read_suite

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
SERVE, HARNESS = ROOT / ".envs/serve.cpu/bin/python", ROOT / ".envs/lm-eval/bin/python"
NEMO_EVALUATOR = ROOT / ".envs/nemo-evaluator/bin/python"


class Stage:
    """The evaluate stage, run in a folder of its own."""

    def __init__(self, folder, backend=None, fault=None, suite=None, tasks=("addition",), limit=48):
        self.folder, self.output, self.notes = folder, folder / "run", folder / "asked.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.suite = folder / "demo.yaml"
        content = yaml.safe_load((ROOT / "config/suites/demo.yaml").read_text())
        content["tasks"] = {name: content["tasks"][name] | {"limit": limit} for name in tasks}
        for name, settings in (suite or {}).pop("tasks", {}).items():
            content["tasks"][name] |= settings
        self.suite.write_text(yaml.safe_dump(content | (suite or {})))
        self.environment = dict(os.environ, NOTES=str(self.notes), FAULT=json.dumps(fault or {}))
        self.python, self.warm = str(SERVE), {}
        if backend:
            backend = dict(backend)
            self.warm = backend.pop("warm")
            self.environment["BACKEND"] = json.dumps(backend)
            self.python = str(folder / "python")
            Path(self.python).write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "proxy.py"} "$@"\n')
            Path(self.python).chmod(0o755)

    def strike(self, **fault):
        """Another fault for the next run."""
        self.environment["FAULT"] = json.dumps(fault)

    def start(self, *arguments, record="results/tiny-llama/source.json", candidate="baseline", warm=()):
        """Start the stage's command; ``warm`` names interpreters of harnesses that are not the environments' own."""
        command = [sys.executable, "scripts/evaluate.py", "--record", record, "--suite", str(self.suite)]
        command += ["--serve-python", self.python, "--harness-python"]
        pythons = {"lm-eval": HARNESS, "nemo-evaluator": NEMO_EVALUATOR, **dict(warm)}
        command += [f"{harness}={python}" for harness, python in pythons.items()]
        command += ["--model", "tiny-llama", "--candidate", candidate, "--output-dir", str(self.output), *arguments]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, **options):
        """Run the stage to its end, by warm starts of its harnesses; keeps ``status`` and ``said``."""
        process = self.start(*arguments, warm=self.warm, **options)
        self.said, _ = process.communicate(timeout=300)
        self.status = process.returncode
        return self

    @property
    def metadata(self):
        return yaml.safe_load((self.output / "results.yml").read_text())["metadata"]

    @property
    def attempts(self):
        return read_json(self.output / "attempts.json")["attempts"]

    def assessment(self):
        """What the gate says of the run."""
        summary, _ = read_run(self.output, read_suite(self.suite))
        return evaluate_run(summary).as_plain()

    def asked(self):
        """Prompts that reached the server since the last question, sorted."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        self.notes.unlink(missing_ok=True)
        return sorted(lines)
