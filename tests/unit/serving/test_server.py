"""The server's command, its canary, what its log says, and that no child outlives the stage."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from day0.base.cli import EXIT_TRANSIENT
from day0.serving.engine_log import END_LINE, effective_kv_cache_dtype, error_line, loaded_facts, transient_cause
from day0.serving.multinode import OPENAI_SERVER
from day0.serving.processes import Children, Transient
from day0.serving.server import (
    GUARD,
    GUARD_FOLDER,
    DeploymentFailed,
    Server,
    find_impostor,
    server_command,
    server_environment,
)

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
SUITE = {"context_length": 64, "seed": 7}


def test_command_binds_the_loopback_address_and_a_port_of_the_kernels_choice():
    command = server_command("python", "ckpt", "m", SUITE, {"extra_arguments": ["--foo", 1]}, on_cpu=True)
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "0"
    assert command[command.index("--max-model-len") + 1] == "64" and command[-2:] == ["--foo", "1"]
    assert "--enforce-eager" in command
    assert "--enforce-eager" not in server_command("python", "ckpt", "m", SUITE, {}, on_cpu=False)
    assert command[command.index("--middleware") + 1] == "day0_vllm_guard.RequireKey"
    for on_cpu in (False, True):
        assert GUARD in server_command("python", "ckpt", "m", SUITE, {}, on_cpu)


def test_key_is_in_the_environment_only():
    environment = server_environment({"PYTHONPATH": "x"}, {"environment": {"A": 1}}, True, "secret")
    assert environment["VLLM_API_KEY"] == "secret" and environment["A"] == "1"
    assert [Path(path).name for path in environment["PYTHONPATH"].split(os.pathsep)] == [
        "vllm_plugin",
        "vllm_guard",
        "x",
    ]
    assert server_environment({}, {}, False, "secret")["PYTHONPATH"].endswith("vllm_guard")
    own = server_environment({"PYTHONPATH": "/caller"}, {"environment": {"PYTHONPATH": "/own"}}, False, "secret")
    assert own["PYTHONPATH"] == f"{GUARD_FOLDER}:/own", "a path of the user's does not hide the guard"
    assert "secret" not in " ".join(server_command("python", "ckpt", "m", SUITE, {}, on_cpu=True))


LOG = """\
(APIServer pid=1) INFO 11-23 12:03:10 [api_utils.py:286] non-default args: {'host': '127.0.0.1'}
(EngineCore pid=2) INFO 11-23 12:03:30 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: \
model='m', dtype=torch.bfloat16, quantization=modelopt_fp4, kv_cache_dtype=auto, device_config=cpu, seed=0
(EngineCore pid=2) INFO 11-23 12:26:30 [__init__.py:1240] Using CpuEmulationNvFp4LinearKernel for NVFP4 GEMM
"""

CRASH = (
    LOG
    + """\
(EngineCore pid=2) ERROR 11-23 12:03:33 [core.py:1] EngineCore failed to start.
(EngineCore pid=2) ERROR 11-23 12:03:33 [core.py:1] Traceback (most recent call last):
(EngineCore pid=2) ERROR 11-23 12:03:33 [core.py:1] ValueError: In-features must divide by 16
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
)


SECRETS = {
    "HF_TOKEN": "hf_x",
    "GITLAB_PAT": "p",
    "REGISTRY_AUTH": "a",
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "s",
    "MLFLOW_TRACKING_PASSWORD": "m",
    "HTTPS_PROXY": "http://user:word@proxy.example.org:3128",
}


def test_a_server_gets_none_of_its_callers_secrets():
    base = SECRETS | {"PWD": "/w", "PATH": "/bin", "HTTP_PROXY": "http://proxy.example.org:3128", "VLLM_API_KEY": "old"}
    environment = server_environment(base, {"environment": {"NOTE": "1"}}, True, "new")
    assert not SECRETS.keys() & environment.keys()
    assert {name: environment[name] for name in ("PWD", "PATH", "HTTP_PROXY", "NOTE", "VLLM_API_KEY")} == {
        "PWD": "/w",
        "PATH": "/bin",
        "HTTP_PROXY": "http://proxy.example.org:3128",
        "NOTE": "1",
        "VLLM_API_KEY": "new",
    }


