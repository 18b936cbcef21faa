"""Whether a finished release still is what was decided on and bundled: looked at each time that it is named.

Snakemake trusts times: what is truncated or replaced with its time kept is no reason for it to do anything. A file
whose state (size, inode, links, times, of which nobody can set a ctime) is the one that it had when it was hashed is
not hashed again, so that a bundle of hundreds of gigabytes costs nothing; any other is, and its new state is kept.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from day0.base.artefacts import digest_of_file, read_json
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.records.failure_class import Decision
from day0.records.file_states import SETTLED_NS, SMALL_BYTES, FileState, FileStates, HashedFile
from day0.records.quantization import Quantization
from day0.records.verdict import Verdict

STATES = "release_states.json"  # beside the bundle; no input of any rule
SUMS = "SHA256SUMS"
SPARSE_BYTES = 1 << 30
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")
_ADDED_BY_HUBS = (".gitattributes", ".git/", ".cache/huggingface/")


def find_damage(verdict: Path, full: bool = False, needs_bundle: bool = False) -> list[str]:
    """What of an accepted release is no longer as it was; nothing of another, which has no bundle.

    Args:
        verdict: its verdict.json, beside which the bundle lies.
        full: hash every file, whatever its state.
        needs_bundle: a bundle must be there, and be of this verdict.

    Returns:
        Sentences: what, and what to do.
    """
    try:
        decided = Verdict.read(verdict)
    except UnusableInput as error:
        return str(error).splitlines()
    if decided.decision is not Decision.ACCEPT:
        return []
    found = [
        f"{entry.path}: {what} since the verdict; remove {verdict} and {entry.path}, and run the same command again"
        for entry in decided.evidence.values()
        if (what := _difference(Path(entry.path), entry.sha256))
    ]
    bundle = verdict.with_name("release")
    if (bundle / SUMS).is_file():
        found += _of_bundle(bundle, full)
        found += _of_samples(bundle / "evidence" / "samples.json", decided, full)
        if needs_bundle and (bundle / "evidence" / "verdict.json").is_file():
            copy = _digest(bundle / "evidence" / "verdict.json")
            found += [f"{verdict}: is not the one in {bundle}; {_again(bundle)}"] * (copy != digest_of_file(verdict))
    elif needs_bundle or bundle.exists():
        found.append(f"{bundle}: {SUMS} is missing; {_again(bundle)}")
    if "validation" in decided.evidence:
        damaged = {sentence.partition(": ")[0] for sentence in found}
        found += _of_checkpoint(Path(decided.evidence["validation"].path).parent, bundle, damaged, full)
    return list(dict.fromkeys(found))


def write_states(bundle: Path, sums: Mapping[str, str]) -> None:
    """Keep the states of a bundle's files, as far as no change of them could be missed by their times."""
    now = time.time_ns()
    states = {}
    for name, sha256 in sums.items():
        state = FileState.of(bundle / name)
        if state.ctime_ns < now - SETTLED_NS:
            states[name] = HashedFile(**state._asdict(), sha256=sha256)
    FileStates(files=states).write(bundle.with_name(STATES))


def hashed_before(bundle: Path) -> dict[str, str]:
    """sha256 of the files of a bundle that are as they were when they were hashed, by name."""
    return {name: held.sha256 for name, held in _known(bundle).items() if _is_still(bundle / name, held)}


def _known(bundle: Path) -> dict[str, HashedFile]:
    try:
        return FileStates.read(bundle.with_name(STATES)).files
    except UnusableInput:
        return {}


def _is_still(path: Path, held: HashedFile) -> bool:
    return path.is_file() and FileState.of(path) == held.state


def _again(bundle: Path) -> str:
    return f"remove {bundle} and run the same command again, which makes it anew"


def _difference(path: Path, sha256: str) -> str | None:
    if not path.is_file():
        return "is missing"
    return None if _digest(path) == sha256 else "has changed"


def _digest(path: Path) -> str | None:
    """sha256 of a file; None of one with next to nothing on the disk, which nobody wrote so, and may have terabytes."""
    found = path.stat()
    if found.st_size > SPARSE_BYTES and found.st_blocks * 512 < found.st_size // 8:
        return None
    return digest_of_file(path)


