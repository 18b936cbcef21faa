"""A vLLM server as a child process: its command, its environment, its start, its answers and its end."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from day0.base.cli import EXIT_TRANSIENT
from day0.base.processes import cores
from day0.base.secret_texts import without_secrets
from day0.serving.container import NAMES_VARIABLE
from day0.serving.engine_log import END_LINE, error_line, transient_cause
from day0.serving.multinode import OPENAI_SERVER, serving_nodes
from day0.serving.ports import HOST
from day0.serving.processes import Children, Transient
from day0.source.declared_quantization import native_quantization

WATCH_SECONDS, SILENCE_SECONDS = 5.0, 300.0

PLUGIN_FOLDER = Path(__file__).resolve().parents[2] / "vllm_plugin"
GUARD_FOLDER = PLUGIN_FOLDER.with_name("vllm_guard")
GUARD = "day0_vllm_guard.RequireKey"


class DeploymentFailed(Exception):
    """The server failed by its own doing; the message quotes its error."""


def server_command(
    python: str,
    checkpoint: str,
    served_name: str,
    suite: Mapping[str, Any],
    serving: Mapping[str, Any],
    on_cpu: bool,
    port: int = 0,
) -> list[str]:
    """The command line of the server; it holds no secret (the key is in the environment).

    Port 0 lets the kernel choose a free port at the moment of binding, so that two servers never meet. The interpreter
    must find what is in ``python_folders``.
    """
    command = [python, "-m", OPENAI_SERVER]
    command += ["--model", checkpoint, "--served-model-name", served_name, "--host", HOST, "--port", str(port)]
    command += ["--max-model-len", str(serving.get("max_model_len") or suite["context_length"])]
    command += ["--dtype", str(serving.get("dtype") or "auto")]
    command += ["--kv-cache-dtype", str(serving.get("kv_cache_dtype") or "auto")]
    for kind in ("tensor", "pipeline", "data"):
        command += [f"--{kind}-parallel-size", str(serving.get(f"{kind}_parallel_size") or 1)]
    # Sampling is the suite's: a checkpoint's own generation_config.json must not shift it.
    command += ["--seed", str(suite["seed"]), "--generation-config", "vllm"]
    command += ["--uvicorn-log-level", "warning", "--disable-log-stats"]
    command += ["--middleware", GUARD]
    several = serving_nodes(serving) > 1
    if on_cpu:
        command += ["--enforce-eager", *([] if several else ["--distributed-executor-backend", "uni"])]
    if serving.get("trust_remote_code"):
        command += ["--trust-remote-code"]
    return command + [str(argument) for argument in serving.get("extra_arguments") or []]


def python_folders(on_cpu: bool) -> list[Path]:
    """Folders of modules of ours that the server's interpreter must find: what asks for the key, and a plugin."""
    return [*([PLUGIN_FOLDER] if on_cpu else []), GUARD_FOLDER]


def server_environment(base: Mapping[str, str], serving: Mapping[str, Any], on_cpu: bool, key: str) -> dict[str, str]:
    """The environment of the server process, with its key and, on a CPU, what makes it start quickly."""
    environment = without_secrets(base)  # it reads a local folder, and may run a model's own code
    environment.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", PYTHONUNBUFFERED="1", PYTHONFAULTHANDLER="1")
    environment["VLLM_SERVER_DEV_MODE"] = "0"  # whose paths replace weights and run code
    environment["PYTHONNOUSERSITE"] = "1"  # Apptainer mounts the home, whose packages would come before the image's
    if on_cpu:
        environment.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", TORCHDYNAMO_DISABLE="1", VLLM_CPU_KVCACHE_SPACE="1")
        # One core is left to the front end and the clients; pinned threads of two servers would share their cores.
        threads = max(1, cores() - 1)
        environment.update(VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS=str(threads))
    own = {name: str(value) for name, value in (serving.get("environment") or {}).items()}
    others = own.pop("PYTHONPATH", base.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, python_folders(on_cpu)), *filter(None, [others])])
    environment.update({**own, NAMES_VARIABLE: " ".join(own)})
    environment["VLLM_API_KEY"] = key
    return environment


def find_impostor(
    models: Any, name: str, checkpoint: str, facts: Mapping[str, Any], config: Mapping[str, Any]
) -> str | None:
    """Why a server does not serve the checkpoint that it was started with, or None where it does.

    Args:
        models: what /v1/models answers.
        name: the name under which the checkpoint is served.
        checkpoint: its folder, as the server was given it.
        facts: see :func:`loaded_facts`.
        config: the checkpoint's config.json.
    """
    entries = models.get("data") if isinstance(models, Mapping) else None
    served = [entry.get("id") for entry in entries] if isinstance(entries, list) else models
    if not isinstance(entries, list) or served != [name]:
        return f"/v1/models names {served!r}, not {name!r}"
    root = entries[0].get("root")
    if root is not None and root != checkpoint:
        return f"/v1/models says that {name} comes from {root!r}, not from {checkpoint!r}"
    method = native_quantization({"config": config})
    if (method is None) != (facts["quantization"] is None):
        return (
            f"the checkpoint declares quantization {method or 'none'}, the engine loaded it with "
            f"{facts['quantization'] or 'none'}"
        )
    return None


