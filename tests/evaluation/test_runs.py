"""Whole runs against a real server: shards, repeats, chat, secrets, and an engine that is killed for real."""

import http.client
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml

from evaluate_stage import ROOT, Stage

pytestmark = pytest.mark.e2e

TASKS = ("addition", "sorting")


def test_shards_put_together_are_the_run_that_was_never_split(backend, tmp_path):
    whole = Stage(tmp_path / "whole", backend, tasks=TASKS, limit=40).run()
    assert whole.status == 0, whole.said
    for shards in (["1-of-3", "2-of-3", "3-of-3"], list(TASKS)):
        folder = tmp_path / f"{len(shards)}-shards"
        for shard in shards:
            stage = Stage(folder / shard, backend, tasks=TASKS, limit=40).run("--shard", shard)
            assert stage.status == 0, stage.said
        command = [sys.executable, "scripts/merge_shards.py", "--suite", str(stage.suite), "--output-dir", folder]
        command += [str(folder / shard / "run" / "part.json") for shard in shards]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "COMPLETED" in done.stdout, done.stdout + done.stderr
        merged, single = (yaml.safe_load((f / "results.yml").read_text()) for f in (folder, whole.output))
        assert merged["results"] == single["results"]
        for block in ("fingerprint", "accounting"):
            assert merged["metadata"][block] == single["metadata"][block]
        assert [part["shard"] for part in merged["metadata"]["shards"]] == shards
        for task in TASKS:
            samples = f"samples/{task}.jsonl"
            assert (folder / samples).read_text() == (whole.output / samples).read_text()


def test_more_shards_than_documents_are_refused(backend, tmp_path):
    stage = Stage(tmp_path, backend, limit=2).run("--shard", "3-of-3")
    part = json.loads((stage.output / "part.json").read_text())
    assert part["outcomes"]["addition"]["error_kind"] == "configuration"
    assert "3 shards" in part["outcomes"]["addition"]["error"]


def test_a_shard_that_does_not_exist_is_refused(backend, tmp_path):
    stage = Stage(tmp_path, backend).run("--shard", "4-of-3")
    assert stage.status == 2 and "expected N-of-M or one of the tasks addition; found '4-of-3'" in stage.said


def test_every_question_and_repeat_has_a_seed_of_its_own(backend, tmp_path):
    suite = {"generation": {"temperature": 1.5, "do_sample": True}, "tasks": {"addition": {"repeats": 3}}}
    suite["limits"] = {"cut": 1, "unparsed": 1, "empty": 1}
    stage = Stage(tmp_path, backend, suite=suite, limit=32).run()
    assert stage.status == 0, stage.said
    asked = [json.loads(line) for line in stage.asked()]
    # One seed for all questions of a repeat would let them share their draws, and fail together.
    assert len({seed for _, seed in asked}) == len(asked) == 96 and len({str(prompt) for prompt, _ in asked}) == 32
    assert stage.metadata["accounting"]["addition"]["scored"] == 96
    lines = [json.loads(line) for line in (stage.output / "samples/addition.jsonl").read_text().splitlines()]
    answers = [[line["answer"] for line in lines if line["repeat"] == repeat] for repeat in range(3)]
    assert len(lines) == 96 and answers[0] != answers[1] != answers[2]
    assert all(isinstance(line["tokens"], int) and line["finish_reason"] for line in lines)


def test_a_chat_template_and_a_system_prompt_change_what_is_asked(backend, tmp_path):
    own = {"apply_chat_template": True, "generation": {"max_gen_toks": 8}}
    suite = {"limits": {"cut": 1, "unparsed": 1, "empty": 1}, "tasks": {"addition": own}}
    stage = Stage(tmp_path, backend, suite=suite, limit=8).run()
    assert stage.status == 0, stage.said
    fingerprint = stage.metadata["fingerprint"]["addition"]
    assert fingerprint["endpoint"] == "chat" and fingerprint["apply_chat_template"]
    assert fingerprint["chat_template_digest"] == stage.metadata["server"]["chat_template_digest"] is not None
    messages = json.loads(stage.asked()[0])[0]
    assert messages[-1]["role"] == "user"
    lines = [json.loads(line) for line in (stage.output / "samples/addition.jsonl").read_text().splitlines()]
    assert all(isinstance(line["tokens"], int) and line["finish_reason"] for line in lines)


