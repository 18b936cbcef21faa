"""The data type of verdict.json: the decision on a release, with its evidence and the next action."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from day0.records.assessment import check_agreement
from day0.records.comparison import CriterionResult, Evidence, External, SuiteEvidence, Task, TaskWarning, Tokens
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Criterion, Policy
from day0.records.record import Artefact, Number, Record, Sha256
from day0.records.speed import SpeedComparison
from day0.records.tracking import Tracking


class EvidenceFile(Record):
    """An assessment that the verdict was made from."""

    path: str
    sha256: Sha256


class Verdict(Artefact):
    """verdict.json: the decision on a release."""

    schema_name: ClassVar[str] = "verdict"

    release: str
    model: str
    recipe: str
    candidate: str
    suite: str
    policy: Policy
    decision: Decision
    passed: bool = Field(alias="pass")
    failure_class: FailureClass | None
    failure_classes: list[FailureClass]
    stage: str = Field(
        description="the assessment that decided, external_check for the published scores by themselves, or the rule "
        "that crashed"
    )
    detail: str
    next_action: str
    criterion: Criterion | None = Field(None, description="the one that decided; null where no comparison did")
    criteria: dict[Criterion, CriterionResult] = Field({}, description="what each criterion decides")
    suite_evidence: SuiteEvidence | None = None
    evidence_strength: Evidence | None
    evidence_sentence: str | None
    warnings: list[TaskWarning]
    external: External | None
    baseline_precision: str | None
    size_ratio: Number | None
    bits_per_weight: Number | None
    tasks: dict[str, Task]
    tokens: Tokens | None = Field(None, description="per answer, over all tasks that generate; null: not compared")
    speed: SpeedComparison | None = Field(None, description="of both servers under one load; null: none was asked for")
    evidence: dict[str, EvidenceFile]
    digests: dict[str, str | None]
    versions: dict[str, dict[str, str | None]] = Field({}, description="packages of each environment")
    durations: dict[str, Number] = Field({}, description="seconds of each stage, PLACE/STAGE, from its benchmark file")
    gpu: str | None = None
    mlflow: Tracking | None = Field(None, description="the run that the evidence was logged as")
    git_commit: str | None = None
    created: str | None = None

    @model_validator(mode="after")
    def _decides_one_thing(self) -> Self:
        check_agreement(self.passed, self.failure_class, self.decision)
        return self
