"""Which code a script is made of, and a digest of what that code means.

A rule gets the digest of its script as a parameter, so that a change redoes just the stages whose code changed its
meaning: comments, docstrings, formatting, the order of imports and the place of a module do not count. Code that runs
text (``exec``) or starts another script is not followed: the rule names that script too.
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

# Functions that import a module by its name, and those that run a file, which may be one of these scripts.
BY_NAME = frozenset({"__import__", "import_module", "run_module"})
BY_PATH = frozenset({"run_path", "spec_from_file_location", "SourceFileLoader"})
REMEMBERED_FILES = 1000


class CannotFollow(Exception):
    """An import whose target cannot be read from the text of a file; the message names the file and the line."""


class _Import(NamedTuple):
    """One name of an import statement, as written: ``from LEVEL dots MODULE import ATTRIBUTE as BOUND``.

    ``place`` is where the statement stands in the syntax tree without imports, so that all imports at the top of a file
    have the same. ``attribute`` is None for ``import MODULE``; ``called`` names the function of a dynamic import, whose
    module is None where it is no plain text.
    """

    place: str
    bound: str
    module: str | None
    attribute: str | None
    level: int
    line: int
    called: str | None = None


class _Facts(NamedTuple):
    """What the text of a file contains, whatever lies beside it."""

    code: str | None  # digest of its syntax tree without docstrings and import statements; None: nothing is left
    imports: list[_Import]
    definitions: list[str]  # names that it binds at its top level


class _Memory:
    """Facts of files by the digest of their text, kept in a file between runs: parsing all scripts takes seconds."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.known: dict[str, Any] = {}
        self.is_changed = False

    def facts(self, file: Path) -> _Facts:
        text = file.read_bytes()
        # Which nodes a syntax tree has is the Python version's, and what is left out of it is this file's.
        key = hashlib.sha256(repr(sys.version_info[:2]).encode() + _own_text() + text).hexdigest()
        if key not in self.known:
            self.known[key] = _read_facts(file, text)
            self.is_changed = True
        code, imports, definitions = self.known[key]
        return _Facts(code, [_Import(*entry) for entry in imports], definitions)


_MEMORY = _Memory()


def remember_in(path: Path) -> None:
    """Take what was found in an earlier run from a file, and keep there what is found (:func:`save_memory`).

    A file that is not as it was written is left unread, which costs only time.
    """
    _MEMORY.path = path
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        saved = json.loads(path.read_text(encoding="utf-8"))
        if saved["digest"] == _digest(saved["facts"]):
            _MEMORY.known |= saved["facts"]


def save_memory() -> None:
    """Keep what was found for the next run; a folder that cannot be written costs only time."""
    if _MEMORY.path and _MEMORY.is_changed:
        facts = dict(list(_MEMORY.known.items())[-REMEMBERED_FILES:])
        with contextlib.suppress(OSError):
            write_text(_MEMORY.path, json.dumps({"digest": _digest(facts), "facts": facts}))
            _MEMORY.is_changed = False


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
    script's folder its meaning, wherever it lies, else its name. Files with neither, as most ``__init__.py``, do not
    count. The meaning of files that import each other is found by colour refinement (Weisfeiler and Leman 1968): a
    file's colour is its code at first; in each round it takes in the colours of what its names are bound to, until a
    round distinguishes no more files.
    """
    files = {file: script.parent for script in scripts for file in _closure(script)}
    colours = {file: _facts(file).code or "" for file in files}
    while True:
        refined = {file: _refined(file, folder, colours) for file, folder in files.items()}
        if len(set(refined.values())) == len(set(colours.values())):
            break
        colours = refined
    counted = (file for file in files if _facts(file).code or _facts(file).imports)
    return _digest(sorted(refined[file] for file in counted))


def _refined(file: Path, folder: Path, colours: dict[Path, str]) -> str:
    """Digest of a file's colour and of the colours of what its imported names are bound to."""
    # A name that is imported twice at one place is bound to the latter.
    bound = {
        (place, name): f"{colours[origin] if isinstance(origin, Path) else origin} {attribute}"
        for place, name, origin, attribute in _bindings(file, folder)
    }
    return _digest([colours[file], sorted([*names, meaning] for names, meaning in bound.items())])


