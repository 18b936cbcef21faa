"""The evaluate stage: a server, its proof, the harnesses that ask the suite's tasks, and the run that is written."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of, digest_of_file
from day0.base.cli import UnusableInput
from day0.base.gpus import reserve_gpus
from day0.base.terminal import say, tell
from day0.evaluation.device import name_device
from day0.evaluation.early_stopping import cut_to
from day0.evaluation.harness_process import HarnessProcess, harness_environment
from day0.evaluation.kept_answers import ANSWERS, CACHE, keep, take_up
from day0.evaluation.proof import Proof
from day0.evaluation.request import Request
from day0.evaluation.run_folder import close_attempt, open_attempt, write_run
from day0.evaluation.run_logs import SERVER_LOG
from day0.evaluation.speed import SpeedMeasurement
from day0.records.attempts import AttemptStatus, EvaluationAttempt
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import FailureClass
from day0.records.part import Part
from day0.records.results import Canary, Incident, RunIdentity, ServerFacts, Timing
from day0.records.speed import Speed
from day0.serving.container import container_command
from day0.serving.engine_log import loaded_facts
from day0.serving.multinode import head_command, host_address, job_id, worker_commands
from day0.serving.ports import free_port
from day0.serving.processes import Children, Transient
from day0.serving.server import (
    DeploymentFailed,
    Server,
    new_key,
    python_folders,
    server_command,
    server_environment,
)
from day0.suite.documents import asked_documents
from day0.suite.harness import HARNESSES
from day0.suite.suites import effective

SCRIPTS = Path(__file__).resolve().parents[2]
TRANSPORT = "harness_transport.py"
PROGRESS_SECONDS = 5.0
# Settings of a task that its answers depend on.
ASKED_OF_A_TASK = ("harness", "task", "num_fewshot", "parameters", "runs_generated_code")
# Of the walltime, what is left for stopping and writing.
WALLTIME_MARGIN, WALLTIME_MARGIN_SECONDS = 0.1, 180.0

Outcomes = dict[str, dict[str, Any] | None]


class WalltimeReached(Transient):
    """The job's time is up; its answers are stored."""