def test_facts_of_the_loaded_model():
    facts = loaded_facts(LOG)
    assert facts["quantization"] == "modelopt_fp4" and facts["dtype"] == "bfloat16" and facts["device"] == "cpu"
    assert facts["emulated"] is True and "emulated" in facts["emulation"]
    assert facts["kernels"] == ["CpuEmulationNvFp4LinearKernel"]
    assert facts["engine_starts"] == 1 and facts["attention_backend"] is None
    assert loaded_facts("")["emulated"] is False and loaded_facts("quantization=None")["quantization"] is None


@pytest.mark.parametrize(
    ("line", "backend"),
    [
        ("Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN', 'TRITON_ATTN'].", "FLASH_ATTN"),
        ("Using AttentionBackendEnum.FLASHINFER backend.", "FLASHINFER"),
        ("Using ROCM_ATTN backend (selected via --attention-backend).", "ROCM_ATTN"),
        ("Using FLASHINFER_MLA MLA prefill backend.", None),
        ("Using backend AttentionBackendEnum.FLASH_ATTN for vit attention", None),
        ("Using TRITON backend for mxfp4", None),
        ("Using 'FLASHINFER_CUTLASS' NvFp4 MoE backend out of potential backends: ['MARLIN'].", None),
        ("Using LBHNC KV cache layout.", None),
    ],
)
def test_attention_backend(line, backend):
    assert loaded_facts(line)["attention_backend"] == backend


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("Using FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM", "FlashInferCutlassNvFp4LinearKernel"),
        ("Using MarlinNvFp4LinearKernel for NVFP4 GEMM", "MarlinNvFp4LinearKernel"),
        ("Selected CutlassFP8ScaledMMLinearKernel for ModelOptFp8LinearMethod", "CutlassFP8ScaledMMLinearKernel"),
        ("Using MacheteLinearKernel for mixed-precision linear", "MacheteLinearKernel"),
        ("Using MarlinLinearKernel for AutoAWQMarlinLinearMethod", "MarlinLinearKernel"),
        ("Using 'MARLIN' NvFp4 MoE backend out of potential backends: ['A', 'B'].", "MARLIN NvFp4 MoE"),
        ("Using DEEPGEMM Fp8 MoE backend out of potential backends: ['A', 'B'].", "DEEPGEMM Fp8 MoE"),
        ("Using FlashInfer TRTLLM Unquantized MoE backend out of", "FlashInfer TRTLLM Unquantized MoE"),
        ("Using TRITON W4A8 MoE backend.", "TRITON W4A8 MoE"),
        ("Using FlashAttention version 3", "FlashAttention version 3"),
        ("Using configuration from a.json for W8A8 Block FP8 kernel.", None),
        ("Using FLASH_ATTN attention backend out of potential backends: ['FLASH_ATTN'].", None),
    ],
)
def test_kernels(line, kernel):
    assert loaded_facts(line)["kernels"] == ([kernel] if kernel else [])
    assert not loaded_facts(line)["emulated"]


