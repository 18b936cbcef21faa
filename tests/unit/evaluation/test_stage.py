"""What the stage gives each task: its share of the prompts in flight, and a store that more repeats do not change."""

from types import SimpleNamespace

import pytest

from day0.evaluation.stage import Evaluation

TASK = {
    "harness": "lm-eval", "task": "t", "num_fewshot": 5, "repeats": 2, "limit": 10, "offset": 0, "parameters": {},
    "runs_generated_code": False, "concurrency": None, "judge": None, "simulator": None, "system_prompt": None,
    "apply_chat_template": None, "reasoning": None, "generation": {"temperature": 1.0}, "metric": "acc,none",
}  # fmt: skip


def evaluation(depends_on=None, **task):
    suite = {"concurrency": 64, "seed": 1, "judges": {}, "generation": {}, "tasks": {"t": TASK | task}}
    suite |= {"system_prompt": None, "apply_chat_template": False, "reasoning": None}
    request = SimpleNamespace(suite=suite, what_answers_depend_on={"checkpoint": "a"} | (depends_on or {}))
    made = Evaluation.__new__(Evaluation)
    made.request = request
    return made


@pytest.mark.parametrize(
    ("own", "running", "share"), [(None, 1, 64), (None, 4, 16), (None, 100, 1), (8, 4, 8), (8, 1, 8), (32, 4, 16)]
)
def test_a_task_has_its_share_and_at_most_its_own_bound(own, running, share):
    assert evaluation(concurrency=own)._share("t", running) == share


@pytest.mark.parametrize("change", [{"repeats": 8}, {"limit": 900}, {"offset": 5}, {"concurrency": 3}])
def test_how_much_is_asked_is_no_part_of_a_stores_name(change):
    assert evaluation(**change)._store("t") == evaluation()._store("t")


@pytest.mark.parametrize(
    "change",
    [
        {"task": "u"},
        {"num_fewshot": 0},
        {"generation": {"temperature": 0.5}},
        {"system_prompt": "Be brief."},
        {"apply_chat_template": True},
        {"depends_on": {"checkpoint": "b"}},
    ],
)
def test_all_that_an_answer_depends_on_is_part_of_it(change):
    assert evaluation(**change)._store("t") != evaluation()._store("t")


def stopped_by_t(outcomes):
    made = evaluation()
    made.outcomes, made.early_stop = dict(outcomes), object()
    made.request.watch = SimpleNamespace(tasks={"t": SimpleNamespace(drops={"1": 0.0})})
    made._cut_outcomes(["t", "u"])
    return made


SAMPLES = [{"id": "1"}, {"id": "2"}]


@pytest.mark.parametrize(
    ("other", "status"),
    [({"status": "STOPPED", "samples": []}, "STOPPED"), (None, "STOPPED"), ({"status": "FAILED"}, "FAILED")],
)
def test_a_stopped_run_is_cut_to_what_was_looked_at(other, status):
    made = stopped_by_t({"t": {"status": "COMPLETED", "samples": SAMPLES, "values": [1.0]}, "u": other})
    assert made.early_stop
    assert made.outcomes["t"] == {"status": "STOPPED", "samples": [{"id": "1"}], "values": []}
    assert made.outcomes["u"]["status"] == status


def test_a_run_with_nothing_left_to_ask_when_it_stopped_is_complete():
    whole = {name: {"status": "COMPLETED", "samples": SAMPLES, "values": [1.0]} for name in "tu"}
    made = stopped_by_t(whole)
    assert made.early_stop is None
    assert made.outcomes == whole
