"""Looking at a candidate's samples while they are asked: when to stop, what is not looked at, what is kept."""

import json

import numpy as np
import pytest
import yaml

from day0.base.cli import UnusableInput
from day0.evaluation.early_stopping import cut_to, joined, limits_of, make_watch
from day0.records.early_stopping import StoppingRules
from day0.records.policy import Policy, Scale

TASKS = {
    name: {"harness": "lm-eval", "metric": "acc,none", "scale": {"min": 0, "max": 1}, "tier": tier}
    for name, tier in (("a", "critical"), ("b", "supporting"), ("c", "advisory"))
}
SUITE = {"tasks": TASKS}
QUESTIONS = 600


def policy(**settings):
    return Policy(tiers={name: task["tier"] for name, task in TASKS.items()}, **settings)


def baseline(folder, samples=None, scores=None, status="COMPLETED"):
    """A baseline's run in which every question is right."""
    rows = samples or {name: [{"id": str(n), "repeat": 0, "score": 1.0} for n in range(QUESTIONS)] for name in TASKS}
    (folder / "samples").mkdir()
    for name, lines in rows.items():
        (folder / "samples" / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    tasks = {name: {"metrics": {"acc": {"scores": {"acc": {"value": (scores or {}).get(name, 1.0)}}}}} for name in rows}
    file = folder / "results.yml"
    file.write_text(yaml.safe_dump({"results": {"tasks": tasks}, "metadata": {"status": status}}))
    return file


def watching(folder, mode="reject", policies=None, shards=1, **settings):
    rules = StoppingRules(mode=mode, policies=policies or [policy()])
    return make_watch(rules, baseline(folder, **settings), SUITE, list(TASKS), shards)


def answers(wrong, start=0, count=QUESTIONS):
    """Samples of which every n-th is wrong."""
    return [{"id": str(n), "repeat": 0, "score": float(n % wrong > 0)} for n in range(start, start + count)]


def asked_until_stopped(watch, name, wrong):
    for start in range(0, QUESTIONS, 20):
        if stop := watch.take(name, answers(wrong, start, 20)):
            return stop, start + 20
    return None, QUESTIONS


def test_a_hopeless_candidate_is_rejected_by_one_task(tmp_path):
    stop, asked = asked_until_stopped(watching(tmp_path), "a", 3)
    assert (stop.end, stop.tasks_decided) == ("rejected", ["a"]) and asked < 100
    assert stop.tasks["a"].questions == asked and stop.tasks["a"].evidence >= stop.tasks["a"].needed == 40
    assert stop.tasks["b"].questions == 0 and stop.tasks["b"].evidence == 1


def test_shards_that_look_alone_need_more(tmp_path):
    assert asked_until_stopped(watching(tmp_path, shards=4), "a", 3)[0].tasks["a"].needed == 160


@pytest.mark.parametrize(
    "settings, name, wrong",
    [
        ({}, "c", 2),  # advisory
        ({}, "a", 10**6),  # nothing lost but the first
        ({"policies": [policy(), policy(threshold=0.6)]}, "a", 3),  # one of the releases allows as much
        ({"status": "FAILED"}, "a", 3),
        ({"scores": {"a": 0.7}}, "a", 3),  # a score that is not the mean of its samples
        ({"samples": {"a": [{"id": str(n), "score": 1.0, "group": "g"} for n in range(QUESTIONS)]}}, "a", 3),
        ({"samples": {"a": [{"id": str(n), "score": None} for n in range(QUESTIONS)]}}, "a", 3),
        ({"samples": {"a": [{"id": "0", "score": 1.0}, {"id": "0", "score": 1.0}]}}, "a", 3),
        ({"samples": {"a": [{"id": f"other {n}", "score": 1.0} for n in range(QUESTIONS)]}}, "a", 3),
    ],
)
def test_what_is_not_stopped(tmp_path, settings, name, wrong):
    assert asked_until_stopped(watching(tmp_path, **settings), name, wrong) == (None, QUESTIONS)


def test_a_sample_that_the_baseline_does_not_have_ends_the_looking(tmp_path):
    watch = watching(tmp_path)
    assert watch.take("a", [{"id": "x", "repeat": 0, "score": 1.0}]) is None
    assert watch.unwatched == {"a": "the baseline has no sample x"} and watch.take("a", answers(2)) is None


def test_off_looks_at_nothing(tmp_path):
    assert watching(tmp_path, mode="off") is None


@pytest.mark.parametrize("mode, end", [("both", "accepted"), ("reject", None)])
def test_only_both_stops_a_candidate_that_loses_nothing_and_only_by_all_tasks_that_count(tmp_path, mode, end):
    watch = watching(tmp_path, mode=mode)
    assert asked_until_stopped(watch, "a", 10**6)[0] is None  # b is not shown yet
    stop, asked = asked_until_stopped(watch, "b", 10**6)
    assert (stop and stop.end) == end and (end is None or asked < QUESTIONS)


def test_a_task_that_cannot_be_looked_at_keeps_from_accepting(tmp_path):
    watch = watching(tmp_path, mode="both", scores={"b": 0.5})
    assert all(asked_until_stopped(watch, name, 10**6)[0] is None for name in ("a", "b"))


def test_confident_takes_proof_beyond_the_whole_limit():
    scale = Scale(max=1)
    limits = limits_of([policy(criterion="confident"), policy(threshold=0.02)], "a", 0.5, scale)
    assert (limits.share, limits.rejected, limits.accepted) == (1.0, 0.02, 0.01)
    assert limits_of([policy(max_relative_drop=0.01)], "a", 0.5, scale).rejected == pytest.approx(0.005)


def test_a_stopped_task_keeps_what_was_looked_at_and_has_no_score():
    outcome = {"status": "COMPLETED", "values": [0.5], "samples": answers(2, 0, 4)}
    cut = cut_to(outcome, ["1", "3"])
    assert (cut["status"], cut["values"], [s["id"] for s in cut["samples"]]) == ("STOPPED", [], ["1", "3"])
    assert cut_to(None, None)["samples"] == []
    assert cut_to({"status": "FAILED", "error": "x"}, ["1"]) == {"status": "FAILED", "error": "x"}


def test_one_shard_that_rejects_rejects_the_run(tmp_path):
    stop, _ = asked_until_stopped(watching(tmp_path), "a", 3)
    accepted = stop.model_copy(update={"end": "accepted", "tasks_decided": ["b"]})
    assert joined([None, None]) is None
    assert joined([None, accepted, stop]).end == "rejected"
    other = stop.model_copy(update={"baseline_digest": "0" * 64})
    with pytest.raises(UnusableInput, match="different runs of the baseline"):
        joined([stop, other])


def test_repeats_of_a_question_are_one_drop(tmp_path):
    rows = [{"id": str(n), "repeat": r, "score": 1.0} for r in range(4) for n in range(QUESTIONS)]
    watch = watching(tmp_path, samples={"a": rows, "b": rows, "c": rows})
    watch.take("a", [{"id": "5", "repeat": r, "score": float(r > 0)} for r in range(4)])
    assert watch.tasks["a"].drops == {"5": 0.25}
    watch.take("a", [{"id": "6", "repeat": 0, "score": 0.0}])
    assert "expected the baseline's [0, 1, 2, 3]" in watch.unwatched["a"]


def test_random_losses_of_no_more_than_chance_do_not_stop(tmp_path):
    generator = np.random.default_rng(3)
    rows = [{"id": str(n), "repeat": 0, "score": float(generator.random() < 0.5)} for n in range(QUESTIONS)]
    mean = sum(row["score"] for row in rows) / QUESTIONS
    watch = watching(tmp_path, samples={"a": rows, "b": rows, "c": rows}, scores=dict.fromkeys("abc", mean))
    flipped = [{**row, "score": row["score"] if generator.random() < 0.9 else 1 - row["score"]} for row in rows]
    assert all(watch.take("a", flipped[start : start + 20]) is None for start in range(0, QUESTIONS, 20))
