"""A run made elsewhere is taken as far as it tells of itself, and no further.

data/nemo_evaluator holds two runs that NeMo Evaluator 0.2.8 with nvidia-lm-eval 26.3 made of the embedded model.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from decision_input import compare_runs, described_source, evaluate_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import import_run as command
from day0.decision.assess_run import read_run
from day0.decision.comparability import Run
from day0.evaluation.imported_run import find_results, import_run, imported_files
from day0.suite.suites import Suite

RUNS = Path(__file__).parents[1] / "data" / "nemo_evaluator"
DIGEST = "a" * 64
TASKS = {
    "addition": {
        "harness": "nemo-evaluator",
        "task": "lm-evaluation-harness.demo_addition",
        "metric": "exact_match,none",
        "samples": 1000,
        "limit": 20,
    },
    "sorting": {
        "harness": "nemo-evaluator",
        "task": "lm-evaluation-harness.demo_sorting",
        "metric": "acc,none",
        "samples": 1000,
        "limit": 20,
    },
}


def suite_of(*names, **changes):
    tasks = {name: TASKS[name] | changes for name in names}
    canary = {"prompt": "long enough a prompt"}
    return Suite(description="d", context_length=64, canary=canary, tasks=tasks).model_dump(mode="json")


def imported(path, suite=None, **changes):
    options = {"model": "tiny-llama", "candidate": "baseline", "model_ids": ["tiny-llama"], "counts": "require"}
    options |= {"suite_name": "demo", "checkpoint_digest": DIGEST, **changes}
    return import_run(Path(path), suite=suite or suite_of("addition", "sorting"), **options)


def judged(folder, found, suite):
    """The gate's verdict on an import, by the way of its files."""
    folder.mkdir(exist_ok=True)
    (folder / "results.yml").write_text(yaml.safe_dump(found.document))
    (folder / "samples").mkdir(exist_ok=True)
    for name, lines in found.samples.items():
        (folder / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary, identity = read_run(folder, suite)
    return {**evaluate_run(summary), **identity}


@pytest.fixture
def copy(tmp_path):
    """A copy of the real runs that a test may change."""
    return Path(shutil.copytree(RUNS, tmp_path / "runs"))


def change(path, edit):
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))


def test_real_runs_of_two_tasks_make_one_run_that_passes_the_gate(tmp_path):
    suite = suite_of("addition", "sorting")
    found = imported(RUNS, suite)
    verdict = judged(tmp_path / "run", found, suite)
    assert verdict["pass"] is True, verdict["detail"]
    assert {task: entry["score"] for task, entry in verdict["scores"].items()} == {"addition": 1.0, "sorting": 1.0}
    accounting = found.document["metadata"]["accounting"]
    assert accounting["addition"] == dict.fromkeys(("expected", "asked", "answered", "scored"), 20) | dict.fromkeys(
        ("empty", "cut", "unparsed", "failed"), 0
    )
    assert [len(found.samples[task]) for task in suite["tasks"]] == [20, 20]
    about = found.document["metadata"]["imported"]
    assert (about["producer"], about["attributed_digest"], about["trusted_counts"]) == ("nemo-evaluator", DIGEST, {})
    fingerprint = found.document["metadata"]["fingerprint"]["addition"]
    assert (fingerprint["limit"], fingerprint["repeats"], fingerprint["endpoint"]) == (20, 1, "completions")
    assert fingerprint["sampling"]["max_gen_toks"] == 8 and len(fingerprint["prompts_digest"]) == 64
    assert "seed" not in fingerprint and "seed" in about["unknown_of_tasks"]["addition"]


@pytest.mark.parametrize("place", ["", "artifacts", "20261126-run/task.0/artifacts"])
def test_a_run_is_found_in_the_folders_that_the_tool_and_its_launcher_make(tmp_path, place):
    shutil.copytree(RUNS / "demo_addition", tmp_path / "run" / place, dirs_exist_ok=True)
    assert find_results(tmp_path / "run") == [tmp_path / "run" / place / "results.yml"]
    found = imported(tmp_path / "run", suite_of("addition"))
    assert found.document["metadata"]["status"] == "COMPLETED"
    names = {path.name.split("_")[0] for path in imported_files(tmp_path / "run")}
    assert names == {"results.yml", "samples", "results", "eval"}