class Evaluation:
    """One run of the stage, or one shard of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.recorded = request.checkpoint.recorded_files()
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
        self.outcomes: Outcomes = {}
        self.canary: dict[str, Any] | None = None
        self.identity = ""
        self.early_stop: EarlyStop | None = None
        self.speed: Speed | None = None

    @property
    def run_identity(self) -> RunIdentity:
        """Which run this is, for its records."""
        return RunIdentity(
            model=self.request.model,
            candidate=self.request.candidate,
            suite=self.request.suite_file.stem,
            checkpoint_digest=self.request.checkpoint.digest,
        )

    def run(self) -> None:
        """Evaluate and write the results.

        Raises:
            UnusableInput: the checkpoint is not the one of its record.
            Transient: the run was stopped by something that a retry may cure; nothing but logs and cache is written.
        """
        request = self.request
        if not request.on_cpu:
            reserve_gpus(request.gpus_of_node, say)
            self.started = time.monotonic()  # the walltime is not for waiting
        self.recorded.begin()
        asked: list[Any] = [request.what_answers_depend_on, request.suite, request.shard]
        # Another load is another run, which takes up the answers that are kept: only the speed is measured anew.
        self.identity = digest_of([*asked, request.load.as_plain()] if request.load is not None else asked)
        try:
            (request.output / "logs").mkdir(parents=True, exist_ok=True)
            attempts = open_attempt(request.output, self.identity, datetime.now(UTC).isoformat(timespec="seconds"))
            if take_up(request.output, self.identity, map(self._store, request.tasks)):
                say("answers of an earlier run are taken up")
        except OSError as error:
            raise Transient(f"{request.output}: {error.strerror or error}") from error

        def close(status: AttemptStatus, detail: str | None) -> None:
            seconds = round(time.monotonic() - self.started, 2)
            close_attempt(request.output, attempts, status, detail, seconds)

        try:
            failure = self._serve_and_ask()
            self.timing["total_seconds"] = round(time.monotonic() - self.started, 2)
            close("FAILED" if failure else "ANSWERED", failure and failure[1])
            self._write(failure, attempts.attempts)
        except UnusableInput as error:
            close("STOPPED", str(error))
            raise
        except (Transient, OSError) as error:
            try:
                close("TIMEOUT" if isinstance(error, WalltimeReached) else "STOPPED", str(error))
            except OSError as full:
                tell(f"{request.output}: {full.strerror or full}", sys.stderr)
            if isinstance(error, Transient):
                raise
            raise Transient(f"{error.filename or request.output}: {error.strerror or error}") from error

    def _serve_and_ask(self) -> tuple[FailureClass, str] | None:
        """Fill in the outcomes; returns the failure of the deployment where there is one."""
        children = Children()
        try:
            with children.scratch_folder() as scratch:
                try:
                    server = self._start_server(children)
                    self._ask(children, server, scratch)
                    self._measure_speed(children, server, scratch)
                    return None
                except DeploymentFailed as error:
                    self.recorded.finish()
                    say(f"{FailureClass.DEPLOYMENT_HEALTH_FAILED}: {error}")
                    return FailureClass.DEPLOYMENT_HEALTH_FAILED, str(error)
                finally:
                    stopping = time.monotonic()
                    children.stop_all()
                    self.timing["stop_seconds"] = round(time.monotonic() - stopping, 2)
        finally:
            self.recorded.stop()
            children.stop_all()

    def _start_server(self, children: Children) -> Server:
        """Start the server's process; the harnesses load while it gets ready."""
        request, serving = self.request, self.request.serving
        folder = request.checkpoint.folder
        container = serving.get("container")
        environment = server_environment(os.environ, serving, request.on_cpu, self.key)
        served = str(folder.resolve()) if container else str(folder)
        python, port = request.serve.python, 0
        prefix: list[str] = []
        removal: list[str] | None = None
        if container:
            folders = [folder, *({path.resolve().parent for path in folder.iterdir()})]
            own = {*(serving.get("environment") or {}), "VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"}
            own |= {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & os.environ.keys()
            if request.on_cpu:
                own |= environment.keys() - os.environ.keys() - {"PYTHONPATH"} | {"OMP_NUM_THREADS"}
            name = f"day0-{secrets.token_hex(6)}"
            prefix, removal = container_command(
                container, name, folders, own, not request.on_cpu, python_folders(request.on_cpu)
            )
            if container["runtime"] == "apptainer":  # by these names they take precedence over the image's own
                environment |= {f"APPTAINERENV_{name}": environment[name] for name in own & environment.keys()}
            python, port = container["python"], free_port()
        command = prefix + server_command(python, served, request.model, request.suite, serving, request.on_cpu, port)
        workers: list[list[str]] = []
        if request.nodes > 1:
            command = head_command(command, request.nodes, host_address(), free_port())
            workers = worker_commands(command, request.nodes, job_id() or "", request.gpus_of_node)
            for worker in workers:
                say(f"on another node: {shlex.join(worker)}")
        log = request.output / "logs" / SERVER_LOG
        self.server = Server(
            children, command, environment, log, port or None, removal, workers, is_proven_image=not container
        )
        device = name_device(request.on_cpu)
        self.server_facts = {
            "engine": request.engine,
            "engine_version": request.engine_version,
            "served": served,
            "image": request.image,
            "device_name": device,
            "gpu": None if request.on_cpu else device,
            "chat_template_digest": request.chat_template_digest,
            "max_model_len": request.max_model_len,
            "options_digest": digest_of([serving.get("extra_arguments") or [], serving.get("environment") or {}]),
            "command": shlex.join(command),
        }
        say(f"{request.model} ({request.candidate}): {request.engine} {request.engine_version} starts")
        return self.server

    def _prove(self, server: Server) -> None:
        """Wait for the server, prove what it serves, and judge its first answers.

        Raises:
            UnusableInput: what it loaded is not what the record says.
            DeploymentFailed: it serves something else, does not answer, or answers like a broken model.
        """
        began = time.monotonic()
        server.wait(float(self.request.serving.get("startup_timeout_seconds") or 1800), self._check_walltime)
        self.recorded.finish()
        self.timing["server_start_seconds"] = round(time.monotonic() - began, 2)
        say(f"server answers after {self.timing['server_start_seconds']} s")
        began = time.monotonic()
        proof = Proof(self.request, server, self.server_facts["served"])
        try:
            proof.make()
        finally:
            self.server_facts |= proof.facts
            self.canary = proof.canary
        self.timing["canary_seconds"] = round(time.monotonic() - began, 2)

    def _store(self, name: str) -> str:
        """Name of the store of a task's answers, which holds all that an answer depends on besides its request."""
        suite, task = self.request.suite, self.request.suite["tasks"][name]
        asked = {
            **self.request.what_answers_depend_on,
            "task": {key: task[key] for key in ASKED_OF_A_TASK},
            **_how_asked(suite, task),
            "seed": suite["seed"],
            "judges": [suite["judges"][task[role]] for role in ("judge", "simulator") if task[role]],
            "code": [digest_of_file(SCRIPTS / file) for file in (HARNESSES[task["harness"]].script, TRANSPORT)],
        }
        return f"{name}-{digest_of(asked)[:16]}"

    def _job(self, name: str, scratch: Path) -> dict[str, Any]:
        """What a harness process needs to know about its task."""
        request = self.request
        suite, task = request.suite, request.suite["tasks"][name]
        return {
            "task": task["task"],
            "metric": task["metric"],
            "num_fewshot": task["num_fewshot"],
            "limit": task["limit"],
            "offset": task["offset"],
            "repeats": task["repeats"],
            **_how_asked(suite, task),
            "include_path": suite["include_path"],
            "documents": len(asked_documents(task, task["samples"] or 0)),
            "judge": suite["judges"][task["judge"]] if task["judge"] else None,
            "simulator": suite["judges"][task["simulator"]] if task["simulator"] else None,
            "parameters": task["parameters"],
            "runs_generated_code": task["runs_generated_code"],
            "seed": suite["seed"],
            "context_length": request.max_model_len,
            "concurrency": self._share(name, request.side_by_side),
            "served_name": request.model,
            "tokenizer": str(request.checkpoint.folder),
            "trust_remote_code": bool(request.serving.get("trust_remote_code")),
            "max_attempts": suite["max_attempts"],
            "request_timeout_seconds": suite["request_timeout_seconds"],
            "shard": request.documents,
            "reports_samples": bool(request.watch and name in request.watch.tasks),
            "output": str(scratch / f"{name}.json"),
            "cache": str(request.output / CACHE / f"{self._store(name)}.jsonl"),
        }

    def _share(self, name: str, running: int) -> int:
        """Prompts that a task may have in flight while so many tasks run."""
        suite = self.request.suite
        share: int = max(1, suite["concurrency"] // running)
        return min(share, suite["tasks"][name]["concurrency"] or share)

    def _start_harness(self, children: Children, name: str, scratch: Path) -> HarnessProcess:
        """Start the harness of a task."""
        harness = self.request.suite["tasks"][name]["harness"]
        command = [self.request.harnesses[harness].python, str(SCRIPTS / HARNESSES[harness].script)]
        log = self.request.output / "logs" / f"{name}.log"
        log.write_bytes(b"")
        job, suite = self._job(name, scratch), self.request.suite
        has_local_data = bool(suite["include_path"] and suite["data_files"])
        environment = harness_environment(os.environ, job, has_local_data, self.key)
        return HarnessProcess(children, command, name, job, environment, log)

    def _ask(self, children: Children, server: Server, scratch: Path) -> None:
        """Let the tasks run side by side once the server is proven, and gather their outcomes.

        Raises:
            DeploymentFailed, Transient: the server failed, or something ended it or a harness.
        """
        waiting = list(self.request.tasks)
        first = waiting[: self.request.side_by_side]
        running = {name: self._start_harness(children, name, scratch) for name in first}
        del waiting[: len(running)]
        self._prove(server)
        for process in running.values():
            process.tell({"base_url": server.base_url})
        finished: dict[str, HarnessProcess] = {}
        not_done: list[str] = []  # when it was stopped early
        next_report = time.monotonic()
        while running:
            server.watch("while the tasks ran")
            self._check_walltime()
            if self.early_stop is None and self._look(running):
                not_done = [*waiting, *running]
                self._stop_early(children, running, waiting)
                waiting = []
            for name in [name for name, process in running.items() if not process.is_running]:
                finished[name] = process = running.pop(name)
                self.outcomes[name] = self._outcome_of(process, scratch)
                children.stop(process.process)
                if waiting:
                    running[waiting[0]] = self._start_harness(children, waiting[0], scratch)
                    running[waiting.pop(0)].tell({"base_url": server.base_url})
                for process in running.values():
                    process.tell({"concurrency": self._share(process.name, len(running))})
            if time.monotonic() >= next_report + PROGRESS_SECONDS:
                next_report = time.monotonic()
                say("  ".join(progress(process) for process in [*finished.values(), *running.values()]))
            time.sleep(0.1)
        if self.early_stop:
            self._cut_outcomes(not_done)
        if any(outcome is None or outcome["status"] == "FAILED" for outcome in self.outcomes.values()):
            time.sleep(1)
            server.check("while the tasks ran")
        facts = loaded_facts(server.read_log())
        if facts["engine_starts"] > self.server_facts["engine_starts"]:
            server.incidents.append({"time": time.strftime("%H:%M:%S"), "what": "the engine was started again"})
        server.mark_end()

    def _measure_speed(self, children: Children, server: Server, scratch: Path) -> None:
        """Put the load on the server, once all questions are answered and nobody asks it any more."""
        request = self.request
        if request.load is None:
            return
        measurement = SpeedMeasurement(request, self.run_identity, request.load)
        if self.early_stop:
            self.speed = measurement.not_measured("the run was stopped early", self.server_facts)
        elif not all(outcome and outcome["status"] == "COMPLETED" for outcome in self.outcomes.values()):
            self.speed = measurement.not_measured("not every question was answered", self.server_facts)
        else:
            began = time.monotonic()
            self.speed = measurement.make(children, server, self.server_facts, scratch, self._check_walltime)
            self.timing["speed_seconds"] = round(time.monotonic() - began, 2)

    def _look(self, running: dict[str, HarnessProcess]) -> bool:
        """Look at the samples that came in since the last look; whether they suffice to stop."""
        watch = self.request.watch
        if watch is None:
            return False
        for name, process in running.items():
            unwatched = len(watch.unwatched)
            self.early_stop = watch.take(name, process.take_samples())
            if len(watch.unwatched) > unwatched:
                say(f"{name}: is asked whole: {watch.unwatched[name]}")
            if self.early_stop:
                return True
        return False

    def _stop_early(self, children: Children, running: dict[str, HarnessProcess], waiting: list[str]) -> None:
        """Stop the tasks that are not done; one whose harness takes no stop is ended, and counts as not asked."""
        assert self.early_stop is not None
        say(f"stopped early, {self.early_stop.end} by {', '.join(self.early_stop.tasks_decided)}")
        for name in waiting:
            self.outcomes[name] = None
        for name, process in list(running.items()):
            if HARNESSES[self.request.suite["tasks"][name]["harness"]].reports_samples:
                process.tell({"stop": True})
            else:
                children.stop(process.process)
                self.outcomes[name] = None
                del running[name]

    def _cut_outcomes(self, not_done: Sequence[str]) -> None:
        """Cut tasks to the samples that were looked at; where none was left to ask, the run was not stopped."""
        if all(outcome and outcome["status"] == "COMPLETED" for outcome in self.outcomes.values()):
            say("every sample had been asked by then: the run is complete")
            self.early_stop = None
            return
        for name in not_done:
            looked_at = self.request.watch and self.request.watch.tasks.get(name)
            self.outcomes[name] = cut_to(self.outcomes[name], looked_at.drops if looked_at else None)

    def _outcome_of(self, process: HarnessProcess, scratch: Path) -> dict[str, Any] | None:
        """The outcome of a harness that ended.

        Raises:
            Transient: it was killed, or could not store its answers.
        """
        outcome = process.outcome()
        self.timing["tasks"][process.name] = outcome and outcome.get("seconds")
        if outcome and outcome.get("error_kind") == "disk":
            raise Transient(f"task {process.name} cannot store its answers: {outcome['error']}; free some space")
        for folder in (self.request.output, scratch):
            if not (outcome and outcome["status"] != "FAILED") and shutil.disk_usage(folder).free < 1 << 20:
                raise Transient(f"{folder}: no space left on the device; free some")
        return outcome

    def _check_walltime(self) -> None:
        """Raise WalltimeReached shortly before the job's time is up."""
        minutes = self.request.walltime_minutes
        if not minutes:
            return
        whole = minutes * 60
        if time.monotonic() - self.started > whole - min(WALLTIME_MARGIN * whole, WALLTIME_MARGIN_SECONDS):
            raise WalltimeReached(f"TIMEOUT: the walltime of {minutes:g} minutes is nearly up")

    def _write(self, failure: tuple[FailureClass, str] | None, attempts: list[EvaluationAttempt]) -> None:
        """Write the run, or the shard's part of it; put the answers of a complete run aside."""
        request, server = self.request, self.server
        speed = self.speed
        if request.load is not None and speed is None:
            measurement = SpeedMeasurement(request, self.run_identity, request.load)
            speed = measurement.not_measured(f"the server failed: {failure and failure[1]}", self.server_facts)
        part = Part(
            identity=self.run_identity,
            shard=request.shard,
            tasks=request.tasks,
            failure=failure,
            outcomes=self.outcomes,
            server=ServerFacts.model_validate(self.server_facts) if self.server_facts else None,
            canary=Canary.model_validate(self.canary) if self.canary else None,
            incidents=[Incident.model_validate(incident) for incident in server.incidents] if server else [],
            timing=Timing.model_validate(self.timing),
            attempts=attempts,
            versions={
                "serve": request.serve.versions,
                **{name: environment.versions for name, environment in request.harnesses.items()},
            },
            endpoint_url=f"{server.base_url}/v1/completions" if server and server.port else "",
            early_stop=self.early_stop,
            speed=speed,
        )
        if request.shard:
            part.write(request.output / "part.json")
            say(f"{request.shard}: {failure[1] if failure else 'answered'}")
            if not failure and all(outcome and outcome["status"] == "COMPLETED" for outcome in self.outcomes.values()):
                self._keep_answers()
            return
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        document = write_run(request.output, request.suite, [part], command)
        metadata = document["metadata"]
        if metadata["status"] == "COMPLETED":
            self._keep_answers()
        for name, entry in document["results"]["tasks"].items():
            scores = next(iter(entry["metrics"].values()))["scores"]
            say(f"{name}: {next(iter(scores.values()))['value']:.4f}")
        say(f"{metadata['status']} in {self.timing['total_seconds']} s: {metadata['detail']}")

    def _keep_answers(self) -> None:
        kept = keep(self.request.output, self.identity, map(self._store, self.request.tasks))
        say(f"{kept / 1e6:.1f} MB of answers are kept in {self.request.output / ANSWERS} for a run that asks more")


def _how_asked(suite: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a task that a suite may give for all of them."""
    settings = {key: effective(suite, task, key) for key in ("system_prompt", "apply_chat_template", "reasoning")}
    return {"generation": {**(suite.get("generation") or {}), **(task.get("generation") or {})}, **settings}


def progress(process: HarnessProcess) -> str:
    """One task's progress: answers, rate, time left."""
    if not process.is_running:
        return f"{process.name} done"
    seconds = time.monotonic() - process.began
    rate = process.done / seconds if seconds else 0
    left = f", {(process.total - process.done) / rate:.0f} s left" if rate and process.total > process.done else ""
    return f"{process.name} {process.done}/{process.total or '?'} ({rate:.0f}/s{left})"