def test_a_key_is_in_no_file_and_on_no_command_line(backend, tmp_path):
    go = tmp_path / "go"
    stage = Stage(tmp_path, backend, {"kind": "hold", "until": str(go)})
    process = stage.start()
    while not stage.notes.exists():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    keys = {one.environ().get("VLLM_API_KEY") for one in family} - {None}
    words = " ".join(word for one in family for word in one.cmdline())
    go.touch()
    said, _ = process.communicate(timeout=120)
    (key,) = keys
    assert process.returncode == 0 and len(key) > 20 and key not in words + said
    for file in stage.output.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


SECRETS = {
    "HF_TOKEN": "hf_SecretOfTheHub0123456789",
    "GITLAB_PAT": "SecretOfGitlab0123456789",
    "REGISTRY_AUTH": "SecretOfTheRegistry0123456789",
    "AWS_ACCESS_KEY_ID": "AKIA0123456789ABCDEF",
    "AWS_SECRET_ACCESS_KEY": "SecretOfAmazon0123456789",
    "MLFLOW_TRACKING_PASSWORD": "SecretOfMlflow0123456789",
    "ALL_PROXY": "socks5://user:SecretOfTheProxy@127.0.0.1:9",
}
VALUES = [value.partition("user:")[2].partition("@")[0] or value for value in SECRETS.values()]


def assert_no_secret(text, where):
    assert [value for value in VALUES if value in text] == [], where


# What vLLM's server answers, the paths among them for which vLLM itself asks no key.
PATHS = ("/v1/models", "/v1/completions", "/invocations", "/tokenize", "/metrics", "/version", "/openapi.json", "/ping")
POSTED = ("/v1/completions", "/invocations", "/tokenize")


def listening(process):
    """The ports of a process that others reach; all are of the loopback interface."""
    entries = [entry for entry in process.net_connections(kind="inet") if entry.status == psutil.CONN_LISTEN]
    for entry in entries:
        assert entry.laddr.ip in ("127.0.0.1", "::1"), (process, entry)
    return entries


def answers_of(port, key):
    """Status of each path without the key, and of the models with it; None where HTTP is not spoken."""

    def ask(path, headers):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        body = json.dumps({"model": "tiny-llama", "prompt": "1", "max_tokens": 1}) if path in POSTED else None
        try:
            connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json", **headers})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    if ask("/health", {}) is None:
        return [None], None
    wrong = {"Authorization": f"Bearer {key}x"}
    without = [ask(path, headers) for path in PATHS for headers in ({}, wrong)]
    return without, ask("/v1/models", {"Authorization": f"Bearer {key}"})


def test_an_engine_killed_for_real_is_transient_and_no_secret_is_left_anywhere(project, tmp_path):
    """One run for both, since a real engine takes long to start."""
    stage = Stage(tmp_path, None, suite={"concurrency": 16}, limit=600)
    stage.environment |= SECRETS
    process = stage.start()
    while not any(file.stat().st_size for file in stage.output.glob("cache/*")):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    server, harness = (
        next(one for one in family if name in " ".join(one.cmdline())) for name in ("api_server", "harness_lm_eval.py")
    )
    harness.suspend()  # else it may be through before the server is killed
    # The suite's data are files: not even its harness needs a secret.
    for one in family:
        assert_no_secret(str(one.environ()) + " ".join(one.cmdline()), one)
    key = server.environ()["VLLM_API_KEY"]
    ports = sorted({entry.laddr.port for one in family for entry in listening(one)})
    with ThreadPoolExecutor(len(ports)) as pool:  # torch's own ports answer nothing
        answers = dict(zip(ports, pool.map(lambda port: answers_of(port, key), ports), strict=True))
    assert any(with_key == 200 for _, with_key in answers.values()), "the server was not among them"
    for port, (without_key, _) in answers.items():
        assert set(without_key) <= {401, 403, None}, (port, without_key)
    server.children()[0].kill()
    harness.resume()
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 75 and "the server was killed" in said, said
    assert not psutil.wait_procs(family, timeout=15)[1]
    stage.run()
    assert stage.status == 0, stage.said
    assert_no_secret(said + stage.said, "what the stage says")
    for file in filter(Path.is_file, stage.output.rglob("*")):
        assert_no_secret(file.read_text(errors="replace"), file)
    assert 0 < stage.metadata["requests"]["addition"]["from_store"] < 600
    server = stage.metadata["server"]
    assert (server["quantization"], server["device"], server["model_id"]) == (None, "cpu", "tiny-llama")
    assert stage.metadata["canary"]["perplexity"] < 1.5 and stage.assessment()["pass"]
