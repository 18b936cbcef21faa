"""What every assessment has in common, so that a gate or the graph can read any of them."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from day0.records.failure_class import Decision, FailureClass
from day0.records.record import Artefact, Sha256


def check_agreement(passed: bool, failure_class: FailureClass | None, decision: Decision | None = None) -> None:
    """Refuse what says two things: that it passed and by what it failed, or a decision that its ``pass`` denies.

    Raises:
        ValueError: with both.
    """
    if passed and failure_class is not None:
        raise ValueError(f"pass is true, yet failure_class is {failure_class}; expected null where it passed")
    if decision is not None and passed != (decision is Decision.ACCEPT):
        raise ValueError(f"pass is {str(passed).lower()}, yet the decision is {decision}; only ACCEPT passes")


class Assessment(Artefact):
    """An assessment: whether it passed and, where it did not, why."""

    schema_name: ClassVar[str] = "assessment"

    passed: bool = Field(alias="pass")
    failure_class: FailureClass | None
    detail: str
    definition_digest: Sha256 | None = Field(
        None, description="of what was assessed; a failure recorded for another definition counts as unknown"
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        check_agreement(self.passed, self.failure_class)
        return self


class AnyAssessment(Assessment):
    """An assessment of whichever kind: what its own type adds is left out."""

    model_config = ConfigDict(extra="ignore")

    decision: Decision | None = None
    next_action: str | None = None

    @model_validator(mode="after")
    def _decides_one_thing(self) -> Self:
        check_agreement(self.passed, self.failure_class, self.decision)
        return self
