"""Mistakes that only reading a local file shows: of a model's folder, of calibration texts, of a suite's own data.

All of it is knowable before the first job. Each function gives sentences; nothing large is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.checkpoint.names import first_of
from day0.recipe.calibration import read_texts
from day0.records.recipe import Calibration
from day0.source.safetensors_headers import INDEX_FILE
from day0.source.side_files import effective_chat_template, secret_in_declarations
from day0.suite.harness import own_task_files
from day0.suite.suites import Suite, effective

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")


def missing_of_model(folder: Path, on_hub: Set[str] | None = None, name: str | None = None) -> list[str]:
    """What a model lacks of its shards and its tokenizer; and a secret, or a template that cannot be one.

    Args:
        folder: of the model; of one on the hub that is not fetched, of its small files.
        on_hub: the files of that one.
        name: how messages name it, else by its folder.
    """
    secret, place = secret_in_declarations(folder), name or str(folder)
    problems = [secret] if secret else []
    held = {file.name for file in folder.iterdir() if file.is_file()} if on_hub is None else on_hub
    remedy = "copy what is missing" if on_hub is None else "choose a commit that has them"
    try:
        effective_chat_template(folder)
    except UnusableInput as error:
        problems.append(f"its chat template: {error}")
    if (folder / INDEX_FILE).is_file():
        try:
            shards = sorted({str(name) for name in read_json(folder / INDEX_FILE).get("weight_map", {}).values()})
        except (UnusableInput, AttributeError) as error:
            return [f"{INDEX_FILE} cannot be read: {error}; copy the folder again"]
        if missing := [name for name in shards if name not in held]:
            problems.append(
                f"{place} lacks {first_of(missing, 3)} of {len(shards)} shards that its {INDEX_FILE} names; {remedy}"
            )
    has_remote = any(fnmatch(name, "tokenization_*.py") for name in held)
    if not has_remote and not held & set(TOKENIZERS):
        remedy = "copy the tokenizer's files of the model" if on_hub is None else "choose a commit that has one"
        problems.append(f"{place} holds no tokenizer ({', '.join(TOKENIZERS[:2])}, …); {remedy}")
    return problems


def templated_tasks(suite: Mapping[str, Any]) -> list[str]:
    """Tasks of a suite, as JSON holds it, that are asked through the model's chat template."""
    return [name for name, task in suite["tasks"].items() if effective(suite, task, "apply_chat_template")]


def missing_template(folder: Path, suite: Mapping[str, Any], name: str | None = None) -> str | None:
    """A sentence where a suite asks through a chat template that a model, in a folder, does not have."""
    tasks = templated_tasks(suite)
    try:
        if not tasks or effective_chat_template(folder) is not None:
            return None
    except UnusableInput:
        return None  # see missing_of_model
    return (
        f"apply_chat_template: {', '.join(tasks)} need a chat template, {name or folder} has none "
        "(chat_template.jinja, or chat_template in tokenizer_config.json); add the model's, or set "
        "apply_chat_template: false for a base model"
    )


def unreadable_texts(calibration: Calibration, root: Path) -> str | None:
    """Why the texts of a local calibration file cannot be used: a line that is none, another field, no line at all."""
    file = calibration.local_file
    if file is None or not (root / file).is_file():
        return None
    try:
        read_texts(calibration.model_copy(update={"dataset": str(root / file)}))
    except UnusableInput as error:
        return f"{error}; correct the file, or text_field"
    return None


def miscounted(suite: Suite, root: Path, is_produced: Callable[[str], bool]) -> list[str]:
    """Tasks whose ``samples`` are not as many as their own local .jsonl files have lines."""
    contents = own_task_files(suite.include_path, root).values()
    files = {content["task"]: content for content in contents if isinstance(content.get("task"), str)}
    problems = []
    for name, task in suite.tasks.items():
        data = _data_of(files.get(task.task, {}))
        if task.samples is None or not data or any(is_produced(one) or not (root / one).is_file() for one in data):
            continue
        found = sum(_lines(root / one) for one in data)
        if found != task.samples:
            problems.append(
                f"tasks.{name}.samples: found {task.samples}; {', '.join(data)} holds {found}; correct one of them"
            )
    return problems


def _data_of(task: Mapping[str, Any]) -> list[str]:
    """The .jsonl files that are a task's documents; none where the task changes or chooses them by a function."""
    split = task.get("test_split") or task.get("validation_split")
    settings = task.get("dataset_kwargs")
    data = settings.get("data_files") if isinstance(settings, Mapping) else None
    chosen = data.get(split) if isinstance(data, Mapping) else None
    names = [chosen] if isinstance(chosen, str) else chosen
    is_plain = task.get("dataset_path") == "json" and "process_docs" not in task and "field" not in (settings or {})
    if not is_plain or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        return []
    return names if all(name.endswith(".jsonl") for name in names) else []


def _lines(path: Path) -> int:
    with open(path, "rb") as stream:
        return sum(bool(line.strip()) for line in stream)
