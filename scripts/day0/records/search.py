"""The data types of a recipe search: its candidates, what was found of each, its rungs, and how it ended.

``rung-K.json`` says which candidates are asked next and why; ``search.json`` says which one won, or why none did.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from day0.records.assessment import Assessment
from day0.records.early_stopping import End
from day0.records.failure_class import Decision, FailureClass
from day0.records.record import Artefact, Count, Number, Record, Sha256, Share

Objective = Literal["size", "bits_per_weight", "active_bytes", "throughput"]
Kind = Literal["screen", "final"]

AtLeastOne = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Frozen(Record):
    """A part that can be a member of a set."""

    model_config = ConfigDict(frozen=True)


class Costs(Frozen):
    """What a candidate costs by each objective, as a fraction of what the source costs; lower is better."""

    size: NotNegative = Field(description="bytes of the weights")
    bits_per_weight: NotNegative = Field(description="mean stored bits of a weight, with its scales; not a fraction")
    active_bytes: NotNegative = Field(
        description="bytes that a token reads: experts by the share that is routed to, one row of the embedding"
    )
    throughput: NotNegative = Field(
        description="proxy: parameters that a token reads, each by the larger of its weight's and activation's bits"
    )


class Candidate(Frozen):
    """A recipe that a search may choose, known before anything is quantized."""

    name: str = Field(description="name of the candidate's folder")
    cost: NotNegative = Field(description="by the search's objective")
    problem: str | None = Field(
        None,
        description="why the recipe cannot be made for this model, so that it is never asked; costs are the source's",
    )
    saves: bool = Field(True, description="whether it costs less than the source by that objective")
    costs: Costs
    risk: NotNegative = Field(description="expected loss of accuracy, in a unit of its own: only its order is used")
    group: str = Field("", description="candidates that fail alike where the engine does not take one of them")


class MeanLoss(Frozen):
    """Mean drop of the blocking tasks, as fractions of their scales, with its interval (95 %, two-sided)."""

    drop: Number
    low: Number
    high: Number
    limit: Number = Field(description="the same mean of the tasks' limits")


class Outcome(Frozen):
    """What a suite showed of a candidate."""

    name: str
    kind: Kind = Field(description="screen: by the screening suite; final: by the deciding one")
    decision: Decision
    failure_class: FailureClass | None = None
    of_baseline: bool = Field(False, description="the baseline or the model failed, whatever the recipe")
    worst_drop: Number | None = Field(
        None, description="largest drop of a blocking task in units of its limit, so that 1 is the limit"
    )
    regressed: tuple[str, ...] = Field((), description="blocking tasks beyond their limit, the worst first")
    conclusive: bool = Field(False, description="a loss that the samples prove; only such a one excludes others")
    early_end: End | None = Field(None, description="of an evaluation that was stopped before every question was asked")
    samples_asked: Count = Field(0, description="of the candidate; the baseline's are counted once for the search")
    score: Number | None = Field(None, description="mean over the blocking tasks, as a fraction of their scales")
    loss: MeanLoss | None = None
    size_ratio: Number | None = Field(None, description="measured, of the checkpoint")
    speed_ratio: Number | None = Field(None, description="of output tokens per second; null: not measured")
    speed_is_native: bool | None = Field(None, description="the ratio is of the format served natively, not emulated")
    detail: str = ""


class Budget(Frozen):
    """What a search may spend."""

    candidates: AtLeastOne = Field(8, description="recipes that may be quantized")
    decisions: AtLeastOne = Field(3, description="finalists that the deciding suite may be asked about")
    parallel: AtLeastOne = Field(2, description="candidates of a rung after the first")
    rungs: AtLeastOne = 5
    screened: bool = Field(True, description="a screening suite chooses the finalists; false: every one is decided on")


class Asked(Frozen):
    """A candidate of a rung, what it is asked, and why it is this one's turn."""

    name: str
    kind: Kind
    reason: str


class Excluded(Frozen):
    """A candidate that is not asked, and why."""

    name: str
    reason: str


class RequestedMove(Record):
    """A candidate of a search as the plan hands it on: the name of its folder, its recipe, and its group."""

    name: str
    definition: dict[str, Any] = Field(description="the recipe's, of the weights alone")
    group: str = ""


class SearchRequest(Record):
    """A search as the plan hands it on: what may be asked, and how much."""

    name: str
    objective: Objective
    budget: Budget
    moves: list[RequestedMove]
    definition_digest: Sha256 = Field(description="of all that defines the search, limits and suites among it")


class Rung(Artefact):
    """rung-K.json: which candidates are asked next. Where none is, the search has ended."""

    schema_name: ClassVar[str] = "rung"

    rung: Count
    asked: list[Asked]
    reason: str = Field(description="of the rung, or why it asks nobody")
    excluded: list[Excluded] = Field(description="candidates that were never asked and are not now, with the reason")
    evidence: Sha256 = Field(description="of the candidates, the budget and the outcomes that the rung was made from")
    definition_digest: Sha256 | None = Field(
        None, description="of the search that it is a rung of; one of another definition counts as unknown"
    )

    @property
    def is_end(self) -> bool:
        """Whether there is nothing left to ask."""
        return not self.asked


class Alpha(Record):
    """The chance of accepting a candidate beyond the limit, split over the finalists."""

    total: Share
    each: Share
    spent: Share


class Asking(Record):
    """Samples that a search asked, those of the baseline among them."""

    screening: Count
    deciding: Count
    full: Count = Field(description="twice the deciding suite for each candidate of the space, as it would be alone")

    @property
    def share(self) -> float | None:
        """What was asked, as a fraction of the full evaluations."""
        return (self.screening + self.deciding) / self.full if self.full else None


class Search(Assessment):
    """search.json: how a search ended; it passed where there is a winner."""

    schema_name: ClassVar[str] = "search"

    objective: Objective
    winner: str | None = Field(description="the cheapest candidate that the deciding suite accepted")
    decision: Decision
    nearest: str | None = Field(description="without a winner, the candidate that came nearest to its limits")
    budget: Budget
    candidates: list[Candidate]
    rungs: list[Rung]
    outcomes: list[Outcome]
    not_tried: list[Excluded]
    alpha: Alpha
    samples: Asking

    @model_validator(mode="after")
    def _winner_is_accepted(self) -> Self:
        accepted = any(
            (one.name, one.kind, one.decision) == (self.winner, "final", Decision.ACCEPT) for one in self.outcomes
        )
        if self.winner is not None and not accepted:
            raise ValueError(f"winner: the deciding suite did not accept {self.winner!r}")
        if self.passed != (self.winner is not None):
            raise ValueError(f"pass: found {self.passed}; a search passed where it has a winner")
        if (self.winner is not None) != (self.decision is Decision.ACCEPT) or (
            (self.winner is None) != (self.failure_class is not None)
        ):
            raise ValueError("decision: ACCEPT has a winner, every other decision has a failure class and no winner")
        return self
