"""Answers of a finished run, kept for a later one that asks more: further repeats, more documents, or others.

While a run is asked its answers are in ``cache/``, from where a stopped run goes on. Once it is complete they lie in
``answers/``, as large as their text, beside the digest of what was asked; the folder may be deleted at any time. A run
of another definition takes up what is stored under the names that its own tasks have, which hold all that an answer
depends on but repeats and documents; a run of the same definition was called for on purpose, and asks anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

CACHE, ANSWERS, IDENTITY = "cache", "answers", "identity"


def take_up(folder: Path, identity: str, names: Iterable[str]) -> bool:
    """Put the kept answers of the tasks to be asked back into the cache, and forget the others.

    Args:
        folder: of the run.
        identity: digest of what is evaluated and how.
        names: of the tasks' stores, without a suffix.

    Returns:
        Whether there were some.
    """
    kept, cache = folder / ANSWERS, folder / CACHE
    noted = kept / IDENTITY
    taken = False
    if noted.is_file() and noted.read_text(encoding="utf-8") != identity:
        wanted = set(names)
        for store in _stores(kept, wanted):
            cache.mkdir(exist_ok=True)
            if not (cache / store.name).exists():
                store.rename(cache / store.name)
                taken = True
    shutil.rmtree(kept, ignore_errors=True)
    return taken


def keep(folder: Path, identity: str, names: Iterable[str]) -> int:
    """Keep the answers of a complete run, and forget those of other definitions; returns their bytes."""
    kept, cache = folder / ANSWERS, folder / CACHE
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    wanted = set(names)
    for store in _stores(cache, wanted):
        store.rename(kept / store.name)
    (kept / IDENTITY).write_text(identity, encoding="utf-8")
    shutil.rmtree(cache, ignore_errors=True)
    return sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())


def _stores(folder: Path, names: set[str]) -> list[Path]:
    """The stores of these names: a file of lines, or the folder of a framework."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in found if path.name.removesuffix(".jsonl") in names]
