"""Seconds spent in each step of a stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds spent in each named step, shown on the terminal as they begin and end."""

    def __init__(self, stage: str) -> None:
        self.seconds: dict[str, float] = {}
        self._stage, self._start = stage, time.monotonic()

    @contextlib.contextmanager
    def step(self, name: str, sentence: str) -> Iterator[None]:
        """Measure a step."""
        print(f"[{self._stage}] {sentence} ...", flush=True)
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - start, 2)
            print(f"[{self._stage}] {sentence}: {self.seconds[name]:.1f} s", flush=True)

    def total(self) -> dict[str, float]:
        """Seconds by step, and in total."""
        return {**self.seconds, "total": round(time.monotonic() - self._start, 2)}
