"""The run gate: what passes, what fails with which class, and that nothing odd ever passes or raises."""

import copy
import json
import math

import pytest
from decision_input import evaluate_run
from hypothesis import given
from hypothesis import strategies as st

from day0.base.artefacts import write_yaml
from day0.decision.assess_run import read_run
from day0.evaluation.run_logs import scan_log
from day0.records.failure_class import FailureClass
from day0.serving.engine_log import END_LINE


def healthy():
    counts = {
        "expected": 10,
        "asked": 10,
        "answered": 10,
        "scored": 10,
        "empty": 0,
        "cut": 0,
        "unparsed": 0,
        "failed": 0,
    }
    scale = {"min": 0, "max": 1, "direction": "higher"}
    task = {"metric": "exact_match", "score": 0.9, "stderr": 0.1, "scale": scale, "tier": "critical"}
    return {
        "status": "COMPLETED",
        "failure_class": None,
        "detail": "",
        "tasks": {name: {**copy.deepcopy(task), "accounting": dict(counts)} for name in ("addition", "sorting")},
        "log_findings": [],
    }


def changed(path, value):
    summary = healthy()
    place = summary
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return summary


def test_healthy_run_passes():
    verdict = evaluate_run(healthy())
    assert verdict["pass"] is True and verdict["failure_class"] is None and verdict["findings"] == []
    assert verdict["scores"]["addition"]["score"] == 0.9 and verdict["scores"]["addition"]["samples"] == 10


A = ("tasks", "addition")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        *((("status",), status, "INFRA_TRANSIENT") for status in ("TIMEOUT", "RUNNING", "PENDING", "RESUMING")),
        *((("status",), status, "INFRA_TRANSIENT") for status in ("NODE_FAIL", "PREEMPTED")),
        (("status",), "FAILED", "UNKNOWN"),
        (("status",), KeyError, "UNKNOWN"),
        (("status",), 3, "UNKNOWN"),
        (("failure_class",), "DEPLOYMENT_HEALTH_FAILED", "DEPLOYMENT_HEALTH_FAILED"),
        (("failure_class",), "no such class", "UNKNOWN"),
        (("failure_class",), ["x"], "UNKNOWN"),
        (("tasks",), {}, "USER_CONFIG_ERROR"),
        (A, None, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting"), KeyError, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "expected"), KeyError, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "expected"), None, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "expected"), 10.0, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "expected"), True, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "scored"), 9, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "scored"), 11, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "scored"), -10, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "empty"), -1, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "failed"), 1, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "accounting", "empty"), 10, "DEPLOYMENT_HEALTH_FAILED"),
        ((*A, "accounting"), {"expected": 0, "scored": 0}, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), KeyError, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), "0.9", "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), True, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), math.nan, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), math.inf, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), 10**400, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), 1.01, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "score"), -0.01, "SAMPLE_ACCOUNTING_FAILED"),
        ((*A, "scale"), {"min": 1, "max": 1}, "USER_CONFIG_ERROR"),
        ((*A, "scale"), "0..1", "USER_CONFIG_ERROR"),
        (
            ("log_findings",),
            [{"class": "EVAL_JUDGE_FAILED", "file": "a.log", "line": 1, "text": "x"}],
            "EVAL_JUDGE_FAILED",
        ),
        (("log_findings",), "text", "UNKNOWN"),
    ],
)
def test_one_fault_fails_with_its_class(path, value, expected):
    verdict = evaluate_run(changed(path, value))
    assert verdict["pass"] is False
    assert verdict["failure_class"] == expected
    assert expected in verdict["failure_classes"] and verdict["detail"]


def test_all_zero_scores_fail_but_one_zero_does_not():
    summary = changed((*A, "score"), 0)
    assert evaluate_run(summary)["pass"] is True
    summary["tasks"]["sorting"]["score"] = 0.0
    verdict = evaluate_run(summary)
    assert verdict["pass"] is False and "exactly 0" in verdict["detail"]


HUNDRED = dict.fromkeys(("expected", "scored"), 100)


