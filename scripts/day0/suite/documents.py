"""Which documents of its data set a task asks: ``limit`` of them from ``offset`` on, numbered as in the whole set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def asked_documents(task: Mapping[str, Any], documents: int) -> range:
    """Numbers of the documents that are asked, of so many that there are.

    >>> asked_documents({"offset": 2, "limit": 3}, 10), asked_documents({"offset": 8, "limit": 3}, 10)
    (range(2, 5), range(8, 10))
    """
    start = min(task.get("offset") or 0, documents)
    return range(start, min(documents, start + (task.get("limit") or documents)))


def count_asked(task: Mapping[str, Any], documents: int | None) -> int | None:
    """How many documents are asked, of so many that there are; None where that is not known."""
    return None if documents is None else len(asked_documents(task, documents))


def declared_documents(task: Mapping[str, Any]) -> range:
    """Numbers of the documents that are asked as far as the suite says: up to ``sys.maxsize`` where it says no end."""
    return asked_documents(task, task.get("samples") or sys.maxsize)
