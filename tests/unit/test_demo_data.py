"""The embedded demo's data: sound answers, and nothing held out on the training side."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import make_demo_data
from make_demo_data import (
    CLOSING,
    HELD_OUT_SHARE,
    LETTERS,
    SEPARATOR,
    TASKS,
    canonical_codes,
    draw_problems,
    is_held_out,
    make_data,
    near_misses,
    parse_prompt,
    prompt_and_answer,
)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_demo_data.py"

PROBLEMS = {
    "addition": st.lists(st.integers(1000, 9999), min_size=2, max_size=2),
    "reversal": st.lists(st.integers(0, len(LETTERS) - 1), min_size=6, max_size=6),
    "sorting": st.lists(st.integers(0, 9), min_size=6, max_size=6),
}
SPLIT = {"addition": "c8000a100a002390", "reversal": "02b8c00000200208", "sorting": "10088800440811c0"}
TASK_AND_PROBLEM = st.sampled_from(TASKS).flatmap(lambda task: st.tuples(st.just(task), PROBLEMS[task]))


@pytest.fixture(scope="module")
def data():
    return make_data(1234)


def held_out(task, problem):
    return bool(is_held_out(task, np.array([problem]))[0])


def split_text(text):
    """Task, prompt and answer of a calibration text."""
    task = next(task for task in TASKS if CLOSING[task] in text)
    body, answer = text.split(CLOSING[task])
    return task, body + CLOSING[task], answer


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_thousand_different_held_out_samples(data, task):
    samples = data[f"{task}.jsonl"]
    assert len({sample["prompt"] for sample in samples}) == len(samples) == 1000
    assert len({sample["id"] for sample in samples}) == 1000
    assert all(held_out(task, parse_prompt(task, sample["prompt"])) for sample in samples)


def test_calibration_texts_are_right_and_share_no_problem_with_the_evaluation(data):
    evaluated = {
        task: set(canonical_codes(task, np.array([parse_prompt(task, s["prompt"]) for s in data[f"{task}.jsonl"]])))
        for task in TASKS
    }
    texts = [row["text"] for row in data["calibration.jsonl"]]
    assert len(set(texts)) == len(texts) == 768
    for text in texts:
        task, prompt, answer = split_text(text)
        problem = parse_prompt(task, prompt)
        assert prompt_and_answer(task, problem) == (prompt, answer)
        assert not held_out(task, problem)
        assert canonical_codes(task, problem[None])[0] not in evaluated[task]
    assert {split_text(text)[0] for text in texts} == set(TASKS)


def test_answers_follow_from_the_text_of_the_prompts(data):
    for sample in data["addition.jsonl"]:
        left, right = sample["prompt"].removesuffix("=").split("+")
        assert sample["answer"][::-1] == str(int(left) + int(right))
    for sample in data["reversal.jsonl"]:
        assert sample["answer"] == sample["prompt"][-2::-1]
    for sample in data["sorting.jsonl"]:
        assert sample["answer"] == "".join(sorted(sample["prompt"][:6]))
        assert sample["choices"][sample["gold"]] == sample["answer"]
        assert len(set(sample["choices"])) == 4
        assert {len(choice) for choice in sample["choices"]} == {6}
    assert {sample["gold"] for sample in data["sorting.jsonl"]} == {0, 1, 2, 3}


@given(TASK_AND_PROBLEM)
def test_a_problem_and_its_variants_are_on_the_same_side(case):
    task, problem = case
    variants = {"addition": problem[::-1], "reversal": problem[::-1], "sorting": problem[3:] + problem[:3]}
    assert held_out(task, problem) == held_out(task, variants[task])


@given(TASK_AND_PROBLEM)
def test_a_prompt_reads_back_as_its_problem(case):
    task, problem = case
    prompt, _ = prompt_and_answer(task, np.array(problem))
    assert parse_prompt(task, prompt).tolist() == problem


@given(PROBLEMS["sorting"].filter(lambda digits: len(set(digits)) >= 3), st.integers(0, 1000))
def test_near_misses_are_three_different_wrong_answers(digits, seed):
    answer = "".join(map(str, sorted(digits)))
    misses = near_misses(answer, np.random.default_rng(seed))
    assert len({*misses, answer}) == 4
    for miss in misses:
        changed = sum(mine != theirs for mine, theirs in zip(miss, answer, strict=True))
        swapped = sorted(miss) == sorted(answer)
        assert swapped or miss == "".join(sorted(miss))
        assert changed >= 1


@pytest.mark.parametrize(
    "text", ["", "123+4567=", "11234+4567=", "1234+5678", "1234+5678+9012=", "1-23+4567=", "0123+4567=", "+="]
)
def test_what_is_no_addition_prompt_is_refused(text):
    with pytest.raises(ValueError, match="no prompt of the task addition"):
        parse_prompt("addition", text)


@pytest.mark.parametrize("task", TASKS)
def test_the_split_holds_out_its_share(task):
    problems = draw_problems(task, 20_000, np.random.default_rng(0))
    assert is_held_out(task, problems).mean() == pytest.approx(HELD_OUT_SHARE, abs=0.02)


def test_the_split_does_not_move():
    sides = {task: is_held_out(task, draw_problems(task, 64, np.random.default_rng(7))) for task in TASKS}
    assert {task: np.packbits(side).tobytes().hex() for task, side in sides.items()} == SPLIT


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data(data):
    assert make_data(1234) == data
    assert make_data(1235)["addition.jsonl"] != data["addition.jsonl"]


def test_every_symbol_fits_a_vocabulary_of_32(data):
    written = {symbol for rows in data.values() for row in rows for symbol in row.get("text", row.get("prompt", ""))}
    special_tokens = 4
    assert len(written | {SEPARATOR}) + special_tokens == 32


def test_command_line_writes_four_files_and_names_each(tmp_path):
    arguments = [sys.executable, str(SCRIPT), "--output-dir", str(tmp_path / "data")]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    names = ["addition.jsonl", "reversal.jsonl", "sorting.jsonl", "calibration.jsonl"]
    assert [Path(line.split(":")[0]).name for line in run.stdout.splitlines()] == names
    for name in names:
        rows = [json.loads(line) for line in (tmp_path / "data" / name).read_text().splitlines()]
        assert rows == make_data(make_demo_data.DEFAULT_SEED)[name]


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "seven", ""])
def test_command_line_refuses_what_is_no_seed(tmp_path, seed):
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--output-dir", str(tmp_path / "data"), f"--seed={seed}"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert f"found {seed!r}, expected a whole number" in run.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("task", TASKS)
def test_the_task_file_reads_what_the_script_writes(data, task):
    definition = yaml.safe_load((ROOT / "config" / "suites" / "demo" / f"{task}.yaml").read_text())
    assert definition["dataset_kwargs"]["data_files"] == {"test": f"results/demo/data/{task}.jsonl"}
    assert definition["task"] == f"demo_{task}"


def test_the_suite_names_the_task_files_and_their_samples(data):
    suite = yaml.safe_load((ROOT / "config" / "suites" / "demo.yaml").read_text())
    assert set(suite["tasks"]) == set(TASKS)
    for task, entry in suite["tasks"].items():
        assert (ROOT / suite["include_path"] / f"{task}.yaml").exists()
        assert entry["task"] == f"demo_{task}"
        assert entry["samples"] == len(data[f"{task}.jsonl"])
    assert len(suite["canary"]["prompt"]) >= 16
    longest = max(len(row["prompt"]) + len(row["answer"]) for task in TASKS for row in data[f"{task}.jsonl"])
    assert longest + 2 <= suite["context_length"]
