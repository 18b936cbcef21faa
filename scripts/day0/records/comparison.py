"""The data types of comparison.json: of two runs, and of two mappings of plain scores."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from day0.records.assessment import check_agreement
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Criterion, Scale, Tier
from day0.records.record import Artefact, Count, Number, Record, Sha256, Share
from day0.records.speed import SpeedComparison

Evidence = Literal["conclusive", "inconclusive"]
Plain = str | int | float | bool | None


class RelativeGuard(Record):
    """The relative guard where it holds for a task.

    Both numbers are fractions of the baseline's distance from the worse end of the scale.
    """

    relative_drop: Number | None
    limit: Share
    within: bool


class Flip(Record):
    """A sample that only one of the two checkpoints has right."""

    id: str
    repeat: int | str
    baseline: str | None
    candidate: str | None


class Flips(Record):
    """The first samples that were lost and won."""

    lost: list[Flip]
    won: list[Flip]


class Paired(Record):
    """What the samples of both checkpoints say about the drop; numbers are absent where nothing is paired."""

    samples: Count | None
    clusters: Count | None = Field(description="samples, or questions that are repeated, or groups of them")
    questions: Count | None = Field(None, description="different ones among the samples")
    wins: Count | None
    losses: Count | None
    ties: Count | None
    disagreement_rate: Share | None
    mcnemar_p: Share | None = Field(description="exact, two-sided; null where samples are repeated or grouped")
    mcnemar_p_holm: Share | None = Field(description="the same, corrected for the number of tasks")
    drop: Number | None = Field(description="mean of the paired differences, native units, positive is worse")
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)] | None
    confidence: Share | None
    regression_p: Share | None = Field(description="one-sided, of a drop beyond the limit")
    error: Number | None = Field(None, description="standard error of the drop, native units")
    error_from: Literal["questions", "repeats"] | None = Field(
        None,
        description="questions: these are a sample of their kind; repeats: these questions, with sampling the only "
        "chance, where each was asked 4 times or more",
    )
    largest_drop: Number | None = Field(None, description="one-sided upper bound at the confidence, native units")
    loss_p: Share | None = Field(None, description="one-sided, of such a drop where nothing was lost")
    detectable_drop: Number | None = Field(
        description="smallest loss that these samples show with a power of 80 %, native units"
    )
    samples_needed: Count | None = Field(description="samples at which the limit is the detectable drop")
    questions_needed: Count | None = Field(None, description="questions (or groups of them) for that, asked as often")
    repeats_needed: Count | None = Field(None, description="repeats of the same questions for that")
    evidence: Evidence
    sentence: str
    flips: Flips | None


class OneSided(Record):
    """Answers of one kind that both sides, or only one of them, gave to the same samples."""

    kind: Literal["cut", "empty", "degenerate", "control tokens"] = Field(
        description="ended at the largest length; without text; one part over and over; with control tokens as text"
    )
    baseline: Count = Field(description="all of the baseline's")
    candidate: Count = Field(description="all of the candidate's")
    baseline_only: Count
    candidate_only: Count
    p: Share = Field(description="exact, two-sided sign test over questions")


class Tokens(Record):
    """Generated tokens per answer of both sides; null: not known."""

    baseline: Number | None = Field(description="mean")
    candidate: Number | None = Field(description="mean")
    ratio: Number | None = Field(description="the candidate's mean over the baseline's")
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = Field(description="of the ratio")
    answers: Count = Field(description="that both sides know the tokens of")
    unknown: Count = Field(description="answers of which a side does not")
    sentence: str


class Task(Record):
    """One task of a comparison."""

    baseline: Number | None
    candidate: Number | None
    drop: Number | None = Field(description="native units, positive is worse whatever the scale's direction")
    drop_fraction: Number | None = Field(description="of the scale's width")
    limit: Number | None = Field(description="largest drop that the threshold allows, native units")
    within: bool | None = Field(description="within the limit and the relative guard; null where there is no drop")
    relative_guard: RelativeGuard | None
    scale: Scale | None
    tier: Tier
    note: str | None = Field(description="what is wrong with the task")
    paired: Paired
    metric: str | None = None
    answers: list[OneSided] = Field([], description="kinds that a side has any of")
    tokens: Tokens | None = Field(None, description="null: the task generates nothing, or is not paired")


class TaskWarning(Record):
    """A task whose samples cannot resolve its limit, or whose gain is put down to chance."""

    task: str
    sentence: str


class PublishedRange(Record):
    """Range of a published score."""

    min: Number
    max: Number


class ExternalEntry(Record):
    """The baseline's score beside a published one."""

    task: str
    metric: str
    score: Number | None = Field(description="the baseline's, native units")
    expected: Number = Field(description="published, in its scale")
    difference: Number | None = Field(description="baseline less published, in points from 0 to 100")
    scale: PublishedRange
    source: str
    notes: str
    status: Literal["verified", "failed", "unverified"]
    sentence: str