def _entries(folder: Path) -> set[str]:
    """Relative names of all in a folder that is no plain folder: files, links, and what must not be."""
    found: set[str] = set()
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found.update(os.path.relpath(os.path.join(place, name), folder) for name in [*names, *links])
    return found - {".snakemake_timestamp"}


def _of_bundle(bundle: Path, full: bool) -> Iterator[str]:
    listed = {}
    if (bundle / SUMS).stat().st_size > SMALL_BYTES:
        yield f"{bundle / SUMS}: is not what was bundled; {_again(bundle)}"
        return
    for line in (bundle / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _LINE.fullmatch(line):
            listed[match[2]] = match[1]
    known = _known(bundle)
    expected = {name: state.sha256 for name, state in known.items()} | listed
    if SUMS in known:
        expected[SUMS] = known[SUMS].sha256
    hashed: dict[str, str | None] = {}
    damaged = False
    for name, sha256 in sorted(expected.items()):
        path, held = bundle / name, known.get(name)
        if not path.is_file():
            damaged = True
            yield f"{path}: is missing; {_again(bundle)}"
        elif full or held is None or not _is_still(path, held) or held.sha256 != sha256:
            # Of another size, it cannot have that digest.
            is_other = held is not None and held.sha256 == sha256 and path.stat().st_size != held.bytes
            hashed[name] = None if is_other else _digest(path)
            if hashed[name] != sha256:
                damaged = True
                yield f"{path}: is not what was bundled; {_again(bundle)}"
    for name in sorted(_entries(bundle) - expected.keys() - {SUMS}):
        if not name.startswith(_ADDED_BY_HUBS):
            damaged = True
            yield f"{bundle / name}: is no part of the release; remove it"
    if hashed and not damaged and os.access(bundle.parent, os.W_OK):
        with contextlib.suppress(OSError):  # they spare work alone
            write_states(bundle, expected | {SUMS: digest_of_file(bundle / SUMS)})


def _of_samples(record: Path, decided: Verdict, full: bool) -> Iterator[str]:
    """Samples of both runs that are not those that the bundle names; they are no part of it."""
    try:
        sides = read_json(record)
    except UnusableInput:
        return  # of the bundle, which was looked at
    for side in ("baseline", "candidate"):
        entry = decided.evidence.get(f"{side}_run")
        files = mapping_or_empty(sides.get(side))
        for name, held in files.items():
            if entry is None:
                break
            path = Path(entry.path).with_name("samples") / name
            size, sha256 = mapping_or_empty(held).get("bytes"), str(mapping_or_empty(held).get("sha256"))
            is_whole = path.is_file() and path.stat().st_size == size
            if not is_whole or ((full or path.stat().st_size <= SMALL_BYTES) and _difference(path, sha256)):
                again = "put it back, or remove the run's results.yml and run the same command again"
                yield f"{path}: is missing or not what was compared; {again}"


def _of_checkpoint(folder: Path, bundle: Path, damaged: set[str], full: bool) -> Iterator[str]:
    """Files of a checkpoint that are not those of its record; those that the bundle shares were looked at there."""
    record, checkpoint = folder / "quantization.json", folder / "checkpoint"
    again = f"remove {record} and run the same command again, which quantizes anew"
    try:
        quantization = Quantization.read(record)
    except UnusableInput as error:
        yield from str(error).splitlines()
        return
    for name, entry in quantization.files.items():
        path, copy = checkpoint / name, bundle / name
        if not path.is_file():
            yield f"{path}: is missing; {again}"
        elif path.stat().st_size != entry.bytes:
            yield f"{path}: has {path.stat().st_size} bytes, recorded with {entry.bytes}; {again}"
        elif copy.is_file() and path.samefile(copy):
            if str(copy) in damaged:
                yield f"{path}: is the same file as {copy}; {again}"
        elif (full or entry.bytes <= SMALL_BYTES) and digest_of_file(path) != entry.sha256:
            yield f"{path}: is not what was quantized; {again}"
