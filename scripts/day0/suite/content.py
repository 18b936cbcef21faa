"""What a suite says, without how its files are written: a comment or another order of keys asks the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from day0.base.artefacts import digest_of
from day0.base.cli import UnusableInput
from day0.suite.suites import Suite

TASK_FILES = (".yaml", ".yml")


class _TaskContentLoader(yaml.SafeLoader):
    """Reads lm-eval's task files; a function or file that a tag names counts by its name."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> list[Any]:
    if isinstance(node, yaml.ScalarNode):
        return [tag, loader.construct_scalar(node)]
    if isinstance(node, yaml.SequenceNode):
        return [tag, loader.construct_sequence(node, deep=True)]
    assert isinstance(node, yaml.MappingNode)
    return [tag, loader.construct_mapping(node, deep=True)]


_TaskContentLoader.add_multi_constructor("!", _tagged)


def suite_digest(suite: Suite) -> str:
    """sha256 of a suite's content and that of the task files in its ``include_path``.

    Raises:
        UnusableInput: a task file is no YAML.
    """
    tasks = {str(path): _read(path) for path in _files(suite) if path.suffix in TASK_FILES}
    return digest_of([suite.model_dump(mode="json"), tasks])


def other_files(suite: Suite) -> list[Path]:
    """Files beside a suite's task files that are no YAML: Python modules and data, which count byte by byte."""
    return [path for path in _files(suite) if path.suffix not in TASK_FILES]


def _files(suite: Suite) -> list[Path]:
    if not suite.include_path:
        return []
    found = Path(suite.include_path).rglob("*")  # lm-eval's templates often have no suffix
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _read(path: Path) -> Any:
    try:
        return _plain(yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskContentLoader))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UnusableInput(f"{path}: expected one of lm-eval's task files: {error}") from error


def _plain(value: Any) -> Any:
    """The content as JSON can hold it; a key or date that is not a text stays different from one that is."""
    if isinstance(value, dict):
        return {repr(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, set):
        return sorted(map(repr, value))
    return value if value is None or isinstance(value, str | int | float | bool) else [repr(value)]
