"""The data type of run.json: whether a run of a suite counts, and its scores."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from day0.records.assessment import Assessment
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import FailureClass
from day0.records.policy import Scale, Tier
from day0.records.record import Count, Number, Record, Sha256


class Finding(Record):
    """Something that is wrong with a run."""

    failure_class: FailureClass = Field(alias="class")
    detail: str


class Protocol(Record):
    """How a task was asked, as far as a published score can be held against it; null is not known."""

    num_fewshot: Count | None = Field(None, description="worked examples before each question")
    prompt: Literal["completion", "chat"] | None = Field(None, description="chat: through the model's chat template")
    whole: bool | None = Field(None, description="every document was asked, none left out by limit or offset")


class Score(Record):
    """The score of a task whose samples are all accounted for."""

    metric: str | None
    score: Number = Field(description="native units")
    stderr: Number | None
    samples: Count
    scale: Scale
    tier: Tier
    protocol: Protocol | None = Field(None, description="null: the run does not say")


class RunAssessment(Assessment):
    """run.json: the assessment of a run."""

    schema_name: ClassVar[str] = "run"

    failure_classes: list[FailureClass] = Field([], description="of all findings, the most severe first")
    scores: dict[str, Score] = Field({}, description="of the tasks with a usable score")
    findings: list[Finding] = Field([], description="the most severe first")
    notes: list[str] = Field([], description="what went wrong on the way and was made good")
    results_digest: str | None = Field(None, description="sha256 of the file that was judged")
    checkpoint_digest: str | None = Field(None, description="of what was evaluated, as the run states it")
    model: str | None = None
    candidate: str | None = None
    suite: str | None = None
    early_stop: EarlyStop | None = Field(None, description="scores are of what was asked before the run was stopped")
    speed_digest: Sha256 | None = Field(None, description="of speed.json, as the run states it; null: none")
    imported: dict[str, Any] | None = Field(None, description="what the import of the run recorded of it")