def test_a_gpu_without_the_format_is_told_of():
    lines = (
        "Using EmulationNvFp4LinearKernel for NVFP4 GEMM",
        "Using 'EMULATION' NvFp4 MoE backend out of potential backends: ['MARLIN'].",
        "Using Nvfp4QuantizationEmulationTritonExperts MOE backend. This will dequantize weights on the fly",
    )
    for line in lines:
        assert loaded_facts(line)["emulated"] and "emulated" in loaded_facts(line)["emulation"]
    marlin = "Your GPU does not have native support for FP4 computation but FP4 quantization is being used. Weight-only"
    facts = loaded_facts(f"Using MarlinNvFp4LinearKernel for NVFP4 GEMM\nWARNING {marlin} FP4 compression will be used")
    assert not facts["emulated"] and facts["emulation"].startswith("The GPU has no FP4 arithmetic, so only the weights")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Using HummingNvFp4LinearKernel for NVFP4 GEMM", "no FP4 arithmetic, so only the weights were quantized (H"),
        ("Using HummingMxfp8LinearKernel for MXFP8 GEMM", "no MXFP8 arithmetic, so only the weights were"),
        ("Using MarlinMxfp8LinearKernel for MXFP8 GEMM", "no MXFP8 arithmetic, so only the weights were"),
        ("Using 'HUMMING' NvFp4 MoE backend out of potential backends: ['A'].", "weights were quantized (Humming)"),
        ("Using HummingFP8ScaledMMLinearKernel for QKVParallelLinear", None),
        ("Using HummingLinearKernel for mixed-precision linear", None),
        ("Using FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM", None),
    ],
)
def test_a_kernel_that_quantizes_the_weights_only_is_told_of_without_the_engine_s_word(line, sentence):
    told = loaded_facts(line)["emulation"]
    assert sentence in told if sentence else told is None


# What vLLM 0.32.0 wrote on an H100: NVFP4 in the MLP with an FP8 KV cache, and FP8 with an FP8 KV cache.
ON_AN_H100 = """\
(EngineCore pid=5674) INFO 11-27 10:14:36 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: \
model='checkpoint', dtype=torch.bfloat16, max_seq_len=64, tensor_parallel_size=1, quantization=modelopt_fp4, \
quantization_config=None, enforce_eager=False, kv_cache_dtype=fp8_e4m3, device_config=cuda, seed=1234
(EngineCore pid=5674) INFO 11-27 10:14:38 [cuda.py:506] Using FLASH_ATTN attention backend out of potential backends: \
['FLASH_ATTN', 'TRITON_ATTN'].
(EngineCore pid=5674) INFO 11-27 10:14:38 [flash_attn.py:1117] Using FlashAttention version 3
(EngineCore pid=5674) INFO 11-27 10:14:38 [__init__.py:1240] Using HummingNvFp4LinearKernel for NVFP4 GEMM
"""
FP8_ON_AN_H100 = ON_AN_H100.replace("modelopt_fp4", "modelopt").rpartition("(EngineCore")[0] + (
    "(EngineCore pid=8594) INFO 11-27 10:17:22 [__init__.py:797] Selected CutlassFP8ScaledMMLinearKernel for "
    "QKVParallelLinear\n(EngineCore pid=8594) INFO 11-27 10:17:22 [__init__.py:797] Selected "
    "CutlassFP8ScaledMMLinearKernel for RowParallelLinear\n"
)


def test_facts_of_models_that_were_loaded_on_a_gpu():
    facts = loaded_facts(ON_AN_H100)
    assert facts.pop("emulation").startswith("The GPU has no FP4 arithmetic, so only the weights were quantized")
    assert facts == {
        "quantization": "modelopt_fp4",
        "dtype": "bfloat16",
        "kv_cache_dtype": "fp8_e4m3",
        "device": "cuda",
        "attention_backend": "FLASH_ATTN",
        "kernels": ["FlashAttention version 3", "HummingNvFp4LinearKernel"],
        "emulated": False,
        "engine_starts": 1,
    }
    facts = loaded_facts(FP8_ON_AN_H100)
    assert facts["kernels"] == ["CutlassFP8ScaledMMLinearKernel", "FlashAttention version 3"]
    assert facts["quantization"] == "modelopt" and facts["emulation"] is None


@pytest.mark.parametrize(
    ("asked", "scheme", "effective"),
    [("auto", None, "bfloat16"), ("auto", {"num_bits": 8, "type": "float"}, "fp8"), ("fp8_e5m2", None, "fp8_e5m2")],
)
def test_effective_type_of_the_kv_cache(asked, scheme, effective):
    config = {"quantization_config": {"kv_cache_scheme": scheme}} if scheme else {}
    assert effective_kv_cache_dtype({"kv_cache_dtype": asked, "dtype": "bfloat16"}, config) == effective


SERVED = {"data": [{"id": "m", "root": "ckpt"}]}
QUANTIZED = {"quantization_config": {"quant_method": "modelopt"}}