def test_counts_that_are_not_told_fail_or_are_trusted_and_said_to_be(copy, tmp_path):
    suite = suite_of("addition")
    results = copy / "demo_addition" / "results.yml"
    shutil.rmtree(copy / "demo_addition" / "tiny-llama")
    verdict = judged(tmp_path / "required", imported(results, suite), suite)
    assert (verdict["pass"], verdict["failure_class"]) == (False, "SAMPLE_ACCOUNTING_FAILED")
    assert "set imported_counts: trust" in verdict["detail"]
    trusted = judged(tmp_path / "trusted", imported(results, suite, counts="trust"), suite)
    assert trusted["pass"] is True and "20 samples scored, as the suite declares" in trusted["detail"]

    def count(content):
        scores = content["results"]["tasks"]["demo_addition"]["metrics"]["exact_match"]["scores"]
        content["results"]["groups"]["demo_addition"] = content["results"]["tasks"]["demo_addition"]
        scores["exact_match"]["stats"]["count"] = 19

    change(results, count)
    counted = judged(tmp_path / "counted", imported(results, suite, counts="trust"), suite)
    assert counted["pass"] is False and "20 samples expected, but 19 scored" in counted["detail"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda c: c["target"]["api_endpoint"].update(model_id="llama-9"),
            "model_id is 'llama-9', expected tiny-llama",
        ),
        (lambda c: c["config"].update(type="gsm8k") or c["config"]["params"].update(task="gsm8k"), None),
        (lambda c: c.update(results=[]), "expected a mapping 'results' with tasks"),
        (lambda c: c["results"].update(tasks={}, groups={}), "holds no task demo_addition"),
    ],
)
def test_what_does_not_fit_is_recorded_with_what_was_found_and_expected(copy, tmp_path, edit, words):
    suite = suite_of("addition")
    change(copy / "demo_addition" / "results.yml", edit)
    verdict = judged(tmp_path / "run", imported(copy / "demo_addition", suite), suite)
    if words is None:  # the results themselves still name the task
        assert verdict["pass"] is True
    else:
        assert (verdict["pass"], verdict["failure_class"]) == (False, "USER_CONFIG_ERROR")
        assert words in verdict["detail"]


def test_another_name_of_the_same_model_can_be_given(copy):
    change(copy / "demo_addition/results.yml", lambda c: c["target"]["api_endpoint"].update(model_id="org/Tiny"))
    suite = suite_of("addition")
    accepted = imported(copy / "demo_addition", suite, model_ids=["org/Tiny"])
    assert accepted.document["metadata"]["status"] == "COMPLETED"
    assert (
        imported(copy / "demo_addition", suite, model_ids=["/models/Tiny"]).document["metadata"]["status"]
        == "COMPLETED"
    )


def test_a_missing_a_doubled_and_an_unknown_score_are_named(copy):
    missing = imported(copy / "demo_addition").document["metadata"]
    assert (
        missing["failure_class"] == "USER_CONFIG_ERROR" and "expected a run of task demo_sorting" in missing["detail"]
    )
    shutil.copytree(copy / "demo_addition", copy / "again")
    doubled = imported(copy).document["metadata"]
    assert "expected one run of task addition, found 2" in doubled["detail"]
    other = imported(RUNS / "demo_addition", suite_of("addition", metric="f1,none")).document["metadata"]
    assert "has no score 'f1,none'; it has exact_match" in other["detail"]


def test_a_run_that_was_interrupted_is_transient(copy, tmp_path):
    (copy / "demo_addition" / ".nemo_evaluator_interrupted").write_text("{}")
    suite = suite_of("addition")
    verdict = judged(tmp_path / "run", imported(copy / "demo_addition", suite), suite)
    assert (verdict["pass"], verdict["failure_class"]) == (False, "INFRA_TRANSIENT")


