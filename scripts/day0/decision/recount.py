"""What a task's samples say themselves: one typed pass over samples/TASK.jsonl, and its counts.

The accounts of results.yml are what the maker of a run says of it. Here the same counts are taken from the samples, and
what no account holds: samples that are there twice, repeats that lack a question, texts of errors in place of answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, ValidationError

from day0.base.mistakes import mistakes_of
from day0.records.samples import Sample

MISTAKES_SHOWN = 3


class _ForeignSample(Sample):
    """A line of a samples file that another tool wrote, whose further keys are left out."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


@dataclass(frozen=True)
class SamplesFile:
    """A samples file as it was read.

    Attributes:
        lines: how many there are.
        samples: those that are one, in their order.
        mistakes: sentences on the first lines that are none, with their numbers.
    """

    lines: int
    samples: list[Sample] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def read_samples_file(file: Path, is_own: bool = True) -> SamplesFile:
    """Read a samples file once, each line by its type; a line that is no sample is a mistake and no error.

    Args:
        file: a missing one holds no line.
        is_own: this project wrote it, so that an unknown key is a mistake.
    """
    kind = Sample if is_own else _ForeignSample
    # Not by splitlines(): an answer may hold what Unicode calls a line's end.
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1] if file.is_file() else []
    samples: list[Sample] = []
    mistakes: list[str] = []
    for number, line in enumerate(lines, start=1):
        try:
            samples.append(kind.model_validate_json(line))
        except ValidationError as error:
            if len(mistakes) < MISTAKES_SHOWN:
                mistakes.append("; ".join(mistakes_of(error, Sample, f"line {number}")))
    return SamplesFile(len(lines), samples, mistakes)
