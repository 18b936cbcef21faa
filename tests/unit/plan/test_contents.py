"""Mistakes within local files are found by the plan: each was found only after minutes of a run before."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import yaml

from day0.base.cli import UnusableInput
from day0.plan.check import make_plan

ROOT = Path(__file__).parents[3]
TASK = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data/questions.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "exact_match"}],
}
SUITE = {
    "description": "Mine",
    "context_length": 64,
    "include_path": "tasks",
    "data_files": ["data/questions.jsonl"],
    "canary": {"prompt": "Q"},
    "tasks": {"mine": {"task": "mine", "metric": "exact_match,none", "samples": 2}},
}
CONFIG = {
    "models": {"my-model": {"path": "model"}},
    "quantization": {"calibration": {"dataset": "data/texts.jsonl", "samples": 2}},
    "releases": [{"model": "my-model", "recipe": "fp8", "suite": "mine"}],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a model, a suite of one's own and calibration texts, without a mistake."""
    for name in ("model", "data", "tasks", "config/suites", "config/recipes"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copytree(ROOT / "envs", tmp_path / "envs")
    shutil.copy(ROOT / "config" / "external_scores.yaml", tmp_path / "config")
    (tmp_path / "model" / "config.json").write_text('{"max_position_embeddings": 64}')
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "model-1-of-1.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    (tmp_path / "data" / "questions.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 2)
    (tmp_path / "data" / "texts.jsonl").write_text('{"text": "Text."}\n' * 3)
    (tmp_path / "tasks" / "mine.yaml").write_text(yaml.safe_dump(TASK))
    write_suite(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_suite(folder, **changes):
    (folder / "config" / "suites" / "mine.yaml").write_text(yaml.safe_dump(SUITE | changes))


def mistakes(**changes):
    """The lines below the headline, which gives their number."""
    with pytest.raises(UnusableInput) as error:
        make_plan(CONFIG | changes)
    headline, *lines = str(error.value).splitlines()
    assert headline.split()[3] == str(len(lines))
    return [line.strip() for line in lines]


def test_sound_files_are_planned(folder):
    assert [release.name for release in make_plan(CONFIG).releases] == ["fp8"]


def test_a_missing_shard_and_a_missing_tokenizer_are_named(folder):
    index = {"weight_map": {"a": "model-1-of-1.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model" / "tokenizer.json").unlink()
    shards, tokenizer = mistakes()
    assert shards == (
        "models.my-model.path: model lacks model-2-of-2.safetensors of 2 shards that its model.safetensors.index.json "
        "names; copy what is missing"
    )
    assert tokenizer.startswith("models.my-model.path: model holds no tokenizer (tokenizer.json, tokenizer.model, …)")


def test_a_chat_suite_needs_a_chat_template(folder):
    write_suite(folder, apply_chat_template=True)
    (line,) = mistakes()
    assert line.startswith("suite mine: apply_chat_template: mine need a chat template, model has none")
    (folder / "model" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    make_plan(CONFIG)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"text": "Text."}\n{"txt": "Text."}\n', "texts.jsonl:2: expected an object with a text in 'text'"),
        (b'{"text": "Text."}\n{"text": \n', "texts.jsonl:2: expected an object with a text in 'text'"),
        (b'{"text": ""}\n', "texts.jsonl:1: 'text': found ''; expected a text"),
        (b"\n\n", "texts.jsonl: holds no text"),
        (b'{"text": "\xff"}\n', "texts.jsonl:1: is no text in UTF-8"),
    ],
    ids=["another field", "a broken line", "an empty text", "no line", "no UTF-8"],
)
def test_calibration_texts_are_read(folder, content, words):
    (folder / "data" / "texts.jsonl").write_bytes(content)
    (line,) = mistakes()
    assert line.startswith("release 'fp8': calibration: ") and words in line


def test_a_declared_number_of_samples_is_held_against_the_data(folder):
    write_suite(folder, tasks={"mine": SUITE["tasks"]["mine"] | {"samples": 3}})
    assert mistakes() == ["suite mine: tasks.mine.samples: found 3; data/questions.jsonl holds 2; correct one of them"]
    (folder / "tasks" / "mine.yaml").write_text(yaml.safe_dump(TASK | {"process_docs": "a function chooses some"}))
    make_plan(CONFIG)


def test_each_mistake_of_a_suites_file_counts(folder):
    write_suite(folder, context_lenght=3, tasks={"mine": {"task": "mine", "metric": "exact_match", "tier": "high"}})
    assert len(mistakes()) >= 2


NO_TEMPLATES = {
    "a terabyte of nothing": (lambda path: (path.touch(), os.truncate(path, 1 << 40)), "the largest that is read has"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), ""),
    "a pipe": (os.mkfifo, ""),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe"), "not in UTF-8"),
    "a huge text": (lambda path: path.write_bytes(b"{{ 1 }}" * (1 << 20)), "the largest that is read has"),
}


@pytest.mark.parametrize("kind", sorted(NO_TEMPLATES))
@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool.jinja"])
def test_a_chat_template_that_is_none_is_named_and_never_waited_for(folder, name, kind):
    make, said = NO_TEMPLATES[kind]
    path = folder / "model" / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    if not said:  # it is no file, as if it were not there
        make_plan(CONFIG)
        return
    (line,) = mistakes()
    assert f"its chat template: model/{name}: cannot be read" in line and said in line


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.txt"])
def test_a_calibration_file_of_nothing_without_end_is_named(folder, name):
    path = folder / "data" / name
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)
    (line,) = mistakes(quantization={"calibration": {"dataset": f"data/{name}", "samples": 2}})
    assert f"{name}:1: is no text in UTF-8, or too long a line" in line


def test_a_secret_of_the_models_configuration_is_named(folder):
    (folder / "model" / "config.json").write_text('{"max_position_embeddings": 64, "x": "hf_aB3dE5gH7jK9mN1pQ3sT5vW7"}')
    (line,) = mistakes()
    assert "config.json holds a token of the Hugging Face hub, and would go into the release" in line
