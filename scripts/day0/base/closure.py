"""Which code a script is made of, and a digest of what that code means.

A rule gets the digest of its script as a parameter, so that a change redoes just the stages whose code changed its
meaning: comments, docstrings, formatting, the order of imports and the place of a module do not count.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from day0.base.artefacts import write_text

DYNAMIC_IMPORTS = frozenset({"__import__", "import_module", "run_module", "run_path", "spec_from_file_location"})


class CannotFollow(Exception):
    """An import whose target cannot be read from the text of a file; the message names the file and the line."""


class _Import(NamedTuple):
    """One name of an import statement, as written: ``from LEVEL dots MODULE import ATTRIBUTE as BOUND``.

    ``attribute`` is None for ``import MODULE``; ``called`` names the function of a dynamic import, whose module is None
    where it is no plain text.
    """

    bound: str
    module: str | None
    attribute: str | None
    level: int
    line: int
    called: str | None = None


class _Facts(NamedTuple):
    """What the text of a file contains, whatever lies beside it."""

    code: str  # digest of its syntax tree without docstrings and import statements
    imports: list[_Import]
    definitions: list[str]  # names that it binds at its top level


class _Memory:
    """Facts of files by the digest of their text, kept in a file between runs: parsing all scripts takes seconds."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.known: dict[str, Any] = {}
        self.used: set[str] = set()
        self.is_changed = False

    def facts(self, file: Path) -> _Facts:
        text = file.read_bytes()
        # Which nodes a syntax tree has is the Python version's, and what is left out of it is this file's.
        key = hashlib.sha256(repr(sys.version_info[:2]).encode() + _own_text() + text).hexdigest()
        if key not in self.known:
            self.known[key] = _read_facts(file, text)
            self.is_changed = True
        self.used.add(key)
        code, imports, definitions = self.known[key]
        return _Facts(code, [_Import(*entry) for entry in imports], definitions)


_MEMORY = _Memory()


def remember_in(path: Path) -> None:
    """Take what was found in an earlier run from a file, and keep there what is found (:func:`save_memory`)."""
    _MEMORY.path = path
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing is lost but time
    if isinstance(known, dict):
        _MEMORY.known |= known


def save_memory() -> None:
    """Keep what was found for the next run; a folder that cannot be written costs only time."""
    if _MEMORY.path and (_MEMORY.is_changed or len(_MEMORY.used) < len(_MEMORY.known)):
        with contextlib.suppress(OSError):
            write_text(_MEMORY.path, json.dumps({key: _MEMORY.known[key] for key in sorted(_MEMORY.used)}))


def get_sources(script: Path) -> list[str]:
    """A script and every module of its own folder that it imports, directly or through another, sorted.

    Args:
        script: a Python file; absolute imports are looked up in its folder, as Python does for a script that is run.

    Raises:
        CannotFollow: an import is dynamic, a star, or names a module of a local package that does not exist.
        OSError, SyntaxError: a file cannot be read.
    """
    return sorted(map(str, _closure(script)))


def code_digest(*scripts: Path) -> str:
    """sha256 of what scripts and all that they import mean; see :func:`get_sources` for what is raised.

    Of each file counts its syntax tree without docstrings, and what each imported name is bound to: for a module of the
    script's folder its content, wherever it lies, else its name.
    """
    meanings = {_meaning(file, script.parent) for script in scripts for file in _closure(script)}
    return hashlib.sha256("\n".join(sorted(meanings)).encode()).hexdigest()


@cache
def _closure(script: Path) -> frozenset[Path]:
    folder = script.parent
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += local_imports(file, folder)
    return frozenset(found)


@cache
def local_imports(file: Path, folder: Path) -> tuple[Path, ...]:
    """Files that a file's imports run: the modules, and the ``__init__.py`` of every package on the way to them.

    Args:
        file: a Python file.
        folder: where absolute imports are looked up; imports of what is not there are left out.

    Raises:
        CannotFollow: see :func:`get_sources`.
    """
    files: dict[Path, None] = {}
    for entry in _facts(file).imports:
        for module in _targets(entry, file, folder):
            parts = module.split(".")
            for length in range(1, len(parts) + 1):
                if found := _file_of(".".join(parts[:length]), folder):
                    files[found] = None
    return tuple(files)


