"""Scores, standard errors, accounts and the results document."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.evaluation.results import (
    accounting_of,
    fingerprint_of,
    merge_outcomes,
    results_document,
    samples_of,
    score_of,
    standard_error,
    task_failure,
)

TASK = {
    "harness": "lm-eval",
    "task": "demo_addition",
    "metric": "exact_match,none",
    "samples": 4,
    "repeats": 1,
    "limit": None,
    "num_fewshot": 0,
}


def sample(document, score, repeat=0, **fields):
    return {
        "id": str(document),
        "repeat": repeat,
        "prompt_digest": f"p{document}",
        "target_digest": f"t{document}",
        "document_digest": f"d{document}",
        "answer": "42",
        "score": score,
        "finish_reason": "stop",
        "generated": True,
        **fields,
    }


def outcome(**fields):
    samples = [sample(document, score) for document, score in enumerate([1.0, 1.0, 0.0, 1.0])]
    requests = {"asked": 4, "answered": 4, "failed": 0}
    return {"status": "COMPLETED", "documents": 4, "values": [0.75], "samples": samples, "requests": requests, **fields}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_standard_error_is_that_of_the_mean(scores):
    expected = statistics.stdev(scores) / math.sqrt(len(scores))
    found = standard_error([sample(document, score) for document, score in enumerate(scores)])
    assert found == pytest.approx(expected, abs=1e-9)


def test_repeats_of_a_document_are_no_new_documents():
    once = [sample(document, document % 2) for document in range(6)]
    twice = once + [sample(document, document % 2, repeat=1) for document in range(6)]
    assert standard_error(twice) == pytest.approx(standard_error(once))


def test_score_is_the_harness_own_aggregate_with_statistics():
    score = score_of(outcome())
    assert score["value"] == 0.75
    assert score["stats"]["count"] == 4 and score["stats"]["sum"] == 3 and score["stats"]["variance"] == 0.1875


@pytest.mark.parametrize("fields", [{"status": "FAILED"}, {"values": []}, {"values": [None]}, {"values": [math.nan]}])
def test_no_score_of_an_incomplete_task(fields):
    assert score_of(outcome(**fields)) is None


def test_accounts_of_a_complete_task():
    counts = accounting_of(TASK, outcome())
    assert counts == {
        "expected": 4, "asked": 4, "answered": 4, "scored": 4, "empty": 0, "cut": 0, "unparsed": 0, "failed": 0,
        "http_failures": 0, "retried": 0,
    }  # fmt: skip


def test_a_failed_request_is_no_wrong_answer():
    samples = [sample(0, 1.0), sample(1, 1.0), sample(2, None, answer=None, failed=True), sample(3, 0.0)]
    requests = {"asked": 4, "answered": 3, "failed": 1, "retried": 2, "attempts": {"200": 3, "500": 3}}
    counts = accounting_of(TASK, outcome(status="FAILED", samples=samples, requests=requests))
    assert (counts["asked"], counts["answered"], counts["scored"], counts["failed"], counts["empty"]) == (4, 3, 3, 1, 0)
    assert (counts["http_failures"], counts["retried"]) == (3, 2)


def test_expected_is_what_the_suite_declares_not_what_was_found():
    assert accounting_of({**TASK, "samples": 5}, outcome())["expected"] == 5
    assert accounting_of({**TASK, "samples": None}, outcome())["expected"] == 4
    assert accounting_of({**TASK, "limit": 2}, outcome())["expected"] == 2
    assert accounting_of({**TASK, "offset": 1}, outcome())["expected"] == 3
    assert accounting_of({**TASK, "offset": 1, "limit": 2}, outcome())["expected"] == 2
    assert accounting_of({**TASK, "offset": 3, "limit": 2}, outcome())["expected"] == 1
    assert accounting_of({**TASK, "repeats": 3}, outcome())["expected"] == 12
    assert accounting_of({**TASK, "samples": None}, {})["expected"] is None


def test_empty_cut_and_unparsed_answers_are_counted():
    samples = [
        sample(0, 0.0, answer=" "),
        sample(1, 0.0, finish_reason="length"),
        sample(2, 0.0, unparsed=True),
        sample(3, 1.0, answer="", generated=False),
    ]
    counts = accounting_of(TASK, outcome(samples=samples))
    assert (counts["empty"], counts["cut"], counts["unparsed"]) == (1, 1, 1)


def test_failed_task_shows_what_is_missing():
    requests = {"asked": 16, "answered": 12, "failed": 1}
    counts = accounting_of(TASK, outcome(status="FAILED", samples=[], values=[], requests=requests))
    assert (counts["expected"], counts["asked"], counts["answered"], counts["scored"], counts["failed"]) == (
        4,
        4,
        3,
        0,
        1,
    )


@pytest.mark.parametrize(
    ("found", "failure_class"),
    [
        (None, "UNKNOWN"),
        ({"status": "FAILED", "error_kind": "requests", "error": "x", "requests": {}}, "SAMPLE_ACCOUNTING_FAILED"),
        ({"status": "FAILED", "error_kind": "configuration", "error": "x"}, "USER_CONFIG_ERROR"),
        ({"status": "FAILED", "error_kind": "task", "error": "x"}, "UNKNOWN"),
        ({"status": "FAILED", "error_kind": "refused", "error": "x"}, "EVAL_JUDGE_FAILED"),
        ({"status": "FAILED", "error_kind": "rate limit", "error": "x"}, "EVAL_JUDGE_FAILED"),
        ({"status": "FAILED", "error_kind": "judge", "error": "x"}, "EVAL_JUDGE_FAILED"),
    ],
)
def test_failure_of_a_task_has_a_class(found, failure_class):
    assert task_failure("addition", found)[0] == failure_class


SUITE = {"seed": 1, "context_length": 64, "system_prompt": "Be brief.", "reasoning": None, "apply_chat_template": False}
SERVER = {"engine": "vllm", "engine_version": "1", "device": "cuda", "chat_template_digest": "c"}


def test_fingerprint_changes_with_prompts_and_order_and_not_with_answers():
    base = fingerprint_of(SUITE, TASK, outcome(), SERVER)
    other = outcome(samples=[sample(document, 0.0, answer="no") for document in range(4)])
    assert fingerprint_of(SUITE, TASK, other, SERVER) == base
    turned = outcome(samples=outcome()["samples"][::-1])
    assert fingerprint_of(SUITE, TASK, turned, SERVER)["sample_ids_digest"] != base["sample_ids_digest"]


@pytest.mark.parametrize(
    ("suite", "task", "server", "field"),
    [
        ({"system_prompt": "Be long."}, {}, {}, "system_prompt_digest"),
        ({}, {"system_prompt": "Be long."}, {}, "system_prompt_digest"),
        ({}, {"reasoning": {"strip": True, "end": "</think>"}}, {}, "reasoning"),
        ({}, {"apply_chat_template": True}, {}, "chat_template_digest"),
        ({"seed": 2}, {}, {}, "seed"),
        ({}, {"repeats": 2}, {}, "repeats"),
        ({}, {"metric": "acc,none"}, {}, "metric"),
        ({}, {"judge": "a judge"}, {}, "judge"),
        ({}, {}, {"engine_version": "2"}, "engine"),
        ({}, {}, {"device": "cpu"}, "device"),
    ],
)
def test_fingerprint_names_what_differs(suite, task, server, field):
    base = fingerprint_of(SUITE, TASK, outcome(), SERVER)
    changed = fingerprint_of({**SUITE, **suite}, {**TASK, **task}, outcome(), {**SERVER, **server})
    assert field in {key for key in base if base[key] != changed[key]}


def test_a_template_that_is_not_applied_does_not_matter():
    base = fingerprint_of(SUITE, TASK, outcome(), SERVER)
    assert fingerprint_of(SUITE, TASK, outcome(), {**SERVER, "chat_template_digest": "other"}) == base


@given(
    scores=st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=2), min_size=12, max_size=30),
    count=st.integers(1, 4),
)
def test_shards_put_together_are_the_run_that_was_never_split(scores, count):
    """``scores``: per document its two repeats."""

    def part(documents):
        samples = [sample(d, scores[d][repeat], repeat) for repeat in (0, 1) for d in documents]
        values = [math.fsum(scores[d][repeat] for d in documents) / len(documents) for repeat in (0, 1)]
        requests = {"asked": len(samples), "answered": len(samples), "retried": 1, "attempts": {"200": len(samples)}}
        return outcome(documents=len(scores), samples=samples, values=values, requests=requests)

    task = {**TASK, "samples": len(scores), "repeats": 2}
    whole = merge_outcomes([part(range(len(scores)))])
    merged = merge_outcomes([part(range(len(scores))[number::count]) for number in range(count)])
    assert merged["samples"] == whole["samples"]
    assert merged["values"] == pytest.approx(whole["values"])
    assert fingerprint_of(SUITE, task, merged, SERVER) == fingerprint_of(SUITE, task, whole, SERVER)
    counts = accounting_of(task, merged)
    assert counts == {**accounting_of(task, whole), "retried": count}
    assert counts["expected"] == counts["scored"] == 2 * len(scores)


def test_a_shard_that_failed_fails_the_task_and_keeps_the_counts():
    failed = outcome(
        status="FAILED", error_kind="requests", error="x", samples=[], requests={"asked": 4, "answered": 1}
    )
    merged = merge_outcomes([outcome(documents=8), failed])
    assert merged["status"] == "FAILED" and score_of(merged) is None
    assert merged["requests"]["answered"] == 5 and len(merged["samples"]) == 4
    assert merge_outcomes([outcome(), None]) is None


def test_a_score_that_is_no_mean_cannot_be_put_together():
    merged = merge_outcomes([outcome(values=[0.5]), outcome()])
    assert task_failure("addition", merged)[0] == "USER_CONFIG_ERROR" and "ask it whole" in merged["error"]


def test_document_has_the_schema_of_nemo_evaluator():
    document = results_document(
        suite={"tasks": {"addition": TASK, "broken": TASK}, "concurrency": 8, "generation": {}},
        model="m",
        endpoint_url="http://127.0.0.1:1/v1/completions",
        command="evaluate.py",
        output_dir="out",
        outcomes={"addition": outcome(), "broken": outcome(status="FAILED")},
        metadata={"status": "FAILED"},
    )
    assert list(document["results"]["tasks"]) == ["addition"]
    scores = document["results"]["tasks"]["addition"]["metrics"]["exact_match"]["scores"]
    assert scores["exact_match"]["value"] == 0.75
    assert set(document) == {"command", "config", "git_hash", "results", "target", "metadata"}


def test_sample_lines_hold_the_agreed_fields_only():
    assert set(samples_of(outcome(), "task")[0].as_plain()) - {"group", "prompt", "target"} == {
        "id", "repeat", "prompt_digest", "document_digest", "target_digest", "answer", "score", "finish_reason",
        "tokens"
    }  # fmt: skip
