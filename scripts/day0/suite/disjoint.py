"""Suites that must not ask the same documents, as far as their files say: the same task over slices that overlap."""

from __future__ import annotations

import sys

from day0.suite.documents import declared_documents
from day0.suite.suites import Suite


def overlaps(suite: Suite, name: str, other: Suite) -> list[str]:
    """Sentences on the tasks of a suite that ask documents of another one's.

    Args:
        suite: the one that must be disjoint.
        name: of the other.
        other: the other.
    """
    found = []
    for own_name, own in suite.tasks.items():
        for other_name, asked in other.tasks.items():
            # NeMo Evaluator puts the framework before the name of a task.
            same = own.task.rpartition(".")[2] == asked.task.rpartition(".")[2]
            if not same or suite.include_path != other.include_path:
                continue
            ours, theirs = (declared_documents(task.model_dump()) for task in (own, asked))
            shared = range(max(ours.start, theirs.start), min(ours.stop, theirs.stop))
            if shared:
                end = "its end" if shared.stop == sys.maxsize else str(shared.stop - 1)
                found.append(
                    f"task {own_name}: documents {shared.start} to {end} of {own.task} are asked by suite {name} too "
                    f"(task {other_name}), from which this suite must be disjoint; change offset and limit"
                )
    return found
