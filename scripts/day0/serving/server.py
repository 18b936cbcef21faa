"""A vLLM server as a child process: its command, its start, its first answer, what its log says, and its end.

Every child runs in a session of its own, and a small guard process ends all of them when the stage itself is killed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from day0.base.cli import EXIT_TRANSIENT
from day0.decision.comparability import native_quantization
from day0.serving.container import NAMES_VARIABLE, runtime_error
from day0.serving.multinode import OPENAI_SERVER, serving_nodes

HOST = "127.0.0.1"
END_LINE = "day0: all tasks are done; the server is stopped"
WATCH_SECONDS, SILENCE_SECONDS = 5.0, 300.0
FREE_GPU_SHARE = 0.95  # of a GPU's memory, what at least is free where nobody uses it (H100: 0.993)
# A process that one of these ended did not fail by itself: a retry may cure it.
TRANSIENT_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGBUS})

PLUGIN_FOLDER = Path(__file__).resolve().parents[2] / "vllm_plugin"

EMULATION_SENTENCE = (
    "The quantized format was emulated: values are rounded as the format does, the products are those of a higher "
    "precision; speed says nothing, and a score on hardware that has the format may differ in the last digits."
)
WEIGHT_ONLY_SENTENCE = (
    "The GPU has no {format} arithmetic, so only the weights were quantized ({kernel}); where the checkpoint quantizes "
    "the activations too, a score on a GPU that has it may differ."
)


class Transient(Exception):
    """The stage was stopped by something that a retry may cure."""


_signals: dict[str, Any] = {"held": False, "waiting": None}


def stop_by(number: int) -> None:
    """What a signal handler does: raise Transient, at once or when a child that is being started is known.

    A child whose start is cut short would be nobody's.
    """
    stopped = Transient(f"stopped by {signal.Signals(number).name}")
    if not _signals["held"]:
        raise stopped
    _signals["waiting"] = stopped


@contextmanager
def signals_held() -> Iterator[None]:
    """Let ``stop_by`` wait until the end of the block."""
    _signals["held"] = True
    try:
        yield
    finally:
        _signals["held"] = False
        stopped, _signals["waiting"] = _signals["waiting"], None
        if stopped is not None:
            raise stopped


class DeploymentFailed(Exception):
    """The server failed by its own doing; the message quotes its error."""


# --- pure functions ---------------------------------------------------------------------------------------------


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

    Port 0 lets the kernel choose a free port at the moment of binding, so that two servers never meet.
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
    several = serving_nodes(serving) > 1
    if on_cpu:
        command += ["--enforce-eager", *([] if several else ["--distributed-executor-backend", "uni"])]
    if serving.get("trust_remote_code"):
        command += ["--trust-remote-code"]
    return command + [str(argument) for argument in serving.get("extra_arguments") or []]


def server_environment(
    base: Mapping[str, str], serving: Mapping[str, Any], on_cpu: bool, key: str, plugin: Path = PLUGIN_FOLDER
) -> dict[str, str]:
    """The environment of the server process, with its key and, on a CPU, what makes it start quickly."""
    environment = dict(base)
    environment.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", PYTHONUNBUFFERED="1", PYTHONFAULTHANDLER="1")
    environment["PYTHONNOUSERSITE"] = "1"  # Apptainer mounts the home, whose packages would come before the image's
    if on_cpu:
        environment.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", TORCHDYNAMO_DISABLE="1", VLLM_CPU_KVCACHE_SPACE="1")
        # One core is left to the front end and the clients; pinned threads of two servers would share their cores.
        threads = max(1, len(os.sched_getaffinity(0)) - 1)
        environment.update(VLLM_CPU_OMP_THREADS_BIND="nobind", OMP_NUM_THREADS=str(threads))
        paths = [str(plugin), *filter(None, [base.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    own = {name: str(value) for name, value in (serving.get("environment") or {}).items()}
    environment.update({**own, NAMES_VARIABLE: " ".join(own)})
    environment["VLLM_API_KEY"] = key
    return environment


_PREFIX = re.compile(r"^(\(\w+( pid=\d+)?\)\s*)?((ERROR|CRITICAL|INFO|WARNING)\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*|^[a-z_.]+\.ValidationError.*")
_WRAPPERS = ("Engine core initialization failed", "EngineCore encountered an issue", "cancelled")


def error_line(log: str) -> str | None:
    """The engine's own error: the first exception line of its log that does not merely point to another one."""
    found = None
    lines = log.splitlines()
    for number, line in enumerate(lines):
        text = _PREFIX.sub("", line).strip()
        if not _EXCEPTION.match(text):
            continue
        if text.endswith("ModelConfig") or "validation error" in text:
            text = " ".join([text, *(_PREFIX.sub("", after).strip() for after in lines[number + 1 : number + 2])])
        text = text.split(" [type=")[0]
        if not any(wrapper in text for wrapper in _WRAPPERS):
            return text[:500]
        found = found or text[:500]
    if found is None:
        # srun adds to what a job step says that it failed.
        said = [line.strip() for line in lines if not line.startswith("srun: ")]
        failed = [line for line in said if re.search(r"\b([Ee]rror|ERROR|CRITICAL)\b", line)]
        found = runtime_error(log) or (failed[-1] if failed else None)
        found = found and found[:500]
    return found


