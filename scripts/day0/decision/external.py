"""External sanity: does the baseline reach what others published for the model?

A baseline far from its published score was not set up as the model wants it (prompts, chat template, context length),
and no comparison with it says anything, whatever the candidate did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import AnyHttpUrl, Field, ValidationError, field_validator, model_validator

from day0.base.cli import UnusableInput
from day0.base.mistakes import Range, Strict, mistakes_of
from day0.decision.policy import assumed_scale
from day0.decision.quoting import number, printable
from day0.records.comparison import External, ExternalEntry, PublishedRange
from day0.records.policy import Scale
from day0.suite.score_names import canonical_score

ALLOWED_POINTS = 5.0  # on a scale of 0 to 100
VERIFIED: Final = "verified"
FAILED: Final = "failed"
UNVERIFIED: Final = "unverified"
ROUNDING = 1e-9


class ExternalScale(Range):
    """Range of a published score."""

    max: float = Field(100, allow_inf_nan=False)


class ExternalScore(Strict):
    """One published score of an unquantized model."""

    model: str = Field(min_length=1, description="hub repository id, or the model's name in the configuration")
    task: str = Field(min_length=1, description="the task's name in the suite")
    metric: str = Field(min_length=1, description="the metric that was published, as the suite names it")
    score: float = Field(allow_inf_nan=False, strict=True, description="published score, in its scale")
    scale: ExternalScale = ExternalScale()
    source: AnyHttpUrl = Field(description="address of the publication")
    notes: str = Field(min_length=1, description="protocol: shots, prompts, sampling, harness")

    @field_validator("score", mode="before")
    @classmethod
    def _whole_numbers_too(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _within_its_scale(self) -> ExternalScore:
        if not self.scale.min <= self.score <= self.scale.max:
            raise ValueError(f"score {self.score:g} is outside its scale {self.scale.min:g} to {self.scale.max:g}")
        return self


class ExternalScores(Strict):
    """The file of published scores, config/external_scores.yaml."""

    scores: list[ExternalScore] = Field([], description="an entry for each published score")

    @model_validator(mode="after")
    def _each_once(self) -> ExternalScores:
        seen: set[tuple[str, str, tuple[str, str]]] = set()
        for entry in self.scores:
            key = (entry.model, entry.task, canonical_score(entry.metric))
            if key in seen:
                raise ValueError(
                    f"model {key[0]!r}, task {key[1]!r}, metric {key[2]!r} is listed twice; keep one entry"
                )
            seen.add(key)
        return self

    def of_model(self, *names: str | None) -> list[dict[str, Any]]:
        """The entries of a model by any of its names, as plain data."""
        return [entry.model_dump(mode="json") for entry in self.scores if entry.model in names]


def parse_external_scores(content: Mapping[str, Any], place: str) -> ExternalScores:
    """Check the content of a file of published scores.

    Raises:
        UnusableInput: it holds mistakes; all of them are in the message, each with its place.
    """
    try:
        return ExternalScores.model_validate(content)
    except ValidationError as error:
        raise UnusableInput("\n".join(f"{place}: {line}" for line in mistakes_of(error, ExternalScores))) from None


def check_external(
    entries: Iterable[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]], scales: Mapping[str, Scale]
) -> External:
    """Hold the baseline's scores against the published ones.

    Args:
        entries: published scores of the model, as ``ExternalScores.of_model`` gives them.
        scores: the baseline's task to {score, metric}.
        scales: the scales of the tasks that declare one; both scores are compared as points from 0 to 100 of their
            own scales.

    Returns:
        The entries by task and metric. A failed one makes the whole failed; one verified entry is enough otherwise.
    """
    found = [_check_entry(entry, scores.get(entry["task"]), scales.get(entry["task"])) for entry in entries]
    states = {entry.status for entry in found}
    return External(
        status=FAILED if FAILED in states else VERIFIED if VERIFIED in states else UNVERIFIED,
        entries=sorted(found, key=lambda entry: (entry.task, entry.metric)),
    )


def _check_entry(published: Mapping[str, Any], held: Mapping[str, Any] | None, scale: Scale | None) -> ExternalEntry:
    task, metric, source, notes = (printable(published[key]) for key in ("task", "metric", "source", "notes"))
    low, high = published["scale"]["min"], published["scale"]["max"]
    expected, measured = published["score"], number((held or {}).get("score"))
    measured_by = (held or {}).get("metric")
    entry = ExternalEntry(
        task=task,
        metric=metric,
        score=measured,
        expected=expected,
        difference=None,
        scale=PublishedRange(min=low, max=high),
        source=source,
        notes=notes,
        status=UNVERIFIED,
        sentence=f"{task}: the baseline has no score to hold against the published {expected:g}",
    )
    if measured is None:
        return entry
    if measured_by is not None and canonical_score(str(measured_by)) != canonical_score(metric):
        entry.sentence = printable(
            f"{task}: published by {metric}, measured by {measured_by}; these are not held together"
        )
        return entry
    scale = scale or assumed_scale(measured)
    points, published_points = 100 * (measured - scale.min) / scale.width, 100 * (expected - low) / (high - low)
    difference = points - published_points
    entry.difference = number(difference)
    entry.status = VERIFIED if abs(difference) <= ALLOWED_POINTS + ROUNDING else FAILED
    entry.sentence = (
        f"{task}: the baseline scores {points:.1f} of 100, published are {published_points:.1f} ({source}); "
        f"{abs(difference):.1f} points apart, {'within' if entry.status == VERIFIED else 'beyond'} {ALLOWED_POINTS:g}"
    )
    return entry
