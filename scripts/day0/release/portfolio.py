"""Which candidates of a model are worth having: no other is smaller and at least as good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A decided release by size, as a fraction of the source's, and mean score, as a fraction of its scale."""

    release: str
    decision: str
    size_ratio: float
    score: float


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that no other beats, smallest first: any smaller one has a lower score."""
    front: list[Candidate] = []
    for point in sorted(candidates, key=lambda point: (point.size_ratio, -point.score, point.release)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front
