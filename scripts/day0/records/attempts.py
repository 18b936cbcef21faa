"""The data type of attempts.json: the attempts of an evaluation, each with how it ended."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from day0.records.record import Artefact, Number, Record, Sha256

AttemptStatus = Literal["RUNNING", "KILLED", "STOPPED", "TIMEOUT", "FAILED", "ANSWERED"]


class EvaluationAttempt(Record):
    """One attempt of an evaluation."""

    started: str = Field(description="ISO 8601")
    status: AttemptStatus = Field(
        description="RUNNING: not ended yet; KILLED: ended without a record; STOPPED: by a signal or a full disk; "
        "TIMEOUT: the job's time was up; FAILED: the deployment failed; ANSWERED: all tasks ended"
    )
    detail: str | None = Field(description="why it ended so")
    seconds: Number | None


class Attempts(Artefact):
    """attempts.json: the attempts of one evaluation."""

    schema_name: ClassVar[str] = "attempts"

    identity: Sha256 = Field(description="of what is evaluated and how; attempts of another identity are forgotten")
    attempts: list[EvaluationAttempt]
