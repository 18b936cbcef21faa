"""What a release must hold to, read from a plain mapping: thresholds, tiers, scales, guards and the criterion.

Reading never raises: what is wrong becomes a problem of class USER_CONFIG_ERROR, and a comparison with a problem is
never an ACCEPT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from day0.base.numbers import is_number
from day0.records.failure_class import FailureClass
from day0.statistics.resolution import EXPECTED_DISAGREEMENT_RATE

DEFAULT_THRESHOLD = 0.01
HIGHER, LOWER = "higher", "lower"
BLOCKING_TIERS = ("critical", "supporting")
TIERS = (*BLOCKING_TIERS, "advisory")
POINT, CONFIDENT = "point", "confident"
CRITERIA = (POINT, CONFIDENT)

Problem = tuple[str, str]  # failure class and the sentence that says what is wrong


@dataclass(frozen=True)
class Scale:
    """Range of a task's scores and the direction that is better."""

    minimum: float
    maximum: float
    direction: str = HIGHER

    @property
    def width(self) -> float:
        return self.maximum - self.minimum

    def drop(self, old: float, new: float) -> float:
        """How much worse ``new`` is than ``old``, native units."""
        return old - new if self.direction == HIGHER else new - old

    def above_worst(self, score: float) -> float:
        """Distance of a score from the worse end of the scale, native units."""
        return score - self.minimum if self.direction == HIGHER else self.maximum - score

    def as_dict(self) -> dict[str, Any]:
        return {"min": self.minimum, "max": self.maximum, "direction": self.direction}


def assumed_scale(*scores: float) -> Scale:
    """The scale of a task that declares none: up to 1 where all its scores lie in [0, 1], else up to 100."""
    return Scale(0.0, 1.0 if all(0 <= score <= 1 for score in scores) else 100.0)


@dataclass(frozen=True)
class Policy:
    """The settings of a comparison.

    threshold: allowed drop, a fraction of the scale's width or, with ``relative``, of the baseline's score.
    tier_thresholds, task_thresholds: what stands above it; a task's above its tier's.
    max_relative_drop: allowed drop as a fraction of the baseline's distance from the worse end of the scale; it holds
        besides the threshold, on tasks whose baseline lies below ``relative_guard_below`` (a fraction of the scale).
    criterion: "point" compares the scores with the limits, "confident" the intervals of the paired drops.
    """

    threshold: float = DEFAULT_THRESHOLD
    relative: bool = False
    scales: Mapping[str, Scale] = field(default_factory=dict)
    tiers: Mapping[str, str] = field(default_factory=dict)
    tier_thresholds: Mapping[str, float] = field(default_factory=dict)
    task_thresholds: Mapping[str, float] = field(default_factory=dict)
    max_relative_drop: float | None = None
    relative_guard_below: float | None = None
    criterion: str = POINT
    expected_disagreement_rate: float = EXPECTED_DISAGREEMENT_RATE
    require_fingerprints: bool = True

    def tier(self, task: str) -> str:
        return self.tiers.get(task, TIERS[0])

    def blocks(self, task: str) -> bool:
        return self.tier(task) in BLOCKING_TIERS

    def threshold_of(self, task: str) -> float:
        return self.task_thresholds.get(task, self.tier_thresholds.get(self.tier(task), self.threshold))

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


POLICY_KEYS = (
    "threshold",
    "thresholds",
    "relative",
    "scales",
    "tiers",
    "max_relative_drop",
    "relative_guard_below",
    "criterion",
    "expected_disagreement_rate",
    "require_fingerprints",
)


