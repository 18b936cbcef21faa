"""NeMo Evaluator's tasks in the whole stage: a judge at an endpoint of its own, and runs that are killed."""

import contextlib
import http.server
import json
import os
import socket
import sqlite3
import threading

import psutil
import pytest
from test_resume import HELD, TRANSIENT, assert_nothing_is_left, go_on, in_the_middle, kill_stage, ports_of, stop_server

from evaluate_stage import HERE, Stage

pytestmark = pytest.mark.e2e
JUDGED = {
    "harness": "nemo-evaluator",
    "task": "judged.addition",
    "metric": "judge.correct",
    "judge": "expert",
    "scale": {"min": 0, "max": 1},
}
EXPERT = {"model": "tiny-llama", "url_variable": "JUDGE_URL_OF_TEST", "key_variable": "JUDGE_KEY_OF_TEST"}


def judged(folder, backend, url, key, **parameters):
    """A finished run of a task whose judge is at an address that only the environment knows, with its key."""
    task = {**JUDGED, "parameters": parameters}
    stage = Stage(folder, backend, suite={"judges": {"expert": EXPERT}, "tasks": {"addition": task}}, limit=8)
    stage.environment |= {"JUDGE_URL_OF_TEST": url, "JUDGE_KEY_OF_TEST": key, "PYTHONPATH": str(HERE / "frameworks")}
    process = stage.start()
    words = set()
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    words.update(one.cmdline())
        with contextlib.suppress(Exception):
            process.wait(timeout=0.1)
    stage.said, stage.status = process.stdout.read(), process.returncode
    # The variable reaches the framework by its name; what it holds is nowhere.
    assert any("--judge-key-variable" in word for word in words) and not any(key in word for word in words)
    assert key not in stage.said
    for file in stage.output.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file
    return stage


def address(port):
    return f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def busy_judge():
    """The port of a judge that has no time."""

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(429)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_port():
    """A port on which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_model_judges_the_answers(backend, tmp_path):
    stage = judged(tmp_path, backend, address(backend["port"]), backend["key"])
    assert stage.status == 0 and stage.assessment()["pass"], (stage.said, stage.assessment())
    assert stage.metadata["accounting"]["addition"]["scored"] == 8
    assert stage.metadata["fingerprint"]["addition"]["judge"] == "expert tiny-llama"
    lines = [json.loads(line) for line in (stage.output / "samples/addition.jsonl").read_text().splitlines()]
    assert len(lines) == 8 and lines[0]["answer"] == "41521" and lines[0]["score"] == 1.0


@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize("fault", ["refuses the key", "is busy", "is down"])
def test_a_judge_that_fails_is_no_wrong_answer(request, backend, tmp_path, fault, lenient):
    port, key = backend["port"], "no-key-of-this-judge-at-all"
    if fault != "refuses the key":
        port = request.getfixturevalue("busy_judge" if fault == "is busy" else "no_port")
    stage = judged(tmp_path, backend, address(port), key, lenient=lenient)
    assert stage.status == 0 and "Traceback" not in stage.said, stage.said
    assessment = stage.assessment()
    assert not assessment["pass"] and assessment["failure_class"] == "EVAL_JUDGE_FAILED", assessment
    if lenient:  # the framework goes on with zeros, and says so in its log
        assert any("Judge call failed" in finding["detail"] for finding in assessment["findings"]), assessment
    else:
        assert "judge tiny-llama (JUDGE_URL_OF_TEST, JUDGE_KEY_OF_TEST)" in assessment["detail"], assessment
        told = {"refuses the key": "401", "is busy": "429", "is down": "refused"}[fault]
        assert told in assessment["detail"], assessment


@pytest.mark.parametrize("kind", [None, "half of the numbers", "no numbers"])
def test_a_part_of_the_log_probabilities_is_no_answer(nemo_backend, tmp_path, kind):
    """Without one of each token lm-eval's sum is that of a part, and its choice is of no meaning."""
    task = {"harness": "nemo-evaluator", "task": "lm-evaluation-harness.demo_sorting", "metric": "acc,none"}
    fault = {"kind": kind, "count": 1} if kind else None
    stage = Stage(tmp_path, nemo_backend, fault, {"tasks": {"sorting": task}}, tasks=("sorting",), limit=12).run()
    assert stage.status == 0, stage.said
    assessment = stage.assessment()
    assert assessment["pass"] is (kind is None), assessment
    assert ("sorting" in assessment["scores"]) is (kind is None)
    if kind:
        assert assessment["failure_class"] == "SAMPLE_ACCOUNTING_FAILED", assessment
        assert "responses lack log probabilities" in f"{assessment}", assessment


DOCUMENTS = 60
TASK = {"harness": "nemo-evaluator", "task": "lm-evaluation-harness.demo_addition", "metric": "exact_match,none"}


def stored_answers(stage):
    """Answers in the stores of NeMo Evaluator's adapter: it takes up those whose text and headers are both there."""
    count = 0
    for file in stage.output.glob("cache/*/repeat-*/responses/cache.db"):
        keys = []
        for database in (file, file.parents[1] / "headers" / "cache.db"):
            # Its tables may just be being made.
            with (
                contextlib.suppress(sqlite3.OperationalError),
                contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened,
            ):
                keys.append({key for (key,) in opened.execute("SELECT key FROM Cache")})
        count += len(set.intersection(*keys)) if len(keys) == 2 else 0
    return count


def stop_harness(process, family):
    next(p for p in family if "harness_nemo_evaluator.py" in " ".join(p.cmdline())).kill()


@pytest.mark.parametrize(
    ("stop", "status", "recorded"),
    [(stop_harness, TRANSIENT, "STOPPED"), (stop_server, TRANSIENT, "STOPPED"), (kill_stage, -9, "KILLED")],
)
def test_only_what_has_no_answer_is_asked_again(nemo_backend, tmp_path, stop, status, recorded):
    suite = {"concurrency": 4, "tasks": {"addition": TASK}}
    stage = Stage(tmp_path, nemo_backend, HELD | {"first": 6}, suite, limit=DOCUMENTS)
    stage.environment["TMPDIR"] = str(tmp_path)
    with in_the_middle(stage, answered=lambda: stored_answers(stage) >= 3) as (process, family):
        ports = ports_of(family)
        stop(process, family)
    assert stage.status == status, stage.said
    assert_nothing_is_left(family, ports)
    assert not (stage.output / "results.yml").exists()
    stored, before = stored_answers(stage), stage.asked()
    assert go_on(stage, before, stored, DOCUMENTS, recorded)["asked"] == DOCUMENTS - stored
    assert not [path for path in os.listdir(tmp_path) if path.startswith("evaluate-")]
