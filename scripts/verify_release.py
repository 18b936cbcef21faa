"""Check a release bundle, offline and with Python's standard library alone: run it where the bundle arrived.

Every file must be the one that SHA256SUMS and provenance.json name, none may lack and none be added; the verdict must
be ACCEPT and each link of its chain of evidence hold: source, checkpoint, both runs, comparison, verdict. What is wrong
is named, a line each. Exit status: 0 sound, 1 not sound, 2 no bundle to check.

A bundle that was remade whole by somebody else is sound in itself: compare the printed digest of SHA256SUMS with the
one that its publisher gives, or give that with --sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SUMS, PROVENANCE, CARD, EVIDENCE = "SHA256SUMS", "provenance.json", "README.md", "evidence"
STATEMENT_TYPE, PREDICATE_TYPE = "https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1"
# What a hub or its client adds to every repository.
ADDED_BY_HUBS = re.compile(r"\.gitattributes|\.git/.*|\.cache/huggingface/.*")
LINE = re.compile(rb"([0-9a-f]{64})  ([^\n\x00\\]+)\n")
STAGES = (
    "preflight_model", "preflight_recipe", "preflight_suite", "validation", "baseline_run", "candidate_run",
    "comparison",
)  # fmt: skip


class NoBundle(Exception):
    """There is nothing that could be checked."""


def verify(folder: Path, pinned: str | None = None) -> tuple[list[str], dict[str, str]]:
    """Check a bundle.

    Args:
        folder: the bundle.
        pinned: sha256 that SHA256SUMS must have, as 64 hexadecimal digits.

    Returns:
        Sentences on what is wrong, each beginning with the file it is about; and each file's sha256.

    Raises:
        NoBundle: the folder is none, or holds no part of a bundle.
    """
    if not folder.is_dir():
        raise NoBundle(f"{folder}: found no folder; expected a release bundle")
    if not any((folder / name).exists() for name in (SUMS, PROVENANCE, EVIDENCE)):
        raise NoBundle(f"{folder}: found none of {SUMS}, {PROVENANCE} and {EVIDENCE}/; expected a release bundle")
    try:
        actual = hash_files(folder)
    except OSError as error:
        return [f"{error.filename}: cannot be read: {error.strerror}"], {}
    problems = [f"{name}: is no file; a release holds files alone" for name in _entries(folder) - actual.keys()]
    if pinned and actual.get(SUMS) != pinned:
        problems.append(f"{SUMS}: its sha256 is {actual.get(SUMS)}, the publisher's {pinned}")
    listed = _read_sums(folder, problems)
    statement = _read(folder / PROVENANCE, problems)
    subjects = _subjects(statement, problems)
    problems += _compare(actual, listed, subjects)
    problems += _chain(folder, actual, problems)
    return list(dict.fromkeys(problems)), actual


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file by its relative name; read side by side, the largest first."""
    kept = {name: folder / name for name in _entries(folder) if (folder / name).is_file()}
    ordered = sorted(kept, key=lambda name: -kept[name].stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(ordered, pool.map(lambda name: _digest(kept[name]), ordered), strict=True))


def _entries(folder: Path) -> set[str]:
    """Names of all that is no plain folder: files, links to files as a hub's cache has them, and what must not be."""
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in paths}
    return {name for name in names if not ADDED_BY_HUBS.fullmatch(name)}


def _digest(path: Path) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


def _read_sums(folder: Path, problems: list[str]) -> dict[str, str]:
    """The lines of SHA256SUMS; anything but sorted lines of its exact form is a problem."""
    try:
        content = (folder / SUMS).read_bytes()
    except OSError:
        problems.append(f"{SUMS}: missing")
        return {}
    listed: dict[str, str] = {}
    names = []
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        match = LINE.fullmatch(line)
        try:
            name = match[2].decode("utf-8") if match else ""
        except UnicodeDecodeError:
            name = ""
        if not match or not name:
            problems.append(f"{SUMS}: line {number} is not 'sha256, two spaces, name'")
            continue
        names.append(name)
        listed[name] = match[1].decode()
    if names != sorted(set(names)):
        problems.append(f"{SUMS}: its names are not sorted, or stand twice")
    return listed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(content := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return content


def _read(path: Path, problems: list[str]) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_unique)
    except OSError:
        problems.append(f"{_name(path)}: missing")
    except (ValueError, RecursionError) as error:
        problems.append(f"{_name(path)}: does not parse as JSON: {error}")
    return None