class Server:
    """A running vLLM server.

    Raises (from ``wait`` and ``check``):
        DeploymentFailed: it ended by its own error or did not answer in time.
        Transient: something else ended it.
    """

    def __init__(
        self,
        children: Children,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        port: int | None = None,
        removal: list[str] | None = None,
        workers: Sequence[Sequence[str]] = (),
        is_proven_image: bool = True,
    ) -> None:
        """Start it.

        Args:
            workers: commands of its workers on other nodes; their logs are written beside the server's.
            is_proven_image: see :func:`day0.serving.engine_log.transient_cause`.
        """
        self._is_proven_image = is_proven_image
        self.log = log
        self.key = environment["VLLM_API_KEY"]
        self.port = port
        self.incidents: list[dict[str, Any]] = []
        self._silent_since: float | None = None
        self._next_look = 0.0

        def start(command: Sequence[str], log: Path, removal: list[str] | None = None) -> subprocess.Popen:
            log.write_bytes(b"")
            with log.open("ab") as stream:  # to append: the stage writes into the server's log, too
                pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
                return children.start(command, removal, env=dict(environment), **pipes)

        self.process = start(command, log, removal)
        self._workers = []
        for rank, worker in enumerate(workers, 1):
            path = log.with_suffix(f".node-{rank}.log")
            self._workers.append((f"the server's worker on node {rank}", start(worker, path), path))

    @property
    def base_url(self) -> str:
        """Address of the server, without a path."""
        return f"http://{HOST}:{self.port}"

    def read_log(self) -> str:
        """The server's log so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout_seconds: float, also: Callable[[], None] = lambda: None) -> None:
        """Return once /health answers; ``also`` is called while waiting, and may raise."""
        began = time.monotonic()
        while True:
            self.check("while it started")
            also()
            if self.port is None:
                self.port = self._listening_port()
            if self.port is not None and self._healthy():
                return
            if time.monotonic() > began + timeout_seconds:
                raise DeploymentFailed(
                    f"the server did not answer /health within {timeout_seconds:g} s (startup_timeout_seconds); "
                    f"last line of its log: {(self.read_log().splitlines() or ['(empty)'])[-1][:300]}"
                )
            time.sleep(0.1)

    def check(self, when: str) -> None:
        """Raise if the server has ended."""
        # A worker first: where one ends, the head soon complains of it, but not of the cause.
        for who, process, path in [*self._workers, ("the server", self.process, self.log)]:
            code = process.poll()
            if code is None:
                continue
            log = path.read_text(encoding="utf-8", errors="replace")
            if code == EXIT_TRANSIENT:  # of an image's launcher (scripts/wrap_image.py)
                raise Transient(f"{who} did not start: {error_line(log) or 'no reason is given'}; log: {path}")
            if cause := transient_cause(code, log, self._is_proven_image):
                if cause.was_killed:
                    raise Transient(f"{who} was killed {when} (exit status {code}); log: {path}")
                raise Transient(f"{who} ended {when} (exit status {code}): {cause}; log: {path}")
            raise DeploymentFailed(
                f"{who} ended {when} (exit status {code}): {error_line(log) or 'its log holds no error line'}"
            )

    def watch(self, when: str) -> None:
        """Look at the server, and every few seconds at its /health; problems are kept in ``incidents``.

        Raises:
            DeploymentFailed, Transient: it has ended, or has not been healthy for long.
        """
        self.check(when)
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + WATCH_SECONDS
        if self._healthy():
            self._silent_since = None
            return
        self.check(when)
        if self._silent_since is None:
            self._silent_since = now
            self.incidents.append({"time": time.strftime("%H:%M:%S"), "what": "/health did not answer with 200"})
        elif now - self._silent_since > SILENCE_SECONDS:
            raise DeploymentFailed(
                f"the server did not answer /health for {SILENCE_SECONDS:g} s {when}: "
                f"{error_line(self.read_log()) or 'its log holds no error line'}"
            )

    def request(self, method: str, path: str, content: Any = None, timeout_seconds: float = 300) -> tuple[int, Any]:
        """Ask the server; returns the status and the parsed JSON (or the text)."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_seconds)
        try:
            headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            connection.request(method, path, body=None if content is None else json.dumps(content), headers=headers)
            response = connection.getresponse()
            text = response.read().decode("utf-8", errors="replace")
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def mark_end(self) -> None:
        """Note in the log that all tasks are done: what the server says while it is stopped is no finding."""
        with self.log.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{END_LINE}\n")

    def _listening_port(self) -> int | None:
        # A container's runtime runs the server as its child, pyxis in a job step: it is known by its key. Engine and
        # srun have the key, too, and listen for their own kind, which a question by HTTP would upset.
        try:
            own = psutil.Process(self.process.pid)
            is_the_server = own.cmdline()[1:3] == ["-m", OPENAI_SERVER]
        except psutil.Error:
            return None
        for process in [own] if is_the_server else psutil.process_iter():
            try:
                if OPENAI_SERVER not in process.cmdline() or process.name() == "srun":
                    continue
                if process.environ().get("VLLM_API_KEY") != self.key:
                    continue
                connections = process.net_connections(kind="tcp4")
            except psutil.Error:
                continue
            for entry in connections:
                if entry.status == psutil.CONN_LISTEN and _answers_http(entry.laddr.port):
                    return entry.laddr.port
        return None

    def _healthy(self) -> bool:
        try:
            return self.request("GET", "/health", timeout_seconds=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def new_key() -> str:
    """A key that only this run's server and clients know; a client that meets another run's server is refused."""
    return secrets.token_urlsafe(24)
