"""Read and write the artefacts of the graph: whole or not at all, in a fixed order, with digests.

Every JSON artefact carries ``schema_version``; a NaN or infinity never reaches a file.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from day0.base.cli import UnusableInput
from day0.base.parsing import (
    MAX_JSON_BYTES,
    MAX_LINE_BYTES,
    MAX_YAML_BYTES,
    Tagged,
    Unparsable,
    decode,
    parse_json,
    parse_yaml,
)
from day0.base.processes import cores

SCHEMA_VERSION = 1


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file through a temporary neighbour and a rename, so that no reader ever sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write an artefact as JSON, ``schema_version`` first.

    Raises:
        ValueError: the content holds NaN or an infinity.
    """
    whole = {"schema_version": SCHEMA_VERSION, **content}
    write_text(path, json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in the given order."""
    write_text(path, _yaml_of(content))


def _yaml_of(content: Mapping[str, Any]) -> str:
    import yaml  # late, since most who import this module write no YAML

    class Dumper(yaml.SafeDumper):
        """Writes the members of a StrEnum as the texts that they are."""

    Dumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(value.value))
    return yaml.dump(dict(content), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


@contextmanager
def open_file(path: str | os.PathLike, buffering: int = -1) -> Iterator[Any]:
    """Open a file to read its bytes, without waiting for what is none: a pipe would have nobody who writes into it.

    Raises:
        OSError: there is no file.
    """
    with open(path, "rb", buffering, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, no file", os.fspath(path))
        yield stream


def read_json(path: str | os.PathLike, *, finite: bool = False) -> dict[str, Any]:
    """Read a JSON object; see day0/base/parsing.py for what is refused.

    Args:
        finite: refuse NaN and infinities.

    Raises:
        UnusableInput: the file is missing, unreadable, no JSON or no object.
    """
    return _mapping(
        path, read_text(path, MAX_JSON_BYTES), lambda text: parse_json(text, finite=finite), "a JSON object"
    )


def read_yaml(path: str | os.PathLike, tagged: Tagged | None = None) -> dict[str, Any]:
    """Read a YAML mapping; see day0/base/parsing.py for what is refused.

    Args:
        tagged: makes the value of a node with a tag of its own; without it such tags are refused.

    Raises:
        UnusableInput: the file is missing, unreadable, no YAML or no mapping.
    """
    return _mapping(path, read_text(path, MAX_YAML_BYTES), lambda text: parse_yaml(text, tagged), "a YAML mapping")


def read_json_lines(path: str | os.PathLike) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of each line of a file of JSON objects.

    Raises:
        UnusableInput: a line is no JSON object.
    """
    for number, line in enumerate(read_lines(path), start=1):
        place = f"{path}, line {number}"
        try:
            row = parse_json(decode(line, MAX_LINE_BYTES))
        except Unparsable as error:
            raise UnusableInput(f"{place}: expected a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise UnusableInput(f"{place}: expected a JSON object, found {type(row).__name__}")
        yield place, row


def read_lines(path: str | os.PathLike) -> Iterator[bytes]:
    """The lines of a file without their ends and its byte order mark; a line beyond the limit comes in parts beyond it.

    Raises:
        UnusableInput: the file is missing or unreadable.
    """
    try:
        with open_file(path) as stream:
            # Not by splitlines() of a text: an answer may hold what Unicode calls a line's end.
            if stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
                stream.read(len(codecs.BOM_UTF8))
            while line := stream.readline(MAX_LINE_BYTES + 2):
                yield line.removesuffix(b"\n")
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path}: cannot be read ({error}); expected a file of lines") from error


def read_text(path: str | os.PathLike, most_bytes: int = MAX_JSON_BYTES) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        UnusableInput: the file is missing, unreadable, larger than ``most_bytes``, or not in UTF-8.
    """
    try:
        with open_file(path) as stream:
            return decode(stream.read(most_bytes + 1), most_bytes)
    except (OSError, ValueError) as error:
        raise UnusableInput(f"{path}: cannot be read ({error}); expected a text file in UTF-8") from error


def _mapping(path: str | os.PathLike, text: str, parse: Callable[[str], Any], expected: str) -> dict[str, Any]:
    try:
        content = parse(text)
    except Unparsable as error:
        raise UnusableInput(f"{path}: expected {expected}, found text that does not parse: {error}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise UnusableInput(f"{path}: expected {expected}, found {found}")
    return content


def digest_of(content: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_file(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes, read in blocks of 4 MiB."""
    digest = hashlib.sha256()
    with open_file(path, buffering=0) as stream:
        while block := stream.read(4 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: str | os.PathLike) -> list[str]:
    """Paths of all files below a folder, relative to it, sorted; links to files count as files.

    The mark that Snakemake leaves in an output folder is no part of its content.
    """
    found: list[str] = []
    root = os.fspath(folder)
    for place, _, names in os.walk(root):
        inner = os.path.relpath(place, root)
        held = (name for name in names if name != ".snakemake_timestamp" and os.path.isfile(os.path.join(place, name)))
        found += held if inner == "." else (os.path.join(inner, name) for name in held)
    return sorted(found)


def inventory(folder: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Map each file's relative name to ``{"bytes": int, "sha256": str}``; hashed side by side, the largest first."""
    from concurrent.futures import ThreadPoolExecutor  # late, since most who import this module hash no folder

    root = Path(folder)
    chosen = files_below(root) if names is None else sorted(names)
    sizes = {name: (root / name).stat().st_size for name in chosen}
    ordered = sorted(chosen, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(max_workers=cores()) as pool:
        digests = dict(zip(ordered, pool.map(lambda name: digest_of_file(root / name), ordered), strict=True))
    return {name: {"bytes": sizes[name], "sha256": digests[name]} for name in chosen}


def digest_of_inventory(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One digest for a folder: over the sorted pairs of name and sha256."""
    return digest_of(sorted((name, entry["sha256"]) for name, entry in files.items()))
