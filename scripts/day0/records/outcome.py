"""The data type of a harness's outcome; the protocol is in day0/suite/harness.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from day0.records.record import Count, Record

ErrorKind = Literal["requests", "refused", "rate limit", "judge", "disk", "configuration", "task"]


class RequestCounts(Record):
    """Counts of a task's requests; null where the harness does not know. A harness may add counts of its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    expected: Count | None = None
    asked: Count | None = None
    answered: Count | None = None
    from_store: Count | None = None
    failed: Count | None = None
    retried: Count | None = None
    attempts: dict[str, Count] | None = Field(None, description="by their result")


class Outcome(Record):
    """What a harness wrote of its task; a harness may add keys of its own."""

    model_config = ConfigDict(extra="allow")

    status: Literal["COMPLETED", "STOPPED", "FAILED"]
    error: str | None = None
    error_kind: ErrorKind | None = None
    documents: Annotated[Count, Field(strict=True)] | None = Field(None, description="of the task, before any limit")
    values: list[float | None] | None = Field(None, description="the task's score, one per repeat")
    samples: list[dict[str, Any]] | None = None
    has_samples: bool | None = None
    counted: Annotated[Count, Field(strict=True)] | None = Field(None, description="scored, as the framework says")
    finish_reasons: dict[str, Annotated[Count, Field(strict=True)]] | None = None
    requests: RequestCounts | None = None
    seconds: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.status == "COMPLETED" and not self.values:
            raise ValueError("expected values, the task's score, of a completed task; found none")
        return self
