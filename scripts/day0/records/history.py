"""The data type of a line of history.jsonl: one decision on a release, and the file of all of them in their order.

The file lies beside verdict.json and is only ever added to: it is no output of a rule, so that Snakemake neither
removes it before a decision is made again nor makes anything anew because of it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationError

from day0.base.artefacts import digest_of_file
from day0.records.failure_class import Decision, FailureClass
from day0.records.record import Number, Record, Sha256
from day0.records.verdict import Verdict

HISTORY = "history.jsonl"


class PastDecision(Record):
    """One decision on a release, as it was made."""

    schema_name: ClassVar[str] = "history"

    created: str | None = Field(description="time in UTC, ISO 8601")
    decision: Decision
    failure_class: FailureClass | None
    detail: str
    recipe: str
    suite: str
    size_ratio: Number | None
    checkpoint_digest: str | None
    git_commit: str | None
    verdict_sha256: Sha256 = Field(description="of verdict.json, which the next decision replaces")


def past_decision(verdict: Verdict, sha256: str) -> PastDecision:
    """A verdict as its line in the history."""
    same = {name: getattr(verdict, name) for name in PastDecision.model_fields if name in Verdict.model_fields}
    checkpoint = verdict.digests.get("checkpoint_digest")
    return PastDecision(**same, checkpoint_digest=checkpoint, verdict_sha256=sha256)


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Write verdict.json, and add the decision to the history beside it."""
    verdict.write(path)
    entry = past_decision(verdict, digest_of_file(path))
    line = json.dumps(entry.as_plain(), ensure_ascii=False).encode() + b"\n"
    history = path.with_name(HISTORY)
    with open(history, "ab+") as stream:
        if stream.tell() > 0:  # after a write that a kill or a full disk cut short, a new line begins
            stream.seek(-1, os.SEEK_END)
            line = (b"" if stream.read(1) == b"\n" else b"\n") + line
        stream.write(line)


def read_history(path: Path) -> list[PastDecision]:
    """The decisions beside verdict.json, the last one last; lines cut short or of another version are left out."""
    found = []
    history = path.with_name(HISTORY)
    for line in history.read_bytes().splitlines() if history.is_file() else ():
        try:
            found.append(PastDecision.model_validate_json(line))
        except ValidationError:
            continue
    return found
