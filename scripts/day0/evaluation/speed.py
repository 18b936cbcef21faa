"""The speed of a server under a fixed load: its memory at rest, then the client's repeats, all of them or none.

It is measured once all questions are answered, so that nothing else asks the server, and a server that breaks under the
load takes no answer along. Whatever fails here is recorded in speed.json and says nothing about the scores.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from pydantic import ValidationError

from day0.base.artefacts import read_json
from day0.base.mistakes import mistakes_of
from day0.base.secret_texts import without_secrets
from day0.base.terminal import say
from day0.evaluation.request import Request
from day0.records.results import RunIdentity, ServerFacts
from day0.records.speed import SPEED, Load, MemoryAtRest, Speed, SpeedRepeat
from day0.serving.engine_log import memory_facts
from day0.serving.processes import TRANSIENT_SIGNALS, Children, Transient
from day0.serving.server import DeploymentFailed, Server

CLIENT = "measure_speed.py"
CLIENT_LOG = "speed.log"
MEASURE_AGAIN = "measure again by `snakemake --force {folder}/results.yml`, which takes up the answers that are kept"


class SpeedFailed(Exception):
    """The load was not put on the server whole; the message says why and what to do."""


class SpeedMeasurement:
    """The measurement of one side."""

    def __init__(self, request: Request, identity: RunIdentity, load: Load) -> None:
        self.request, self.identity, self.load = request, identity, load

    def not_measured(self, detail: str, server: Mapping[str, Any]) -> Speed:
        """The record where it did not come to the measurement."""
        return self._record("NOT_MEASURED", detail, server)

    def make(
        self, children: Children, server: Server, facts: Mapping[str, Any], folder: Path, also: Callable[[], None]
    ) -> Speed:
        """Put the load on a server that nobody else asks.

        Args:
            facts: what the server said that it loaded.
            folder: a scratch folder.
            also: is called while waiting, and may raise.

        Raises:
            Transient: something else ended the server or the client.
        """
        memory = memory_at_rest(server, self.request)
        load = self.load
        say(f"speed: {load.repeats} times {load.requests} requests, {load.concurrency} at a time")
        try:
            client, repeats = self._run_client(children, server, folder, also)
        except (SpeedFailed, DeploymentFailed) as error:
            say(f"speed: {error}")
            return self._record("FAILED", str(error), facts).model_copy(update={"memory": memory})
        rates = [repeat.output_tokens_per_second for repeat in repeats]
        detail = (
            f"{sum(rates) / len(rates):,.1f} output tokens per second ({min(rates):,.1f} to {max(rates):,.1f}) over "
            f"{load.repeats} repeats of {load.requests} requests, {load.concurrency} at a time, "
            f"{load.input_tokens} tokens in and {load.output_tokens} out"
        )
        say(f"speed: {detail}")
        return self._record("MEASURED", detail, facts, client=client, memory=memory, repeats=repeats)

    def _record(self, status: Any, detail: str, server: Mapping[str, Any], **found: Any) -> Speed:
        request = self.request
        return Speed(
            status=status,
            detail=detail,
            identity=self.identity,
            load=self.load,
            seed=request.suite["seed"],
            client=found.pop("client", None),
            server=ServerFacts.model_validate(server) if server else None,
            gpus=request.gpus_of_node * request.nodes,
            nodes=request.nodes,
            **found,
        )

    def _run_client(
        self, children: Children, server: Server, folder: Path, also: Callable[[], None]
    ) -> tuple[str, list[SpeedRepeat]]:
        """Run the client to its end; returns its name and the repeats."""
        request, load = self.request, self.load
        output, log = folder / SPEED, request.output / "logs" / CLIENT_LOG
        command = [request.serve.python, str(Path(__file__).resolve().parents[2] / CLIENT)]
        command += ["--base-url", server.base_url, "--model", request.model]
        command += ["--tokenizer", str(request.checkpoint.folder), "--seed", str(request.suite["seed"])]
        for name, value in load.as_plain().items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        command += ["--trust-remote-code"] if request.serving.get("trust_remote_code") else []
        environment = without_secrets(os.environ) | {"OPENAI_API_KEY": server.key, "HF_HUB_OFFLINE": "1"}
        environment |= {"TOKENIZERS_PARALLELISM": "false", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        limit = request.suite["request_timeout_seconds"] * (load.repeats + 1)
        with log.open("wb") as stream:
            process = children.start(
                [*command, "--output", str(output)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        began = time.monotonic()
        try:
            while process.poll() is None:
                server.check("under the load of the speed measurement")
                also()
                if time.monotonic() > began + limit:
                    raise SpeedFailed(
                        f"the load took more than {limit:g} s (the suite's request_timeout_seconds for each repeat, "
                        "and once more); set fewer requests or repeats under the model's speed"
                    )
                time.sleep(0.1)
        finally:
            children.stop(process)
        server.check("under the load of the speed measurement")
        if process.returncode < 0 and -process.returncode in TRANSIENT_SIGNALS:
            raise Transient(f"the client of the speed measurement was killed; log: {log}")
        if process.returncode or not output.is_file():
            raise SpeedFailed(f"the client ended with exit status {process.returncode}: {_last_line(log)}; log: {log}")
        return self._read(read_json(output), log)

    def _read(self, found: Mapping[str, Any], log: Path) -> tuple[str, list[SpeedRepeat]]:
        """What the client measured, provided that every request of every repeat was answered whole."""
        load, again = self.load, MEASURE_AGAIN.format(folder=self.request.output)
        repeats = []
        for number, measured in enumerate(found["repeats"], start=1):
            answered, tokens = measured["completed"], measured["total_output_tokens"]
            if measured["failed"] or answered != load.requests or tokens != load.requests * load.output_tokens:
                raise SpeedFailed(
                    f"repeat {number}: {answered} of {load.requests} requests were answered, with {tokens} of "
                    f"{load.requests * load.output_tokens} tokens ({measured['error'] or 'no error is given'}), so "
                    f"nothing of it counts; correct the cause or the model's speed settings, or {again}; log: {log}"
                )
            try:
                repeats.append(_repeat_of(measured))
            except ValidationError as error:
                wrong = "; ".join(mistakes_of(error, SpeedRepeat))
                raise SpeedFailed(f"repeat {number}: {wrong}; {again}; log: {log}") from None
        if len(repeats) != load.repeats:
            raise SpeedFailed(f"{len(repeats)} of {load.repeats} repeats were measured; {again}; log: {log}")
        return str(found["client"]), repeats


def _repeat_of(measured: Mapping[str, Any]) -> SpeedRepeat:
    def latency(name: str) -> dict[str, Any]:
        return {kind: measured[f"{kind}_{name}_ms"] for kind in ("mean", "median", "p99")}

    return SpeedRepeat.model_validate(
        {
            "seconds": measured["duration"],
            "requests": measured["completed"],
            "input_tokens": measured["total_input_tokens"],
            "output_tokens": measured["total_output_tokens"],
            "requests_per_second": measured["request_throughput"],
            "output_tokens_per_second": measured["output_throughput"],
            "time_to_first_token_ms": latency("ttft"),
            "time_per_output_token_ms": latency("tpot"),
        }
    )


def _last_line(log: Path) -> str:
    """The line that says what failed: the last of a traceback, else the last one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    return ([*lines, *errors] or ["its log is empty"])[-1][:300]