def ended_by_transient(returncode: int | None, log: str) -> bool:
    """Whether a server was ended from outside: it or its engine killed, or what it needs in another's hands."""
    if returncode is not None and returncode < 0:
        return -returncode in TRANSIENT_SIGNALS
    if returncode is not None and returncode - 128 in TRANSIENT_SIGNALS:
        return True  # as a container's runtime tells of a signal
    if re.search(r"OSError: \[Errno 98\]|[Aa]ddress already in use", log):
        return True  # a port that was free when it was chosen
    if _gpu_memory_is_taken(log):
        return True
    if "pyxis: failed to create container filesystem" in log:
        return True  # preflight has started the same image
    codes = re.findall(r"Failed core proc\(s\): \{[^}]*?: (-\d+)", log)
    if codes:
        return any(-int(code) in TRANSIENT_SIGNALS for code in codes)
    # An engine that fails by itself says why, and Python's fault handler speaks for one that may not.
    died_silently = not re.search(r"\(EngineCore[^)]*\) (ERROR|CRITICAL)|^Fatal Python error", log, re.MULTILINE)
    return "engine core exited unexpectedly" in log and died_silently


def _gpu_memory_is_taken(log: str) -> bool:
    """Whether the engine found its GPU's memory in use by others; on a free GPU, too much was asked for."""
    free = re.search(r"ValueError: Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup", log)
    if free and float(free[1]) < FREE_GPU_SHARE * float(free[2]):
        return True
    return "AssertionError: Error in memory profiling. Initial free memory" in log


_KERNELS = (
    r"(?:Using|Selected) (\w+Kernel) for ",
    r"(\w+Kernel) emulates",  # scripts/vllm_plugin
    r"Using ('?[\w ]+'?[\w ]* M[Oo]E) backend",
    r"Using (FlashAttention version \d+)",
)
_NOT_NATIVE = re.compile(r"Your GPU does not have native support for (\w+) computation but \1 quantization is being")
# Marlin and Humming keep the activations of these formats in 16 bits, mostly without a word. By itself vLLM takes them
# where the GPU has no such arithmetic: Humming on Hopper, Marlin on others.
_WEIGHTS_ONLY = re.compile(r"(Marlin|Humming) ?(?:(NvFp4|MxFp4)|(MxFp8))", re.IGNORECASE)


