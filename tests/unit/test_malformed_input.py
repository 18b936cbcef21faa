"""Malformed and contradictory input of the gates: a finding or a clear refusal, never a traceback and never an ACCEPT.

A table of kinds times files, and random changes of sound input; the latter are 2,000 and more.
"""

import copy
import io
import json
import math
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from decision_input import RELEASE, evidence, make_verdict, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import decide
import gate_compare
import gate_ptq
import gate_run
from day0.base.artefacts import write_json
from day0.base.cli import UnusableInput, run_cli
from day0.base.parsing import MAX_YAML_NODES
from day0.checkpoint.assess import evaluate_checkpoint
from day0.decision.assess_run import assess_run, evaluate_run
from day0.decision.comparability import Run
from day0.decision.comparison import compare_runs, evaluate_comparison
from day0.decision.verdict import Evidence
from day0.records.failure_class import FailureClass

DEEP = 100_000
BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))

# --- the files, sound -----------------------------------------------------------------------------------------------

TASK = {"status": "SUCCESS", "expected_samples": 100, "scored_samples": 100, "score": 42.0, "errors": []}
SUMMARY = {"tasks": {"a": TASK, "b": {**TASK, "score": 30.5}}}
COUNTS = dict.fromkeys(("expected", "asked", "answered", "scored"), 4) | dict.fromkeys(("empty", "cut", "failed"), 0)
RESULTS = {
    "results": {"tasks": {"a": {"metrics": {"acc": {"scores": {"acc": {"value": 0.5, "stats": {"stderr": 0.2}}}}}}}},
    "metadata": {"status": "COMPLETED", "failure_class": None, "detail": "", "accounting": {"a": COUNTS}},
}
SAMPLES = [{"id": str(i), "repeat": 0, "answer": f"answer {i}", "score": float(i % 2)} for i in range(4)]
SCORES = {"a": 60.0, "b": 0.5}
CHECKPOINT = {
    "source_bytes": 10_000_000,
    "output_bytes": 4_500_000,
    "recipe": "nvfp4",
    "layer_precision_counts": {
        "NVFP4": 9,
        "BF16_or_excluded": 1,
        "unexpected_unquantized": 0,
        "declaration_mismatch": 0,
    },
    "metadata_diffs": [],
}


def command_line(script, *arguments):
    """Run a script's command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_cli(script.main, unusable_as=FailureClass.USER_CONFIG_ERROR)
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def refused(done):
    """Whether a gate ended with a failed assessment or unusable input, and said so."""
    content = json.loads(done.stdout)
    return done.returncode in (1, 2) and content["pass"] is False and bool(content["detail"])


def run_folder(folder, results=RESULTS, samples=SAMPLES):
    """A run's folder; a text or bytes in place of content are written as they are."""
    (folder / "samples").mkdir()
    text = results if isinstance(results, str | bytes) else yaml.safe_dump(results)
    (folder / "results.yml").write_bytes(text.encode() if isinstance(text, str) else text)
    lines = samples if isinstance(samples, str | bytes) else "".join(json.dumps(line) + "\n" for line in samples)
    (folder / "samples" / "a.jsonl").write_bytes(lines.encode() if isinstance(lines, str) else lines)
    return folder


# --- kinds of text, in every file -----------------------------------------------------------------------------------