def memory_at_rest(server: Server, request: Request) -> MemoryAtRest:
    """Memory of a server that is asked nothing; what a container's runtime or a missing tool hides is not known."""
    family = _family(server) if not request.serving.get("container") else []
    return MemoryAtRest(
        host_bytes=_host_bytes(family),
        gpu_bytes=None if request.on_cpu or not family else _gpu_bytes({process.pid for process in family}),
        **memory_facts(server.read_log()),
    )


def _family(server: Server) -> list[psutil.Process]:
    try:
        leader = psutil.Process(server.process.pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.Error:
        return []


def _host_bytes(family: list[psutil.Process]) -> int | None:
    found = []
    for process in family:
        try:
            found.append(process.memory_full_info().pss)
        except (psutil.Error, AttributeError):
            return None  # of a process that has just ended, or a system that does not tell
    return sum(found) or None


def _gpu_bytes(processes: set[int]) -> int | None:
    """What processes hold on this node's GPUs; None where nvidia-smi does not tell, as within some containers."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return gpu_bytes_of(lines, processes)


def gpu_bytes_of(lines: list[str], processes: set[int]) -> int | None:
    """Bytes by the lines `PID, MiB` of nvidia-smi; None where none is of these processes, or one is not a number."""
    held = [words for line in lines if len(words := [word.strip() for word in line.split(",")]) == 2]
    own = [memory for process, memory in held if process.isdecimal() and int(process) in processes]
    if not own or not all(memory.isdecimal() for memory in own):
        return None
    return sum(int(memory) for memory in own) * 2**20