@pytest.mark.parametrize(
    ("fields", "failure_class", "words"),
    [
        ({"accounting": HUNDRED | {"cut": 11}}, "SAMPLE_ACCOUNTING_FAILED", "11 of 100 answers were cut"),
        ({"accounting": HUNDRED | {"cut": 10}}, None, ""),
        ({"accounting": HUNDRED | {"unparsed": 11}}, "SAMPLE_ACCOUNTING_FAILED", "the task's filter"),
        ({"accounting": HUNDRED | {"empty": 11}}, "SAMPLE_ACCOUNTING_FAILED", "are empty"),
        ({"accounting": HUNDRED | {"cut": 30}, "limits": {"cut": 0.3}}, None, ""),
        ({"accounting": HUNDRED | {"cut": 1}, "limits": {"cut": 0}}, "SAMPLE_ACCOUNTING_FAILED", "limit 0%"),
        ({"spread": {"samples": 100, "scores": 2, "answers": 1, "targets": 50}}, "UNKNOWN", "answers are the same"),
        ({"spread": {"samples": 100, "scores": 2, "answers": 1, "targets": 1}}, None, ""),
        ({"spread": {"samples": 10, "scores": 2, "answers": 1, "targets": 9}}, None, ""),
        ({"spread": {"samples": 100, "scores": 1, "answers": 90, "targets": 90}}, "UNKNOWN", "the same score 0.5"),
    ],
)
def test_answers_that_do_not_count(fields, failure_class, words):
    task = {"score": 0.5, "accounting": HUNDRED, **fields}
    found = evaluate_run({"status": "COMPLETED", "tasks": {"addition": task}})
    assert found["failure_class"] == failure_class and words in found["detail"], found


def test_equal_scores_of_many_tasks_are_suspect():
    def run(score, count):
        tasks = {f"task-{number}": {"score": score, "accounting": HUNDRED} for number in range(count)}
        return evaluate_run({"status": "COMPLETED", "tasks": tasks})["failure_class"]

    assert run(0.25, 3) == "UNKNOWN" and run(0.25, 2) is None and run(1.0, 3) is None


def test_what_mended_itself_is_a_note():
    task = {"score": 0.5, "accounting": HUNDRED | {"http_failures": 3, "retried": 3}}
    incidents = [{"time": "12:00:00", "what": "/health did not answer with 200"}]
    found = evaluate_run({"status": "COMPLETED", "tasks": {"addition": task}, "incidents": incidents})
    assert found["pass"] and "3 requests repeated" in found["notes"][0] and "/health" in found["notes"][1]


def test_an_engine_that_was_started_again_is_a_finding():
    incidents = [{"time": "12:00:00", "what": "the engine was started again"}]
    task = {"score": 0.5, "accounting": HUNDRED}
    found = evaluate_run({"status": "COMPLETED", "tasks": {"addition": task}, "incidents": incidents})
    assert found["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"


def test_most_severe_class_leads_and_all_are_listed():
    summary = changed((*A, "accounting", "scored"), 9)
    summary["log_findings"] = [{"class": "EVAL_JUDGE_FAILED", "file": "a.log", "line": 3, "text": "judge failed"}]
    verdict = evaluate_run(summary)
    assert verdict["failure_classes"] == ["EVAL_JUDGE_FAILED", "SAMPLE_ACCOUNTING_FAILED"]
    assert verdict["failure_class"] == "EVAL_JUDGE_FAILED"


def test_another_scale_is_honoured():
    summary = changed((*A, "score"), -40.0)
    summary["tasks"]["addition"]["scale"] = {"min": -100, "max": 100, "direction": "higher"}
    assert evaluate_run(summary)["pass"] is True


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_arbitrary_json_never_passes_and_never_raises(value):
    verdict = evaluate_run(value)
    assert verdict["pass"] is False and verdict["failure_class"] in tuple(FailureClass) and verdict["detail"]
    json.dumps(verdict)


@given(
    st.sampled_from([("status",), ("tasks",), A, (*A, "accounting"), (*A, "score"), (*A, "accounting", "scored")]),
    json_values,
)
def test_no_odd_value_in_a_healthy_summary_passes(path, value):
    verdict = evaluate_run(changed(path, value))
    good = {("status",): "COMPLETED", (*A, "accounting", "scored"): 10}.get(path)
    if path == (*A, "score"):
        sound = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
        assert verdict["pass"] is sound
    else:
        assert verdict["pass"] is (good is not None and value == good and type(value) is type(good))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Traceback (most recent call last):", "UNKNOWN"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "DEPLOYMENT_HEALTH_FAILED"),
        ("EngineCore proc died unexpectedly", "DEPLOYMENT_HEALTH_FAILED"),
        ("ERROR judge request failed with status 503", "EVAL_JUDGE_FAILED"),
        ("could not parse the reply of the judge", "EVAL_JUDGE_FAILED"),
        ("openai.AuthenticationError: 401 Unauthorized", "EVAL_JUDGE_FAILED"),
        ("WARNING rate limit exceeded", "EVAL_JUDGE_FAILED"),
        ("API returned null content. Content filled", "SAMPLE_ACCOUNTING_FAILED"),
        ("the author of the prejudged room said: failed", None),
        ("INFO room for bloom filters in zoom", None),
        ("WARNING libtcmalloc is not found in LD_PRELOAD", None),
        ("Loading safetensors checkpoint shards: 100% Completed", None),
    ],
)
def test_log_scan_matches_words(line, expected):
    found = scan_log("server.log", f"first line\n{line}\n")
    assert [entry["class"] for entry in found] == ([expected] if expected else [])
    if expected:
        assert found[0]["line"] == 2 and found[0]["text"] == line


