"""What a suite says, without how its files are written: a comment or another order of keys asks the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of, read_text
from day0.base.cli import UnusableInput
from day0.base.parsing import MAX_YAML_BYTES, Unparsable, parse_yaml
from day0.suite.suites import Suite

TASK_FILES = (".yaml", ".yml")


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
        # A function or file that a tag names counts by its name.
        return _plain(parse_yaml(read_text(path, MAX_YAML_BYTES), tagged=lambda tag, value: [tag, value]))
    except Unparsable as error:
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
