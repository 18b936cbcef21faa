"""What a release must hold to: one type from the configuration over the plan and the comparison to the verdict."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from day0.records.record import Record, StrictNumber

Direction = Literal["higher", "lower"]
Tier = Literal["critical", "supporting", "advisory"]
Criterion = Literal["suite", "point", "confident"]
Requirement = Literal["proven"]
# YAML 1.1 reads a bare `off` as false.
EarlyStopping = Annotated[
    Literal["off", "reject", "both"], BeforeValidator(lambda value: "off" if value is False else value)
]
TIERS: tuple[Tier, ...] = ("critical", "supporting", "advisory")  # the stricter first
BLOCKING_TIERS: tuple[Tier, ...] = TIERS[:2]

DEFAULT_THRESHOLD = 0.01
EXPECTED_DISAGREEMENT_RATE = 0.05

LEAST_WIDTH, LARGEST_WIDTH = 1e-100, 1e100  # the squares that the statistics take stay finite and above 0

StrictBool = Annotated[bool, Field(strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)]
Growth = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, strict=True)]
Speedup = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False, strict=True)]
PositiveShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]


class Scale(Record):
    """Range of a task's scores and the better direction; a bare number is the maximum."""

    min: StrictNumber = 0.0
    max: StrictNumber
    direction: Direction = "higher"

    @model_validator(mode="before")
    @classmethod
    def _bare_maximum(cls, value: Any) -> Any:
        return {"max": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _has_a_width(self) -> Self:
        if not LEAST_WIDTH < self.width < LARGEST_WIDTH:
            raise ValueError(
                "expected the maximum as a number above 0, or {min, max, direction} with min below max and direction "
                f"higher or lower; found min {self.min:g} and max {self.max:g}"
            )
        return self

    @property
    def width(self) -> float:
        """Distance of the two ends, native units."""
        return self.max - self.min

    def drop(self, old: float, new: float) -> float:
        """How much worse ``new`` is than ``old``, native units."""
        return old - new if self.direction == "higher" else new - old

    def above_worst(self, score: float) -> float:
        """Distance of a score from the worse end of the scale, native units."""
        return score - self.min if self.direction == "higher" else self.max - score


class Thresholds(Record):
    """Thresholds that take precedence over ``threshold``; a task's over its tier's."""

    tiers: dict[Tier, Fraction] = Field({}, description="tier to threshold")
    tasks: dict[str, Fraction] = Field({}, description="task of the suite to threshold")


class PolicySettings(Record):
    """What a configuration sets of a policy."""

    threshold: Fraction = Field(
        DEFAULT_THRESHOLD, description="largest drop allowed on a blocking task, as a fraction of its scale"
    )
    thresholds: Thresholds = Field(Thresholds(), description="thresholds of single tiers and tasks")
    relative: StrictBool = Field(False, description="the threshold is a fraction of the baseline's score instead")
    require_fingerprints: StrictBool = Field(
        True, description="refuse to compare with an imported run that does not say how it was made"
    )
    max_relative_drop: Fraction | None = Field(
        None,
        description="guard for low scores, besides the threshold: largest drop allowed as a fraction of the baseline's "
        "distance from the worse end of the scale",
    )
    relative_guard_below: PositiveShare | None = Field(
        None, description="the guard holds where the baseline is below this fraction of the scale; null: everywhere"
    )
    max_token_growth: Growth | None = Field(
        None,
        description="guard for verbosity: how many more tokens the candidate may generate over the suite, as a "
        "fraction of the baseline's; 0.2 allows 20 % more",
    )
    min_speedup: Speedup | None = Field(
        None,
        description="guard for speed: how many times the baseline's output tokens per second the candidate's must be "
        "shown to reach under the model's load; 1.2 asks for 20 % more, 1 for no loss",
    )
    tiers: dict[str, Tier] = Field({}, description="task to tier, in place of the suite's; advisory tasks do not block")
    criterion: Criterion = Field(
        "suite",
        description="suite: the mean drop of all tasks must be proven within the limit, and no task may have lost; "
        "point: the scores must be within the limits; confident: the intervals of the paired drops must",
    )
    require: dict[str, Requirement] = Field(
        {}, description="task to proven: by the criterion suite, its own drop must be proven within its limit"
    )
    early_stopping: EarlyStopping = Field(
        "reject",
        description="reject: the candidate's evaluation ends once a task is shown to have lost more than its limit; "
        "both: also once no task can have lost much, which is no release yet; off: every question is asked",
    )
    expected_disagreement_rate: PositiveShare = Field(
        EXPECTED_DISAGREEMENT_RATE,
        description="share of samples that a candidate is expected to score differently; by it a plan says whether "
        "the suite can resolve its thresholds",
    )


class Policy(PolicySettings):
    """What a release is held to, every default filled in."""

    scales: dict[str, Scale] = Field({}, description="task to its scale, in place of the one that the runs declare")
    decisions: Annotated[int, Field(ge=1, strict=True)] = Field(
        1,
        description="decisions that share the chance of accepting a candidate beyond the limit, those of a search; the "
        "criteria suite and confident prove by so much smaller a share of their 5 %",
    )

    @field_validator("relative_guard_below")
    @classmethod
    def _guards_something(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("max_relative_drop") is None:
            raise ValueError("guards nothing without max_relative_drop; give both or none")
        return value

    def tier(self, task: str) -> Tier:
        """Tier of a task: critical where none is named."""
        return self.tiers.get(task, TIERS[0])

    def blocks(self, task: str) -> bool:
        """Whether a drop on the task keeps a release from being accepted."""
        return self.tier(task) in BLOCKING_TIERS

    def threshold_of(self, task: str) -> float:
        """The threshold that holds for a task: its own, else its tier's, else the general one."""
        return self.thresholds.tasks.get(task, self.thresholds.tiers.get(self.tier(task), self.threshold))

    def limit(self, task: str, baseline: float, scale: Scale) -> float:
        """Largest drop allowed by the threshold, native units."""
        return self.threshold_of(task) * (abs(baseline) if self.relative else scale.width)

    def guard_limit(self, baseline: float, scale: Scale) -> float | None:
        """Largest drop allowed by the relative guard, native units; None where it does not hold for this baseline."""
        height = scale.above_worst(baseline)
        if self.max_relative_drop is None or height <= 0:
            return None
        if self.relative_guard_below is not None and height >= self.relative_guard_below * scale.width:
            return None
        return self.max_relative_drop * height

    def reach(self, task: str, baseline: float, scale: Scale) -> float:
        """Largest drop allowed by the threshold and, where it holds, the relative guard; native units."""
        limit, guard = self.limit(task, baseline, scale), self.guard_limit(baseline, scale)
        return limit if guard is None else min(limit, guard)