def _name(path: Path) -> str:
    return f"{EVIDENCE}/{path.name}" if path.parent.name == EVIDENCE else path.name


def _subjects(statement: Any, problems: list[str]) -> dict[str, str]:
    """Names and digests that provenance.json vouches for."""
    if statement is None:
        return {}
    if not isinstance(statement, dict) or statement.get("_type") != STATEMENT_TYPE:
        problems.append(f"{PROVENANCE}: is no in-toto statement of type {STATEMENT_TYPE}")
        return {}
    if statement.get("predicateType") != PREDICATE_TYPE:
        problems.append(f"{PROVENANCE}: its predicate is no {PREDICATE_TYPE}")
    subjects = {}
    entries = statement.get("subject")
    for entry in entries if isinstance(entries, list) else []:
        name, digest = _get(entry, "name"), _get(entry, "digest", "sha256")
        if isinstance(name, str) and isinstance(digest, str) and name not in subjects:
            subjects[name] = digest
        else:
            problems.append(f"{PROVENANCE}: a subject has no name or sha256, or stands twice: {name}")
    return subjects


def _compare(actual: dict[str, str], listed: dict[str, str], subjects: dict[str, str]) -> Iterator[str]:
    """Where files, SHA256SUMS and provenance.json do not agree, the one that stands alone is named."""
    for name in sorted((actual.keys() | listed.keys() | subjects.keys()) - {SUMS}):
        found, summed, vouched = actual.get(name), listed.get(name), subjects.get(name)
        if name == PROVENANCE:
            vouched = found if found is not None else summed
        if found == summed == vouched:
            continue
        if found is None:
            holders = [holder for holder, digest in ((SUMS, summed), (PROVENANCE, vouched)) if digest is not None]
            yield f"{name}: missing; named by {' and '.join(holders)}"
        elif summed is None and vouched is None:
            yield f"{name}: not part of the release; neither {SUMS} nor {PROVENANCE} names it"
        elif summed == vouched:
            yield f"{name}: changed; its sha256 is {found}, expected {summed}"
        elif found == vouched and name != PROVENANCE:
            what = "does not name" if summed is None else "gives another sha256 for"
            yield f"{SUMS}: {what} {name}, which is as {PROVENANCE} says"
        elif found == summed:
            yield f"{PROVENANCE}: names another sha256 or none for {name}, which is as {SUMS} says"
        else:
            yield f"{name}: its sha256 is {found}; {SUMS} says {summed}, {PROVENANCE} {vouched}"


def _served_digest(run: Any) -> Any:
    """Digest of what a run served; of an imported run that does not tell, the one that it was imported for."""
    return _get(run, "checkpoint_digest") or _get(run, "imported", "attributed_digest")


