"""One decision from all evidence: the first failure in the graph's order, else the comparison, else nothing."""

import copy
import json
import sys

import pytest
from decision_input import RELEASE, evidence, failed, make_crash_verdict, make_verdict, sha
from hypothesis import given
from hypothesis import strategies as st

import decide
from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.base.cli import run_cli
from day0.decision.failures import CONSEQUENCES
from day0.decision.verdict import STAGES
from day0.records.failure_class import Decision, FailureClass


def decision(**changes):
    verdict = make_verdict(RELEASE, evidence(**changes))
    return verdict["decision"], verdict["failure_class"], verdict["stage"]


def test_all_passed_is_accept():
    verdict = make_verdict(RELEASE, evidence())
    assert verdict["decision"] == "ACCEPT" and verdict["pass"] is True
    assert verdict["digests"] == {f"{key}_digest": sha(key[0]) for key in ("checkpoint", "source", "recipe")}
    assert verdict["evidence"]["validation"] == {"path": "validation.json", "sha256": sha("validation")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"comparison": failed(None)}, ("REGRESSION", None, "comparison")),
        ({"comparison": failed("NOT_COMPARABLE")}, ("ANOMALOUS", "NOT_COMPARABLE", "comparison")),
        ({"validation": failed("MODEL_UNSUPPORTED")}, ("INFEASIBLE", "MODEL_UNSUPPORTED", "validation")),
        ({"validation": failed("QUANT_COVERAGE_FAILURE")}, ("INFEASIBLE", "QUANT_COVERAGE_FAILURE", "validation")),
        (
            {"candidate_run": failed("DEPLOYMENT_HEALTH_FAILED")},
            ("INFEASIBLE", "DEPLOYMENT_HEALTH_FAILED", "candidate_run"),
        ),
        (
            {"baseline_run": failed("DEPLOYMENT_HEALTH_FAILED")},
            ("ANOMALOUS", "DEPLOYMENT_HEALTH_FAILED", "baseline_run"),
        ),
        (
            {"candidate_run": failed("SAMPLE_ACCOUNTING_FAILED")},
            ("ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED", "candidate_run"),
        ),
        ({"candidate_run": failed("EVAL_JUDGE_FAILED")}, ("ANOMALOUS", "EVAL_JUDGE_FAILED", "candidate_run")),
        ({"baseline_run": failed("EVAL_JUDGE_FAILED")}, ("ANOMALOUS", "EVAL_JUDGE_FAILED", "baseline_run")),
        (
            {"comparison": failed("EXTERNAL_BASELINE_MISMATCH")},
            ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH", "comparison"),
        ),
        ({"comparison": failed("INSUFFICIENT_EVIDENCE")}, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE", "comparison")),
        ({"validation": failed("DEPLOYMENT_HEALTH_FAILED")}, ("INFEASIBLE", "DEPLOYMENT_HEALTH_FAILED", "validation")),
        ({"preflight_suite": failed("SYSTEMIC")}, ("ANOMALOUS", "SYSTEMIC", "preflight_suite")),
        ({"preflight_recipe": failed("INFRA_TRANSIENT")}, ("ANOMALOUS", "SYSTEMIC", "preflight_recipe")),
        (
            {"comparison": failed("A_CLASS_OF_ANOTHER_VERSION")},
            ("ANOMALOUS", "UNKNOWN", "comparison"),
        ),
        ({"preflight_model": failed("USER_CONFIG_ERROR")}, ("ANOMALOUS", "USER_CONFIG_ERROR", "preflight_model")),
        ({"validation": failed(None)}, ("ANOMALOUS", "UNKNOWN", "validation")),
        ({"validation": {"pass": "yes"}}, ("ANOMALOUS", "UNKNOWN", "validation")),
        ({"validation": {"failure_class": "UNKNOWN"}}, ("ANOMALOUS", "UNKNOWN", "validation")),
        ({"comparison": None}, ("ANOMALOUS", "UNKNOWN", "comparison")),
        ({"baseline_run": None}, ("ANOMALOUS", "UNKNOWN", "baseline_run")),
        ({"comparison": {"pass": None}}, ("ANOMALOUS", "UNKNOWN", "comparison")),
    ],
)
def test_the_first_failure_decides(changes, expected):
    assert decision(**changes) == expected


