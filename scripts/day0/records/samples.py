"""The data type of a line of samples/TASK.jsonl: one document, asked once, with its answer and score.

The file is written through it, whole. Judges read the lines as they are, since whatever is wrong with one is a finding
about the run and not an unusable file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, ValidationError

from day0.base.artefacts import write_text
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.records.record import Record, StrictNumber

WholeCount = Annotated[int, Field(ge=0, strict=True)]


class Sample(Record):
    """One document, asked once; null where the harness does not know."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    schema_name: ClassVar[str] = "sample"

    id: str = Field(description="of the document, unique within the task")
    repeat: WholeCount = Field(0, description="number of the repeat, from 0")
    prompt_digest: str | None = None
    document_digest: str | None = Field(None, description="of the document as it stands in the data set")
    target_digest: str | None = Field(None, description="of the expected answer")
    answer: str | None = None
    score: StrictNumber | None = Field(None, description="native units; null: the sample was given up")
    finish_reason: str | None = Field(None, description="why the generation ended, such as stop or length")
    tokens: WholeCount | None = Field(None, description="generated tokens")
    group: str | None = Field(None, description="samples of one group (questions on one passage) count as one cluster")


# What every line holds; a group stands only where there is one.
SAMPLE_FIELDS = tuple(name for name in Sample.model_fields if name != "group")


def make_sample(content: Mapping[str, Any], place: str) -> Sample:
    """A sample from what a harness or a framework gave; further keys are left out.

    Raises:
        UnusableInput: a field has another type.
    """
    known = {name: content[name] for name in Sample.model_fields if content.get(name) is not None}
    try:
        return Sample.model_validate(known)
    except ValidationError as error:
        raise UnusableInput("; ".join(mistakes_of(error, Sample, place))) from None


def write_samples(file: Path, samples: Iterable[Sample]) -> None:
    """Write a samples file, whole or not at all."""
    lines = []
    for sample in samples:
        line = {name: getattr(sample, name) for name in SAMPLE_FIELDS}
        lines.append(
            json.dumps(line | ({"group": sample.group} if sample.group is not None else {}), ensure_ascii=False)
        )
    write_text(file, "".join(f"{line}\n" for line in lines))