def _get(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _chain(folder: Path, actual: dict[str, str], problems: list[str]) -> list[str]:
    """Links of the chain of evidence that do not hold."""
    read = {
        name: _read(folder / EVIDENCE / f"{name}.json", problems)
        for name in ("verdict", "quantization", "source", "samples", *STAGES)
    }
    broken: list[str] = []

    def require(holds: bool, file: str, sentence: str) -> None:
        if not holds:
            broken.append(f"{EVIDENCE}/{file}: {sentence}")

    def same(what: str, *places: tuple[str, Any]) -> None:
        values = {value if isinstance(value, str) else None for _, value in places}
        if len(values) != 1 or None in values:
            found = ", ".join(f"{place} has {str(value)[:16]}" for place, value in places)
            broken.append(f"{EVIDENCE}/{places[0][0]}: the {what} is not the same all along the chain: {found}")

    verdict, record = read["verdict"], read["quantization"]
    decision = _get(verdict, "decision")
    require(decision == "ACCEPT" and _get(verdict, "pass") is True, "verdict.json", f"its decision is {decision!r}")
    named = _get(verdict, "evidence")
    others = sorted(set(named if isinstance(named, dict) else ()) - set(STAGES))
    read |= {name: _read(folder / EVIDENCE / f"{name}.json", problems) for name in others}
    for stage in (*STAGES, *others):
        if read[stage] is None:
            continue
        digest = _get(verdict, "evidence", stage, "sha256")
        is_of = digest == actual.get(f"{EVIDENCE}/{stage}.json")
        require(is_of, f"{stage}.json", "is not the file that the verdict was made from")
        require(_get(read[stage], "pass") is True, f"{stage}.json", "did not pass")
    for side in ("baseline", "candidate"):
        run = f"{side}_run"
        assessed, compared = _get(read[run], "results_digest"), _get(read["comparison"], f"{side}_sha256")
        results = actual.get(f"{EVIDENCE}/{run}_results.yml")
        require(results == assessed, f"{run}_results.yml", f"is not the file that {run}.json assessed")
        is_of = compared == actual.get(f"{EVIDENCE}/{run}.json")
        require(is_of, "comparison.json", f"was made from another {run}.json")
        stopped = _get(read[run], "early_stop") is not None
        require(not stopped, f"{run}.json", "is of a run that was stopped early, whose scores are not the suite's")
    same(
        "source's digest",
        ("source.json", _get(read["source"], "digest")),
        ("quantization.json", _get(record, "source_digest")),
        ("validation.json", _get(read["validation"], "source_digest")),
        ("baseline_run.json", _served_digest(read["baseline_run"])),
        ("verdict.json", _get(verdict, "digests", "source_digest")),
    )
    files = _get(record, "files")
    files = files if isinstance(files, dict) else {}
    pairs = sorted((name, _get(entry, "sha256")) for name, entry in files.items())
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    same(
        "checkpoint's digest",
        ("quantization.json", _get(record, "checkpoint_digest")),
        ("quantization.json (its files)", hashlib.sha256(text.encode()).hexdigest()),
        ("validation.json", _get(read["validation"], "checkpoint_digest")),
        ("candidate_run.json", _served_digest(read["candidate_run"])),
        ("verdict.json", _get(verdict, "digests", "checkpoint_digest")),
    )
    for name, digest in pairs:
        if name != CARD and actual.get(name) not in (digest, None):
            broken.append(f"{name}: is not the file that was quantized, validated and evaluated")
    source_files = _get(read["source"], "files")
    for name in sorted(actual.keys() - files.keys() - {SUMS, PROVENANCE, CARD}):
        of_the_source = isinstance(source_files, dict) and _get(source_files, name, "sha256") == actual[name]
        if not name.startswith(f"{EVIDENCE}/") and not of_the_source:
            broken.append(f"{name}: is part of neither the quantized checkpoint nor the evidence")
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the bundle")
    parser.add_argument("--sha256", help="digest that SHA256SUMS must have, as its publisher gives it")
    arguments = parser.parse_args()
    if arguments.sha256 and not re.fullmatch(r"[0-9a-f]{64}", arguments.sha256):
        parser.error(f"--sha256: expected 64 hexadecimal digits, found {arguments.sha256!r}")

    try:
        problems, digests = verify(arguments.folder, arguments.sha256)
    except NoBundle as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    if problems:
        print(f"{arguments.folder}: NOT SOUND; do not use or publish it ({len(problems)} problems)")
        return 1
    print(f"{arguments.folder}: sound, {len(digests)} files; sha256 of {SUMS}: {digests[SUMS]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