@pytest.mark.parametrize(
    ("line", "file", "summary", "passes"),
    [
        ("Traceback (most recent call last):", "server.log", {}, True),
        ("Traceback (most recent call last):", "shards/1-of-2/logs/server.log", {}, True),
        ("Traceback (most recent call last):", "addition.log", {}, False),
        ("CUDA out of memory", "server.log", {}, False),
        ("Traceback (most recent call last):", "server.log", {"status": "FAILED"}, False),
    ],
)
def test_an_exception_of_the_server_that_cost_no_answer_is_a_note(line, file, summary, passes):
    told = evaluate_run({**healthy(), "log_findings": scan_log(file, line), **summary})
    assert told["pass"] is passes, told
    assert any("no answer was lost" in note for note in told["notes"]) is passes


def test_log_scan_quotes_three_lines_and_counts_the_rest():
    found = scan_log("a.log", "Traceback (most recent call last):\n" * 5)
    assert len(found) == 3 and found[-1]["text"].endswith("(and 2 more such lines)")


def run_folder(folder, scored=2, lines=2, log="all is well\n"):
    counts = {
        "expected": 2,
        "asked": 2,
        "answered": 2,
        "scored": scored,
        "empty": 0,
        "cut": 0,
        "unparsed": 0,
        "failed": 0,
    }
    score = {"value": 0.5, "stats": {"stderr": 0.5}}
    write_yaml(
        folder / "results.yml",
        {
            "results": {"tasks": {"addition": {"metrics": {"exact_match": {"scores": {"exact_match": score}}}}}},
            "metadata": {
                "status": "COMPLETED",
                "failure_class": None,
                "detail": "",
                "model": "m",
                "candidate": "baseline",
                "suite": "demo",
                "checkpoint_digest": "d",
                "accounting": {"addition": counts},
            },
        },
    )
    (folder / "samples").mkdir()
    rows = [json.dumps({"id": str(place), "score": float(place % 2)}) + "\n" for place in range(lines)]
    (folder / "samples" / "addition.jsonl").write_text("".join(rows))
    (folder / "logs").mkdir()
    (folder / "logs" / "server.log").write_text(log)
    return folder


SCALE = {"min": 0, "max": 1, "direction": "higher"}


def suite(samples=2, **tasks):
    task = {"metric": "exact_match,none", "scale": SCALE, "tier": "supporting", "samples": samples, "repeats": 1}
    return {"tasks": {"addition": task, **tasks}}


def test_run_folder_is_read_and_passes(tmp_path):
    summary, identity = read_run(run_folder(tmp_path), suite())
    verdict = evaluate_run(summary)
    assert verdict["pass"] is True, verdict["detail"]
    assert verdict["scores"]["addition"]["tier"] == "supporting" and verdict["scores"]["addition"]["stderr"] == 0.5
    assert identity["model"] == "m" and len(identity["results_digest"]) == 64


@pytest.mark.parametrize(
    ("options", "definition"),
    [
        ({"scored": 1}, suite()),
        ({"lines": 1}, suite()),
        ({}, suite(samples=3)),
        ({}, suite(sorting={"metric": "acc,none", "scale": SCALE, "tier": "critical", "samples": 2})),
    ],
)
def test_run_folder_that_lacks_samples_fails(tmp_path, options, definition):
    verdict = evaluate_run(read_run(run_folder(tmp_path, **options), definition)[0])
    assert verdict["pass"] is False and verdict["failure_class"] == "SAMPLE_ACCOUNTING_FAILED"


