"""What every assessment has in common, so that a gate or the graph can read any of them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict, Field

from day0.records.failure_class import Decision, FailureClass
from day0.records.record import Artefact, Sha256


class Assessment(Artefact):
    """An assessment: whether it passed and, where it did not, why."""

    schema_name: ClassVar[str] = "assessment"

    passed: bool = Field(alias="pass")
    failure_class: FailureClass | None
    detail: str
    definition_digest: Sha256 | None = Field(
        None, description="of what was assessed; a failure recorded for another definition counts as unknown"
    )


class AnyAssessment(Assessment):
    """An assessment of whichever kind: what its own type adds is left out."""

    model_config = ConfigDict(extra="ignore")

    decision: Decision | None = None
    next_action: str | None = None
