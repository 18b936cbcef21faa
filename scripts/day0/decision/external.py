"""External sanity: does the baseline reach what others published for the model?

A baseline far from its published score was not set up as the model wants it (prompts, chat template, context length),
and no comparison with it says anything, whatever the candidate did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AnyHttpUrl, Field, ValidationError, field_validator, model_validator

from day0.base.cli import UnusableInput
from day0.base.mistakes import Range, Strict, mistakes_of
from day0.base.numbers import is_count
from day0.decision.policy import assumed_scale
from day0.decision.quoting import number, printable
from day0.records.comparison import External, ExternalEntry, PublishedRange
from day0.records.policy import Scale
from day0.records.run import Protocol
from day0.suite.score_names import spelling

ALLOWED_POINTS = 5.0  # on a scale of 0 to 100
VERIFIED: Final = "verified"
FAILED: Final = "failed"
UNVERIFIED: Final = "unverified"
ROUNDING = 1e-9


class ExternalScale(Range):
    """Range of a published score."""

    max: float = Field(100, allow_inf_nan=False)


class PublishedProtocol(Strict):
    """How a published score was measured; null where the publication does not say, which fits no run."""

    num_fewshot: Annotated[int, Field(ge=0, strict=True)] | None = Field(
        description="worked examples before each question; null: not said"
    )
    prompt: Literal["completion", "chat"] | None = Field(
        description="chat: through the model's chat template; null: not said"
    )


class ExternalScore(Strict):
    """One published score of an unquantized model."""

    model: str = Field(min_length=1, description="hub repository id, or the model's name in the configuration")
    task: str = Field(min_length=1, description="the task's name in the suite")
    metric: str = Field(min_length=1, description="the metric that was published, as the suite names it")
    score: float = Field(allow_inf_nan=False, strict=True, description="published score, in its scale")
    scale: ExternalScale = ExternalScale()
    protocol: PublishedProtocol | None = Field(
        None, description="null: you vouch that it was measured as the suite asks the task"
    )
    source: AnyHttpUrl = Field(description="address of the publication")
    notes: str = Field(min_length=1, description="what else is known of it: prompts, sampling, harness")

    @field_validator("score", mode="before")
    @classmethod
    def _whole_numbers_too(cls, value: Any) -> Any:
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def key(self) -> tuple[str, str, str]:
        """What is published: model, task and metric, however it is spelled."""
        return self.model, self.task, spelling(self.metric)

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
        seen: set[tuple[str, str, str]] = set()
        for entry in self.scores:
            key = entry.key
            if key in seen:
                raise ValueError(
                    f"model {key[0]!r}, task {key[1]!r}, metric {key[2]!r} is listed twice; keep one entry"
                )
            seen.add(key)
        return self

    def replaced_by(self, own: ExternalScores) -> ExternalScores:
        """These entries and another file's, whose entries take the place of these for what both name."""
        named = {entry.key for entry in own.scores}
        return ExternalScores(scores=[entry for entry in self.scores if entry.key not in named] + own.scores)

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
        scores: the baseline's task to {score, metric, protocol}, as a run's assessment has them.
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


def protocol_of(fingerprint: Any) -> Protocol | None:
    """How a task was asked, from its fingerprint; None where there is none."""
    if not isinstance(fingerprint, Mapping):
        return None
    shots, templated = fingerprint.get("num_fewshot"), fingerprint.get("apply_chat_template")
    cut = [fingerprint.get(key) for key in ("limit", "offset")]
    return Protocol(
        num_fewshot=shots if is_count(shots) else None,
        prompt=("chat" if templated else "completion") if isinstance(templated, bool) else None,
        whole=not any(cut) if "limit" in fingerprint else None,
    )


def _why_unlike(published: Mapping[str, Any], measured: Any) -> str | None:
    """Why a published score says nothing about the measured one, or None where both were asked alike."""
    if not isinstance(measured, Mapping):
        return "the baseline does not say how it was asked"
    for field, what in (("num_fewshot", "worked examples"), ("prompt", "kind of prompt")):
        stated, found = published.get(field), measured.get(field)
        if stated is None:
            return f"the publication does not name its {what}"
        if found is None:
            return f"the baseline does not name its {what}"
        if stated != found:
            return f"{what}: published with {stated}, asked with {found}"
    if measured.get("whole") is not True:
        return "published over every document, asked on some of them"
    return None


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
    if measured_by is not None and spelling(str(measured_by)) != spelling(metric):
        entry.sentence = printable(
            f"{task}: published by {metric}, measured by {measured_by}; these are not held together"
        )
        return entry
    if published.get("protocol") is not None:
        reason = _why_unlike(published["protocol"], (held or {}).get("protocol"))
        if reason:
            entry.sentence = printable(
                f"{task}: {reason}; the published {expected:g} is not held against it ({source})"
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
