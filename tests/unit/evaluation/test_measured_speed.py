"""The measurement of a server's speed: whole or not at all, and its memory at rest."""

import json
import os
import sys
from types import SimpleNamespace

import pytest
from measured_speed import IDENTITY, LOAD, SERVER

from day0.base.cli import UnusableInput
from day0.evaluation.request import read_load
from day0.evaluation.speed import CLIENT_LOG, SpeedMeasurement, gpu_bytes_of
from day0.records.results import RunIdentity
from day0.records.speed import Load
from day0.serving.engine_log import memory_facts
from day0.serving.processes import Children, Transient
from day0.serving.server import DeploymentFailed
from measure_speed import client_arguments

ANSWERED = {"completed": 16, "failed": 0, "total_input_tokens": 384, "total_output_tokens": 256, "error": None}
ANSWERED |= {"duration": 0.5, "request_throughput": 32.0, "output_throughput": 512.0}
ANSWERED |= {f"{kind}_{name}_ms": 2.0 for kind in ("mean", "median", "p99") for name in ("ttft", "tpot")}
LOST = {"completed": 15, "failed": 1, "total_output_tokens": 240, "error": "Bad Request: the context is too long"}


class _Server:
    """Stands for a server at rest; its process is this one."""

    base_url, key = "http://127.0.0.1:1", "key"

    def __init__(self, fault=None):
        self.process, self._fault = SimpleNamespace(pid=os.getpid()), fault

    def read_log(self):
        return "GPU KV cache size: 349,504 tokens, Maximum concurrency for 64 tokens per request: 5461.00x\n"

    def check(self, when):
        if self._fault:
            raise self._fault


def measured(tmp_path, client, server=None, also=lambda: None, limit=60):
    """The record of a measurement whose client is this text of Python; ``output`` and ``given`` are known to it."""
    (tmp_path / "logs").mkdir(exist_ok=True)
    python = tmp_path / "python"
    (tmp_path / "client.py").write_text(
        "import json, os, signal, sys, time\n"
        "given = dict(zip(sys.argv[2::2], sys.argv[3::2]))\n"
        "output = given['--output']\n" + client
    )
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "client.py"} "$@"\n')
    python.chmod(0o755)
    request = SimpleNamespace(
        serve=SimpleNamespace(python=str(python)),
        model="m",
        checkpoint=SimpleNamespace(folder=tmp_path),
        suite={"seed": 1234, "request_timeout_seconds": limit},
        serving={},
        on_cpu=True,
        gpus_of_node=0,
        nodes=1,
        output=tmp_path,
    )
    measurement = SpeedMeasurement(request, RunIdentity(**IDENTITY), Load(**LOAD))
    children = Children()
    try:
        return measurement.make(children, server or _Server(), SERVER, tmp_path, also)
    finally:
        children.stop_all()


def writing(*repeats):
    content = json.dumps({"client": "c 1", "repeats": repeats})
    return f"open(output, 'w').write({content!r})\n"


