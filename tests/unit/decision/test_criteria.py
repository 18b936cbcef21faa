"""What each criterion says, which one decides, and what to do about a drop that is not proven."""

import pytest
from tests.unit.decision_input import (
    compare_runs,
    evaluate_comparison,
    run,
    tasks_run,
)

from day0.decision.criteria import by_suite

SUITE = {}  # the default


def sampled_run(shares, repeats, temperature=0.6, limit=None, mark=""):
    """A run of one task, each question asked so many times and right in this share of them."""
    made = run()
    held = [
        {
            "id": question,
            "repeat": repeat,
            "prompt_digest": str(question),
            "target_digest": "t",
            "answer": f"{mark}{repeat}",
        }
        | {"score": float(repeat < round(share * repeats))}
        for question, share in enumerate(shares)
        for repeat in range(repeats)
    ]
    score = sum(row["score"] for row in held) / len(held)
    made.assessment["scores"]["a"] |= {"score": score, "samples": len(held)}
    made.metadata["fingerprint"]["a"] = {"sampling": {"temperature": temperature}, "limit": limit, "repeats": repeats}
    return type(made)(made.assessment, made.metadata, {"a": held})


@pytest.mark.parametrize(
    ("before", "after", "samples", "decision"),
    [
        (1900, 1899, 2000, "ACCEPT"),
        (1900, 1900, 2000, "ACCEPT"),
        (390, 385, 400, "ANOMALOUS"),  # a drop beyond the limit that chance may have caused
        (1900, 1850, 2000, "REGRESSION"),
    ],
)
def test_the_suite_criterion_is_the_default_where_there_are_samples(before, after, samples, decision):
    result = compare_runs(run(before, samples), run(after, samples), SUITE)
    assert (result["criterion"], result["decision"]) == ("suite", decision), result["detail"]
    assert set(result["criteria"]) == {"suite", "point", "confident"}
    assert result["criteria"]["suite"]["decision"] == decision
    assert (result["failure_class"] == "INSUFFICIENT_EVIDENCE") == (decision == "ANOMALOUS")


def test_plain_scores_are_judged_by_point_and_the_verdict_says_so():
    for result in (
        evaluate_comparison({"a": 0.9}, {"a": 0.895}),
        compare_runs(type(run())(run().assessment, run().metadata), type(run())(run(389).assessment, run().metadata)),
    ):
        assert (result["criterion"], result["decision"]) == ("point", "ACCEPT")
        assert "criterion point decided, since suite needs the samples" in result["detail"]
        assert set(result["criteria"]) == {"point", "confident"} and result["suite_evidence"] is None


def test_a_loss_in_many_tasks_that_none_shows_alone_is_a_regression():
    tasks = {f"t{number}": 300 for number in range(8)}
    result = compare_runs(tasks_run(tasks), tasks_run(dict.fromkeys(tasks, 294)))
    assert result["decision"] == "REGRESSION" and "mean drop of the suite" in result["detail"]
    assert result["criteria"]["confident"]["decision"] == "ANOMALOUS"


def test_one_task_in_a_large_suite_by_chance_beyond_its_limit_is_no_regression():
    """By point, one such task is a REGRESSION; nothing proves that it lost."""
    tasks = dict.fromkeys(("a", "b", "c", "d"), 3000) | {"e": 300}
    before, after = tasks_run(tasks, 4000), tasks_run({**tasks, "e": 300}, 4000)
    small = run(300), run(295)
    for side, made in zip((before, after), small, strict=True):
        side.assessment["scores"]["e"] = made.assessment["scores"]["a"]
        side.samples["e"] = made.samples["a"]
    result = compare_runs(before, after)
    assert result["criteria"]["point"]["decision"] == "REGRESSION" and result["decision"] == "ACCEPT", result["detail"]
    unproven = compare_runs(before, after, {"criterion": "point"})
    assert unproven["decision"] == "REGRESSION" and "leave the recipe as it is" in unproven["next_action"]


def test_a_task_without_samples_is_held_to_its_limit():
    before, after = tasks_run({"a": 1900, "b": 1900}, 2000), tasks_run({"a": 1900, "b": 1870}, 2000)
    del before.samples["b"], after.samples["b"]
    result = compare_runs(before, after)
    assert result["decision"] == "REGRESSION" and "b, which has no paired samples" in result["detail"]
    assert result["evidence"] == "conclusive" or "b" in result["evidence_sentence"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ((sampled_run([0.5] * 40, 4), sampled_run([0.5] * 40, 4, mark="x")), "tasks.a.repeats: "),
        ((sampled_run([1.0] * 90, 1, 0.0, limit=90), sampled_run([1.0] * 90, 1, 0.0, limit=90)), "tasks.a.limit: "),
        ((sampled_run([1.0] * 90, 1, 0.0), sampled_run([1.0] * 90, 1, 0.0)), "add tasks to the suite"),
    ],
)
def test_an_undecided_release_says_what_to_ask(made, words):
    result = compare_runs(*made)
    assert result["failure_class"] == "INSUFFICIENT_EVIDENCE", result["detail"]
    assert words in result["next_action"], result["next_action"]
    assert "high precision" not in result["next_action"] and "point" not in result["next_action"]
    for cure in result["suite_evidence"]["cures"]:
        assert cure["needed"] > cure["now"]


