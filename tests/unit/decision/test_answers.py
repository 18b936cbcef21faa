"""Answers that one side alone left malformed, and tokens: what they change of a decision, and what they must not."""

import copy

import pytest
from decision_input import compare_runs, run, tasks_run
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.decision.comparability import Run

LOOP = "I add the two. " * 60
GREEDY = {"sampling": {"temperature": 0.0, "max_gen_toks": 64}}
SAMPLES = 400


def planted(side, places, task="a", **changes):
    """A run with fields of these samples of a task changed; a callable takes the sample's place."""
    rows = copy.deepcopy(dict(side.samples))
    for place in places:
        for key, value in changes.items():
            rows[task][place][key] = value(place) if callable(value) else value
    return Run(side.assessment, side.metadata, rows)


def decided(candidate, baseline=None, **policy):
    # By point, which says of each task alone whether it lost more than its limit.
    result = compare_runs(baseline or run(390), candidate, {"criterion": "point", "threshold": 0.01, **policy})
    return result["decision"], result["failure_class"], result


MALFORMED = {
    "cut": {"finish_reason": "length"},
    "empty": {"answer": "<think>Hm.</think>  "},
    "degenerate": {"answer": LOOP},
    "control tokens": {"answer": "12<|im_end|>\n<|im_start|>user"},
}


@pytest.mark.parametrize("criterion", ["point", "confident", "suite"])
@pytest.mark.parametrize("kind", MALFORMED)
def test_a_loss_that_malformed_answers_explain_is_anomalous(kind, criterion):
    lost = range(360, 390)
    baseline, candidate = run(390), planted(run(360), lost, **MALFORMED[kind])
    decision, failure_class, result = decided(candidate, baseline, criterion=criterion)
    assert decided(run(360), baseline, criterion=criterion)[:2] == ("REGRESSION", None)
    assert (decision, failure_class) == ("ANOMALOUS", "ANSWERS_MALFORMED"), result["detail"]
    assert result["pass"] is False and "they hold 100% of it" in result["detail"]
    assert "generation_config.json" in result["next_action"]
    (counts,) = result["tasks"]["a"]["answers"]
    assert (counts["kind"], counts["candidate_only"], counts["baseline_only"]) == (kind, 30, 0)
    assert result["evidence"] == "inconclusive"
    assert any("of the candidate alone" in warning["sentence"] for warning in result["warnings"])


# The candidate's correct answers, of which it left malformed, the baseline's malformed ones: all stay a REGRESSION.
UNEXPLAINED = {
    "nothing malformed": (370, [], []),
    "worse by far, and rambling a bit": (330, range(330, 342), []),
    "too few to be sure": (384, range(384, 390), []),
    "as many on the other side": (370, range(370, 390), range(20)),
    "the same samples on both sides": (370, range(370, 390), range(370, 390)),
    "answers that both sides had wrong": (370, range(390, 400), []),
    "answers that are right in spite of it": (370, range(0, 20), []),
    "the baseline's alone": (370, [], range(370, 390)),
    "most of the loss, but what is left is beyond the limit": (362, range(362, 378), []),
    "less than half of the loss, which is beyond the limit without them": (350, range(350, 365), []),
}


@pytest.mark.parametrize("case", UNEXPLAINED)
def test_a_worse_model_that_also_rambles_stays_a_regression(case):
    correct, places, of_the_baseline = UNEXPLAINED[case]
    candidate = planted(run(correct), places, finish_reason="length")
    decision, failure_class, result = decided(candidate, planted(run(390), of_the_baseline, finish_reason="length"))
    assert (decision, failure_class) == ("REGRESSION", None), result["detail"]


def test_most_of_a_loss_must_be_theirs_even_where_the_rest_is_within_the_limit():
    # 9 are lost, 2.25 %. Without the 8 malformed ones, of which 4 are lost, 1.3 % is left, within a limit of 1.5 %.
    candidate = planted(run(381), [*range(381, 385), *range(396, 400)], finish_reason="length")
    assert decided(candidate, threshold=0.015)[:2] == ("REGRESSION", None)
    candidate = planted(run(381), range(381, 389), finish_reason="length")
    assert decided(candidate, threshold=0.015)[:2] == ("ANOMALOUS", "ANSWERS_MALFORMED")


def test_a_loss_on_another_task_stays_a_regression():
    baseline, candidate = tasks_run({"a": 390, "b": 390}), tasks_run({"a": 370, "b": 370})
    assert decided(planted(candidate, range(370, 390), finish_reason="length"), baseline)[:2] == ("REGRESSION", None)
    both = planted(planted(candidate, range(370, 390), finish_reason="length"), range(370, 390), "b", answer="")
    assert decided(both, baseline)[:2] == ("ANOMALOUS", "ANSWERS_MALFORMED")


def test_repeats_of_one_question_are_one_trial_of_the_test():
    def repeated(side):
        return planted(side, range(SAMPLES), id=lambda n: n // 10, repeat=lambda n: n % 10, prompt_digest="p",
                       target_digest="t")  # fmt: skip

    two_questions = planted(repeated(run(370)), range(370, 390), finish_reason="length")
    assert decided(two_questions, repeated(run(390)))[:2] == ("REGRESSION", None)