def read_policy(raw: Any) -> tuple[Policy, list[Problem]]:
    """A policy from a mapping with the keys ``POLICY_KEYS``; what is wrong is told and left at its default.

    Args:
        raw: threshold, thresholds {tiers: {tier: fraction}, tasks: {task: fraction}}, relative, scales {task: maximum
            or {min, max, direction}}, tiers {task: tier}, max_relative_drop, relative_guard_below, criterion,
            expected_disagreement_rate, require_fingerprints; None is as good as leaving out any but threshold.
    """
    problems: list[Problem] = []

    def wrong(sentence: str) -> None:
        problems.append((FailureClass.USER_CONFIG_ERROR, sentence))

    if not isinstance(raw, Mapping):
        wrong(f"policy: expected a mapping, found {short(raw)}")
        return Policy(), problems
    for key in raw:
        if key not in POLICY_KEYS:
            wrong(f"policy: unknown key {key!r}; the keys are {', '.join(POLICY_KEYS)}")
    settings: dict[str, Any] = {}
    for key, low, high in (
        ("threshold", "at least 0", "below 1"),
        ("max_relative_drop", "at least 0", "below 1"),
        ("relative_guard_below", "above 0", "at most 1"),
        ("expected_disagreement_rate", "above 0", "at most 1"),
    ):
        value = raw.get(key)
        if key not in raw or (value is None and key != "threshold"):
            continue
        if _within(number(value), low, high):
            settings[key] = number(value)
        else:
            hint = " (0.01 allows a drop of 1 % of the scale)" if key == "threshold" else ""
            wrong(f"{key}: found {short(value)}, expected a number of {low} and {high}{hint}")
    if raw.get("relative_guard_below") is not None and raw.get("max_relative_drop") is None:
        wrong(
            "relative_guard_below: found without max_relative_drop, so that it would guard nothing; give both or none"
        )
    for key in ("relative", "require_fingerprints"):
        if isinstance(raw.get(key, False), bool):
            settings |= {key: raw[key]} if key in raw else {}
        else:
            wrong(f"{key}: found {short(raw[key])}, expected true or false")
    criterion = raw.get("criterion")
    if criterion is not None:
        if isinstance(criterion, str) and criterion in CRITERIA:
            settings["criterion"] = criterion
        else:
            wrong(f"criterion: found {short(criterion)}, expected one of {', '.join(CRITERIA)}")
    settings["scales"] = _scales(raw.get("scales"), wrong)
    settings["tiers"] = {}
    for task, tier in _entries("tiers", raw.get("tiers"), wrong).items():
        if isinstance(tier, str) and tier in TIERS:
            settings["tiers"][task] = tier
        else:
            wrong(f"tiers: {task!r}: found {short(tier)}, expected one of {', '.join(TIERS)}")
    thresholds = _entries("thresholds", raw.get("thresholds"), wrong)
    for key in sorted(set(thresholds) - {"tiers", "tasks"}, key=str):
        wrong(f"thresholds: unknown key {key!r}; the keys are tiers and tasks")
    for key, name in (("tiers", "tier_thresholds"), ("tasks", "task_thresholds")):
        found = _entries(f"thresholds.{key}", thresholds.get(key), wrong)
        for entry, value in found.items():
            if key == "tiers" and entry not in TIERS:
                wrong(f"thresholds.tiers: unknown tier {entry!r}; the tiers are {', '.join(TIERS)}")
            if not _within(number(value), "at least 0", "below 1"):
                wrong(f"thresholds.{key}: {entry!r}: found {short(value)}, expected a number of at least 0 and below 1")
        settings[name] = {entry: number(value) for entry, value in found.items() if number(value) is not None}
    return Policy(**settings), problems


def with_declared(raw: Mapping[str, Any], **declared: Mapping[str, Any]) -> dict[str, Any]:
    """A raw policy with what the runs declare of their tasks (scales, tiers) below what it says itself."""
    settings = dict(raw)
    for key, found in declared.items():
        given = settings.get(key)
        if given is None or isinstance(given, Mapping):
            settings[key] = {**found, **(given or {})}
    return settings


def _within(value: float | None, low: str, high: str) -> bool:
    if value is None:
        return False
    above = value >= 0 if low == "at least 0" else value > 0
    return above and (value < 1 if high == "below 1" else value <= 1)


def _entries(name: str, value: Any, wrong: Any) -> dict[Any, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    wrong(f"{name}: expected a mapping, found {short(value)}")
    return {}


def _scales(raw: Any, wrong: Any) -> dict[str, Scale]:
    parsed = {}
    for task, value in _entries("scales", raw, wrong).items():
        content = value if isinstance(value, Mapping) else {"max": value}
        low, high = number(content.get("min", 0)), number(content.get("max"))
        direction = content.get("direction", HIGHER)
        usable = low is not None and high is not None and low < high and math.isfinite(high - low)
        if set(content) <= {"min", "max", "direction"} and usable and direction in (HIGHER, LOWER):
            parsed[task] = Scale(low, high, direction)
        else:
            wrong(
                f"scales: {task!r}: found {short(value)}, expected the maximum as a number above 0, or "
                "{min, max, direction} with min below max and direction higher or lower"
            )
    return parsed


def number(value: Any) -> float | None:
    """The value as a float, or None where it is no finite number (a bool and a text are none)."""
    return float(value) if is_number(value) else None


def short(value: Any, length: int = 60) -> str:
    """A value as it is quoted in a sentence."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