@pytest.mark.parametrize(
    ("models", "quantization", "config", "word"),
    [
        (SERVED, None, {}, None),
        (SERVED, "modelopt_fp4", QUANTIZED, None),
        ({"data": [{"id": "m"}]}, None, {}, None),
        ({"data": [{"id": "other"}]}, None, {}, "other"),
        ({"data": [{"id": "m", "root": "elsewhere"}]}, None, {}, "elsewhere"),
        ({"data": []}, None, {}, "[]"),
        ("text", None, {}, "text"),
        (SERVED, None, QUANTIZED, "declares quantization modelopt"),
        (SERVED, "fp8", {}, "declares quantization none"),
    ],
)
def test_a_server_must_serve_what_it_was_started_with(models, quantization, config, word):
    found = find_impostor(models, "m", "ckpt", {"quantization": quantization}, config)
    assert found is None if word is None else word in found


def test_parallel_sizes_reach_the_engine():
    command = server_command("python", "ckpt", "m", SUITE, {"data_parallel_size": 4, "tensor_parallel_size": 2}, False)
    for option, value in (("tensor", "2"), ("pipeline", "1"), ("data", "4")):
        assert command[command.index(f"--{option}-parallel-size") + 1] == value


def test_error_line_is_the_root_cause():
    assert error_line(CRASH) == "ValueError: In-features must divide by 16"
    assert error_line("all well\n") is None
    missing = "Error: initializing source docker://localhost/vllm:1: connection refused"  # a container's runtime
    assert error_line(f"Trying to pull localhost/vllm:1...\n{missing}\n") == missing
    step = "slurmstepd-c0: error: pyxis:     [ERROR] No space left\nsrun: error: c0: task 0: Exited with exit code 1\n"
    assert error_line(step) == "No space left"
    assert error_line("FATAL:   stat /p: no such file or directory\n") == "stat /p: no such file or directory"


# What real shells say: dash, bash and busybox.
NO_PYTHON = (
    "/nowhere/python3: 1: exec: /nowhere/python3: not found",
    "sh: line 1: /nowhere/python3: No such file or directory",
    "sh: exec: line 1: /nowhere/python3: not found",
)


@pytest.mark.parametrize("said", NO_PYTHON)
def test_a_command_that_an_image_lacks_is_named(said):
    log = f"WARNING: group file doesn't exist in container, not updating\n{said}\n"
    assert error_line(log) == said
    assert transient_cause(127, log).detail == f"its image did not start: {said}"  # preflight had found it there
    assert transient_cause(127, log, is_proven_image=False) is None
    assert transient_cause(1, f"INFO 11-27 10:18:00 [api_server.py:1] vLLM\n{said}\n") is None


UNEXPECTED = "(APIServer pid=1) WARNING 11-26 [core_client.py:817] MPClient: engine core exited unexpectedly; cleanup\n"
NO_MEMORY = (
    "(EngineCore pid=9) ERROR 11-27 10:18:00 [core.py:1510] ValueError: Free memory on device cuda:0 (69.73/79.18 GiB) "
    "on startup is less than desired GPU memory utilization (0.92, 72.84 GiB). Decrease GPU memory utilization or "
    "reduce GPU memory used by other processes.\n"
)
PROFILING = "AssertionError: Error in memory profiling. Initial free memory 60.1 GiB, current free memory 70.2 GiB.\n"
SEGMENTATION = "Fatal Python error: Segmentation fault\n\nThread 0x00007f (most recent call first):\n"


PYXIS = "slurmstepd-c0: error: pyxis: failed to create container filesystem for image: i.sqsh\n"
ENROOT = "enroot-mount: failed to mount: squash-tmp: Device or resource busy\n[ERROR] Failed to start i.sqsh\n"
FULL = "OSError: [Errno 28] No space left on device: '/tmp/x'\n"
BY_ITSELF = ""


