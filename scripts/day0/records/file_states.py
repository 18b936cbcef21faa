"""The data type of file_states.json: how files were when they were hashed, so that they need not be hashed again.

It lies beside source.json or quantization.json and is no input of any rule: the same bytes at other times are the same
model. Without it, or where it does not fit, files are hashed again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import Field

from day0.base.cli import UnusableInput
from day0.records.record import Artefact, Count, Record, Sha256

FILE_NAME = "file_states.json"
# File systems count time in steps, of up to 2 s: within one, a second change of a file would not show in its state.
SETTLED_NS = 2_000_000_000
SMALL_BYTES = 64 << 20  # up to this size a file is hashed wherever it matters, whatever is known of it


class FileState(NamedTuple):
    """What differs once a file was written to or replaced, whatever its times were set to: nobody can set a ctime.

    A copy, or another view of a network file system, differs too, without a change: then the digest decides.
    """

    bytes: int
    inode: int
    links: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike) -> FileState:
        """The state of a file, behind links.

        Raises:
            OSError: there is none.
        """
        found = os.stat(path)
        return cls(found.st_size, found.st_ino, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns)


class HashedFile(Record):
    """A file as it was while it was hashed."""

    bytes: Count
    inode: Count
    links: Count
    mtime_ns: int
    ctime_ns: int
    sha256: Sha256

    @property
    def state(self) -> FileState:
        """Its state."""
        return FileState(self.bytes, self.inode, self.links, self.mtime_ns, self.ctime_ns)


class FileStates(Artefact):
    """file_states.json: files that did not change while they were hashed, nor shortly before."""

    schema_name: ClassVar[str] = "file_states"

    files: dict[str, HashedFile] = Field(description="by path relative to the folder that the record beside it is of")


def read_states_beside(record: Path) -> dict[str, HashedFile]:
    """The states beside a record; none where there is no such file, or none that can be used."""
    try:
        return FileStates.read(record.with_name(FILE_NAME)).files
    except UnusableInput:
        return {}