def loaded_facts(log: str) -> dict[str, Any]:
    """What the engine says of the model it loaded: types, kernels, emulation.

    The sentences are those of vLLM 0.32: v1/engine/core.py and config/vllm.py (types), platforms/cuda.py, rocm.py and
    cpu.py (attention), v1/attention/backends/flash_attn.py, model_executor/kernels/linear/__init__.py and what calls it
    in model_executor/layers/quantization (linear layers), model_executor/layers/fused_moe/oracle (experts),
    model_executor/layers/quantization/utils/marlin_utils_fp4.py, marlin_utils_fp8.py and humming/ (weights only).

    Returns:
        quantization, dtype, kv_cache_dtype, device, attention_backend (None where the log does not tell, as on a CPU),
        kernels (sorted names), emulated, emulation (a sentence or None), engine_starts (how often an engine was
        initialized).
    """

    def said(pattern: str) -> str | None:
        found = re.search(pattern, log)
        return found.group(1) if found else None

    kernels = {name.replace("'", "") for pattern in _KERNELS for name in re.findall(pattern, log)}
    quantization = said(r"\bquantization=([\w.-]+)")
    emulated = any("emulation" in kernel.lower() for kernel in kernels)
    return {
        "quantization": None if quantization in (None, "None") else quantization,
        "dtype": said(r"\bdtype=torch\.(\w+)"),
        "kv_cache_dtype": said(r"\bkv_cache_dtype=([\w.]+)"),
        "device": said(r"\bdevice_config=(\w+)"),
        "attention_backend": said(
            r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]+)"
            r"(?: attention)? backend(?:\.| \(selected via| out of potential backends)"
        ),
        "kernels": sorted(kernels),
        "emulated": emulated,
        "emulation": EMULATION_SENTENCE if emulated else _weights_only(log, kernels),
        "engine_starts": len(re.findall(r"Initializing a V1 LLM engine", log)),
    }


def _weights_only(log: str, kernels: Iterable[str]) -> str | None:
    """That the engine quantized the weights only, as the GPU lacks the checkpoint's format; None where it does not."""
    for kernel in sorted(kernels):
        if found := _WEIGHTS_ONLY.match(kernel):
            arithmetic = "FP4" if found[2] else "MXFP8"
            return WEIGHT_ONLY_SENTENCE.format(format=arithmetic, kernel=found[1].capitalize())
    found = _NOT_NATIVE.search(log)
    return found and WEIGHT_ONLY_SENTENCE.format(format=found[1], kernel="Marlin")