@pytest.mark.parametrize(
    ("code", "log", "cause"),
    [
        (0, LOG + UNEXPECTED, "its engine was killed"),
        (0, LOG + SEGMENTATION + UNEXPECTED, BY_ITSELF),
        (0, CRASH + UNEXPECTED, BY_ITSELF),
        (0, LOG, BY_ITSELF),
        (-signal.SIGKILL, "", "it was killed"),
        (-signal.SIGTERM, "", "it was killed"),
        (128 + signal.SIGKILL, "", "it was killed"),
        (-signal.SIGSEGV, "", BY_ITSELF),
        (-signal.SIGILL, "", BY_ITSELF),
        (1, CRASH, BY_ITSELF),
        (1, LOG + "OSError: [Errno 98] Address already in use\n", "its port"),
        (1, CRASH.replace("{}", "{'EngineCore': -9}"), "its engine was killed"),
        (1, LOG + NO_MEMORY, "others use its GPU's memory: ValueError: Free memory"),
        (1, LOG + NO_MEMORY.replace("69.73", "78.66"), BY_ITSELF),
        (1, LOG + PROFILING, "others use its GPU's memory"),
        (1, PYXIS, "its image did not start: "),
        (1, ENROOT, "its image did not start: Failed to start i.sqsh"),
        (1, ENROOT.splitlines()[0] + "\n", "its image did not start: enroot-mount: failed to mount"),
        (255, "FATAL:   container creation failed: mount hook failed\n", "its image did not start: container creation"),
        (1, "[ERROR] No space left on device\n", "its node cannot keep or give its files"),
        (1, LOG + FULL, "its node cannot keep or give its files: OSError: [Errno 28] No space left on device"),
        (1, LOG + "OSError: [Errno 116] Stale file handle: '/models/x'\n", "its node cannot"),
        (1, LOG + "OSError: [Errno 5] Input/output error: its daemon was killed\n", "its node cannot"),
        (1, CRASH + FULL, BY_ITSELF),  # what it met after its own error
        (1, LOG + "[ERROR] said by a library of the engine\n", BY_ITSELF),
    ],
)
def test_what_a_retry_may_cure(code, log, cause):
    found = transient_cause(code, log)
    assert str(found or BY_ITSELF).startswith(cause) and bool(found) is bool(cause), found
    assert found is None or found.was_killed is cause.endswith("was killed")


def test_an_image_that_preflight_has_not_started_may_be_a_wrong_one():
    assert transient_cause(255, "FATAL:   stat /p: no such file\n", is_proven_image=False) is None


# With a child in its own group and one in another, as Apptainer's helper that mounts the image.
SLEEPER = """import subprocess, sys, time
for group in (None, 0):
    subprocess.Popen(['sleep', '60'], process_group=group)
print('up', flush=True)
time.sleep(60)"""