def test_suspect_log_fails_the_run_and_is_quoted(tmp_path):
    verdict = evaluate_run(read_run(run_folder(tmp_path, log="x\nCUDA out of memory\n"))[0])
    assert verdict["failure_class"] == "DEPLOYMENT_HEALTH_FAILED"
    assert "server.log, line 2: CUDA out of memory" in verdict["detail"]


def test_the_message_tells_what_the_run_says_of_itself():
    summary = {"status": "FAILED", "failure_class": "UNKNOWN", "detail": "the harness failed: no module x", "tasks": {}}
    verdict = evaluate_run(summary)
    assert verdict["failure_class"] == "SAMPLE_ACCOUNTING_FAILED"
    assert verdict["detail"] == "the evaluation recorded UNKNOWN: the harness failed: no module x; and 1 more findings"


def test_what_a_server_says_while_it_is_stopped_is_no_finding():
    error = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue"
    assert scan_log("server.log", f"{END_LINE}\n{error}\n") == []
    assert [entry["line"] for entry in scan_log("server.log", f"{error}\n{END_LINE}\n{error}\n")] == [1]


def test_colours_hide_no_word():
    line = "[\x1b[33mW\x1b[0m] \x1b[1mJudge call failed\x1b[0m \x1b[36mjudge_key\x1b[0m=judge"
    (found,) = scan_log("task.log", line)
    assert (found["class"], found["text"]) == ("EVAL_JUDGE_FAILED", "[W] Judge call failed judge_key=judge")


def own_run(folder):
    """A complete run of this project: a task of one sample."""
    from day0.evaluation.run_folder import write_run
    from day0.records.part import Part
    from day0.suite.suites import Suite

    suite = Suite.model_validate(
        {
            "description": "d",
            "context_length": 64,
            "canary": {"prompt": "one two three four"},
            "tasks": {"a": {"task": "a", "metric": "exact_match,none", "samples": 2}},
        }
    ).model_dump(mode="json")
    samples = [{"id": str(n), "repeat": 0, "score": float(n), "answer": str(n), "generated": True} for n in range(2)]
    outcome = {"status": "COMPLETED", "documents": 2, "values": [0.5], "samples": samples, "requests": {}}
    part = Part.model_validate(
        {
            "identity": {"model": "m", "candidate": "fp8", "suite": "s", "checkpoint_digest": "c"},
            "shard": None,
            "tasks": ["a"],
            "failure": None,
            "outcomes": {"a": outcome},
            "server": None,
            "canary": None,
            "incidents": [],
            "timing": {"server_start_seconds": 1.0, "canary_seconds": 1.0, "tasks": {"a": 1.0}, "total_seconds": 3.0},
            "attempts": [],
            "versions": {},
            "endpoint_url": "",
        }
    )
    write_run(folder, suite, [part], "test")
    return suite


def judged_own(folder, suite):
    summary, _ = read_run(folder, suite)
    return evaluate_run(summary)


def test_a_run_of_this_project_passes_as_it_was_written(tmp_path):
    verdict = judged_own(tmp_path, own_run(tmp_path))
    assert verdict["pass"] is True, verdict["detail"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("total_seconds: 3.0", "total_seconds: soon", "timing.total_seconds"),
        ("schema_version: 1", "schema_version: 0", "schema_version: found 0"),
        ("  attempts: []", "  attempts: []\n  note: edited", "note: unknown key"),
        ("      asked: 2", "      asked: two", "accounting.a.asked"),
    ],
)
def test_an_edited_or_older_results_file_does_not_pass_and_its_field_is_named(tmp_path, old, new, said):
    suite = own_run(tmp_path)
    file = tmp_path / "results.yml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    verdict = judged_own(tmp_path, suite)
    assert verdict["pass"] is False and said in " ".join(finding["detail"] for finding in verdict["findings"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [('"score": 1.0', '"score": "1"x', "line 2"), ('"repeat": 0', '"repeat": -1', "line 1.repeat")],
)
def test_an_edited_sample_does_not_pass_and_its_line_is_named(tmp_path, old, new, said):
    suite = own_run(tmp_path)
    file = tmp_path / "samples" / "a.jsonl"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    verdict = judged_own(tmp_path, suite)
    assert verdict["pass"] is False and said in " ".join(finding["detail"] for finding in verdict["findings"])
