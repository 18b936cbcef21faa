"""Folders that are made beside their place and moved there once whole, so that none looks finished and is not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """A new folder beside a place, removed at the end unless it was moved; those of killed runs are removed first.

    Each has a name of its own: what outlives a killed run still writes to the earlier one.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{place.name}.unfinished-"
    for leftover in place.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=prefix))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_model(folder: Path, place: Path) -> None:
    """Put a model folder in its place, readable by all, instead of an earlier one."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
    if place.exists():
        shutil.rmtree(place)
    folder.rename(place)
