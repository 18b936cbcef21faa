"""The data types of comparison.json and verdict.json; their JSON Schemas in config/schemas are made from these.

They describe the artefacts to whoever reads them (a report, a dashboard, another tool); tests hold every artefact that
the project makes against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from day0.records.failure_class import Decision

Evidence = Literal["conclusive", "inconclusive"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Tier = Literal["critical", "supporting", "advisory"]


class Record(BaseModel):
    """Every key is known; those without a default must be there."""

    model_config = ConfigDict(extra="forbid")


class RecordedScale(Record):
    """Range of a task's scores and the better direction."""

    min: Number
    max: Number
    direction: Literal["higher", "lower"]


class RelativeGuard(Record):
    """The relative guard where it holds for a task; both numbers are fractions of the baseline's distance from the
    worse end of the scale."""

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
    detectable_drop: Number | None = Field(description="smallest drop found with a power of 80 %, native units")
    samples_needed: Count | None = Field(description="samples at which the limit is the detectable drop")
    evidence: Evidence
    sentence: str
    flips: Flips | None


class Task(Record):
    """One task of a comparison."""

    baseline: Number | None
    candidate: Number | None
    drop: Number | None = Field(description="native units, positive is worse whatever the scale's direction")
    drop_fraction: Number | None = Field(description="of the scale's width")
    limit: Number | None = Field(description="largest drop that the threshold allows, native units")
    within: bool | None = Field(description="within the limit and the relative guard; null where there is no drop")
    relative_guard: RelativeGuard | None
    scale: RecordedScale | None
    tier: Tier
    note: str | None = Field(description="what is wrong with the task")
    paired: Paired
    metric: Any = None


class TaskWarning(Record):
    """A task whose samples cannot resolve its limit, or whose gain is put down to chance."""

    task: str
    sentence: str


class Range(Record):
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
    scale: Range
    source: str
    notes: str
    status: Literal["verified", "failed", "unverified"]
    sentence: str | None = None


class External(Record):
    """External sanity of the baseline."""

    status: Literal["verified", "failed", "unverified"]
    entries: list[ExternalEntry]


class Difference(Record):
    """A field in which the two runs were made differently."""

    task: str | None
    field: str
    baseline: Any
    candidate: Any


class Untold(Record):
    """A field that an imported run does not tell, so that it could not be compared."""

    task: str | None
    field: str


class Comparability(Record):
    """Whether the two runs were made alike."""

    passed: bool = Field(alias="pass")
    checked: bool
    fields: list[str]
    differences: list[Difference]
    unknown: list[Untold]


class Comparison(Record):
    """comparison.json: the candidate's run against the baseline's."""

    schema_version: Literal[1]
    passed: bool = Field(alias="pass")
    decision: Decision
    failure_class: str | None
    failure_classes: list[str]
    detail: str
    criterion: Literal["point", "confident"]
    threshold: Share
    relative: bool
    warnings: list[TaskWarning]
    tasks: dict[str, Task]
    evidence: Evidence
    evidence_sentence: str
    comparability: Comparability
    baseline_precision: str
    external: External
    next_action: str
    baseline_sha256: Sha256
    candidate_sha256: Sha256


class EvidenceFile(Record):
    """An assessment that the verdict was made from."""

    path: str
    sha256: Sha256


class Verdict(Record):
    """verdict.json: the decision on a release."""

    schema_version: Literal[1]
    release: str
    model: str
    recipe: str
    candidate: str
    suite: str
    policy: dict[str, Any]
    decision: Decision
    passed: bool = Field(alias="pass")
    failure_class: str | None
    failure_classes: list[str]
    stage: str = Field(
        description="the assessment that decided, external_check for the published scores by themselves, or the rule "
        "that crashed"
    )
    detail: str
    next_action: str
    evidence_strength: Evidence | None
    evidence_sentence: str | None
    warnings: list[TaskWarning]
    external: External | None
    baseline_precision: str | None
    size_ratio: Number | None
    bits_per_weight: Number | None
    tasks: dict[str, Task]
    evidence: dict[str, EvidenceFile]
    digests: dict[str, str | None]
    versions: dict[str, dict[str, str | None]] = Field(description="packages of each environment")
    durations: dict[str, Number] = Field(description="seconds of each stage, PLACE/STAGE, from its benchmark file")
    gpu: str | None
    mlflow: dict[str, Any] | None = Field(None, description="the runs that the evidence was logged as")
    git_commit: str | None
    created: str | None
