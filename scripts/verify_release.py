"""Check a release bundle, offline and with Python's standard library alone: run it where the bundle arrived.

Every file must be the one that SHA256SUMS and provenance.json name, none may lack and none be added; weights, config
and tokenizer must be there, and nothing that could be run or unpickled. The verdict must be ACCEPT and each link of its
chain of evidence hold: source, checkpoint, both runs, comparison, verdict, which must agree in model, candidate, suite,
scores, counts and decisions. What is wrong is named, a line each; what is no file, or larger than recorded, is named,
not read. Exit status: 0 sound, 1 not sound, 2 no bundle to check.

A bundle that was remade whole by somebody else is sound in itself: compare the printed digest of SHA256SUMS with the
one that its publisher gives, or give that with --sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
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
# What a model folder may hold besides weights, as day0/records/files.py has it; Python code only where it was trusted.
CARRIED = re.compile(
    r".*\.(json|jinja|model|tiktoken|vocab|bpe)|[\w.-]*(vocab|merges)[\w.-]*\.txt"
    r"|(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)[\w-]*(\.(txt|md|rst|pdf))?",
    re.IGNORECASE,
)
TOKENIZER = re.compile(r"tokenizer.*|vocab\..*|.*\.(model|tiktoken)|tekken\.json")
WEIGHTS, INDEX, CODE = ".safetensors", "model.safetensors.index.json", ".py"
MOST_BYTES = 256 << 20  # of a file that no record gives a size of; reports and tokenizers have some 30 MiB
# How programs, archives and pickles begin, whatever they are called; as day0/records/files.py has it.
DISGUISED = re.compile(rb"\x7fELF|MZ[\x00-\xff]\x00|#!/|PK\x03\x04|\x1f\x8b|\x80[\x02-\x05][\x00-\xff]")
# JSON files that an engine reads before the weights.
DECLARATIONS = (
    "config.json", "generation_config.json", "hf_quant_config.json", "tokenizer_config.json",
    "model.safetensors.index.json",
)  # fmt: skip
SPARSE_BYTES = 1 << 30  # from here on a file with next to nothing on the disk is named, not read


class NoBundle(Exception):
    """There is nothing that could be checked."""


def verify(
    folder: Path, pinned: str | None = None, known: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Check a bundle.

    Args:
        folder: the bundle.
        pinned: sha256 that SHA256SUMS must have, as 64 hexadecimal digits.
        known: sha256 of files that were hashed before and are the same still, which are not read again.

    Returns:
        Sentences on what is wrong, each beginning with the file it is about; and each file's sha256.

    Raises:
        NoBundle: the folder is none, or holds no part of a bundle.
    """
    if not folder.is_dir():
        raise NoBundle(f"{folder}: found no folder; expected a release bundle")
    if not any((folder / name).exists() for name in (SUMS, PROVENANCE, EVIDENCE)):
        raise NoBundle(f"{folder}: found none of {SUMS}, {PROVENANCE} and {EVIDENCE}/; expected a release bundle")
    problems: list[str] = []
    try:
        actual = hash_files(folder, problems, known or {})
    except OSError as error:
        return [_printable(f"{str(error.filename)[:500]}: cannot be read: {error.strerror}")], {}
    unread = _entries(folder) - actual.keys()
    if pinned and actual.get(SUMS) != pinned:
        problems.append(f"{SUMS}: its sha256 is {actual.get(SUMS)}, the publisher's {pinned}")
    listed = _read_sums(folder, actual, problems)
    statement = _read(folder, PROVENANCE, actual, problems)
    subjects = _subjects(statement, problems)
    problems += [problem for name, problem in _compare(actual, listed, subjects) if name not in unread]
    problems += _chain(folder, actual, problems)
    return list(dict.fromkeys(map(_printable, problems))), actual


def _printable(text: str) -> str:
    """A text without what a terminal would take for a command, or could not show: names and values are others'."""
    return "".join(
        character if character.isprintable() else character.encode("unicode-escape").decode() for character in text
    )