def _targets(entry: _Import, file: Path, folder: Path) -> list[str]:
    """Names of the local modules behind an import; [] where it is of no local module."""
    where = f"{file}, line {entry.line}"
    if entry.called:
        # A module of another package, named as a plain text, is no part of the closure.
        if not entry.module or entry.module.startswith(".") or _is_local(entry.module.partition(".")[0], folder):
            raise CannotFollow(
                f"{where}: what {entry.called} imports cannot be read from the text; import it by a statement"
            )
        return []
    module = _absolute(entry, file, folder)
    if not _is_local(module, folder):
        if _is_local(module.partition(".")[0], folder) or entry.level:
            raise CannotFollow(f"{where}: there is no module {module} in {folder}")
        return []
    if entry.attribute is None:
        return [module]
    if entry.attribute == "*":
        raise CannotFollow(f"{where}: import the names of {module} one by one, not by *")
    if _is_local(f"{module}.{entry.attribute}", folder):
        return [f"{module}.{entry.attribute}"]
    holder = _file_of(module, folder)
    if holder is None or (holder.name == "__init__.py" and entry.attribute not in _facts(holder).definitions):
        raise CannotFollow(f"{where}: package {module} has no module {entry.attribute} and does not define that name")
    return [module]


def _is_local(module: str, folder: Path) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or any(place.glob("*.py")) or (place / "__init__.py").is_file()


def _file_of(module: str, folder: Path) -> Path | None:
    """The file that holds a module's code; None for a package without ``__init__.py``, or what is not there."""
    place = folder.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _absolute(entry: _Import, file: Path, folder: Path) -> str:
    """The absolute name of the module that an import statement names."""
    if not entry.level:
        return entry.module or ""
    parts = list(file.parent.relative_to(folder).parts)
    if entry.level > len(parts):
        raise CannotFollow(f"{file}, line {entry.line}: a relative import beyond the packages of {folder}")
    kept = parts[: len(parts) - (entry.level - 1)]
    return ".".join([*kept, *([entry.module] if entry.module else [])])


@cache
def _meaning(file: Path, folder: Path) -> str:
    """Digest of a file's code and of what its imported names are bound to."""
    bound: set[tuple[str | None, ...]] = set()
    for entry in _facts(file).imports:
        targets = _targets(entry, file, folder)
        if not targets:
            bound.add((entry.bound, entry.module, entry.attribute))
            continue
        held = _file_of(targets[0], folder)
        # The module itself was imported, or a name of it.
        attribute = entry.attribute if targets[0] == _absolute(entry, file, folder) else None
        bound.add((entry.bound, _facts(held).code if held else targets[0], attribute))
    return _digest([_facts(file).code, sorted(map(repr, bound))])


@cache
def _facts(file: Path) -> _Facts:
    return _MEMORY.facts(file)


@cache
def _own_text() -> bytes:
    return Path(__file__).read_bytes()


# --- what the text of one file contains ------------------------------------------------------------------------------


def _read_facts(file: Path, text: bytes) -> _Facts:
    tree = ast.parse(text, filename=str(file))
    return _Facts(_digest(_plain(tree)), _imports(tree), sorted(_definitions(tree)))


def _definitions(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names


def _imports(tree: ast.Module) -> list[_Import]:
    """Every name that a file imports, wherever in it; imports for type checkers alone do not run, and are left out."""
    found = []
    for node in _running(tree):
        if isinstance(node, ast.Import):
            found += [_Import(alias.asname or alias.name, alias.name, None, 0, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [
                _Import(alias.asname or alias.name, node.module, alias.name, node.level, node.lineno)
                for alias in node.names
            ]
            # Under another name, the calls below would not be recognized.
            renamed = [alias.name for alias in node.names if alias.asname and alias.name in DYNAMIC_IMPORTS]
            found += [_Import("", None, None, 0, node.lineno, name) for name in renamed]
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in DYNAMIC_IMPORTS:
                named = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                module = named if isinstance(named, str) else None
                found.append(_Import("", module, None, 0, node.lineno, called))
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below a node but for the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _plain(node: ast.AST) -> list[object]:
    """A syntax tree as nested lists, without places, docstrings and import statements.

    What a node does not have is left out, so that a field that a later Python adds changes no digest.
    """
    result: list[object] = [type(node).__name__]
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            result.append([name, _plain(value)])
        elif isinstance(value, list):
            has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            kept = value[1:] if name == "body" and has_docstring and value and _is_docstring(value[0]) else value
            kept = [item for item in kept if not isinstance(item, ast.Import | ast.ImportFrom)]
            if kept:
                result.append([name, [_plain(item) if isinstance(item, ast.AST) else repr(item) for item in kept]])
        elif name not in ("type_comment", "kind") and (value is not None or isinstance(node, ast.Constant)):
            result.append([name, repr(value)])
    return result


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
