"""Whether two runs of different suites asked the same samples, by the digests that their samples files hold.

A candidate that was chosen by some samples looks better on them than it is, so that a suite that chooses among
candidates and the one that decides must share none. Suites say so by ``disjoint_from``; their files are compared when
the plan is made (day0/suite/disjoint.py), and here what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from day0.base.artefacts import digest_of, read_yaml
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.decision.recount import read_samples_file
from day0.suite.suites import read_suite

BASELINE = "baseline"


class SharedSamples(NamedTuple):
    """Documents that a task of a run shares with a task of another run.

    Attributes:
        task, other_task: the tasks' names in their suites.
        shared: documents that both asked.
        asked: documents that the task asked.
    """

    task: str
    other_task: str
    shared: int
    asked: int


class _Digests(NamedTuple):
    documents: frozenset[str]
    prompts: frozenset[str]


def shared_samples(run: Path, other: Path) -> list[SharedSamples]:
    """The tasks of a run that asked documents of another run's, whatever either suite calls them.

    Documents are the same where their own digest or that of their prompt is.

    Args:
        run, other: folders of runs, with samples/TASK.jsonl.
    """
    ours, theirs = _digests(run), _digests(other)
    found = []
    for task, own in ours.items():
        for other_task, asked in theirs.items():
            shared = max(len(own.documents & asked.documents), len(own.prompts & asked.prompts))
            if shared:
                found.append(SharedSamples(task, other_task, shared, max(len(own.documents), len(own.prompts))))
    return found


def disjoint_problems(run: Path, suite: Mapping[str, Any], suite_file: Path) -> list[str]:
    """Sentences on samples that a run shares with another run beside it, though one of their suites forbids it.

    The runs beside it are those of the same candidate and of the baseline, as the graph lays them out. A run of a suite
    whose file has changed since says nothing, and is left out.

    Args:
        run: the run's folder, MODEL/CANDIDATE/SUITE.
        suite: its suite, with every default filled in.
        suite_file: the suite's file, beside the others'.
    """
    problems: dict[tuple[str, ...], str] = {}
    for other in _runs_beside(run):
        file = suite_file.with_name(f"{other.name}{suite_file.suffix}")
        try:
            definition = read_suite(file)
            if other.name not in suite["disjoint_from"] and suite_file.stem not in definition["disjoint_from"]:
                continue
            metadata = mapping_or_empty(read_yaml(other / "results.yml").get("metadata"))
        except UnusableInput:
            continue
        if metadata.get("suite_digest") != digest_of(definition):
            continue
        for entry in shared_samples(run, other):
            problems[entry.task, other.name, entry.other_task] = (
                f"task {entry.task}: {entry.shared} of its {entry.asked} documents were asked by suite {other.name} "
                f"(task {entry.other_task}) too, which must share none with suite {suite_file.stem}; give one of them "
                "another offset, limit or data set"
            )
    return list(problems.values())


def _runs_beside(run: Path) -> Iterator[Path]:
    own = run.resolve()
    for folder in dict.fromkeys([own.parent, own.parent.parent / BASELINE]):
        for other in sorted(folder.iterdir()) if folder.is_dir() else []:
            if other.name != own.name and (other / "results.yml").is_file() and (other / "samples").is_dir():
                yield other


def _digests(run: Path) -> dict[str, _Digests]:
    found = {}
    for file in sorted((run / "samples").glob("*.jsonl")):
        samples = read_samples_file(file, is_own=False).samples
        found[file.stem] = _Digests(
            frozenset(sample.document_digest for sample in samples if sample.document_digest),
            frozenset(sample.prompt_digest for sample in samples if sample.prompt_digest),
        )
    return found