def test_a_whole_measurement_holds_every_repeat_and_the_memory_at_rest(tmp_path):
    asked = "assert given['--requests'] == '16' and given['--input-tokens'] == '24', given\n"
    asked += "assert os.environ['OPENAI_API_KEY'] == 'key' and 'key' not in sys.argv\n"
    speed = measured(tmp_path, asked + writing(ANSWERED, ANSWERED, ANSWERED))
    assert speed.status == "MEASURED" and speed.client == "c 1", speed.detail
    assert [repeat.output_tokens_per_second for repeat in speed.repeats] == [512.0] * 3
    assert speed.memory.host_bytes > 10**6 and speed.memory.kv_cache_tokens == 349_504
    assert speed.memory.gpu_bytes is None and "512.0 output tokens per second" in speed.detail


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (writing(ANSWERED, ANSWERED | LOST, ANSWERED), "repeat 2: 15 of 16 requests were answered"),
        (writing(ANSWERED | LOST, ANSWERED, ANSWERED), "Bad Request: the context is too long"),
        (writing(ANSWERED, ANSWERED, ANSWERED | {"total_output_tokens": 255}), "with 255 of 256 tokens"),
        (writing(ANSWERED, ANSWERED), "2 of 3 repeats were measured"),
        (writing(ANSWERED, ANSWERED, ANSWERED | {"mean_ttft_ms": 0.0}), "repeat 3: time_to_first_token_ms.mean"),
        ("raise ValueError('no such tokenizer')", "exit status 1: ValueError: no such tokenizer"),
        ("pass", "exit status 0: its log is empty"),
        ("time.sleep(60)", "took more than 0.4 s"),
    ],
)
def test_a_measurement_that_is_not_whole_counts_for_nothing_and_says_what_to_do(tmp_path, client, said):
    speed = measured(tmp_path, client, limit=0.1 if "took more" in said else 60)
    assert (speed.status, speed.repeats) == ("FAILED", []) and said in speed.detail, speed.detail
    assert "again" in speed.detail or CLIENT_LOG in speed.detail or "set fewer" in speed.detail


def test_a_server_that_breaks_under_the_load_is_no_failure_of_its_answers(tmp_path):
    speed = measured(tmp_path, "time.sleep(60)", _Server(DeploymentFailed("the server ended: out of memory")))
    assert speed.status == "FAILED" and "out of memory" in speed.detail


def test_what_ends_the_client_from_outside_is_left_to_a_retry(tmp_path):
    with pytest.raises(Transient, match="was killed"):
        measured(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(Transient, match="nearly up"):
        measured(tmp_path, "time.sleep(60)", also=lambda: (_ for _ in ()).throw(Transient("the walltime is nearly up")))


def test_the_engines_words_on_its_memory():
    log = (
        "(Worker pid=7) INFO 11-23 12:00:00 [runner.py:425] Model loading took 7.51 GiB memory and 3.1 seconds\n"
        "(Worker pid=8) INFO 11-23 12:00:00 [runner.py:425] Model loading took 7.49 GiB memory and 3.2 seconds\n"
        "(EngineCore pid=6) INFO 11-23 12:00:09 [kv_cache_utils.py:2327] GPU KV cache size: 1,024,000 tokens, Maximum\n"
    )
    assert memory_facts(log) == {"weights_bytes_of_a_gpu": round(7.51 * 2**30), "kv_cache_tokens": 1_024_000}
    assert memory_facts("") == {"weights_bytes_of_a_gpu": None, "kv_cache_tokens": None}


@pytest.mark.parametrize(
    ("lines", "held"),
    [
        (["7, 100", "8, 50", "9, 1000"], 150 * 2**20),
        (["9, 1000"], None),
        ([], None),
        (["7, [N/A]", "8, 50"], None),
        (["No running processes found"], None),
    ],
)
def test_only_the_servers_own_processes_count_on_a_gpu(lines, held):
    assert gpu_bytes_of(lines, {7, 8}) == held


@pytest.mark.parametrize("text", ["{", "1", '{"repeats": 1}', '{"rate": 4}'])
def test_a_load_that_is_none_is_refused(text):
    with pytest.raises(UnusableInput, match="--speed"):
        read_load(text)
    assert read_load(None) is None and read_load("{}") == Load()


def test_the_client_asks_each_repeat_by_a_seed_of_its_own_and_says_no_secret():
    asked = SimpleNamespace(base_url="u", model="m", tokenizer="t", seed=5, trust_remote_code=False, **LOAD)
    first, second = (client_arguments(asked, repeat) for repeat in range(2))
    assert first[first.index("--seed") + 1] == "5" and second[second.index("--seed") + 1] == "6"
    assert first[first.index("--num-warmups") + 1] == "4" and second[second.index("--num-warmups") + 1] == "1"
    assert "--ignore-eos" in first and first[first.index("--temperature") + 1] == "0"