TEXTS = {
    "nothing": b"",
    "a text": b"text",
    "a number": b"3",
    "a list": b"[1, 2]",
    "null": b"null",
    "no end": b'{"a": {',
    "a key twice": b'{"a": 1, "a": 2}',
    "a key twice within": b'{"a": {"b": {"c": 1, "c": 1}}}',
    "NUL": b'{"a": \0}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "3,000 levels": b'{"a":' * 3000 + b"1" + b"}" * 3000,
    "an integer of 5,000 digits": b'{"a": ' + b"1" * 5000 + b"}",
    "half of a surrogate pair": b'{"a": "\\ud800"}',
    "a byte order mark and no more": b"\xef\xbb\xbf",
}
YAML_TEXTS = {
    "deep dashes": b"- " * DEEP + b"a",
    "aliases that multiply": BOMB.encode(),
    "an alias within itself": b"a: &a [*a]",
    "a tag of Python": b"a: !!python/object/apply:os.getcwd []",
    "two documents": b"a: 1\n---\na: 2\n",
    "too many values": b"a: [" + b"0," * (MAX_YAML_NODES + 1) + b"]",
}
READERS = {
    "run summary": lambda folder: ("s.json", lambda file: command_line(gate_run, "--run", file)),
    "scores": lambda folder: ("s.json", lambda file: _compare(file, _sound_scores(folder))),
    "other side's scores": lambda folder: ("s.json", lambda file: _compare(_sound_scores(folder), file)),
    "policy": lambda folder: ("p.json", lambda file: _compare_with(folder, "--policy", file)),
    "scales": lambda folder: ("p.json", lambda file: _compare_with(folder, "--scales", file)),
    "source record": lambda folder: ("p.json", lambda file: _compare_with(folder, "--source-record", file)),
    "checkpoint summary": lambda folder: ("s.json", lambda file: command_line(gate_ptq, "--summary", file)),
    "results": lambda folder: ("results.yml", lambda file: command_line(gate_run, "--run", file)),
    "results compared": lambda folder: ("results.yml", lambda file: _compare(file, file)),
    "suite": lambda folder: ("s.yaml", lambda file: _run_with_suite(folder, file)),
    "samples": lambda folder: ("a.jsonl", lambda file: _run_with_samples(folder, file)),
}


def _sound_scores(folder):
    write_json(folder / "sound.json", {})
    (folder / "sound.json").write_text(json.dumps(SCORES))
    return folder / "sound.json"


def _compare(baseline, candidate):
    return command_line(gate_compare, "--baseline", baseline, "--candidate", candidate)


def _compare_with(folder, option, file):
    sound = _sound_scores(folder)
    return command_line(gate_compare, "--baseline", sound, "--candidate", sound, option, file)


def _run_with_suite(folder, file):
    (folder / "run").mkdir()
    return command_line(gate_run, "--run", run_folder(folder / "run"), "--suite", file)


def _run_with_samples(folder, file):
    (folder / "run").mkdir()
    return command_line(gate_run, "--run", run_folder(folder / "run", samples=file.read_bytes()))


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_text_that_is_no_such_file(tmp_path, reader, kind):
    if reader in ("scales", "policy") and kind in ("nothing", "null"):
        pytest.skip("no scales, no policy")
    name, judge = READERS[reader](tmp_path)
    (tmp_path / name).write_bytes(TEXTS[kind])
    assert refused(judge(tmp_path / name))


@pytest.mark.parametrize("kind", YAML_TEXTS)
@pytest.mark.parametrize("reader", ["results", "suite"])
def test_a_yaml_text_that_is_no_such_file(tmp_path, reader, kind):
    name, judge = READERS[reader](tmp_path)
    (tmp_path / name).write_bytes(YAML_TEXTS[kind])
    assert refused(judge(tmp_path / name))


# --- kinds of values, in every place --------------------------------------------------------------------------------

NO_COUNTS = [None, True, "4", 4.0, -1, math.nan, math.inf, 10**400, [], {}, "", "x" * 10_000]
NO_SCORES = [None, True, "0.5", -1.0, 1e308, math.nan, math.inf, -math.inf, 10**400, [0.5], {}, ""]


def places():
    """Each place of a sound input with each value that it cannot have."""
    for value in NO_COUNTS:
        yield "summary", ("tasks", "a", "expected_samples"), value
        yield "summary", ("tasks", "a", "scored_samples"), value
        yield "results", ("metadata", "accounting", "a", "expected"), value
        yield "results", ("metadata", "accounting", "a", "scored"), value
        yield "checkpoint", ("source_bytes",), value
        yield "checkpoint", ("layer_precision_counts", "declaration_mismatch"), value
    for value in NO_SCORES:
        yield "summary", ("tasks", "a", "score"), value
        yield "results", ("results", "tasks", "a", "metrics", "acc", "scores", "acc", "value"), value
        yield "scores", ("a",), value
    for value in (None, 3, "text", [], {}, [[]], True):
        yield "summary", ("tasks",), value
        yield "results", ("results",), value
        yield "results", ("metadata",), value
        yield "results", ("metadata", "accounting"), value
        yield "results", ("metadata", "status"), value
        yield "checkpoint", ("layer_precision_counts",), value
    for value in (None, "FAILED", 3, [], {}, "success!"):
        yield "summary", ("tasks", "a", "status"), value
    for value in (None, "", 3, [], {}, "riddle", "../../x"):
        yield "checkpoint", ("recipe",), value


def changed(content, path, value):
    whole = copy.deepcopy(content)
    place = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return whole


def judge_value(folder, kind, content):
    if kind == "results":
        return command_line(gate_run, "--run", run_folder(folder, content))
    (folder / "s.json").write_text(json.dumps(content))
    if kind == "summary":
        return command_line(gate_run, "--run", folder / "s.json")
    if kind == "checkpoint":
        return command_line(gate_ptq, "--summary", folder / "s.json")
    return _compare(_sound_scores(folder), folder / "s.json")


@pytest.mark.parametrize(("kind", "path", "value"), list(places()), ids=lambda value: repr(value)[:40])
def test_a_value_that_a_place_cannot_have(tmp_path, kind, path, value):
    sound = {"summary": SUMMARY, "results": RESULTS, "checkpoint": CHECKPOINT, "scores": SCORES}[kind]
    if isinstance(value, int) and value == 10**400 and kind == "results":
        value = "1" * 400
    assert refused(judge_value(tmp_path, kind, changed(sound, path, value)))


@pytest.mark.parametrize("kind", ["summary", "results", "checkpoint", "scores"])
def test_the_sound_input_passes(tmp_path, kind):
    sound = {"summary": SUMMARY, "results": RESULTS, "checkpoint": CHECKPOINT, "scores": SCORES}[kind]
    assert judge_value(tmp_path, kind, sound).returncode == 0


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", ".a", "a\0b", "x" * 400])
def test_a_task_whose_name_leaves_its_folder(tmp_path, name):
    results = copy.deepcopy(RESULTS)
    for section in (results["results"]["tasks"], results["metadata"]["accounting"]):
        section[name] = section.pop("a")
    folder = run_folder(tmp_path, results)
    assert refused(command_line(gate_run, "--run", folder))
    assert refused(_compare(folder, folder))


@pytest.mark.parametrize("depth", [90, 3000])
def test_fingerprints_however_deep(tmp_path, depth):
    deep: object = 1
    for _ in range(depth):
        deep = {"x": deep}
    text = yaml.safe_dump(RESULTS) + "x: " + "{a: " * depth + "1" + "}" * depth
    if depth < 900:
        text = json.dumps(changed(RESULTS, ("metadata", "fingerprint"), {"a": deep}))
    (tmp_path / "results.yml").write_text(text)
    command_line(gate_run, "--run", tmp_path / "results.yml")
    done = _compare(tmp_path, tmp_path)
    assert json.loads(done.stdout)["pass"] is (depth < 900)


# --- random changes -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=6)
    | st.sampled_from([10**400, 1e308, -1e308, "2026-01-01", "SUCCESS", "../../x", "\ud800", "COMPLETED", 0, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def paths_of(content, path=()):
    """Places of all values within a content."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_of(value, (*path, key))


@st.composite
def changes_of(draw, content):
    """The content with one to three of its places changed or removed."""
    whole = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(paths_of(whole)) or [("x",)]))
        place = whole
        for key in path[:-1]:
            place = place[key]
        if isinstance(place, dict) and draw(st.integers(0, 3)) == 0:
            place.pop(path[-1], None)
        else:
            place[path[-1]] = draw(VALUES)
    return whole


FAST = settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))


def written(assessment):
    """The assessment as it is written, which must be JSON in UTF-8."""
    content = assessment.as_plain() if not isinstance(assessment, dict) else assessment
    json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return content


def is_count(value):
    return type(value) is int and value >= 0


def is_score(value):
    return type(value) in (int, float) and abs(value) <= 1e300


@FAST
@given(changes_of(SUMMARY))
def test_any_run_summary(summary):
    if written(evaluate_run(summary))["pass"]:
        for task in summary["tasks"].values():
            assert is_score(task["score"]) and is_count(task["expected_samples"]) and not task.get("errors")
            assert task["scored_samples"] == task["expected_samples"] > 0 and task["status"].upper() in (
                "SUCCESS",
                "COMPLETED",
            )


@FAST
@given(changes_of(SCORES), changes_of(SCORES), st.none() | VALUES)
def test_any_scores(baseline, candidate, scales):
    if written(evaluate_comparison(baseline, candidate, scales=scales))["pass"]:
        assert baseline.keys() == candidate.keys() and all(map(is_score, [*baseline.values(), *candidate.values()]))


@FAST
@given(changes_of(CHECKPOINT))
def test_any_checkpoint_summary(summary):
    try:
        assessment = written(evaluate_checkpoint(summary))
    except UnusableInput:
        return
    if assessment["pass"]:
        counts = summary["layer_precision_counts"]
        assert all(map(is_count, counts.values())) and sum(counts.values()) > 0
        assert summary["output_bytes"] < summary["source_bytes"]
        assert not counts.get("unexpected_unquantized") and not counts.get("declaration_mismatch")


@settings(FAST, max_examples=150)
@given(changes_of(RESULTS), changes_of(SAMPLES))
def test_any_run_folder(tmp_path_factory, results, samples):
    folder = tmp_path_factory.mktemp("run")
    text = json.dumps(results)  # which is YAML, too
    lines = "".join(json.dumps(line) + "\n" for line in samples)
    try:
        passed = written(assess_run(run_folder(folder, text, lines)))["pass"]
    except UnusableInput:
        return
    if passed:
        scores = [sample.get("score") for sample in samples]
        assert all(map(is_score, scores)) and len(scores) == 4


SIDE = run(390, 400)
SMALL = Run(SIDE.assessment, SIDE.metadata, {"a": SIDE.samples["a"][:6]})


@pytest.mark.parametrize("line", [{}, {"score": 1.0}, {"id": None, "score": 1.0}, {"id": ["1"], "score": 1.0}])
def test_a_line_without_an_id_is_no_sample_whichever_tool_wrote_it(tmp_path, line):
    lines = "".join(json.dumps(row) + "\n" for row in [line, *SAMPLES[1:]])
    result = written(assess_run(run_folder(tmp_path, json.dumps(RESULTS), lines)))
    assert not result["pass"] and "samples/a.jsonl: line 1" in result["detail"]


@pytest.mark.parametrize("line", [{}, {"score": None}])
@pytest.mark.parametrize("other", [{"repeat": None}, {"repeat": "first"}, {"tokens": "many"}, {"answer": 4}])
def test_a_line_without_a_score_is_found_whatever_else_it_holds(tmp_path, line, other):
    first = json.dumps({"id": "0"} | line | other)
    for number, text in enumerate((first, first.replace("{", '{"id": "1", '))):
        lines = text + "\n" + "".join(json.dumps(row) + "\n" for row in SAMPLES[1:])
        (folder := tmp_path / str(number)).mkdir()
        result = written(assess_run(run_folder(folder, json.dumps(RESULTS), lines)))
        assert not result["pass"] and result["failure_class"] == "SAMPLE_ACCOUNTING_FAILED"


@settings(FAST, max_examples=300)
@given(changes_of(SMALL.assessment), changes_of(SMALL.metadata), changes_of(SMALL.samples), st.booleans())
def test_any_two_runs(assessment, metadata, samples, first):
    other = Run(assessment, metadata, samples)
    sides = (other, SMALL) if first else (SMALL, other)
    if written(compare_runs(*sides))["pass"]:
        assert assessment["pass"] is True and is_score(assessment["scores"]["a"]["score"])


@settings(FAST, max_examples=400)
@given(st.sampled_from(sorted(evidence())), st.data())
def test_any_evidence(stage, data):
    held = evidence()
    content = data.draw(changes_of(held[stage].content))
    try:
        content = decide.TYPES[stage].parse(content, "file").as_plain()
    except UnusableInput:
        return
    held[stage] = Evidence(held[stage].path, held[stage].sha256, content)
    verdict = written(make_verdict(RELEASE, held))
    if verdict["decision"] == "ACCEPT":
        assert content["pass"] is True and content["failure_class"] is None


@settings(FAST, max_examples=60)
@given(st.binary(max_size=60), st.sampled_from(["run summary", "scores", "checkpoint summary", "results", "samples"]))
def test_any_bytes(tmp_path_factory, data, reader):
    folder = Path(tmp_path_factory.mktemp("bytes"))
    name, judge = READERS[reader](folder)
    (folder / name).write_bytes(data)
    assert refused(judge(folder / name))