def hash_files(folder: Path, problems: list[str], known: Mapping[str, str]) -> dict[str, str]:
    """sha256 of every file by its relative name; read side by side, the largest first.

    What is no file, is sparse, or has another size than its record says is a problem and is not read: a pipe, a device
    or a terabyte of nothing would keep the reader waiting.
    """
    recorded, sizes = _recorded_sizes(folder), {}
    for name in sorted(_entries(folder)):
        try:
            found = os.stat(folder / name)
        except OSError:
            problems.append(f"{name}: is no file; a release holds files alone")
            continue
        expected = recorded.get(name)
        if not stat.S_ISREG(found.st_mode):
            problems.append(f"{name}: is no file; a release holds files alone")
        elif expected is not None and found.st_size != expected:
            what = f"it has {found.st_size} bytes, expected {expected}"
            problems.append(f"{name}: is not the file that was quantized, validated and evaluated: {what}")
        elif expected is None and found.st_size > MOST_BYTES:
            problems.append(f"{name}: has {found.st_size} bytes, which no record of the bundle says; it is not read")
        elif found.st_size > SPARSE_BYTES and found.st_blocks * 512 < found.st_size // 8:
            problems.append(f"{name}: has {found.st_size} bytes, but next to none on the disk; it is not read")
        else:
            sizes[name] = found.st_size
    ordered = sorted(sizes, key=lambda name: -sizes[name])
    with ThreadPoolExecutor(_cores()) as pool:
        digests = pool.map(lambda name: known.get(name) or _digest(folder / name, sizes[name]), ordered)
        return dict(zip(ordered, digests, strict=True))


def _cores() -> int:
    """Cores that this process may run on; of a system that does not say so all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _recorded_sizes(folder: Path) -> dict[str, int]:
    """Bytes of the checkpoint's and the source's files, as their records in the bundle say."""
    sizes: dict[str, int] = {}
    for record in ("source", "quantization"):
        path = folder / EVIDENCE / f"{record}.json"
        if _is_small_file(path):
            files = _get(_parse(_content(path), []), "files")
            for name, entry in files.items() if isinstance(files, dict) else ():
                if isinstance(size := _get(entry, "bytes"), int) and (record == "quantization" or name not in sizes):
                    sizes[name] = size
    # The bundle has a model card of its own.
    sizes.pop(CARD, None)
    return sizes


def _content(path: Path) -> bytes:
    """What a small file holds, as much as its size says: a file of /proc has none, and some of those never end."""
    size = os.stat(path).st_size
    if not size:
        return b""
    with open(path, "rb") as stream:
        return stream.read(size)


def _is_small_file(path: Path) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= MOST_BYTES


def _entries(folder: Path) -> set[str]:
    """Names of all that is no plain folder: files, links to files as a hub's cache has them, and what must not be."""
    names: set[str] = set()
    below = [""]
    while below:
        within = below.pop()
        with os.scandir(folder / within) as entries:
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                (below.append if is_folder else names.add)(f"{within}{entry.name}{'/' * is_folder}")
    return {name for name in names if not ADDED_BY_HUBS.fullmatch(name)}


def _digest(path: Path, size: int) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(1 << 20))
    if not size:  # a file of /proc has no size either, and some of those never end
        return digest.hexdigest()
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
            size -= count
            if size < 0:
                raise OSError(0, "it grows while it is read", str(path))
    return digest.hexdigest()


def _read_sums(folder: Path, actual: dict[str, str], problems: list[str]) -> dict[str, str]:
    """The lines of SHA256SUMS; anything but sorted lines of its exact form is a problem."""
    if SUMS not in actual:
        problems.append(f"{SUMS}: missing")
        return {}
    content = _content(folder / SUMS)
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


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _parse(data: bytes, mistakes: list[str], constant: Callable[[str], Any] = _no_number) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        mistakes.append(f"does not parse as JSON: {error}")
        return None


def _read(folder: Path, name: str, actual: dict[str, str], problems: list[str]) -> Any:
    """The content of a JSON file that was hashed, so that it is a file and has a size."""
    if name not in actual:
        problems.append(f"{name}: missing")
        return None
    mistakes: list[str] = []
    content = _parse(_content(folder / name), mistakes)
    problems += [f"{name}: {mistake}" for mistake in mistakes]
    return content


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


