"""The data type of a line of samples/TASK.jsonl: one document, asked once, with its answer and score.

The file is written through it, whole. Judges read the lines as they are, since whatever is wrong with one is a finding
about the run and not an unusable file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from day0.base.artefacts import write_text
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.records.record import Record, StrictNumber

TEXT_KEPT = 4000  # characters of a prompt or target; of a longer one the beginning and the end
LEFT_OUT = "\n[…]\n"


def shortened(text: Any) -> Any:
    """A text of at most TEXT_KEPT characters, the middle left out; anything else as it is.

    >>> len(shortened("x" * 10_000)) <= TEXT_KEPT, shortened("2 + 2 ="), shortened(None)
    (True, '2 + 2 =', None)
    """
    if not isinstance(text, str) or len(text) <= TEXT_KEPT:
        return text
    half = (TEXT_KEPT - len(LEFT_OUT)) // 2
    return text[:half] + LEFT_OUT + text[-half:]


ShownText = Annotated[str, BeforeValidator(shortened)]
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
    prompt: ShownText | None = Field(
        None, description="as it was asked, for people to read, with the choices where there are some; of repeat 0"
    )
    target: ShownText | None = Field(None, description="the expected answer, for people to read; of repeat 0")


# What every line holds; the others stand only where they are known.
OPTIONAL_FIELDS = ("group", "prompt", "target")
SAMPLE_FIELDS = tuple(name for name in Sample.model_fields if name not in OPTIONAL_FIELDS)


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
        line |= {name: value for name in OPTIONAL_FIELDS if (value := getattr(sample, name)) is not None}
        lines.append(json.dumps(line, ensure_ascii=False))
    write_text(file, "".join(f"{line}\n" for line in lines))