def effective_kv_cache_dtype(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Type in which the engine keeps keys and values.

    "auto" is FP8 where the checkpoint declares a scheme for it, else the model's type: vLLM 0.32,
    vllm/model_executor/layers/attention/attention.py.

    Args:
        facts: see :func:`loaded_facts`.
        config: the checkpoint's config.json.
    """
    if facts["kv_cache_dtype"] != "auto":
        return facts["kv_cache_dtype"]
    declared = config.get("quantization_config")
    scheme = declared.get("kv_cache_scheme") if isinstance(declared, Mapping) else None
    return "fp8" if scheme is not None else facts["dtype"]


def find_impostor(
    models: Any, name: str, checkpoint: str, facts: Mapping[str, Any], config: Mapping[str, Any]
) -> str | None:
    """Why a server does not serve the checkpoint that it was started with, or None where it does.

    Args:
        models: what /v1/models answers.
        name: the name under which the checkpoint is served.
        checkpoint: its folder, as the server was told.
        facts: see :func:`loaded_facts`.
        config: the checkpoint's config.json.
    """
    entries = models.get("data") if isinstance(models, Mapping) else None
    served = [entry.get("id") for entry in entries] if isinstance(entries, list) else models
    if served != [name]:
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


# --- processes --------------------------------------------------------------------------------------------------

_GUARD = """
import json, os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
left = {}
for line in sys.stdin:
    sign, name, command = json.loads(line)
    left.pop(name, None) if sign == "-" else left.update({name: command})
for name in left:
    try:
        isinstance(name, int) and os.killpg(name, signal.SIGKILL)
    except ProcessLookupError:
        pass
for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
    try:
        os.getsid(pid) in left and os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
for command in left.values():
    if command:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""


class Children:
    """The child processes of a stage, and its scratch folder; none of them outlives it, however it ends."""

    def __init__(self) -> None:
        self._groups: dict[int, subprocess.Popen] = {}
        self._removals: dict[int, list[str]] = {}
        # The guard reads from a pipe: its end of file is the stage's death, also by SIGKILL.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD], stdin=subprocess.PIPE, start_new_session=True, text=True
        )

    def start(
        self, command: Sequence[str], removal: list[str] | None = None, own_session: bool = True, **options: Any
    ) -> subprocess.Popen:
        """Start a command as the leader of a process group of its own.

        Args:
            removal: a command that removes what would outlive the group, such as a container; run at its end.
            own_session: whether in a session of its own, too. Linux shares processors between sessions (autogroup).
        """
        leading: dict[str, Any] = {"start_new_session": True} if own_session else {"process_group": 0}
        with signals_held():
            process = subprocess.Popen(command, **leading, **options)
            self._groups[process.pid] = process
            if removal:
                self._removals[process.pid] = removal
            self._tell("+", process.pid, removal)
        return process

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A temporary folder; where the stage itself is killed, the guard removes it."""
        with tempfile.TemporaryDirectory(prefix="evaluate-", ignore_cleanup_errors=True) as folder:
            self._tell("+", folder, ["rm", "-rf", "--", folder])
            yield Path(folder)
        self._tell("-", folder)

    def stop(self, process: subprocess.Popen, patience_seconds: float = 5.0) -> None:
        """End a child and everything it started: SIGTERM, then SIGKILL for what is left of its group and session."""
        self._signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline and _group_lives(process):
            time.sleep(0.05)
        self._signal(process.pid, signal.SIGKILL)
        process.wait()
        _kill_session(process.pid)
        if removal := self._removals.pop(process.pid, None):
            subprocess.run(removal, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._groups.pop(process.pid, None)
        self._tell("-", process.pid)

    def stop_all(self) -> None:
        """End every child, then the guard."""
        for process in list(self._groups.values()):
            self._signal(process.pid, signal.SIGTERM)
        for process in list(self._groups.values()):
            self.stop(process)
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._guard.wait()

    def _tell(self, sign: str, name: int | str, removal: list[str] | None = None) -> None:
        """Name to the guard a group of processes (an int) or something else that must not be left, or was removed."""
        if self._guard.stdin and not self._guard.stdin.closed:
            self._guard.stdin.write(json.dumps([sign, name, removal]) + "\n")
            self._guard.stdin.flush()

    @staticmethod
    def _signal(group: int, number: int) -> None:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            return


def _kill_session(leader: int) -> None:
    # Apptainer's helper that mounts the image leads a group of its own, and outlives a killed container.
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader:
                process.kill()


def _group_lives(process: subprocess.Popen) -> bool:
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


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
    ) -> None:
        """Start it.

        Args:
            workers: commands of its workers on other nodes; their logs stand beside the server's.
        """
        self.log = log
        self.key = environment["VLLM_API_KEY"]
        self.port = port
        self.incidents: list[dict[str, Any]] = []
        self._silent_since: float | None = None
        self._next_look = 0.0

        def start(command: Sequence[str], log: Path, removal: list[str] | None = None) -> subprocess.Popen:
            log.write_bytes(b"")
            with log.open("ab") as stream:  # to append: the stage writes into the server's log, too
                pipes = {"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": subprocess.STDOUT}
                return children.start(command, removal, env=dict(environment), **pipes)

        self.process = start(command, log, removal)
        self._workers = []
        for rank, worker in enumerate(workers, 1):
            path = log.with_suffix(f".node-{rank}.log")
            self._workers.append((f"the server's worker on node {rank}", start(worker, path), path))

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def read_log(self) -> str:
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
            if ended_by_transient(code, log):
                if _gpu_memory_is_taken(log):
                    raise Transient(f"{who} ended {when}: others use its GPU's memory: {error_line(log)}; log: {path}")
                raise Transient(f"{who} was killed {when} (exit status {code}); log: {path}")
            raise DeploymentFailed(
                f"{who} ended {when} (exit status {code}): {error_line(log) or 'its log holds no error line'}"
            )

    def watch(self, when: str) -> None:
        """Look at the server, and every few seconds at its /health; what was amiss is kept in ``incidents``.

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


def free_port() -> int:
    """A port that is free now, for a server whose own choice cannot be seen from outside."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def new_key() -> str:
    """A key that only this run's server and clients know; a client that meets another run's server is refused."""
    return secrets.token_urlsafe(24)
