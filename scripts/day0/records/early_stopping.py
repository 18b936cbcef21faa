"""The data types of an evaluation that may be stopped early: the rules, and what a run that was stopped records."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from day0.records.policy import EarlyStopping, Policy
from day0.records.record import Artefact, Count, Number, Record, Sha256

End = Literal["rejected", "accepted"]


class StoppingRules(Artefact):
    """early_stopping.json: how the candidate's evaluation may end before every question is asked."""

    schema_name: ClassVar[str] = "early_stopping"

    mode: EarlyStopping = Field(description="the most cautious of the releases that share the run: off, reject, both")
    policies: list[Policy] = Field(
        description="of these releases: a loss is one that all of them call a loss, an acceptance holds for all of them"
    )


class TaskEvidence(Record):
    """What the questions of a task said when it was last looked at; drop and limit in widths of its scale."""

    questions: Count = Field(description="that both runs were asked, with all their repeats")
    drop: Number = Field(description="mean over these questions, positive is worse")
    limit: Number = Field(description="largest of those that the releases allow")
    evidence: Number = Field(description="e-value against 'no loss'; 1 before any question")
    evidence_of_size: Number = Field(description="e-value against 'a loss of at most half the limit' (confident: all)")
    needed: Number = Field(description="evidence at which the task is rejected")
    evidence_of_acceptance: Number | None = Field(
        None, description="e-value against 'a loss of at least two limits', where acceptances are looked for"
    )


class EarlyStop(Record):
    """Why a run was stopped before every question was asked."""

    end: End = Field(description="rejected: a task has lost more than its limit; accepted: no task can have lost much")
    tasks_decided: list[str] = Field(description="the tasks whose evidence sufficed")
    mode: EarlyStopping
    baseline_digest: Sha256 = Field(description="of the results.yml whose samples were looked at")
    tasks: dict[str, TaskEvidence] = Field(description="of every task that was looked at")
    unwatched: dict[str, str] = Field({}, description="task that could not be looked at, and why")
