"""A suite's digest is what it says: values, functions by name and the order of lists, not how its files are written."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import yaml

from day0.base.cli import UnusableInput
from day0.suite.content import other_files, suite_digest
from day0.suite.suites import Suite, read_suite

ROOT = Path(__file__).parents[3]
SUITE = (ROOT / "config" / "suites" / "demo.yaml").read_text()
TASK = """\
task: addition
dataset_path: json
dataset_kwargs: {data_files: {test: a.jsonl}}
doc_to_text: "{{question}}"
process_docs: !function utils.process
metric_list:
  - metric: exact_match
    aggregation: mean
  - metric: bleu
generation_kwargs:
  until: ["\\n", "."]
  temperature: 0.0
doc_to_choice: {1: one, 2: two}
made: 2026-01-01
"""
NUMBER = count()


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """Digest of a suite file and its task files, of which the folder has the same name in every case."""

    def compute(suite=SUITE, task=TASK, **files):
        folder = tmp_path / str(next(NUMBER))
        (folder / "tasks" / "deep").mkdir(parents=True)
        (folder / "tasks" / "deep" / "addition.yaml").write_text(task)
        for name, text in files.items():
            (folder / "tasks" / name).write_text(text)
        (folder / "suite.yaml").write_text(suite)
        monkeypatch.chdir(folder)
        return suite_digest(Suite.model_validate({**read_suite(Path("suite.yaml")), "include_path": "tasks"}))

    return compute


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task: addition\n", "# A remark.\n\ntask:   addition  # another\n"),
        ("task: addition\ndataset_path: json\n", "dataset_path: json\ntask: addition\n"),
        ("  - metric: exact_match\n    aggregation: mean\n", "  - aggregation: mean\n    metric: exact_match\n"),
        ("dataset_path: json", "dataset_path: 'json'"),
        ('"{{question}}"', "'{{question}}'"),
        ("{data_files: {test: a.jsonl}}", "\n  data_files:\n    test: a.jsonl"),
        ("!function utils.process", '!function "utils.process"'),
        ("temperature: 0.0", "temperature: 0.00"),
    ],
)
def test_how_a_task_file_is_written_does_not_count(digest, old, new):
    assert TASK.count(old) == 1
    assert digest(task=TASK.replace(old, new)) == digest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task: addition", "task: subtraction"),
        ("temperature: 0.0", "temperature: 0.1"),
        ("temperature: 0.0", "temperature: '0.0'"),
        ("temperature: 0.0", "temperature: null"),
        ("utils.process", "utils.other"),
        ("!function utils.process", "utils.process"),
        ("!function utils.process", "!other utils.process"),
        ('["\\n", "."]', '[".", "\\n"]'),
        ("  - metric: bleu\n", ""),
        ("doc_to_choice: {1: one", "doc_to_choice: {'1': one"),
        ("made: 2026-01-01", "made: '2026-01-01'"),
        ("made: 2026-01-01", "made: 2026-01-02"),
        ("made:", "other:"),
    ],
)
def test_what_a_task_file_says_counts(digest, old, new):
    assert TASK.count(old) == 1
    assert digest(task=TASK.replace(old, new)) != digest()


def test_how_a_suite_file_is_written_does_not_count(digest):
    content = yaml.safe_load(SUITE)
    backwards = dict(reversed(content.items()))
    for text in (
        SUITE + "\n# A remark.\n",
        yaml.safe_dump(content, default_flow_style=True, width=80),
        yaml.safe_dump(backwards, sort_keys=False),
        yaml.safe_dump({**content, "seed": content.get("seed", 1234), "max_attempts": content.get("max_attempts", 4)}),
    ):
        assert text != SUITE and digest(suite=text) == digest()


@pytest.mark.parametrize("key", ["seed", "concurrency", "max_attempts"])
def test_what_a_suite_file_says_counts(digest, key):
    content = yaml.safe_load(SUITE)
    assert digest(suite=yaml.safe_dump({**content, key: 77})) != digest()


def test_a_task_file_counts_by_its_name_and_by_being_there(digest):
    assert digest(**{"more.yml": "task: more"}) != digest()
    assert digest(**{"more.yml": "task: more"}) != digest(**{"other.yml": "task: more"})


def test_a_set_has_the_same_digest_in_every_process(tmp_path):
    (tmp_path / "task.yaml").write_text("names: !!set {a, b, c, d, e, f}\n")
    program = (
        "import sys; from day0.suite.content import _read; from pathlib import Path; print(_read(Path(sys.argv[1])))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / "task.yaml"],
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_other_files_are_those_that_are_no_task_files(digest):
    digest(**{"utils.py": "", "data.jsonl": "", "more.yml": "task: m", "_template_yaml": "a: 1", "notes.md": ""})
    (Path("tasks") / "__pycache__").mkdir()
    (Path("tasks") / "__pycache__" / "utils.pyc").write_text("")
    suite = Suite.model_validate({**read_suite(Path("suite.yaml")), "include_path": "tasks"})
    assert [path.name for path in other_files(suite)] == ["_template_yaml", "data.jsonl", "notes.md", "utils.py"]
    assert other_files(suite.model_copy(update={"include_path": None})) == []


@pytest.mark.parametrize(
    "text",
    ["task: [", "a: b: c", "task: !!python/name:os.system", "? [a]\n: b", "a: \0", "a: &x [*x]", "[" * 3000],
)
def test_a_task_file_that_is_no_yaml_is_refused_with_its_name(digest, text):
    with pytest.raises(UnusableInput, match=r"addition\.yaml: expected one of lm-eval's task files"):
        digest(task=text)
