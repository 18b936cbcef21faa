"""How far a run is: jobs counted, time left by what jobs of the same rules took, progress in the jobs' own logs."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

TAIL_BYTES = 8192
SHORT = 5.0  # seconds; a rule of which nothing is known is taken for one that takes less
# A line of a log that says how far its stage is: answers of tasks, steps of a training, tqdm's bars.
FAR = re.compile(r"\d+/(\d+|\?)|\bstep \d+\b|\b\d+(\.\d+)? ?s left\b")
TQDM = re.compile(r"(\d+)/(\d+) \[[\d:]+<([\d:?]+)")
LEFT = re.compile(r"\b(\d+(?:\.\d+)?) ?s left\b")
STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\] ")
TELLING = re.compile(r"^(error: |\[\w+\] [A-Z_]+: |([\w.]+\.)?\w*(Error|Exception|Interrupt)\b)")
# Sequences and characters that a terminal takes for commands, or that turn the direction of what follows.
OBEYED = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)|[^\t\n -~\xa0-\u2027\u202f-\u2065\u206a-\U0010ffff]"
)
NEXT = ("next: ", "note: ")


def span(seconds: float) -> str:
    """A time in words: 34 s, 4 min 10 s, 2 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def about(seconds: float) -> str:
    """A guessed time in words, no more exact than guesses are."""
    unit = 60 if seconds >= 120 else 10
    return span(max(unit, round(seconds / unit) * unit))


def read_tail(path: str | None) -> str:
    """The last bytes of a log as text, or nothing where it cannot be read."""
    try:
        with open(Path(path or ""), "rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def shown(text: str) -> str:
    """A text without what a terminal would obey: logs quote what a model or another program wrote."""
    return OBEYED.sub("", text)


def last_words(text: str) -> str | None:
    """The line of a log that says why its job failed: the last one that names an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(NEXT)]
    return next((line for line in reversed(lines) if TELLING.match(line)), lines[-1] if lines else None)


class Progress:
    """What is done of a run and what is known of the rest."""

    def __init__(self) -> None:
        self.done = self.total = 0
        self._planned: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._took: dict[str, list[float]] = defaultdict(list)
        self._expected: dict[str, float] = {}

    def plan(self, jobs_by_rule: Mapping[str, int]) -> None:
        """Take up how many jobs of each rule are to run."""
        self._planned = Counter(dict(jobs_by_rule))
        self.total = sum(self._planned.values())

    def expect(self, seconds_by_rule: Mapping[str, float]) -> None:
        """Take up what a job of each rule took in earlier runs, or is estimated to take."""
        self._expected.update(seconds_by_rule)

    def count(self, done: int, total: int) -> None:
        """Take up Snakemake's count; the total grows where a checkpoint adds jobs."""
        self.done, self.total = done, total

    def measured(self, rule: str, seconds: float) -> None:
        """Take up how long a job took."""
        self._took[rule].append(seconds)
        self._ended[rule] += 1

    def seconds_of(self, rule: str) -> float | None:
        """What a job of the rule takes: as measured in this run, else as expected; None where nothing is known."""
        return statistics.fmean(self._took[rule]) if self._took.get(rule) else self._expected.get(rule)

    def left(self, running: Iterable[tuple[str, float, float | None]]) -> float | None:
        """Seconds of work that are left, of jobs that run one after another; None where too little is known.

        Args:
            running: rule of each running job, for how many seconds it has run, and how many it says to have left. What
                it says counts before what was expected, also for the jobs of its rule that are to come.
        """
        jobs = list(running)
        started = self._ended + Counter(rule for rule, *_ in jobs)
        slower: dict[str, float] = {}
        seconds = longest = 0.0
        for rule, spent, said in jobs:
            if said is not None:
                seconds, longest = seconds + said, max(longest, said)
                slower[rule] = max(slower.get(rule, 0.0), spent + said)
            elif (one := self.seconds_of(rule)) is not None:
                seconds += max(0.0, one - spent)
            elif spent > SHORT:
                return None
        for rule, count in (self._planned - started).items():
            one = self.seconds_of(rule)
            if one is None and rule not in slower and not self._expected:
                return None
            seconds += count * max(SHORT if one is None else one, slower.get(rule, 0.0))
        return max(seconds / max(1, len(jobs)), longest) if seconds else None

    @staticmethod
    def said_left(text: str) -> float | None:
        """Seconds that a stage says to have left, by the last line of its log that has a count or a time; else None.

        Of several tasks that are asked side by side the longest counts.
        """
        for line in reversed(re.split(r"[\r\n]+", text)):
            if bar := TQDM.search(line):
                parts = bar[3].split(":")
                return None if "?" in bar[3] else float(sum(int(n) * 60**i for i, n in enumerate(reversed(parts))))
            if FAR.search(line):
                return max(map(float, LEFT.findall(line)), default=None)
        return None

    @staticmethod
    def of_log(text: str) -> str:
        """How far a stage says that it is: the last line of its log with a count or a time left, or nothing."""
        for line in reversed(re.split(r"[\r\n]+", text)):
            if bar := TQDM.search(line):
                return f"{bar[1]} of {bar[2]} steps" + ("" if "?" in bar[3] else f", {bar[3]} left")
            if FAR.search(line):
                return STAMP.sub("", line.strip())
        return ""
