"""The verdict: one decision from all evidence, with its next action, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from day0.cluster import Attempt, next_action_after
from day0.triage import COMPARISON_STAGE, decide

STAGES = (
    "preflight_model",
    "preflight_recipe",
    "preflight_suite",
    "validation",
    "baseline_run",
    "candidate_run",
    COMPARISON_STAGE,
)


@dataclass(frozen=True)
class Evidence:
    """An assessment as it lies on disk."""

    path: str
    sha256: str
    content: Mapping[str, Any]


def make_verdict(release: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """Decide on a release.

    The first assessment in the graph's order that did not pass decides. Where all passed, the comparison does, provided
    that every assessment is there and that each names the digest of what it was made from.

    Args:
        release: name, model, recipe, candidate, suite and policy.
        evidence: the assessments at hand, by the names in STAGES.
    """
    stage, failure_class, detail = _deciding(evidence)
    comparison = evidence[COMPARISON_STAGE].content if COMPARISON_STAGE in evidence else {}
    within_limits = stage == COMPARISON_STAGE and comparison.get("pass") is True
    decision, next_action = decide(failure_class, stage, within_limits)
    validation = evidence["validation"].content if "validation" in evidence else {}
    return {
        "release": release["name"],
        **{key: release[key] for key in ("model", "recipe", "candidate", "suite", "policy")},
        "decision": decision,
        "pass": decision == "ACCEPT",
        "failure_class": failure_class,
        "stage": stage,
        "detail": detail,
        "next_action": next_action,
        "size_ratio": validation.get("size_ratio"),
        "bits_per_weight": validation.get("bits_per_weight"),
        "tasks": comparison.get("tasks", {}),
        "evidence": {name: {"path": found.path, "sha256": found.sha256} for name, found in evidence.items()},
        "digests": _digests(evidence),
    }


def make_crash_verdict(
    release: Mapping[str, Any], rule: str, attempt: int, log: str | None, attempts: Sequence[Attempt] = ()
) -> dict[str, Any]:
    """The verdict of a release whose stage crashed: nothing is known of the model, so it is ANOMALOUS.

    ``attempts`` are those that failed on a cluster, with their jobs' ids, states and logs.
    """
    where = f"its log is {log}" if log else "it has no log"
    detail = f"Rule {rule} crashed in attempt {attempt}; {where}."
    if attempts:
        detail += f" On the cluster: {'; '.join(map(str, attempts))}."
    return make_verdict(release, {}) | {
        "failure_class": "SYSTEMIC",
        "stage": rule,
        "detail": detail,
        "next_action": next_action_after(attempts) or decide("SYSTEMIC", rule).next_action,
    }


def _deciding(evidence: Mapping[str, Evidence]) -> tuple[str, str | None, str]:
    for stage in STAGES:
        if stage not in evidence:
            return stage, "UNKNOWN", f"The assessment {stage} is missing, so nothing can be decided."
        content = evidence[stage].content
        passed, failure_class = content.get("pass"), content.get("failure_class")
        detail = str(content.get("detail") or "it gives no reason")
        has_no_answer = passed is not False and failure_class is None
        if passed is not True and (stage != COMPARISON_STAGE or has_no_answer):
            return stage, failure_class if isinstance(failure_class, str) else "UNKNOWN", detail
        if passed is True and failure_class is not None:
            return stage, "UNKNOWN", f"{stage} says both that it passed and that it failed with {failure_class}."
    broken = _broken_links(evidence)
    if broken:
        return "evidence", "UNKNOWN", f"The chain of evidence is broken: {'; '.join(broken)}."
    return COMPARISON_STAGE, failure_class, detail


def _broken_links(evidence: Mapping[str, Evidence]) -> list[str]:
    """Places where an artefact was not made from the one that lies beside it."""

    def value(stage: str, key: str) -> Any:
        return evidence[stage].content.get(key)

    links = [
        ("the checkpoint that was validated", value("validation", "checkpoint_digest"),
         "the one that was evaluated", value("candidate_run", "checkpoint_digest")),
        ("the source that the checkpoint was validated against", value("validation", "source_digest"),
         "the baseline's model", value("baseline_run", "checkpoint_digest")),
        ("the baseline's run", evidence["baseline_run"].sha256,
         "the one that was compared", value(COMPARISON_STAGE, "baseline_sha256")),
        ("the candidate's run", evidence["candidate_run"].sha256,
         "the one that was compared", value(COMPARISON_STAGE, "candidate_sha256")),
    ]  # fmt: skip
    return [
        f"{first} has digest {str(found)[:12]}, {second} {str(expected)[:12]}"
        for first, found, second, expected in links
        if not isinstance(found, str) or found != expected
    ]


def _digests(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for assessment in evidence.values():
        for key in ("source_digest", "recipe_digest", "checkpoint_digest"):
            if key in assessment.content and (key != "checkpoint_digest" or "recipe_digest" in assessment.content):
                found.setdefault(key, assessment.content[key])
    return found
