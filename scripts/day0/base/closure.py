"""Which files a script is made of, so that a change to any of them redoes just the stages that run it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path


def get_sources(script: Path) -> list[str]:
    """A script and every module of its own folder that it imports, directly or through another, sorted.

    Args:
        script: a Python file; modules are looked up in its folder, as Python does.
    """
    folder = script.parent
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _local_imports(file, folder)
    return sorted(map(str, found))


@cache
def _local_imports(file: Path, folder: Path) -> list[Path]:
    names: set[str] = set()
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    paths = [folder.joinpath(*name.split(".")).with_suffix(".py") for name in sorted(names)]
    packages = [folder.joinpath(*name.split(".")[:-1], "__init__.py") for name in sorted(names) if "." in name]
    return [path for path in paths + packages if path.is_file()]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """What stands below a node but for expressions: most of a file, and no import is one."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from _statements(child)