def test_a_class_of_another_version_is_quoted():
    verdict = make_verdict(RELEASE, evidence(comparison=failed("A_CLASS_OF_ANOTHER_VERSION")))
    assert "'A_CLASS_OF_ANOTHER_VERSION'" in verdict["detail"] and verdict["detail"].endswith("because")


def test_the_class_is_told_once():
    told = failed("EVAL_JUDGE_FAILED") | {"detail": "EVAL_JUDGE_FAILED: no judge. UNKNOWN: what."}
    assert make_verdict(RELEASE, evidence(candidate_run=told))["detail"] == "no judge. UNKNOWN: what."


def test_an_earlier_failure_leads():
    found = decision(validation=failed("QUANT_COVERAGE_FAILURE"), candidate_run=failed("UNKNOWN"), comparison=None)
    assert found == ("INFEASIBLE", "QUANT_COVERAGE_FAILURE", "validation")


@pytest.mark.parametrize(
    ("stage", "key"),
    [
        ("validation", "checkpoint_digest"),
        ("validation", "source_digest"),
        ("baseline_run", "checkpoint_digest"),
        ("candidate_run", "checkpoint_digest"),
        ("comparison", "baseline_sha256"),
        ("comparison", "candidate_sha256"),
    ],
)
@pytest.mark.parametrize("value", ["another", None])
def test_a_broken_chain_is_never_accepted(stage, key, value):
    verdict = make_verdict(RELEASE, evidence(**{stage: {key: value}}))
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "UNKNOWN")
    assert "chain of evidence is broken" in verdict["detail"]


def test_the_verdict_carries_what_the_comparison_says():
    told = {
        "evidence": "inconclusive",
        "evidence_sentence": "Inconclusive: few.",
        "warnings": [{"task": "a", "sentence": "a: few."}],
        "external": {"status": "unverified", "entries": []},
        "baseline_precision": "BF16",
    }
    verdict = make_verdict(RELEASE | {"warnings": [{"task": "a", "sentence": "planned."}]}, evidence(comparison=told))
    assert verdict["decision"] == "ACCEPT" and verdict["failure_classes"] == []
    assert (verdict["evidence_strength"], verdict["evidence_sentence"]) == ("inconclusive", "Inconclusive: few.")
    assert {key: verdict[key] for key in ("warnings", "external", "baseline_precision")} == {
        key: told[key] for key in ("warnings", "external", "baseline_precision")
    }


def test_without_a_comparison_the_plans_warnings_stand():
    planned = [{"task": "a", "sentence": "a: 198 samples cannot resolve the limit."}]
    found = evidence(validation=failed("MODEL_UNSUPPORTED"), baseline_run=None, candidate_run=None, comparison=None)
    verdict = make_verdict(RELEASE | {"warnings": planned}, found)
    assert verdict["warnings"] == planned and verdict["evidence_strength"] is None and verdict["external"] is None


PUBLISHED = {"model": "m", "task": "a", "metric": "acc", "score": 50.0, "scale": {"min": 0, "max": 100}}
PUBLISHED |= {"source": "https://example.org/card", "notes": "5-shot"}
SCORE = {"metric": "acc", "score": 0.9, "stderr": None, "samples": 10, "tier": "critical"}
SCORED = {"scores": {"a": {**SCORE, "scale": {"min": 0, "max": 1, "direction": "higher"}}}}


@pytest.mark.parametrize(
    ("stage", "failure_class"),
    [
        ("preflight_recipe", "USER_CONFIG_ERROR"),
        ("validation", "MODEL_UNSUPPORTED"),
        ("validation", "DEPLOYMENT_HEALTH_FAILED"),
        ("candidate_run", "DEPLOYMENT_HEALTH_FAILED"),
        ("candidate_run", "SAMPLE_ACCOUNTING_FAILED"),
    ],
)
def test_an_external_mismatch_leads_whatever_the_candidate_did(stage, failure_class):
    found = evidence(**{stage: failed(failure_class)}, baseline_run=SCORED, comparison=None)
    verdict = make_verdict(RELEASE | {"external": [PUBLISHED]}, found)
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")
    assert verdict["failure_classes"] == ["EXTERNAL_BASELINE_MISMATCH", failure_class]
    assert verdict["external"]["status"] == "failed" and verdict["stage"] == "external_check"
    assert "https://example.org/card" in verdict["detail"] and verdict["detail"].endswith("because")
    of_the_candidate = make_verdict(RELEASE, evidence(**{stage: failed(failure_class)}))["next_action"]
    assert verdict["next_action"].startswith("Correct the baseline") and of_the_candidate in verdict["next_action"]


