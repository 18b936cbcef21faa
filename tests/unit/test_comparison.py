"""The decision over scores and over runs: each class, each scale, and that no bad input is ever an ACCEPT."""

import contextlib
import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gate_compare
from day0.artefacts import digest_of_file, read_json, run_cli, write_json, write_text, write_yaml
from day0.comparability import Run
from day0.comparison import compare_runs, evaluate_comparison

SCRIPT = Path(__file__).parents[2] / "scripts" / "gate_compare.py"
RANK = {"ACCEPT": 2, "REGRESSION": 1, "ANOMALOUS": 0}
LOWER = {"min": 0, "max": 50, "direction": "lower"}
SIGNED = {"min": -100, "max": 100}


@pytest.mark.parametrize(
    ("baseline", "candidate", "options", "decision"),
    [
        ({"a": 0.9}, {"a": 0.9}, {}, "ACCEPT"),
        ({"a": 0.90}, {"a": 0.89}, {}, "ACCEPT"),
        ({"a": 0.3}, {"a": 0.29}, {}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.8899}, {}, "REGRESSION"),
        ({"a": 80}, {"a": 79}, {}, "ACCEPT"),
        ({"a": 80}, {"a": 78.9}, {}, "REGRESSION"),
        ({"a": 0.9}, {"a": 0.8}, {"threshold": 0.2}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": 0}, "ACCEPT"),
        ({"a": 0.9}, {"a": 0.8999}, {"threshold": 0}, "REGRESSION"),
        ({"a": 0.2}, {"a": 0.198}, {"relative": True}, "ACCEPT"),
        ({"a": 0.2}, {"a": 0.195}, {"relative": True}, "REGRESSION"),
        ({"a": 0.2}, {"a": 0.195}, {"relative": False}, "ACCEPT"),
        ({"a": 0.0}, {"a": 0.0}, {}, "ACCEPT"),
        ({"a": 0.0}, {"a": 0.0}, {"relative": True}, "ACCEPT"),
        ({"a": 0}, {"a": 1}, {"scales": {"a": 100}}, "ACCEPT"),
        ({"a": 1.0}, {"a": 0.5}, {"scales": {"a": 100}}, "ACCEPT"),
        ({"a": 10}, {"a": 10.5}, {"scales": {"a": LOWER}}, "ACCEPT"),
        ({"a": 10}, {"a": 10.6}, {"scales": {"a": LOWER}}, "REGRESSION"),
        ({"a": 10}, {"a": 9}, {"scales": {"a": LOWER}}, "ACCEPT"),
        ({"a": -10}, {"a": -12}, {"scales": {"a": SIGNED}}, "ACCEPT"),
        ({"a": -10}, {"a": -12.1}, {"scales": {"a": SIGNED}}, "REGRESSION"),
        ({"a": -50}, {"a": -50.5}, {"scales": {"a": SIGNED}, "relative": True}, "ACCEPT"),
        ({"a": -50}, {"a": -50.6}, {"scales": {"a": SIGNED}, "relative": True}, "REGRESSION"),
        ({"a": 0.9, "b": 0.9}, {"a": 0.9, "b": 0.7}, {"tiers": {"b": "supporting"}}, "REGRESSION"),
        ({"a": 0.9, "b": 0.9}, {"a": 0.9, "b": 0.7}, {"tiers": {"b": "advisory"}}, "ACCEPT"),
        ({"a": 0.9, "b": 0.9}, {"a": 0.9}, {"tiers": {"b": "advisory"}}, "ACCEPT"),
        ({"a": 0.9, "b": 0.9}, {"a": 0.9, "b": "x"}, {"tiers": {"b": "advisory"}}, "ACCEPT"),
        ({"a": 0.90}, {"a": 0.95}, {}, "ACCEPT"),
    ],
)
def test_decisions(baseline, candidate, options, decision):
    result = evaluate_comparison(baseline, candidate, **options)
    assert (result["decision"], result["failure_class"]) == (decision, None), result["detail"]
    assert result["pass"] == (decision == "ACCEPT")