def test_malformed_answers_without_a_loss_are_a_warning():
    decision, failure_class, result = decided(planted(run(390), range(380, 400), finish_reason="length"))
    assert (decision, failure_class) == ("ACCEPT", None)
    assert ["20 answers are cut" in warning["sentence"] for warning in result["warnings"]].count(True) == 1


def test_malformed_answers_of_an_advisory_task_explain_nothing():
    baseline, candidate = tasks_run({"a": 390, "b": 390}), tasks_run({"a": 370, "b": 390})
    malformed = planted(candidate, range(370, 390), "b", finish_reason="length")
    assert decided(malformed, baseline, tiers={"b": "advisory"})[:2] == ("REGRESSION", None)


def test_scores_in_percent_are_decided_again_in_their_own_scale():
    candidate = planted(run(370, unit=100), range(370, 390), finish_reason="length")
    assert decided(candidate, run(390, unit=100))[:2] == ("ANOMALOUS", "ANSWERS_MALFORMED")


@settings(max_examples=20, deadline=None)
@given(st.integers(300, 400), st.sets(st.integers(0, 399), max_size=60), st.sets(st.integers(0, 399), max_size=60))
def test_malformed_answers_never_make_an_accept(correct, of_candidate, of_baseline):
    plain = decided(run(correct))
    found = decided(
        planted(run(correct), of_candidate, finish_reason="length"), planted(run(390), of_baseline, answer="")
    )
    assert (found[0] == "ACCEPT") == (plain[0] == "ACCEPT")
    assert found[1] in (plain[1], "ANSWERS_MALFORMED")


# --- tokens ---------------------------------------------------------------------------------------------------------


def with_tokens(tokens, correct=390, places=range(SAMPLES), **changes):
    return planted(
        run(correct, fingerprint=GREEDY, checkpoint_digest="d"), places, tokens=tokens, finish_reason="stop", **changes
    )


def test_tokens_of_both_sides_stand_with_an_interval_per_task_and_over_the_suite():
    result = decided(with_tokens(lambda n: 110 + n % 5), with_tokens(lambda n: 100 + n % 7))[2]
    for found in (result["tasks"]["a"]["tokens"], result["tokens"]):
        assert (found["answers"], found["unknown"]) == (400, 0)
        assert found["ratio"] == pytest.approx(found["candidate"] / found["baseline"])
        low, high = found["interval"]
        assert 1.05 < low < found["ratio"] < high < 1.15 and "+8.7% (95 % interval" in found["sentence"]
    assert result["decision"] == "ACCEPT"


GUARDED = {  # the candidate's tokens, the baseline's, the guard, what follows
    "within": (119, 100, 0.2, ("ACCEPT", None)),
    "at the guard": (120, 100, 0.2, ("ACCEPT", None)),
    "beyond": (121, 100, 0.2, ("REGRESSION", "TOKEN_GROWTH")),
    "shorter": (50, 100, 0, ("ACCEPT", None)),
    "unknown of the candidate": (None, 100, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "unknown of the baseline": (100, None, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "unknown of some": (lambda n: 100 if n else None, 100, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "beyond all numbers": (10**308, 100, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "no count": ("many", 100.0, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "none at all": (100, 0, 0.2, ("ANOMALOUS", "INSUFFICIENT_EVIDENCE")),
    "unknown and no guard": (None, None, None, ("ACCEPT", None)),
    "beyond and no guard": (900, 100, None, ("ACCEPT", None)),
}


@pytest.mark.parametrize("case", GUARDED)
def test_the_guard_of_tokens_is_held_by_the_ratio_and_never_passes_unknown(case):
    new, old, guard, expected = GUARDED[case]
    policy = {} if guard is None else {"max_token_growth": guard}
    decision, failure_class, result = decided(with_tokens(new), with_tokens(old), **policy)
    assert (decision, failure_class) == expected, result["detail"]
    if failure_class == "TOKEN_GROWTH":
        assert "+21.0%" in result["detail"] and "max_token_growth" in result["next_action"]
    if failure_class == "INSUFFICIENT_EVIDENCE":
        assert "counts tokens" in result["next_action"]
    if new is None:
        assert "not known of the candidate" in result["tokens"]["sentence"] or old is None


def test_a_loss_of_score_leads_over_longer_answers():
    decision, failure_class, result = decided(with_tokens(300, correct=350), with_tokens(100), max_token_growth=0.2)
    assert (decision, failure_class) == ("REGRESSION", None) and "+200.0%" in result["detail"]


def test_a_task_that_generates_nothing_has_no_tokens_and_meets_no_guard_by_itself():
    sides = [run(390, fingerprint={"sampling": {}}) for _ in range(2)]
    result = decided(*sides)[2]
    assert result["tasks"]["a"]["tokens"] is None and result["tokens"] is None and result["decision"] == "ACCEPT"
    assert decided(*sides, max_token_growth=0.2)[:2] == ("ACCEPT", None)


def test_requests_count_the_tokens_of_a_task_without_samples():
    def counted(tokens):
        side = run(390, fingerprint=GREEDY)
        metadata = {**side.metadata, "requests": {"a": {"answered": 400, "completion_tokens": tokens}}}
        return Run(side.assessment, metadata)

    found = decided(counted(48_000), counted(40_000))[2]["tasks"]["a"]["tokens"]
    assert (found["baseline"], found["candidate"], found["interval"]) == (100, 120, None)
    assert decided(counted(60_000), counted(40_000), max_token_growth=0.2)[1] == "TOKEN_GROWTH"