@pytest.mark.parametrize(("score", "status"), [(88.0, "verified"), (None, "unverified")])
def test_a_candidate_that_fails_early_states_the_external_check(score, status):
    published = [] if score is None else [PUBLISHED | {"score": score}]
    found = evidence(validation=failed("MODEL_UNSUPPORTED"), baseline_run=SCORED, comparison=None)
    verdict = make_verdict(RELEASE | {"external": published}, found)
    assert (verdict["decision"], verdict["failure_class"]) == ("INFEASIBLE", "MODEL_UNSUPPORTED")
    assert verdict["external"]["status"] == status


@pytest.mark.parametrize("stage", ["preflight_model", "preflight_suite", "baseline_run"])
def test_what_the_baseline_itself_failed_by_comes_before_its_published_scores(stage):
    changes = {"baseline_run": SCORED} | {stage: SCORED | failed("USER_CONFIG_ERROR")}
    verdict = make_verdict(RELEASE | {"external": [PUBLISHED]}, evidence(**changes, comparison=None))
    assert (verdict["failure_class"], verdict["stage"]) == ("USER_CONFIG_ERROR", stage)


def test_the_external_check_reads_the_policys_scales():
    policy = RELEASE["policy"] | {"scales": {"a": 1.8}}
    found = evidence(candidate_run=failed("UNKNOWN"), baseline_run=SCORED, comparison=None)
    verdict = make_verdict(RELEASE | {"external": [PUBLISHED], "policy": policy}, found)
    assert verdict["external"]["status"] == "verified"


def test_all_classes_of_the_deciding_assessment_are_told():
    broken = failed("EVAL_JUDGE_FAILED") | {"failure_classes": ["EVAL_JUDGE_FAILED", "UNKNOWN"]}
    assert make_verdict(RELEASE, evidence(candidate_run=broken))["failure_classes"] == ["EVAL_JUDGE_FAILED", "UNKNOWN"]
    odd = failed("EVAL_JUDGE_FAILED") | {"failure_classes": "EVAL_JUDGE_FAILED"}
    assert make_verdict(RELEASE, evidence(candidate_run=odd))["failure_classes"] == ["EVAL_JUDGE_FAILED"]


@pytest.mark.parametrize("stage", ["baseline_run", "candidate_run"])
def test_a_transient_failure_that_reaches_the_verdict_is_systemic(stage):
    verdict = make_verdict(RELEASE, evidence(**{stage: failed("INFRA_TRANSIENT")}))
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "SYSTEMIC")
    assert verdict["failure_classes"] == ["SYSTEMIC", "INFRA_TRANSIENT"]
    assert "RUN/results.yml" in verdict["next_action"] and "imported" in verdict["next_action"]


def test_a_crash_is_anomalous_and_names_rule_attempt_and_log():
    verdict = make_crash_verdict(RELEASE, "quantize_candidate", 2, "a.log")
    assert (verdict["decision"], verdict["failure_class"], verdict["pass"]) == ("ANOMALOUS", "SYSTEMIC", False)
    assert verdict["detail"] == "Rule quantize_candidate crashed in attempt 2; its log is a.log."
    refused = make_crash_verdict(RELEASE, "quantize_candidate", 1, "a.log", refusal="x.yaml: found 1, expected 2.")
    assert (
        refused["detail"]
        == "Rule quantize_candidate cannot use its input: x.yaml: found 1, expected 2; its log is a.log."
    )
    assert refused["failure_class"] == "SYSTEMIC" and refused["next_action"] != verdict["next_action"]


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())
changes = st.dictionaries(
    st.sampled_from(STAGES), st.dictionaries(st.sampled_from(["pass", "failure_class", "detail"]), values)
)


@given(changes)
def test_nothing_but_whole_evidence_is_accepted(changed):
    verdict = make_verdict(RELEASE, evidence(**copy.deepcopy(changed)))
    assert verdict["decision"] in tuple(Decision)
    sound = all(change.get("pass", True) is True and change.get("failure_class") is None for change in changed.values())
    assert (verdict["decision"] == "ACCEPT") == sound


# --- the command line -----------------------------------------------------------------------------------------------


