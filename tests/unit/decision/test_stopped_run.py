"""A candidate that was stopped early: held to what it asked, a loss where its samples show one, never a release."""

import json

import pytest
import yaml
from decision_input import RELEASE, evidence, make_verdict, sha

from day0.decision.assess_run import assess_run
from day0.decision.comparability import Run
from day0.decision.stopped_comparison import compare_stopped_run
from day0.decision.stopped_run import unsupported
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Policy

PLANNED, ASKED = 1000, 200
BASELINE_DIGEST = "b" * 64
EVIDENCE = {
    "questions": ASKED,
    "drop": 0.25,
    "limit": 0.01,
    "evidence": 1e6,
    "evidence_of_size": 1e6,
    "needed": 40.0,
    "evidence_of_acceptance": None,
}
SCALE = {"min": 0.0, "max": 1.0, "direction": "higher"}


def early_stop(**changes):
    task = EVIDENCE | {key: changes.pop(key) for key in list(changes) if key in EVIDENCE}
    return {
        "end": "rejected",
        "tasks_decided": ["a"],
        "mode": "reject",
        "baseline_digest": BASELINE_DIGEST,
        "tasks": {"a": task},
        "unwatched": {},
    } | changes


def rows(count, wrong=10**9):
    return [
        {
            "id": str(number),
            "repeat": 0,
            "prompt_digest": f"p{number}",
            "target_digest": f"t{number}",
            "answer": f"answer {number}",
            "score": float((number + 1) % wrong > 0),
            "finish_reason": "stop",
            "tokens": 3,
        }
        for number in range(count)
    ]


def account(asked, expected=PLANNED):
    counts = {"asked": asked, "answered": asked, "scored": asked, "empty": 0, "cut": 0, "unparsed": 0, "failed": 0}
    return {"expected": expected, **counts}


def stopped_run(folder, stop=None, accounting=None, samples=None, **metadata):
    (folder / "samples").mkdir()
    for name, lines in ({"a": rows(ASKED, 4), "b": []} if samples is None else samples).items():
        (folder / "samples" / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    content = {
        "schema_version": 1,
        "status": "STOPPED_EARLY",
        "failure_class": None,
        "detail": "stopped early",
        "model": "m",
        "candidate": "r",
        "suite": "s",
        "checkpoint_digest": "c" * 64,
        "accounting": accounting or {"a": account(ASKED), "b": account(0)},
        "early_stop": early_stop() if stop is None else stop,
    } | metadata
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / "results.yml").write_text(yaml.safe_dump({"results": {"tasks": {}}, "metadata": content}))
    return assess_run(folder)


def test_a_run_that_was_stopped_is_held_to_what_it_asked(tmp_path):
    run = stopped_run(tmp_path)
    assert run.passed and run.early_stop.tasks_decided == ["a"]
    assert run.detail.startswith("stopped early, rejected: ")
    assert {name: (score.score, score.samples) for name, score in run.scores.items()} == {"a": (0.75, ASKED)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"stop": ...},
        {"stop": early_stop(evidence=39.0)},
        {"stop": early_stop(evidence_of_size=19.0)},
        {"stop": early_stop(drop=0.01)},
        {"stop": early_stop(needed=1.0, evidence=2.0)},
        {"stop": early_stop(tasks_decided=[])},
        {"stop": early_stop(tasks_decided=["b"])},
        {"stop": early_stop(end="accepted", mode="both", evidence_of_acceptance=99.0)},
        {"stop": early_stop(end="accepted", evidence_of_acceptance=1000.0)},
        {"stop": early_stop(baseline_digest="?")},
        {"candidate": "baseline"},
        {"imported": {"format": "elsewhere"}},
        {"schema_version": ...},
        {"accounting": {"a": account(ASKED, expected=ASKED - 1), "b": account(0)}},
        {"accounting": {"a": account(0), "b": account(0)}},
        {"accounting": {"a": account(ASKED) | {"answered": ASKED - 1}, "b": account(0)}},
        {"accounting": {"a": account(ASKED) | {"failed": 1}, "b": account(0)}},
        {"accounting": {"a": account(ASKED + 1), "b": account(0)}},
        {"samples": {"a": rows(ASKED - 1, 4), "b": []}},
        {"status": "STOPPED"},
    ],
)
def test_a_record_that_does_not_bear_it_out_fails(tmp_path, wrong):
    assert not stopped_run(tmp_path, **wrong).passed


def test_what_a_record_lacks_is_said():
    assert not list(unsupported(EarlyStop.model_validate(early_stop())))
    (sentence,) = unsupported(EarlyStop.model_validate(early_stop(evidence=1.0)))
    assert sentence.startswith("task a: evidence 1 and 1e+06 of a drop of 0.25; a rejection takes 40 and 20")


