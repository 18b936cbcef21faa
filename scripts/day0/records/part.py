"""The data type of part.json: what one shard of an evaluation gave, to be put together with the others."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from day0.records.attempts import EvaluationAttempt
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import FailureClass
from day0.records.record import Artefact
from day0.records.results import Canary, Incident, RunIdentity, ServerFacts, Timing
from day0.records.speed import Speed


class Part(Artefact):
    """part.json: one shard of a run, or the whole of a run that is not split."""

    schema_name: ClassVar[str] = "part"

    identity: RunIdentity
    shard: str | None = Field(description="N-of-M of the documents or the name of a task; null: the whole suite")
    tasks: list[str] = Field(description="that were asked")
    failure: tuple[FailureClass, str] | None = Field(description="class and sentence where the deployment failed")
    outcomes: dict[str, dict[str, Any] | None] = Field(description="by task; see the protocol in day0/suite/harness.py")
    server: ServerFacts | None = Field(description="null: no server was started")
    canary: Canary | None
    incidents: list[Incident]
    timing: Timing
    attempts: list[EvaluationAttempt]
    versions: dict[str, dict[str, str]]
    endpoint_url: str
    early_stop: EarlyStop | None = Field(None, description="null: every question was asked")
    speed: Speed | None = Field(None, description="of the part whose server was measured")