@pytest.mark.parametrize(
    ("baseline", "candidate", "options", "failure_class", "quoted"),
    [
        ({"a": 0.5}, {"a": 0.5601}, {}, "UNKNOWN", "gains 0.0601"),
        ({"a": 20}, {"a": 10}, {"scales": {"a": LOWER}}, "UNKNOWN", "gains 10"),
        ({"a": 0.9}, {"a": math.nan}, {}, "SAMPLE_ACCOUNTING_FAILED", "nan"),
        ({"a": math.inf}, {"a": 0.9}, {}, "SAMPLE_ACCOUNTING_FAILED", "inf"),
        ({"a": 0.9}, {"a": "0.9"}, {}, "SAMPLE_ACCOUNTING_FAILED", "'0.9'"),
        ({"a": 1.0}, {"a": True}, {}, "SAMPLE_ACCOUNTING_FAILED", "True"),
        ({"a": 0.9}, {"a": None}, {}, "SAMPLE_ACCOUNTING_FAILED", "None"),
        ({"a": 10**400}, {"a": 10**400}, {}, "SAMPLE_ACCOUNTING_FAILED", "expected a finite number"),
        ({"a": 0.9, "b": 0.9}, {"a": 0.9}, {}, "SAMPLE_ACCOUNTING_FAILED", "b: no score from the candidate"),
        ({"a": 0.9}, {"a": 0.9, "b": 0.9}, {}, "SAMPLE_ACCOUNTING_FAILED", "b: no score from the baseline"),
        ({"a": 0.9}, {}, {}, "SAMPLE_ACCOUNTING_FAILED", "no score from the candidate"),
        ({"a": 0.9}, {"a": 0.9}, {"tiers": {"b": "critical"}}, "SAMPLE_ACCOUNTING_FAILED", "b: no score"),
        ({"a": -0.1}, {"a": -0.1}, {}, "UNKNOWN", "outside its assumed scale"),
        ({"a": 101}, {"a": 101}, {}, "UNKNOWN", "outside its assumed scale 0 to 100"),
        ({"a": 60}, {"a": 60}, {"scales": {"a": 1}}, "UNKNOWN", "outside its declared scale 0 to 1"),
        ({}, {}, {}, "USER_CONFIG_ERROR", "neither side has a score"),
        ([], {"a": 1}, {}, "USER_CONFIG_ERROR", "expected a mapping"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": math.nan}, "USER_CONFIG_ERROR", "threshold"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": -0.01}, "USER_CONFIG_ERROR", "threshold"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": True}, "USER_CONFIG_ERROR", "threshold"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": "1%"}, "USER_CONFIG_ERROR", "threshold"),
        ({"a": 0.9}, {"a": 0.9}, {"threshold": 1}, "USER_CONFIG_ERROR", "threshold"),
        ({"a": 0.9}, {"a": 0.9}, {"relative": 1}, "USER_CONFIG_ERROR", "relative"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": 0}}, "USER_CONFIG_ERROR", "scales: 'a'"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": math.nan}}, "USER_CONFIG_ERROR", "scales: 'a'"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": {"min": 1}}}, "USER_CONFIG_ERROR", "scales: 'a'"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": {"a": {"max": 1, "direction": "up"}}}, "USER_CONFIG_ERROR", "scales"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": {"aa": 1}}, "USER_CONFIG_ERROR", "scales: 'aa'"),
        ({"a": 0.9}, {"a": 0.9}, {"scales": 100}, "USER_CONFIG_ERROR", "scales"),
        ({"a": 0.9}, {"a": 0.9}, {"tiers": {"a": "minor"}}, "USER_CONFIG_ERROR", "tiers: 'a'"),
        ({"a": 0.9}, {"a": 0.9}, {"tiers": {"a": "advisory"}}, "USER_CONFIG_ERROR", "every task is advisory"),
    ],
)
def test_anomalies(baseline, candidate, options, failure_class, quoted):
    result = evaluate_comparison(baseline, candidate, **options)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", failure_class)
    assert result["pass"] is False and quoted in result["detail"]
    json.dumps(result, allow_nan=False)


def test_what_a_task_says():
    result = evaluate_comparison({"a": 20, "b": 0.9}, {"a": 21, "b": 0.88}, scales={"a": LOWER})
    assert result["tasks"]["a"] == {
        "baseline": 20.0,
        "candidate": 21.0,
        "drop": 1.0,
        "drop_fraction": 0.02,
        "limit": 0.5,
        "within": False,
        "scale": {"min": 0.0, "max": 50.0, "direction": "lower"},
        "tier": "critical",
        "note": None,
    }


def test_the_detail_quotes_numbers_worst_first():
    detail = evaluate_comparison({"a": 0.9, "b": 0.9}, {"a": 0.88, "b": 0.8})["detail"]
    assert detail.startswith("2 of 2 blocking tasks dropped by more than the limit.")
    assert detail.index("b: 0.9 to 0.8, a drop of 0.1, beyond the limit of 0.01") < detail.index("a: 0.9 to 0.88")


SCORES = st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_SCORES = st.dictionaries(st.sampled_from("abc"), JSON | st.floats(0, 1), max_size=3)