def test_a_torn_sample_line_is_named_by_its_place(copy):
    (lines,) = (copy / "demo_addition").rglob("samples_*.jsonl")
    lines.write_text(lines.read_text()[:-40])
    detail = imported(copy / "demo_addition", suite_of("addition")).document["metadata"]["detail"]
    assert lines.name in detail and "line 20: expected a JSON object" in detail


def test_a_lost_sample_shows(copy, tmp_path):
    (lines,) = (copy / "demo_addition").rglob("samples_*.jsonl")
    lines.write_text("".join(line + "\n" for line in lines.read_text().splitlines()[:-1]))
    suite = suite_of("addition")
    verdict = judged(tmp_path / "run", imported(copy / "demo_addition", suite), suite)
    assert verdict["failure_class"] == "SAMPLE_ACCOUNTING_FAILED" and "20 samples expected, but 19" in verdict["detail"]


def test_an_import_is_compared_in_what_it_tells_and_the_rest_is_listed(tmp_path):
    suite = suite_of("addition")
    runs = []
    for name in ("baseline", "fp8"):
        found = imported(RUNS / "demo_addition", suite, candidate=name)
        runs.append(Run(judged(tmp_path / name, found, suite), found.document["metadata"], found.samples))
    baseline, candidate = runs
    refused = compare_runs(baseline, candidate)
    assert (refused["decision"], refused["failure_class"]) == ("ANOMALOUS", "NOT_COMPARABLE")
    assert "checkpoint_digest of the candidate" in refused["detail"]
    trusted = {"require_fingerprints": False, "criterion": "point"}
    assert compare_runs(baseline, candidate, trusted)["decision"] == "ACCEPT"

    told = json.loads(json.dumps(baseline.metadata["fingerprint"]))
    told["addition"] |= {"seed": 1234, "engine": "vllm 0.32.0"}
    ours = {key: value for key, value in baseline.metadata.items() if key != "imported"} | {"fingerprint": told}
    known = Run({**baseline.assessment, "checkpoint_digest": DIGEST}, ours, baseline.samples)
    unknown = compare_runs(known, candidate)["comparability"]["unknown"]
    assert {(entry["task"], entry["field"]) for entry in unknown} >= {("addition", "seed"), ("addition", "engine")}
    told["addition"]["sampling"] = {"temperature": 1.0}
    differing = compare_runs(known, candidate, {"require_fingerprints": False})
    assert differing["failure_class"] == "NOT_COMPARABLE" and "sampling" in differing["detail"]


def own_run(folder, suite, changes=None):
    """A run of this project's, made of the real one, that tells everything."""
    found = imported(RUNS / "demo_addition", suite)
    metadata = {key: value for key, value in found.document["metadata"].items() if key != "imported"}
    found.document["metadata"] = metadata | {"checkpoint_digest": DIGEST, "suite_digest": "f" * 64} | (changes or {})
    judged(folder, found, suite)
    return folder


def test_a_run_of_this_project_is_taken_as_it_is(tmp_path):
    suite = suite_of("addition")
    found = imported(own_run(tmp_path / "own", suite), suite)
    assert found.document["metadata"]["imported"]["producer"] == "day0"
    assert found.document["metadata"]["imported"]["unknown"] == []
    verdict = judged(tmp_path / "run", found, suite)
    assert verdict["pass"] is True and verdict["checkpoint_digest"] == DIGEST
    assert found.samples["addition"] == imported(RUNS / "demo_addition", suite).samples["addition"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "model is 'other', expected 'tiny-llama'"),
        ({"suite": "standard"}, "suite is 'standard', expected 'demo'"),
        ({"candidate": "fp8"}, "candidate is 'fp8', expected 'baseline'"),
        ({"checkpoint_digest": "b" * 64}, "its checkpoint has digest bbbbbbbbbbbb, expected aaaaaaaaaaaa"),
    ],
)
def test_another_run_of_this_project_is_refused(tmp_path, changes, words):
    suite = suite_of("addition")
    verdict = judged(tmp_path / "run", imported(own_run(tmp_path / "own", suite, changes), suite), suite)
    assert (verdict["pass"], verdict["failure_class"]) == (False, "USER_CONFIG_ERROR")
    assert words in verdict["detail"]