def side(samples, **assessment):
    scores = {
        task: {
            "metric": "acc",
            "score": sum(row["score"] for row in lines) / len(lines),
            "stderr": None,
            "samples": len(lines),
            "scale": SCALE,
            "tier": "critical",
        }
        for task, lines in samples.items()
    }
    prints = {task: {"seed": 1, "task_hash": f"{len(lines)} samples"} for task, lines in samples.items()}
    judged = {"pass": True, "failure_class": None, "scores": scores, "model": "m", "suite": "s"} | assessment
    return Run(judged, {"fingerprint": prints}, samples)


def compared(candidate=None, stop=None, external=(), digest=BASELINE_DIGEST, baseline=None, **settings):
    tiers = settings.pop("tiers", {"a": "critical", "b": "critical"})
    whole = side({"a": baseline or rows(PLANNED), "b": rows(PLANNED)}, results_digest=digest)
    part = side({"a": rows(ASKED, 4) if candidate is None else candidate}, early_stop=stop or early_stop())
    return compare_stopped_run(whole, part, Policy(tiers=tiers, **settings), None, external)


def test_a_loss_is_a_regression_with_partial_scores():
    result = compared()
    assert result.decision is Decision.REGRESSION and not result.passed and result.failure_class is None
    assert result.detail.startswith(
        "stopped early: 200 of 2,000 samples asked, none of b; rejected; a: over 200 questions"
    )
    assert result.tasks["a"].note.endswith("of 200 of 1000 samples") and "b" not in result.tasks
    assert result.early_stop.tasks_decided == ["a"]


@pytest.mark.parametrize(
    ("edited", "words"),
    [
        ({}, None),
        ({"candidate_run": {"early_stop": None}}, "say differently that it was stopped early"),
        ({"comparison": {"early_stop": None}}, "say differently that it was stopped early"),
        ({"comparison": {"pass": True}}, "that it passed and that the candidate was stopped early"),
        ({"candidate_run": {"scores": {"a": {"score": 0.9, "samples": ASKED}}}}, "candidate's score"),
        ({"candidate_run": {"scores": {"a": {"score": 0.75, "samples": ASKED - 1}}}}, "the candidate's run has 199"),
        ({"baseline_run": {"scores": {"a": {"score": 1.0, "samples": ASKED - 1}}}}, "the baseline's run has 199"),
    ],
)
def test_a_verdict_follows_a_stopped_run_and_holds_it_to_its_comparison(edited, words):
    stop = EarlyStop.model_validate(early_stop()).as_plain()
    of_release = {"suite": "demo"}
    contents = {
        "baseline_run": side({"a": rows(PLANNED), "b": rows(PLANNED)}).assessment | of_release,
        "candidate_run": side({"a": rows(ASKED, 4)}, early_stop=stop).assessment | of_release,
        "comparison": compared().as_plain() | {f"{one}_sha256": sha(f"{one}_run") for one in ("baseline", "candidate")},
    }
    verdict = make_verdict(RELEASE, evidence(**{key: contents[key] | edited.get(key, {}) for key in contents}))
    assert verdict["decision"] == ("REGRESSION" if words is None else "ANOMALOUS"), verdict["detail"]
    assert (words or "stopped early: 200 of 2,000 samples asked") in verdict["detail"]


@pytest.mark.parametrize(
    "changes, failure_class, words",
    [
        ({"candidate": rows(ASKED)}, FailureClass.INSUFFICIENT_EVIDENCE, "do not show the loss"),
        ({"threshold": 0.5}, FailureClass.INSUFFICIENT_EVIDENCE, "early_stopping: off"),
        (
            {"stop": early_stop(end="accepted", mode="both", evidence_of_acceptance=1e3)},
            FailureClass.INSUFFICIENT_EVIDENCE,
            "a release states the scores of all samples",
        ),
        ({"tiers": {"a": "advisory", "b": "critical"}}, FailureClass.USER_CONFIG_ERROR, "advisory"),
        ({"digest": "d" * 64}, FailureClass.NOT_COMPARABLE, "another run of the baseline"),
        ({"digest": None}, FailureClass.NOT_COMPARABLE, "another run of the baseline"),
        (
            {"candidate": [{**row, "prompt_digest": "other"} for row in rows(ASKED, 4)]},
            FailureClass.NOT_COMPARABLE,
            "prompt_digest differs",
        ),
        (
            {"candidate": [{**row, "id": f"x{row['id']}"} for row in rows(ASKED, 4)]},
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            "",
        ),
    ],
)
def test_what_is_no_regression_is_anomalous_and_never_accepted(changes, failure_class, words):
    result = compared(**changes)
    assert result.decision is Decision.ANOMALOUS and not result.passed
    assert failure_class in result.failure_classes and words in result.detail