class External(Record):
    """External sanity of the baseline: failed where one entry is, else verified where one entry is."""

    status: Literal["verified", "failed", "unverified"]
    entries: list[ExternalEntry]


class Difference(Record):
    """A field in which the two runs were made differently."""

    task: str | None
    field: str
    baseline: Plain
    candidate: Plain


class UnknownField(Record):
    """A field that an imported run does not state, so that it could not be compared."""

    task: str | None
    field: str


class Comparability(Record):
    """Whether the two runs were made alike."""

    passed: bool = Field(alias="pass")
    checked: bool
    fields: list[str]
    differences: list[Difference]
    unknown: list[UnknownField]


class CriterionResult(Record):
    """What a criterion decides; ANOMALOUS: the samples do not decide."""

    decision: Decision
    sentence: str


class MeanDrop(Record):
    """A mean of the blocking tasks' drops, as fractions of their scales."""

    drop: Number
    error: Number = Field(description="standard error")
    largest: Number = Field(description="one-sided upper bound (95 %, of a search's finalists more)")
    limit: Number = Field(description="the same mean of the tasks' limits")


class Cure(Record):
    """What to ask of a task so that a lossless candidate is accepted with a probability of 80 %."""

    task: str
    setting: Literal["repeats", "limit", "questions"] = Field(
        description="of the suite's task; questions: all that it has were asked, and a repeat gives the same answer"
    )
    now: Count
    needed: Count


class SuiteEvidence(Record):
    """The evidence of all blocking tasks together, which the criterion suite reads."""

    plain: MeanDrop = Field(description="every task counts alike")
    weighted: MeanDrop = Field(description="tasks count by their precision; holds where no_loss_p is above 0.05")
    proven_by: Literal["plain", "weighted"] | None = Field(description="the mean that is proven within the limit")
    no_loss_p: Share = Field(description="p of drops so large, over all tasks, where none lost anything")
    likely_drops: dict[str, Number] = Field(
        description="task to the part of its drop that is no chance, given those of all; fractions of the scale"
    )
    cures: list[Cure] = Field([], description="what to ask where the samples do not decide")


class ScoreComparison(Artefact):
    """The candidate's scores against the baseline's."""

    schema_name: ClassVar[str] = "score_comparison"

    passed: bool = Field(alias="pass")
    decision: Decision
    failure_class: FailureClass | None
    failure_classes: list[FailureClass]
    detail: str
    criterion: Criterion = Field(description="the one that decided: point where the scores have no samples")
    criteria: dict[Criterion, CriterionResult] = Field(
        {}, description="what each criterion decides; empty where something else decided"
    )
    suite_evidence: SuiteEvidence | None = None
    threshold: Share
    relative: bool
    warnings: list[TaskWarning]
    tasks: dict[str, Task]
    baseline_sha256: Sha256 | None = Field(None, description="of the file that was compared")
    candidate_sha256: Sha256 | None = Field(None, description="of the file that was compared")

    @model_validator(mode="after")
    def _decides_one_thing(self) -> Self:
        check_agreement(self.passed, self.failure_class, self.decision)
        return self


class Comparison(ScoreComparison):
    """comparison.json: the candidate's run against the baseline's."""

    schema_name: ClassVar[str] = "comparison"

    evidence: Evidence
    evidence_sentence: str
    comparability: Comparability
    baseline_precision: str
    external: External
    next_action: str
    tokens: Tokens | None = Field(None, description="over all tasks that generate")
    early_stop: EarlyStop | None = Field(None, description="of the candidate; unasked tasks are absent")
    speed: SpeedComparison | None = Field(None, description="null: no side was put under load")
