"""The tables of envs/, made from installed packages: a line for each fact, so that a new version is a short diff."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from day0.base.artefacts import SCHEMA_VERSION, read_json


def read_table(path: str | os.PathLike) -> dict[str, Any]:
    """The content of a table, without the version of its form.

    Raises:
        UnusableInput: there is none, or it is no JSON.
    """
    content = read_json(path)
    content.pop("schema_version", None)
    return content


def table_text(content: Mapping[str, Any]) -> str:
    """The table as JSON with a line for each entry of a mapping, or of a list of mappings."""
    lines = []
    for name, value in {"schema_version": SCHEMA_VERSION, **content}.items():
        if isinstance(value, dict):
            entries, ends = [f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items()], "{}"
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            entries, ends = [json.dumps(entry) for entry in value], "[]"
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
            continue
        listed = ",\n".join(f"    {entry}" for entry in entries)
        lines.append(f"  {json.dumps(name)}: {ends[0]}\n{listed}\n  {ends[1]}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
