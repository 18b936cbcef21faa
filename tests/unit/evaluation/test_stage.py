"""What the stage gives each task: its share of the prompts in flight, and a store that more repeats do not change."""

import os
from types import SimpleNamespace

import pytest

from day0.base.cli import UnusableInput
from day0.evaluation.stage import Evaluation
from day0.source.model_folder import model_files
from day0.source.recorded_files import RecordedFiles, hash_files

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


class _Loading:
    """Stands for a server that loads its weights, and may edit them meanwhile."""

    def __init__(self, edit):
        self.wait = lambda *_: edit()


@pytest.mark.parametrize("when", ["before the server starts", "while it loads", "never"])
def test_a_checkpoint_that_is_edited_with_its_times_kept_is_not_evaluated(tmp_path, monkeypatch, when):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    weights = folder / "model.safetensors"
    for file in (weights, folder / "config.json"):
        file.write_bytes(b"{}" * 100)
    files, _ = hash_files(folder)

    def edit():
        before = weights.stat()
        weights.write_bytes(weights.read_bytes()[:-1] + b"~")
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    record = tmp_path / "quantization.json"
    checkpoint = SimpleNamespace(
        folder=folder, recorded_files=lambda: RecordedFiles(folder, files, record, model_files(folder, False), True)
    )
    made = Evaluation(SimpleNamespace(checkpoint=checkpoint, on_cpu=True, serving={}, output=tmp_path / "run"))
    started = []
    monkeypatch.setattr(Evaluation, "_check_walltime", lambda self: None)
    monkeypatch.setattr("day0.evaluation.stage.Proof", lambda *_: started.append("proof") or 1 / 0)
    if when == "before the server starts":
        edit()
        monkeypatch.setattr(Evaluation, "_serve_and_ask", lambda self: started.append("server"))
        with pytest.raises(UnusableInput, match=r"model\.safetensors: its sha256 is not the recorded one"):
            made.run()
        assert not started and not (tmp_path / "run").exists()
        return
    made.recorded.begin()
    made.server_facts = {"served": str(folder)}
    server = _Loading(edit if when == "while it loads" else lambda: None)
    with pytest.raises(ZeroDivisionError if when == "never" else UnusableInput):
        made._prove(server)
    assert started == (["proof"] if when == "never" else [])
