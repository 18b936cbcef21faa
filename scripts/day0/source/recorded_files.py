"""The files of a model or checkpoint, hashed for a record, and held against it while a stage loads them."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from day0.base.artefacts import digest_of_file, files_below
from day0.base.cli import UnusableInput
from day0.base.processes import cores
from day0.records.file_states import (
    FILE_NAME,
    SETTLED_NS,
    SMALL_BYTES,
    FileState,
    FileStates,
    HashedFile,
    read_states_beside,
)
from day0.records.files import FileEntry, Files, list_files

HASHING_THREADS = 4
LOOKS_SECONDS = 0.5


def hash_files(
    folder: Path, names: Iterable[str] | None = None, known: Mapping[str, HashedFile] | None = None
) -> tuple[Files, FileStates]:
    """Sizes and digests of the files of a folder (:func:`list_files`), and the states of those that did not change.

    Args:
        folder: where they are.
        names: which of them, relative to the folder; without it all below the folder.
        known: files that were hashed before; one whose state is still the same is not read again.

    Raises:
        UnusableInput: a file changed while it was hashed.
    """
    began = time.time_ns()
    before = _states(folder, files_below(folder) if names is None else list(names))
    same = {name: held for name, held in (known or {}).items() if before.get(name) == held.state}
    files = list_files(folder, before.keys() - same.keys())
    files |= {name: FileEntry(bytes=held.bytes, sha256=held.sha256) for name, held in same.items()}
    files = dict(sorted(files.items()))
    after = _states(folder, files)
    for name in files:
        if before.get(name) != after[name]:
            raise UnusableInput(f"{folder / name}: changed while it was hashed; rerun once the folder is complete")
    states = {
        name: HashedFile(**state._asdict(), sha256=files[name].sha256)
        for name, state in after.items()
        if state.ctime_ns < began - SETTLED_NS
    }
    return files, FileStates(files=states)


def write_states_beside(record: Path, states: FileStates) -> None:
    """Write states to where the readers of a record look for them."""
    states.write(record.with_name(FILE_NAME))


def _states(folder: Path, names: Iterable[str]) -> dict[str, FileState]:
    return {name: FileState.of(folder / name) for name in names if (folder / name).is_file()}


class WrittenFiles:
    """Hashes the large files of a folder while others are still written to it: each is read from the page cache.

    A file is taken for written once its state did not change for as long as a file system's clock may stand still. If
    it changes later, its state shows it: :func:`hash_files` reads it again.
    """

    def __init__(self, folder: Path) -> None:
        """Begin to look at a folder that exists."""
        self._folder = folder
        self._hashed: dict[str, HashedFile] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="hash", daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, HashedFile]:
        """Look no longer; the files that were hashed, by path relative to the folder."""
        self._stopped.set()
        self._thread.join()
        return self._hashed

    def _watch(self) -> None:
        while not self._stopped.wait(LOOKS_SECONDS):
            # A folder that vanishes, or a file that is replaced just then, is the exporter's to report.
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        now = time.time_ns()
        for name, state in _states(self._folder, files_below(self._folder)).items():
            held = self._hashed.get(name)
            is_settled = state.ctime_ns < now - SETTLED_NS and state.bytes > SMALL_BYTES
            if is_settled and (held is None or held.state != state):
                digest = _digest(self._folder / name, self._stopped)
                if digest is not None and FileState.of(self._folder / name) == state:
                    self._hashed[name] = HashedFile(**state._asdict(), sha256=digest)


def _digest(path: Path, stopped: threading.Event) -> str | None:
    """sha256 of a file; None where it was to stop on the way."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(4 << 20):
            if stopped.is_set():
                return None
            digest.update(block)
    return digest.hexdigest()


class RecordedFiles:
    """The files of a record while a stage loads them: none may be another than the record says.

    ``begin`` before anything is loaded, ``check_digests`` as soon as it matters, ``finish`` once all is loaded. Files
    are hashed in threads beside the loading, which reads the same pages: none is read from the disk a second time.

    Attributes:
        folder: where they are.
        record: the file that says what they are, for messages.
    """

    def __init__(
        self, folder: Path, files: Files, record: Path, present: Iterable[str], is_trusted: bool = False
    ) -> None:
        """Prepare the comparison.

        Args:
            folder: where the files are.
            files: sizes and digests by path relative to the folder.
            record: source.json or quantization.json.
            present: names of the files in the folder that would be loaded.
            is_trusted: take a file for hashed whose state is the one that it had when it was (file_states.json).
        """
        self.folder, self.record, self._files = folder, record, files
        self._present = set(present)
        self._known: Mapping[str, HashedFile] = read_states_beside(record) if is_trusted else {}
        self._before: dict[str, FileState] = {}
        self._began = 0
        self._digests: dict[str, Future[str | None]] = {}
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None

    def begin(self) -> None:
        """Compare names, sizes and small files; begin to hash the others.

        Raises:
            UnusableInput: a file is not what the record says.
        """
        self._began = time.time_ns()
        self._before = _states(self.folder, self._files)
        for name, entry in self._files.items():
            found = self._before.get(name)
            if found is None or found.bytes != entry.bytes:
                size = "missing" if found is None else f"{found.bytes:,} bytes"
                raise self._other(name, f"{size}, recorded with {entry.bytes:,} bytes")
        if more := sorted(self._present - self._files.keys()):
            raise self._other(more[0], "is not recorded")
        left = []
        for name, entry in self._files.items():
            if entry.bytes <= SMALL_BYTES:
                self._compare(name, digest_of_file(self.folder / name))
            elif not self._is_known(name, self._before[name]):
                left.append(name)
        if left:
            self._pool = ThreadPoolExecutor(min(HASHING_THREADS, cores()), "hash")
            self._digests = {name: self._pool.submit(_digest, self.folder / name, self._stopped) for name in left}

    def check_digests(self) -> None:
        """Wait until all files are hashed.

        Raises:
            UnusableInput: a file is not what the record says.
        """
        for name, digest in self._digests.items():
            try:
                self._compare(name, digest.result())
            except FileNotFoundError:
                raise self._other(name, "missing") from None

    def finish(self) -> None:
        """Compare the digests, and make sure that no file changed between being hashed and being loaded.

        Raises:
            UnusableInput: a file is not what the record says, or was not for a while.
        """
        self.check_digests()
        after = _states(self.folder, self._files)
        for name, before in self._before.items():
            if name not in after:
                raise self._other(name, "missing")
            found = after[name]
            if found.ctime_ns != before.ctime_ns and found.links == before.links:
                raise self._other(name, "was replaced or written to while it was loaded")
            # Another hard link, another inode of a network's file system, or a change so late that a further one would
            # not show: the bytes tell.
            if found != before or before.ctime_ns >= self._began - SETTLED_NS:
                self._compare(name, digest_of_file(self.folder / name))

    def stop(self) -> None:
        """Hash no further."""
        self._stopped.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _is_known(self, name: str, state: FileState) -> bool:
        known = self._known.get(name)
        return known is not None and known.state == state and known.sha256 == self._files[name].sha256

    def _compare(self, name: str, sha256: str | None) -> None:
        if sha256 != self._files[name].sha256:
            raise self._other(name, "its sha256 is not the recorded one")

    def _other(self, name: str, what: str) -> UnusableInput:
        return UnusableInput(
            f"{self.folder / name}: {what}; {self.record} is of other files: put them back, or remove that record and "
            "rerun, which makes it and all that follows from it anew"
        )