def decide_by_hand(monkeypatch, folder, paths, *options, release=None):
    """Run decide.py over files; its exit status."""
    arguments = ["--release", json.dumps(RELEASE if release is None else release), "--evidence", json.dumps(paths)]
    monkeypatch.setattr(
        sys, "argv", ["decide.py", *arguments, *map(str, options), "--output", str(folder / "verdict.json")]
    )
    with pytest.raises(SystemExit) as ended:
        run_cli(decide.main)
    return ended.value.code


@pytest.fixture
def infeasible(tmp_path):
    """Evidence of a checkpoint that failed, as files, and the baseline's run beside it."""
    found = evidence(validation=failed("MODEL_UNSUPPORTED"), baseline_run=SCORED, candidate_run=None, comparison=None)
    for assessment in found.values():
        write_json(tmp_path / assessment.path, assessment.content)
    return {stage: str(tmp_path / found[stage].path) for stage in found if stage != "baseline_run"}


def test_the_baseline_at_hand_is_read_where_it_still_is_the_same(tmp_path, monkeypatch, infeasible):
    run, release = tmp_path / "baseline_run.json", RELEASE | {"external": [PUBLISHED]}
    option = ("--baseline-run", run, digest_of_file(run))
    assert decide_by_hand(monkeypatch, tmp_path, infeasible, *option, release=release) == 0
    verdict = read_json(tmp_path / "verdict.json")
    assert verdict["failure_class"] == "EXTERNAL_BASELINE_MISMATCH"
    assert verdict["evidence"]["baseline_run"] == {"path": str(run), "sha256": digest_of_file(run)}
    for change in (lambda: run.write_text("{}"), run.unlink):
        change()
        assert decide_by_hand(monkeypatch, tmp_path, infeasible, *option, release=release) == 0
        verdict = read_json(tmp_path / "verdict.json")
        assert (verdict["decision"], verdict["external"]) == ("INFEASIBLE", None)


@pytest.mark.parametrize(
    ("release", "paths", "quoted"),
    [
        ({}, {}, "--release: name: missing"),
        (RELEASE | {"policy": {"threshold": "no"}}, {}, "--release: policy.threshold: found 'no'"),
        (RELEASE, {"validaton": "x"}, "unknown: validaton"),
        (RELEASE, {"validation": 3}, "expected a path for each name"),
        (RELEASE, {"validation": "nowhere.json"}, "nowhere.json: cannot be read"),
    ],
)
def test_what_cannot_be_decided_on_is_said_plainly(tmp_path, monkeypatch, capsys, release, paths, quoted):
    assert decide_by_hand(monkeypatch, tmp_path, paths, release=release) == 2
    assert quoted in capsys.readouterr().err and not (tmp_path / "verdict.json").exists()


def test_an_edited_assessment_is_refused_with_file_field_and_what_to_do(tmp_path, monkeypatch, capsys, infeasible):
    content = read_json(infeasible["validation"])
    write_json(tmp_path / "validation.json", content | {"size_ratio": "half"})
    assert decide_by_hand(monkeypatch, tmp_path, infeasible) == 2
    said = capsys.readouterr().err
    assert "validation.json: size_ratio: found 'half'" in said and "run the same command again" in said


@pytest.mark.parametrize("change", [{"tasks": {"a": 3}}, {"warnings": "few"}, {"external": {"status": "fine"}}])
def test_a_comparison_that_cannot_be_read_is_never_accepted(change):
    verdict = make_verdict(RELEASE, evidence(comparison=change))
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "UNKNOWN")
    assert "cannot be read" in verdict["detail"] and next(iter(change)) in verdict["detail"]


def test_the_tokens_of_the_comparison_stand_in_the_verdict():
    tokens = {"baseline": 100.0, "candidate": 130.0, "ratio": 1.3, "interval": [1.2, 1.4], "answers": 9, "unknown": 0}
    tokens |= {"sentence": "130.0 tokens per answer."}
    grown = {"pass": False, "failure_class": "TOKEN_GROWTH", "decision": "REGRESSION", "tokens": tokens}
    grown["next_action"] = CONSEQUENCES[FailureClass.TOKEN_GROWTH].next_action
    found = make_verdict(RELEASE, evidence(comparison=grown))
    assert found["tokens"] == tokens and (found["decision"], found["failure_class"]) == ("REGRESSION", "TOKEN_GROWTH")
    assert "raise max_token_growth only where" in found["next_action"]