@settings(max_examples=400)
@given(JSON | ANY_SCORES, JSON | ANY_SCORES, JSON | st.just(0.01), JSON | st.just(False), JSON, JSON)
def test_any_input_gets_a_sound_answer(baseline, candidate, threshold, relative, scales, tiers):
    result = evaluate_comparison(baseline, candidate, threshold, relative, scales, tiers)
    json.dumps(result, allow_nan=False)
    assert result["decision"] in RANK and result["detail"]
    assert (result["failure_class"] is not None) == (result["decision"] == "ANOMALOUS")


@settings(max_examples=400)
@given(ANY_SCORES, ANY_SCORES, st.floats(0, 0.99), st.booleans(), st.sampled_from([None, {"a": "advisory"}]))
def test_accept_means_every_blocking_task_is_there_and_within(baseline, candidate, threshold, relative, tiers):
    result = evaluate_comparison(baseline, candidate, threshold, relative, tiers=tiers)
    if not result["pass"]:
        return
    blocking = (set(baseline) | set(candidate)) - set(tiers or {})
    assert blocking
    for task in blocking:
        old, new = baseline[task], candidate[task]
        assert not isinstance(old, bool) and not isinstance(new, bool)
        assert math.isfinite(old) and math.isfinite(new)
        width = 1 if 0 <= old <= 1 and 0 <= new <= 1 else 100
        assert 0 <= old <= width + 1e-6 and 0 <= new <= width + 1e-6
        assert old - new <= threshold * (abs(old) if relative else width) + 1e-8 * width


@settings(max_examples=400)
@given(SCORES, st.data(), st.floats(0, 0.99), st.booleans())
def test_a_worse_candidate_never_gets_a_better_decision(baseline, data, threshold, relative):
    """Save where the better one is suspect for its gain."""
    better = {task: data.draw(st.floats(0, min(1, score + 0.05))) for task, score in baseline.items()}
    worse = {task: data.draw(st.floats(0, score)) for task, score in better.items()}
    results = [evaluate_comparison(baseline, scores, threshold, relative) for scores in (better, worse)]
    assert RANK[results[0]["decision"]] >= RANK[results[1]["decision"]]
    lost = {task: score for task, score in better.items() if task != min(better)}
    assert evaluate_comparison(baseline, lost, threshold, relative)["decision"] == "ANOMALOUS"


@given(SCORES, SCORES, st.randoms())
def test_the_order_of_tasks_is_irrelevant(baseline, candidate, random):
    def shuffled(scores):
        items = list(scores.items())
        random.shuffle(items)
        return dict(items)

    one = evaluate_comparison(baseline, candidate)
    other = evaluate_comparison(shuffled(baseline), shuffled(candidate))
    assert json.dumps(one) == json.dumps(other)


# --- runs -----------------------------------------------------------------------------------------------------------


def rows(correct, samples=400, **changes):
    return [
        {"id": i, "repeat": 0, "prompt_digest": f"p{i}", "target_digest": f"t{i}", "answer": str(i), **changes}
        | {"score": float(i < correct)}
        for i in range(samples)
    ]