def test_a_failed_run_of_this_project_stays_failed(tmp_path):
    suite = suite_of("addition")
    changes = {"status": "FAILED", "failure_class": "EVAL_JUDGE_FAILED", "detail": "the judge was away"}
    verdict = judged(tmp_path / "run", imported(own_run(tmp_path / "own", suite, changes), suite), suite)
    assert (verdict["pass"], verdict["failure_class"]) == (False, "EVAL_JUDGE_FAILED")


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("results", "tasks", "groups", "config", "params", "target", "api_endpoint", "metadata", "accounting", "extra")
PLACES = [
    ("results",), ("results", "tasks"), ("results", "groups"), ("results", "tasks", "demo_addition"), ("config",),
    ("results", "tasks", "demo_addition", "metrics", "exact_match", "scores", "exact_match"), ("config", "params"),
    ("config", "params", "extra"), ("target",), ("target", "api_endpoint"), ("metadata",), ("command",),
]  # fmt: skip


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), trees, max_size=4),
    counts=st.sampled_from(["require", "trust"]),
)
def test_arbitrary_yaml_is_refused_or_makes_a_run_that_does_not_pass(tmp_path, content, counts):
    (tmp_path / "results.yml").write_text(yaml.safe_dump(content))
    suite = suite_of("addition", "sorting")
    found = imported(tmp_path / "results.yml", suite, counts=counts)
    verdict = judged(tmp_path / "run", found, suite)
    assert verdict["pass"] is False and verdict["detail"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.sampled_from(PLACES), value=trees, counts=st.sampled_from(["require", "trust"]))
def test_a_real_file_with_anything_in_any_place_never_crashes(tmp_path, place, value, counts):
    content = yaml.safe_load((RUNS / "demo_addition" / "results.yml").read_text())
    part = content
    for key in place[:-1]:
        part = part.get(key, {})
    part[place[-1]] = value
    (tmp_path / "results.yml").write_text(yaml.safe_dump(content))
    suite = suite_of("addition")
    found = imported(tmp_path / "results.yml", suite, counts=counts)
    verdict = judged(tmp_path / "run", found, suite)
    # Without lines per sample, only trust can make it pass, and then with the score that stands in the file.
    assert verdict["pass"] is False or (counts == "trust" and 0 <= verdict["scores"]["addition"]["score"] <= 1)


@pytest.mark.parametrize("count", ["x", -1, 2.5, [1]])
def test_a_finish_reason_that_is_no_count_is_refused_with_its_field(copy, count):
    metrics = copy / "demo_addition" / "eval_factory_metrics.json"
    content = json.loads(metrics.read_text())
    content["response_stats"]["finish_reason"] = {"length": count}
    metrics.write_text(json.dumps(content))
    metadata = imported(copy, suite_of("addition")).document["metadata"]
    assert (metadata["status"], metadata["failure_class"]) == ("FAILED", "USER_CONFIG_ERROR")
    assert str(copy) in metadata["detail"] and "accounting.addition.cut" in metadata["detail"]


def test_binary_content_is_refused(copy):
    change(copy / "demo_addition/results.yml", lambda c: c["config"]["params"].update(limit_samples=b"\xff\xfe"))
    metadata = imported(copy, suite_of("addition")).document["metadata"]
    assert metadata["failure_class"] == "USER_CONFIG_ERROR" and str(copy) in metadata["detail"]


def bare_own_run(folder, **changes):
    identity = {"model": "tiny-llama", "candidate": "baseline", "suite": "demo", "checkpoint_digest": DIGEST}
    metadata = {"status": "COMPLETED", **identity, "accounting": {}, **changes}
    (folder / "samples").mkdir()
    (folder / "results.yml").write_text(yaml.safe_dump({"results": {"tasks": {}}, "metadata": metadata}))
    return folder


