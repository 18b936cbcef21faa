"""The data type of a harness's outcome; the protocol is in day0/suite/harness.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from day0.records.record import Count, Record

ErrorKind = Literal["requests", "refused", "rate limit", "judge", "disk", "configuration", "task"]


class Outcome(Record):
    """What a harness wrote of its task; a harness may add keys of its own."""

    model_config = ConfigDict(extra="allow")

    status: Literal["COMPLETED", "FAILED"]
    error: str | None = None
    error_kind: ErrorKind | None = None
    documents: Count | None = Field(None, description="of the task, before any limit")
    values: list[float | None] | None = Field(None, description="the task's score, one per repeat")
    samples: list[dict[str, Any]] | None = None
    has_samples: bool | None = None
    requests: dict[str, Any] | None = None
    seconds: float | None = None