def tree_of(process):
    root = psutil.Process(process.pid)
    deadline = time.monotonic() + 10
    while len(root.children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return [root, *root.children(recursive=True)]


def all_gone(processes, seconds=10):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_children_are_stopped_with_their_own_children():
    children = Children()
    process = children.start([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL)
    tree = tree_of(process)
    assert len(tree) == 3
    children.stop_all()
    assert all_gone(tree)


def test_what_outlives_a_session_is_removed_at_its_end(tmp_path):
    children = Children()
    for name in ("one", "other"):
        children.start(["sleep", "60"], removal=["touch", str(tmp_path / name)])
    children.stop_all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_a_scratch_folder_lasts_as_long_as_it_is_needed():
    children = Children()
    with children.scratch_folder() as folder:
        (folder / "file").touch()
        children.stop_all()
    assert not folder.exists()


def test_no_child_survives_a_killed_stage(tmp_path):
    program = (
        f"import sys, time; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from day0.serving.server import Children\n"
        f"removal = ['touch', {str(tmp_path / 'removed')!r}]\n"
        "children = Children()\n"
        "with children.scratch_folder() as folder:\n"
        "    (folder / 'file').touch()\n"
        f"    (folder / 'there').symlink_to({str(tmp_path)!r})\n"
        f"    process = children.start([sys.executable, '-c', {SLEEPER!r}], removal)\n"
        "    time.sleep(60)"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    stage = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert stage.stdout.readline().strip() == "up"
    tree = psutil.Process(stage.pid).children(recursive=True)
    assert len(tree) == 4  # the guard, the child and its children
    assert len(list(scratch.iterdir())) == 1
    stage.kill()
    stage.wait()
    assert all_gone(tree)
    deadline = time.monotonic() + 10
    while (not (tmp_path / "removed").exists() or list(scratch.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (tmp_path / "removed").exists() and not list(scratch.iterdir())


HEALTHY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", 0), Handler).serve_forever()
"""


def test_a_server_that_its_runtime_runs_elsewhere_is_found_by_its_key(tmp_path):
    children = Children()
    # As a container's runtime does: the server is a child, or no descendant at all, as in a job step of pyxis.
    python = f"{sys.executable} -c '{HEALTHY}' {OPENAI_SERVER}"
    inside, detached = f"{python} & wait", f"setsid {python} & sleep 60"
    try:
        servers = [
            Server(children, ["sh", "-c", text], os.environ | {"VLLM_API_KEY": key}, tmp_path / f"{key}.log")
            for key, text in (("first", inside), ("second", f"({detached}) & wait"))
        ]
        for server in servers:
            server.wait(20)
        assert len({server.port for server in servers}) == 2
    finally:
        children.stop_all()
        for process in psutil.process_iter(["cmdline"]):
            if HEALTHY in (process.info["cmdline"] or []):
                process.kill()


def test_a_worker_on_another_node_that_ends_is_named(tmp_path):
    children = Children()
    worker = ["sh", "-c", "echo 'ValueError: no such device'; exit 1"]
    try:
        server = Server(
            children, ["sleep", "60"], os.environ | {"VLLM_API_KEY": "k"}, tmp_path / "server.log", workers=[worker]
        )
        with pytest.raises(DeploymentFailed, match=r"worker on node 1 ended .*ValueError: no such device"):
            server.wait(20)
        assert (tmp_path / "server.node-1.log").read_text() == "ValueError: no such device\n"
    finally:
        children.stop_all()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        pytest.param(
            "OSError: [Errno 5] Input/output error: its daemon was killed\n",
            r"its node cannot keep or give its files: .*its daemon was killed",
            id="an error of the node that ends like a kill",
        ),
        pytest.param(
            NO_MEMORY,
            r"others use its GPU's memory: ValueError: Free memory on device cuda:0",
            id="a GPU that others use",
        ),
    ],
)
def test_what_ended_the_server_from_outside_is_quoted(tmp_path, said, sentence):
    children = Children()
    (tmp_path / "said").write_text(said)
    command, environment = ["sh", "-c", f"cat {tmp_path}/said; exit 1"], os.environ | {"VLLM_API_KEY": "k"}
    try:
        with pytest.raises(Transient, match=sentence):
            Server(children, command, environment, tmp_path / "server.log").wait(20)
    finally:
        children.stop_all()


def test_a_launcher_that_finds_no_runtime_on_its_node_is_transient(tmp_path):
    children = Children()
    try:
        command = ["sh", "-c", f"echo 'error: found no enroot on c0'; exit {EXIT_TRANSIENT}"]
        server = Server(children, command, os.environ | {"VLLM_API_KEY": "k"}, tmp_path / "server.log")
        with pytest.raises(Transient, match="did not start: error: found no enroot on c0"):
            server.wait(20)
    finally:
        children.stop_all()


def test_what_a_server_says_while_it_is_stopped_stands_below_the_end_of_its_tasks(tmp_path):
    children = Children()
    talking = "echo before; read line < go; echo after"
    os.mkfifo(tmp_path / "go")
    try:
        log = tmp_path / "server.log"
        server = Server(children, ["sh", "-c", f"cd {tmp_path}; {talking}"], os.environ | {"VLLM_API_KEY": "k"}, log)
        while "before" not in server.read_log():
            time.sleep(0.02)
        server.mark_end()
        (tmp_path / "go").write_text("on\n")
        server.process.wait()
        assert server.read_log() == f"before\n\n{END_LINE}\nafter\n"
    finally:
        children.stop_all()