def test_samples_of_an_own_run_with_nan_are_refused_with_their_line(tmp_path):
    folder = bare_own_run(tmp_path)
    (folder / "samples" / "addition.jsonl").write_text('{"id": "0", "score": 1.0}\n{"id": "1", "score": NaN}\n')
    metadata = imported(folder, suite_of("addition")).document["metadata"]
    assert metadata["status"] == "FAILED" and "addition.jsonl, line 2" in metadata["detail"]


def test_findings_of_an_own_run_that_are_no_list_are_refused_with_their_field(tmp_path):
    found = imported(bare_own_run(tmp_path, imported={"log_findings": 5}), suite_of("addition"))
    metadata = found.document["metadata"]
    assert metadata["status"] == "FAILED" and "results.yml: metadata.imported.log_findings" in metadata["detail"]


def test_the_script_leaves_nothing_of_an_earlier_import(tmp_path, monkeypatch, copy):
    (tmp_path / "suites").mkdir()
    suite = suite_of("addition")
    (tmp_path / "suites" / "demo.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "source.json").write_text(json.dumps(described_source(digest=DIGEST)))
    request = {"path": str(copy / "demo_addition"), "counts": "require", "model_ids": ["tiny-llama"]}
    options = {
        "--request": json.dumps(request),
        "--record": tmp_path / "source.json",
        "--suite": tmp_path / "suites" / "demo.yaml",
        "--model": "tiny-llama",
        "--candidate": "baseline",
        "--output-dir": tmp_path / "run",
    }
    monkeypatch.setattr(sys, "argv", ["import_run.py", *(str(part) for pair in options.items() for part in pair)])
    assert command.main() == 0
    assert len((tmp_path / "run" / "samples" / "addition.jsonl").read_text().splitlines()) == 20
    (copy / "demo_addition" / "results.yml").write_text("- no mapping")
    assert command.main() == 0
    assert not (tmp_path / "run" / "samples" / "addition.jsonl").exists()
    metadata = yaml.safe_load((tmp_path / "run" / "results.yml").read_text())["metadata"]
    assert metadata["failure_class"] == "USER_CONFIG_ERROR" and "expected a YAML mapping" in metadata["detail"]


TRACEBACK = "INFO: all well\nTraceback (most recent call last):\nValueError: no such file\n"


@pytest.mark.parametrize("place", ["logs/client-1.log", "logs/server-1.log", "artifacts"])
def test_the_logs_of_an_imported_run_are_scanned(copy, tmp_path, place):
    suite, run = suite_of("addition"), copy / "demo_addition"
    if place == "artifacts":  # as the launcher lays it out
        run.rename(copy / "inner")
        run.mkdir()
        (copy / "inner").rename(run / "artifacts")
        place = "logs/client_stdout.log"
    log = run / place
    log.parent.mkdir()
    log.write_text("(APIServer pid=7) INFO:     Shutting down\n" + TRACEBACK)
    assert judged(tmp_path / "sound", imported(run, suite), suite)["pass"]
    log.write_text(TRACEBACK)
    assert log in imported_files(run)
    verdict = judged(tmp_path / "run", imported(run, suite), suite)
    assert not verdict["pass"] and verdict["failure_class"] == "UNKNOWN"
    assert f"{log}, line 2: Traceback (most recent call last)" in verdict["detail"]
    assert "log_findings" not in verdict["imported"]


@pytest.mark.parametrize("log", ["logs/addition.log", "logs/server.log", "logs/earlier.log"])
def test_the_logs_of_an_imported_run_of_this_project_are_scanned(tmp_path, log):
    suite = suite_of("addition")
    own = own_run(tmp_path / "own", suite)
    (own / "logs").mkdir()
    (own / log).write_text(TRACEBACK)
    found = imported(own, suite)
    verdict = judged(tmp_path / "run", found, suite)
    assert verdict["pass"] is (log != "logs/addition.log")  # the server's cost no answer, and is a note
    assert any("no answer was lost" in note for note in verdict["notes"]) is (log == "logs/server.log")
    # A copy of a copy keeps what was found.
    again = imported(tmp_path / "run", suite)
    assert judged(tmp_path / "again", again, suite)["pass"] is (log != "logs/addition.log")