def _compare(actual: dict[str, str], listed: dict[str, str], subjects: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Where files, SHA256SUMS and provenance.json do not agree, the one that stands alone is named, with a sentence."""
    for name in sorted((actual.keys() | listed.keys() | subjects.keys()) - {SUMS}):
        found, summed, vouched = actual.get(name), listed.get(name), subjects.get(name)
        if name == PROVENANCE:
            vouched = found if found is not None else summed
        if found == summed == vouched:
            continue
        if found is None:
            holders = [holder for holder, digest in ((SUMS, summed), (PROVENANCE, vouched)) if digest is not None]
            yield name, f"{name}: missing; named by {' and '.join(holders)}"
        elif summed is None and vouched is None:
            yield name, f"{name}: not part of the release; neither {SUMS} nor {PROVENANCE} names it"
        elif summed == vouched:
            yield name, f"{name}: changed; its sha256 is {found}, expected {summed}"
        elif found == vouched and name != PROVENANCE:
            what = "does not name" if summed is None else "gives another sha256 for"
            yield name, f"{SUMS}: {what} {name}, which is as {PROVENANCE} says"
        elif found == summed:
            yield name, f"{PROVENANCE}: names another sha256 or none for {name}, which is as {SUMS} says"
        else:
            yield name, f"{name}: its sha256 is {found}; {SUMS} says {summed}, {PROVENANCE} {vouched}"


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
        name: _read(folder, f"{EVIDENCE}/{name}.json", actual, problems)
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

    verdict, record, source = read["verdict"], read["quantization"], read["source"]
    named = _get(verdict, "evidence")
    others = sorted(set(named if isinstance(named, dict) else ()) - set(STAGES))
    read |= {name: _read(folder, f"{EVIDENCE}/{name}.json", actual, problems) for name in others}
    for stage in (*STAGES, *others):
        if read[stage] is None:
            continue
        digest = _get(verdict, "evidence", stage, "sha256")
        is_of = digest == actual.get(f"{EVIDENCE}/{stage}.json")
        require(is_of, f"{stage}.json", "is not the file that the verdict was made from")
        require(_get(read[stage], "pass") is True, f"{stage}.json", "did not pass")
        failed = _get(read[stage], "failure_class")
        require(failed is None, f"{stage}.json", f"says both that it passed and that it failed with {failed!r}")
    for name in ("verdict", "comparison"):
        decision, failed = _get(read[name], "decision"), _get(read[name], "failure_class")
        require(
            decision == "ACCEPT" and _get(read[name], "pass") is True, f"{name}.json", f"its decision is {decision!r}"
        )
        is_alone = failed is None and _get(read[name], "failure_classes") == []
        require(is_alone, f"{name}.json", f"says both that it is accepted and that it failed with {failed!r}")
        said = _get(read[name], "criteria", str(_get(read[name], "criterion")), "decision")
        require(said == "ACCEPT", f"{name}.json", f"the criterion that decided says {said!r}")
    for side in ("baseline", "candidate"):
        run = f"{side}_run"
        assessed, compared = _get(read[run], "results_digest"), _get(read["comparison"], f"{side}_sha256")
        results = actual.get(f"{EVIDENCE}/{run}_results.yml")
        require(results == assessed, f"{run}_results.yml", f"is not the file that {run}.json assessed")
        is_of = compared == actual.get(f"{EVIDENCE}/{run}.json")
        require(is_of, "comparison.json", f"was made from another {run}.json")
        measured, held = _get(read[run], "speed_digest"), _get(read["comparison"], "speed", f"{side}_sha256")
        speed = actual.get(f"{EVIDENCE}/{run}_speed.json")
        require(
            speed == measured, f"{run}_speed.json", f"is not the file that {run}.json names, or one of them is missing"
        )
        require(held == measured, "comparison.json", f"its speed was made from another {run}_speed.json")
        stopped = _get(read[run], "early_stop") is not None
        require(not stopped, f"{run}.json", "is of a run that was stopped early, whose scores are not the suite's")
    is_same = _get(read["comparison"], "speed") == _get(verdict, "speed")
    require(is_same, "verdict.json", "its speed is not that of the comparison")
    if (required := _get(verdict, "policy", "min_speedup")) is not None:
        ratio, is_own = (_get(verdict, "speed", key) for key in ("least_ratio", "is_native"))
        reached = is_own is True and _is_number(ratio) and _is_number(required) and ratio >= required
        require(reached, "verdict.json", f"its speed does not reach min_speedup {required}: {ratio}")
    # Who they are of.
    ours = ("verdict.json", "baseline_run.json", "candidate_run.json", "source.json", "quantization.json")
    same("model", *((file, _get(read[file.removesuffix(".json")], "model")) for file in ours))
    same("suite", *((file, _get(read[file.removesuffix(".json")], "suite")) for file in ours[:3]))
    same("candidate", *((f"{file}.json", _get(read[file], "candidate")) for file in ("verdict", "candidate_run")))
    baseline = _get(read["baseline_run"], "candidate")
    require(baseline == "baseline", "baseline_run.json", f"is the run of {baseline!r}, not of the baseline")
    _agree(read, require)
    same(
        "source's digest",
        ("source.json", _get(source, "digest")),
        ("source.json (its files)", _digest_of_files(source)),
        ("quantization.json", _get(record, "source_digest")),
        ("validation.json", _get(read["validation"], "source_digest")),
        ("baseline_run.json", _served_digest(read["baseline_run"])),
        ("verdict.json", _get(verdict, "digests", "source_digest")),
    )
    same(
        "checkpoint's digest",
        ("quantization.json", _get(record, "checkpoint_digest")),
        ("quantization.json (its files)", _digest_of_files(record)),
        ("validation.json", _get(read["validation"], "checkpoint_digest")),
        ("candidate_run.json", _served_digest(read["candidate_run"])),
        ("verdict.json", _get(verdict, "digests", "checkpoint_digest")),
    )
    files = _files(record)
    for name in sorted(files):
        if name != CARD and actual.get(name) not in (_get(files[name], "sha256"), None):
            broken.append(f"{name}: is not the file that was quantized, validated and evaluated")
        size = _get(files[name], "bytes")
        require(_is_number(size), "quantization.json", f"{name} has no size")
    broken += _lacking(folder, actual, files)
    broken += _not_what_they_are_called(folder, actual)
    for name in sorted(actual.keys() - {SUMS, PROVENANCE, CARD}):
        if name.startswith(f"{EVIDENCE}/"):
            is_evidence = name.endswith((".json", ".yml", ".html"))
            require(is_evidence, name.removeprefix(f"{EVIDENCE}/"), "is no kind of file that evidence has")
        elif name not in files and _get(_files(source), name, "sha256") != actual[name]:
            broken.append(f"{name}: is part of neither the quantized checkpoint nor the evidence")
        elif not _may_travel(name, _get(source, "trust_remote_code") is True):
            broken.append(f"{name}: is no kind of file that a model needs; it could hold code or a pickle")
    return broken


def _agree(read: dict[str, Any], require: Any) -> None:
    """Hold the scores and counts of both runs, the comparison and the verdict against one another, task by task."""
    compared, decided = (_get(read[name], "tasks") for name in ("comparison", "verdict"))
    require(compared == decided, "verdict.json", "its tasks are not those of the comparison")
    tasks = compared if isinstance(compared, dict) else {}
    scored = {side: _get(read[f"{side}_run"], "scores") for side in ("baseline", "candidate")}
    for side, scores in scored.items():
        found = sorted(scores) if isinstance(scores, dict) else []
        without = [task for task, entry in tasks.items() if _get(entry, side) is None]
        is_same = bool(found) and found == sorted(set(tasks) - set(without))
        require(is_same, "comparison.json", f"its tasks are not those of {side}_run.json: {sorted(tasks)}, {found}")
    for task, entry in tasks.items():
        pairs = {side: (_get(entry, side), _get(scores, task, "score")) for side, scores in scored.items()}
        for side, (score, of_run) in pairs.items():
            said = f"{task}: the {side}'s score is {score}, in {side}_run.json {of_run}"
            require(_is_close(score, of_run), "comparison.json", said)
        drop, values = _get(entry, "drop"), [score for score, _ in pairs.values()]
        if all(_is_number(value) for value in (drop, *values)):
            change = values[0] - values[1] if _get(entry, "scale", "direction") != "lower" else values[1] - values[0]
            require(_is_close(drop, change), "comparison.json", f"{task}: its drop is {drop}, of its scores {change}")
            limit, guard = _get(entry, "limit"), _get(entry, "relative_guard", "within")
            within = _is_number(limit) and drop <= limit + 1e-9 * max(1.0, _width(entry)) and guard is not False
            is_said = _get(entry, "within") in (within, None)
            require(is_said, "comparison.json", f"{task}: within its limit by its own word, not by its numbers")
        paired = _get(entry, "paired", "samples")
        for side, scores in scored.items():
            count = _get(scores, task, "samples")
            is_same = paired is None or count is None or paired == count
            require(is_same, "comparison.json", f"{task}: {paired} samples are paired, {side}_run.json has {count}")


def _width(entry: Any) -> float:
    ends = [_get(entry, "scale", end) for end in ("max", "min")]
    return ends[0] - ends[1] if all(map(_is_number, ends)) else 1.0


def _is_number(value: Any) -> bool:
    """Whether a value can be calculated with: an integer may have thousands of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_close(one: Any, other: Any) -> bool:
    if _is_number(one) and _is_number(other):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    return one is None and other is None


def _files(record: Any) -> dict[str, Any]:
    files = _get(record, "files")
    return files if isinstance(files, dict) else {}


def _digest_of_files(record: Any) -> str:
    """The digest of a folder, over the names and digests of its files."""
    pairs = sorted((name, str(_get(entry, "sha256"))) for name, entry in _files(record).items())
    text = json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _lacking(folder: Path, actual: dict[str, str], files: dict[str, Any]) -> Iterator[str]:
    """What a model folder cannot be without."""
    named = {name for name in files if "/" not in name}
    needs = {
        "config.json": "config.json" in named,
        "*.safetensors": any(name.endswith(WEIGHTS) for name in named),
        "tokenizer.json": any(TOKENIZER.fullmatch(name) for name in named),
    }
    for name, is_there in needs.items():
        if not is_there:
            yield f"{EVIDENCE}/quantization.json: the checkpoint holds no {name}; no engine can load it"
    if INDEX in named and INDEX in actual:
        placed = _get(_parse(_content(folder / INDEX), []), "weight_map")
        if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
            yield f"{INDEX}: names no file for each weight"
            return
        for name in sorted(set(placed.values()) - named):
            yield f"{INDEX}: names {name}, which the checkpoint does not hold"


def _not_what_they_are_called(folder: Path, actual: dict[str, str]) -> Iterator[str]:
    """Files of the model that begin as others do, and declarations that say two things or nothing."""
    for name in sorted(name for name in actual if not name.startswith(f"{EVIDENCE}/")):
        size, start = os.stat(folder / name).st_size, b""
        if size:  # see _content
            with open(folder / name, "rb") as stream:
                start = stream.read(9)
        if name.endswith(WEIGHTS) and not size:
            yield f"{name}: is empty"
        # A safetensors file begins with the length of its header, which may be any number, and the header.
        elif DISGUISED.match(start) and not (name.endswith(WEIGHTS) and start[8:] == b"{"):
            yield f"{name}: begins as a program, an archive or a pickle, whatever it is called"
        elif name in DECLARATIONS:
            mistakes: list[str] = []
            # Some configurations hold infinities.
            content = _parse(_content(folder / name), mistakes, float)
            if mistakes or not isinstance(content, dict):
                yield f"{name}: {mistakes[0] if mistakes else 'holds no object'}"


def _may_travel(name: str, is_code_trusted: bool) -> bool:
    """Whether a file of a model folder is of a kind that a model needs."""
    base = name.rpartition("/")[2]
    if any(part.startswith(".") for part in name.split("/")):
        return False
    if base.endswith(CODE):
        return is_code_trusted
    return base.endswith(WEIGHTS) or CARRIED.fullmatch(base) is not None


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
