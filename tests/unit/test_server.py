"""The server's command, its canary, what its log says, and that no child outlives the stage."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from day0.server import (
    Children,
    ended_by_transient,
    error_line,
    judge_canary,
    loaded_facts,
    server_command,
    server_environment,
)

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SUITE = {"context_length": 64, "seed": 7}


def completion(text="abc", tokens=("a", "b", "c"), logprobs=(-0.1, -0.2, -0.3)):
    return {"choices": [{"text": text, "logprobs": {"tokens": list(tokens), "token_logprobs": list(logprobs)}}]}


def test_command_binds_the_loopback_address_and_a_port_of_the_kernels_choice():
    command = server_command("python", "ckpt", "m", SUITE, {"extra_arguments": ["--foo", 1]}, on_cpu=True)
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "0"
    assert command[command.index("--max-model-len") + 1] == "64" and command[-2:] == ["--foo", "1"]
    assert "--enforce-eager" in command
    assert "--enforce-eager" not in server_command("python", "ckpt", "m", SUITE, {}, on_cpu=False)


def test_key_is_in_the_environment_only():
    environment = server_environment({"PYTHONPATH": "x"}, {"environment": {"A": 1}}, True, "secret")
    assert environment["VLLM_API_KEY"] == "secret" and environment["A"] == "1"
    assert environment["PYTHONPATH"].endswith(f"vllm_plugin{os.pathsep}x")
    assert "PYTHONPATH" not in server_environment({}, {}, False, "secret")
    assert "secret" not in " ".join(server_command("python", "ckpt", "m", SUITE, {}, on_cpu=True))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (completion(text="  "), "empty"),
        (completion(tokens=(), logprobs=()), "empty"),
        (completion(tokens=("!",) * 4, logprobs=(-1.0,) * 4), "repeated"),
        (completion(logprobs=(-0.1, math.nan, -0.1)), "nan"),
        (completion(logprobs=(-0.1, None, -0.1)), "None"),
        (completion(logprobs=(-0.1, -math.inf, -0.1)), "inf"),
        ({}, "no text"),
        ({"choices": []}, "no text"),
        ("text", "no text"),
        (None, "no text"),
    ],
)
def test_canary_of_a_broken_deployment(answer, word):
    assert word in judge_canary(answer)


def test_sound_canary():
    assert judge_canary(completion()) is None
    assert judge_canary(completion(text="1", tokens=("1",), logprobs=(-0.0,))) is None


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


def test_facts_of_the_loaded_model():
    facts = loaded_facts(LOG)
    assert facts["quantization"] == "modelopt_fp4" and facts["dtype"] == "bfloat16" and facts["device"] == "cpu"
    assert facts["emulated"] is True and "emulated" in facts["emulation"]
    assert facts["kernels"] == ["CpuEmulationNvFp4LinearKernel"]
    assert loaded_facts("")["emulated"] is False and loaded_facts("quantization=None")["quantization"] is None


def test_error_line_is_the_root_cause():
    assert error_line(CRASH) == "ValueError: In-features must divide by 16"
    assert error_line("all well\n") is None


@pytest.mark.parametrize(
    ("code", "log", "transient"),
    [
        (-signal.SIGKILL, "", True),
        (-signal.SIGTERM, "", True),
        (-signal.SIGSEGV, "", False),
        (-signal.SIGILL, "", False),
        (1, CRASH, False),
        (1, CRASH.replace("{}", "{'EngineCore': -9}"), True),
    ],
)
def test_what_a_retry_may_cure(code, log, transient):
    assert ended_by_transient(code, log) is transient


SLEEPER = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"


def tree_of(process):
    root = psutil.Process(process.pid)
    deadline = time.monotonic() + 10
    while not root.children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return [root, *root.children(recursive=True)]


def all_gone(processes, seconds=10):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def test_children_are_stopped_with_their_own_children():
    children = Children()
    process = children.start([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL)
    tree = tree_of(process)
    assert len(tree) == 2
    children.stop_all()
    assert all_gone(tree)


def test_no_child_survives_a_killed_stage():
    program = (
        f"import sys, time; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from day0.server import Children\n"
        f"process = Children().start([sys.executable, '-c', {SLEEPER!r}])\n"
        "time.sleep(60)"
    )
    stage = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert stage.stdout.readline().strip() == "up"
    tree = psutil.Process(stage.pid).children(recursive=True)
    assert len(tree) == 3  # the guard, the child and its child
    stage.kill()
    stage.wait()
    assert all_gone(tree)
