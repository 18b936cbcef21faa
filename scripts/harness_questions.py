"""The questions of a task in the one random order in which every run asks them, and which of them are answered.

A look at scores while a task is asked needs questions in a random order. Answers arrive by their length: what is
reported is therefore always the first so many questions of the order, never those that happened to be quick.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence


def place_of(seed: str, question: str) -> str:
    """What questions are sorted by: the same for all runs that share the seed, so that no file needs to be shared."""
    return hashlib.sha256(f"{seed} {question}".encode()).hexdigest()


class Questions:
    """The questions of a task.

    Args:
        ids: of the question that each prompt belongs to.
        seed: of the order.
        repeats: times that each prompt is asked.
    """

    def __init__(self, ids: Sequence[str], seed: str, repeats: int) -> None:
        self.items: dict[str, list[int]] = {}
        for number, name in enumerate(ids):
            self.items.setdefault(name, []).append(number)
        self._ids = ids
        self._names = sorted(self.items, key=lambda name: place_of(seed, name))
        self._missing = Counter({name: len(numbers) * repeats for name, numbers in self.items.items()})
        self._complete = 0

    @property
    def order(self) -> list[int]:
        """Numbers of the prompts in the order in which they are asked."""
        return [number for name in self._names for number in self.items[name]]

    @property
    def complete(self) -> list[str]:
        """The first questions of the order, as many as have all their answers."""
        return self._names[: self._complete]

    @property
    def all_complete(self) -> bool:
        """Whether every question has all its answers."""
        return self._complete == len(self._names)

    def take(self, numbers: Iterable[int]) -> list[str]:
        """Take note of prompts that were answered once; returns the questions that ``complete`` gained by it."""
        for number in numbers:
            self._missing[self._ids[number]] -= 1
        first = self._complete
        while self._complete < len(self._names) and self._missing[self._names[self._complete]] <= 0:
            self._complete += 1
        return self._names[first : self._complete]