@cache
def _bindings(file: Path, folder: Path) -> list[tuple[str, str, Path | str, str | None]]:
    """Of each imported name: its place, the name, the local file or foreign module that it is of, the name therein."""
    found: list[tuple[str, str, Path | str, str | None]] = []
    for entry in _facts(file).imports:
        targets = _targets(entry, file, folder)
        if not targets:
            found.append((entry.place, entry.bound, entry.module or "", entry.attribute))
            continue
        # The module itself was imported, or a name of it.
        attribute = entry.attribute if targets[0] == _absolute(entry, file, folder) else None
        found.append((entry.place, entry.bound, _file_of(targets[0], folder) or targets[0], attribute))
    return found


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
        top = (entry.module or "").partition(".")[0]
        if not top or entry.called in BY_PATH or _is_local(top, folder):
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


@cache
def _is_local(module: str, folder: Path) -> bool:
    place = folder.joinpath(*module.split("."))
    return place.with_suffix(".py").is_file() or any(place.rglob("*.py"))


@cache
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
def _facts(file: Path) -> _Facts:
    return _MEMORY.facts(file)


@cache
def _own_text() -> bytes:
    return Path(__file__).read_bytes()


# --- what the text of one file contains ------------------------------------------------------------------------------


def _read_facts(file: Path, text: bytes) -> _Facts:
    try:
        tree = ast.parse(text, filename=str(file))
    except ValueError as error:  # a null byte, in Python 3.11
        raise SyntaxError(f"{file}: {error}") from error
    imports: list[_Import] = []
    plain = _plain(tree, "", imports)
    return _Facts(_digest(plain) if len(plain) > 1 else None, imports, sorted(_definitions(tree.body)))


def _definitions(statements: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for node in statements:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            names |= _definitions([inner for inner in ast.iter_child_nodes(node) if isinstance(inner, ast.stmt)])
    return names


def _plain(node: ast.AST, place: str, imports: list[_Import]) -> list[object]:
    """A syntax tree as nested lists, without positions, docstrings and import statements, which go into ``imports``.

    A field that is empty is left out: newer versions of Python have more of them.
    """
    result: list[object] = [type(node).__name__]
    if isinstance(node, ast.Call):
        imports += _dynamic_import(node)
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            result.append([name, _plain(value, f"{place}{name}.", imports)])
        elif isinstance(value, list):
            kept: list[object] = []
            for item in _running(value):
                here = f"{place}{name}.{len(kept)}."
                if isinstance(item, ast.Import | ast.ImportFrom):
                    imports += _names_of(item, here)
                else:
                    kept.append(_plain(item, here, imports) if isinstance(item, ast.AST) else repr(item))
            if kept:
                result.append([name, kept])
        elif value is not None and name not in ("type_comment", "kind"):
            result.append([name, repr(value)])
    return result


def _running(items: list[Any]) -> Iterator[Any]:
    """Of a list of statements those that do something: no docstrings, no ``pass``, nothing for type checkers alone."""
    for item in items:
        if isinstance(item, ast.If) and _is_type_checking(item.test):
            yield from _running(item.orelse)
        elif not (isinstance(item, ast.Pass) or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))):
            yield item


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _names_of(node: ast.Import | ast.ImportFrom, place: str) -> Iterator[_Import]:
    """Every name that an import statement binds; a dynamic import under a name of its own cannot be followed."""
    for alias in node.names:
        bound = alias.asname or alias.name
        if isinstance(node, ast.Import):
            yield _Import(place, bound, alias.name, None, 0, node.lineno)
        else:
            yield _Import(place, bound, node.module, alias.name, node.level, node.lineno)
            if alias.name in BY_NAME | BY_PATH and bound != alias.name:
                yield _Import(place, "", None, None, 0, node.lineno, alias.name)


def _dynamic_import(node: ast.Call) -> Iterator[_Import]:
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if called in BY_NAME | BY_PATH:
        named = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        yield _Import("", "", named if isinstance(named, str) else None, None, 0, node.lineno, called)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
