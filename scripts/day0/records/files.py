"""The files of a folder, as the records of the source model and of the checkpoint list them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from day0.base.artefacts import digest_of_inventory, inventory
from day0.records.record import Count, Record, Sha256


class FileEntry(Record):
    """A file: its size and digest."""

    bytes: Count
    sha256: Sha256


Files = dict[str, FileEntry]  # by path relative to the folder


def list_files(folder: Path, names: Iterable[str] | None = None) -> Files:
    """Sizes and digests of the files of a folder, all below it or those named; see :func:`inventory`."""
    return {name: FileEntry.model_validate(entry) for name, entry in inventory(folder, names).items()}


def digest_of_files(files: Files) -> str:
    """One digest for a folder, see :func:`digest_of_inventory`."""
    return digest_of_inventory({name: {"sha256": entry.sha256} for name, entry in files.items()})