def run(correct=390, samples=400, fingerprint=None, unit=1, **changes):
    score = {"metric": "exact_match", "score": unit * correct / samples, "tier": "critical"}
    score["scale"] = {"min": 0, "max": unit, "direction": "higher"}
    assessment = {"pass": True, "failure_class": None, "detail": "", "model": "m", "suite": "s", "scores": {"a": score}}
    metadata = {
        "suite_digest": "1",
        "server": {"engine": "vllm", "engine_version": "1", "quantization": "fp8"},
        "fingerprint": {"a": fingerprint or {"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.0}}},
    }
    return Run({**assessment, **changes}, metadata, {"a": rows(correct, samples)})


def test_equal_runs_are_accepted_with_their_evidence():
    result = compare_runs(run(), run(388))
    paired = result["tasks"]["a"]["paired"]
    assert result["decision"] == "ACCEPT" and result["comparability"]["pass"]
    assert (paired["losses"], paired["wins"], paired["ties"]) == (2, 0, 398)
    assert paired["flips"]["lost"][0] == {"id": "388", "repeat": 0, "baseline": "388", "candidate": "388"}
    assert result["evidence"] == "inconclusive" and "publish" in result["next_action"].lower()
    assert "sampling.temperature" in result["comparability"]["fields"]
    json.dumps(result, allow_nan=False)


def test_many_samples_make_it_conclusive():
    assert compare_runs(run(4000, 4000), run(3999, 4000))["evidence"] == "conclusive"
    result = compare_runs(run(4000, 4000), run(3800, 4000))
    assert (result["decision"], result["evidence"]) == ("REGRESSION", "conclusive")
    assert "lies beyond" in result["evidence_sentence"]


def test_samples_of_0_and_1_support_a_score_in_percent():
    paired = compare_runs(run(unit=100), run(388, unit=100))["tasks"]["a"]["paired"]
    assert paired["drop"] == pytest.approx(0.5) and paired["interval"][1] > 0.5


def test_samples_that_do_not_give_the_score_support_nothing():
    other = run()
    other = Run(other.assessment, other.metadata, {"a": rows(300)})
    paired = compare_runs(run(), other)["tasks"]["a"]["paired"]
    assert paired["evidence"] == "inconclusive" and "not the means" in paired["sentence"]


@pytest.mark.parametrize(
    ("fingerprint", "quoted"),
    [
        ({"task_hash": "2", "sampling": {"seed": 1, "temperature": 0.0}}, "task_hash is '1' in the baseline and '2'"),
        ({"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.6}}, "sampling.temperature is 0.0"),
        ({"task_hash": "1", "sampling": {"temperature": 0.0}}, "sampling.seed is 1 in the baseline and 'absent'"),
    ],
)
def test_runs_made_differently_are_not_comparable(fingerprint, quoted):
    result = compare_runs(run(), run(fingerprint=fingerprint))
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "NOT_COMPARABLE")
    assert quoted in result["detail"] and result["comparability"]["differences"][0]["task"] == "a"
    assert "matched settings" in result["next_action"]


def test_quantization_itself_is_no_difference():
    fingerprint = {"task_hash": "1", "sampling": {"seed": 1, "temperature": 0.0}, "quantization": "fp8", "dtype": "x"}
    assert compare_runs(run(), run(fingerprint=fingerprint))["pass"]


def test_whole_run_differences_and_absent_fingerprints():
    assert "suite is 's'" in compare_runs(run(), run(suite="other"))["detail"]
    bare = Run(run().assessment, {}, run().samples)
    assert compare_runs(bare, bare)["failure_class"] == "NOT_COMPARABLE"
    assert compare_runs(bare, bare, {"require_fingerprints": False})["pass"]
    assert compare_runs(run(), bare, {"require_fingerprints": False})["failure_class"] == "NOT_COMPARABLE"


@pytest.mark.parametrize(
    ("change", "failure_class", "quoted"),
    [
        (lambda found: found[:-3], "SAMPLE_ACCOUNTING_FAILED", "3 samples of the baseline are not among"),
        (lambda found: [*found, found[0]], "SAMPLE_ACCOUNTING_FAILED", "twice"),
        (lambda found: [{**found[0], "score": None}, *found[1:]], "SAMPLE_ACCOUNTING_FAILED", "finite score"),
        (lambda found: ["x", *found[1:]], "SAMPLE_ACCOUNTING_FAILED", "finite score"),
        (lambda found: [{**found[0], "prompt_digest": "q"}, *found[1:]], "NOT_COMPARABLE", "prompt_digest differs"),
    ],
)
def test_samples_that_do_not_pair(change, failure_class, quoted):
    candidate = run()
    candidate = Run(candidate.assessment, candidate.metadata, {"a": change(rows(390))})
    result = compare_runs(run(), candidate)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", failure_class)
    assert quoted in result["detail"]


def test_a_run_that_failed_decides():
    failed = {"pass": False, "failure_class": "DEPLOYMENT_HEALTH_FAILED", "detail": "no answer to the canary."}
    assert compare_runs(run(**failed), run())["decision"] == "ANOMALOUS"
    result = compare_runs(run(), run(**failed))
    assert result["decision"] == "INFEASIBLE" and result["pass"] is False and "canary" in result["detail"]
    assert compare_runs(run(), run(**{"pass": "yes"}))["failure_class"] == "UNKNOWN"


@pytest.mark.parametrize("policy", [{"treshold": 0.1}, {"threshold": -1}, {"require_fingerprints": "no"}, [1]])
def test_a_bad_policy_is_a_config_error(policy):
    result = compare_runs(run(), run(), policy)
    assert (result["decision"], result["failure_class"]) == ("ANOMALOUS", "USER_CONFIG_ERROR")


def test_the_policy_overrides_tiers_and_scales():
    assert compare_runs(run(), run(380), {"threshold": 0.05})["pass"]
    assert compare_runs(run(), run(380), {"tiers": {"a": "advisory"}})["failure_class"] == "USER_CONFIG_ERROR"
    assert compare_runs(run(), run(380), {"scales": {"a": 10}})["tasks"]["a"]["scale"]["max"] == 10


@pytest.mark.parametrize("advisory_side", [0, 1])
def test_the_stricter_tier_of_both_runs_holds(advisory_side):
    runs = [run(), run(300)]
    runs[advisory_side].assessment["scores"]["a"]["tier"] = "advisory"
    assert compare_runs(*runs)["decision"] == "REGRESSION"


@settings(max_examples=150, deadline=None)
@given(JSON, JSON, JSON, JSON)
def test_any_run_gets_a_sound_answer(scores, fingerprint, samples, policy):
    other = Run({"pass": True, "scores": {"a": scores}}, {"fingerprint": fingerprint}, {"a": samples})
    result = compare_runs(run(), other, policy)
    json.dumps(result, allow_nan=False)
    assert not result["pass"]


# --- the command line -----------------------------------------------------------------------------------------------


def gate(*arguments):
    """Run the command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["gate_compare.py", *map(str, arguments)])
        run_cli(gate_compare.main)
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def test_the_script_runs_by_itself():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--baseline" in done.stdout


def write_folder(folder, correct, metadata=None, with_run=True):
    made = run(correct)
    value = made.assessment["scores"]["a"]["score"]
    metrics = {"exact_match": {"scores": {"exact_match": {"value": value}}}}
    content = {"results": {"tasks": {"a": {"metrics": metrics}}}, "metadata": made.metadata}
    write_yaml(folder / "results.yml", content if metadata is None else {**content, "metadata": metadata})
    write_text(folder / "samples" / "a.jsonl", "".join(json.dumps(row) + "\n" for row in made.samples["a"]))
    if with_run:
        write_json(folder / "run.json", made.assessment)
    return folder


def test_command_line_over_score_files(tmp_path):
    for name, scores in (("b", {"a": 0.9}), ("same", {"a": 0.9}), ("worse", {"a": 0.8}), ("empty", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(scores))
    base = tmp_path / "b.json"
    done = gate("--baseline", base, "--candidate", tmp_path / "same.json", "--output", tmp_path / "out.json")
    assert done.returncode == 0 and json.loads(done.stdout)["decision"] == "ACCEPT"
    assert read_json(tmp_path / "out.json")["pass"] is True
    worse = ("--baseline", base, "--candidate", tmp_path / "worse.json")
    assert gate(*worse).returncode == 1
    assert gate(*worse, "--threshold", "0.12", "--relative").returncode == 0
    assert gate(*worse, "--scales", '{"a": 100}').returncode == 0
    assert gate(*worse, "--threshold", "nan").returncode == 2
    for candidate in ("absent.json", "empty.json/x"):
        done = gate("--baseline", base, "--candidate", tmp_path / candidate)
        assert done.returncode == 2 and json.loads(done.stdout)["failure_class"] == "USER_CONFIG_ERROR"
        assert "Traceback" not in done.stderr


def test_command_line_over_runs(tmp_path):
    base, good = write_folder(tmp_path / "b", 390), write_folder(tmp_path / "c", 389)
    bad = write_folder(tmp_path / "d", 370)
    results = [gate("--baseline", base / name, "--candidate", good / name) for name in ("", "results.yml", "run.json")]
    contents = [json.loads(done.stdout) for done in results]
    assert contents[0] == contents[1] == contents[2] and contents[0]["pass"]
    assert contents[0]["baseline_sha256"] == digest_of_file(base / "run.json")
    assert contents[0]["tasks"]["a"]["paired"]["losses"] == 1
    output = tmp_path / "comparison.json"
    policy = ("--policy", '{"threshold": 0.01, "relative": false}')
    done = gate("--baseline", base, "--candidate", bad, *policy, "--assess", "--output", output)
    assert done.returncode == 0 and read_json(output)["decision"] == "REGRESSION"
    assert gate("--baseline", base, "--candidate", bad, *policy).returncode == 1


def test_command_line_over_foreign_results(tmp_path):
    base = write_folder(tmp_path / "b", 390, metadata={}, with_run=False)
    good = write_folder(tmp_path / "c", 389, metadata={}, with_run=False)
    failed = write_folder(tmp_path / "d", 389, metadata={"status": "FAILED"}, with_run=False)
    done = gate("--baseline", base / "results.yml", "--candidate", good)
    assert done.returncode == 0 and json.loads(done.stdout)["comparability"]["checked"] is False
    done = gate("--baseline", base, "--candidate", good, "--assess", "--output", tmp_path / "out.json")
    assert read_json(tmp_path / "out.json")["failure_class"] == "NOT_COMPARABLE"
    assert gate("--baseline", base, "--candidate", failed).returncode == 1