def test_what_is_asked_for_suffices():
    """Repeats that the cure names decide the release of a lossless candidate."""
    result = compare_runs(sampled_run([0.5] * 40, 4), sampled_run([0.5] * 40, 4, mark="x"))
    (cure,) = result["suite_evidence"]["cures"]
    more = cure["needed"] + cure["needed"] % 2
    again = compare_runs(sampled_run([0.5] * 40, more), sampled_run([0.5] * 40, more, mark="x"))
    assert cure["setting"] == "repeats" and again["decision"] == "ACCEPT", again["detail"]


def test_a_named_task_is_held_to_its_own_proof():
    tasks = {"a": 3800, "b": 380}
    before = tasks_run({"a": 3800}, 4000)
    small = run(380)
    before.assessment["scores"]["b"], before.samples["b"] = small.assessment["scores"]["a"], small.samples["a"]
    before.metadata["fingerprint"]["b"] = small.metadata["fingerprint"]["a"]
    assert compare_runs(before, before)["decision"] == "ACCEPT" and tasks
    policy = {"require": {"b": "proven"}, "thresholds": {"tasks": {"b": 0.004}}}
    result = compare_runs(before, before, policy)
    assert result["failure_class"] == "INSUFFICIENT_EVIDENCE" and "b must be proven" in result["detail"]
    wrong = compare_runs(before, before, {"require": {"c": "proven"}})
    assert wrong["failure_class"] == "USER_CONFIG_ERROR" and "require: 'c'" in wrong["detail"]


def test_without_samples_there_is_no_evidence_of_the_suite():
    assert by_suite({}, None) is None


@pytest.mark.parametrize("tasks", [{"a": 1900}, {"a": 1900, "b": 1900}])
def test_a_task_that_must_be_proven_is_not_accepted_without_samples(tasks):
    """It was accepted by its score alone, whether others had samples or none."""
    last = max(tasks)
    before, after = tasks_run(tasks, 2000), tasks_run(tasks, 2000)
    del before.samples[last], after.samples[last]
    assert compare_runs(before, after)["decision"] == "ACCEPT"
    result = compare_runs(before, after, {"require": {last: "proven"}})
    assert result["failure_class"] == "INSUFFICIENT_EVIDENCE", result["detail"]
    assert f"{last} must be proven" in result["detail"] and "no paired samples" in result["detail"]
    plain = evaluate_comparison({"a": 0.9}, {"a": 0.9}, require={"a": "proven"})
    assert plain["failure_class"] == "INSUFFICIENT_EVIDENCE"


def test_a_loss_that_only_a_bare_score_shows_is_not_conclusive():
    before, after = tasks_run({"a": 1900, "b": 1900}, 2000), tasks_run({"a": 1900, "b": 1870}, 2000)
    del before.samples["b"], after.samples["b"]
    result = compare_runs(before, after)
    assert (result["decision"], result["evidence"]) == ("REGRESSION", "inconclusive")
    assert "Scores alone cannot tell" in result["next_action"] and "high precision" not in result["next_action"]


def test_a_proven_task_is_not_asked_more():
    before = tasks_run({"a": 3800}, 4000)
    small = run(380)
    before.assessment["scores"]["b"], before.samples["b"] = small.assessment["scores"]["a"], small.samples["a"]
    before.metadata["fingerprint"]["b"] = small.metadata["fingerprint"]["a"]
    limits = {"thresholds": {"tasks": {"b": 0.0005}}, "require": {"a": "proven"}}
    result = compare_runs(before, before, limits)
    assert result["failure_class"] == "INSUFFICIENT_EVIDENCE"
    assert "a" not in [cure["task"] for cure in result["suite_evidence"]["cures"]]


@pytest.mark.parametrize("criterion", ["suite", "confident"])
def test_one_of_several_decisions_needs_the_stronger_proof(criterion):
    """Near its limit at 95 %, beyond it at 99.5 %: the first of ten finalists would be accepted by chance too often."""
    made = {
        number: compare_runs(run(1900, 2000), run(1888, 2000), {"criterion": criterion, "decisions": number})
        for number in (1, 10)
    }
    assert (made[1]["decision"], made[10]["decision"]) == ("ACCEPT", "ANOMALOUS"), made[1]["detail"]
    assert made[10]["failure_class"] == "INSUFFICIENT_EVIDENCE"
    found = {number: result["tasks"]["a"]["paired"] for number, result in made.items()}
    assert found[10]["confidence"] == pytest.approx(0.995)
    assert found[1]["largest_drop"] < found[10]["largest_drop"]
    if criterion == "suite":
        assert "one-sided 95 %" in made[1]["detail"] and "one-sided 99.5 %" in made[10]["detail"]


def test_a_loss_is_shown_to_one_of_several_decisions_as_to_one():
    """The share is of the chance to accept; a proven loss stays one."""
    results = [compare_runs(run(1900, 2000), run(1850, 2000), {"decisions": number}) for number in (1, 10)]
    assert [result["decision"] for result in results] == ["REGRESSION", "REGRESSION"]
