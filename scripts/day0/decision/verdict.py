"""The verdict: one decision from all evidence, with its next action, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from day0.decision.comparability import Run, scores_of
from day0.decision.external import FAILED, check_external
from day0.decision.failures import COMPARISON_STAGE, decide, lasting
from day0.decision.policy import read_policy, with_declared
from day0.records.attempt import Attempt, next_action_after
from day0.records.failure_class import Decision, FailureClass

STAGES = (
    "preflight_model",
    "preflight_recipe",
    "preflight_suite",
    "validation",
    "baseline_run",
    "candidate_run",
    COMPARISON_STAGE,
)

EXTERNAL_STAGE = "external_check"
REFUSAL_ACTION = "Correct what the stage names, then run the same command again."
ABOUT_THE_CANDIDATE = ("preflight_recipe", "validation", "candidate_run")


@dataclass(frozen=True)
class Evidence:
    """An assessment as it lies on disk."""

    path: str
    sha256: str
    content: Mapping[str, Any]


def make_verdict(release: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """Decide on a release.

    The first assessment in the graph's order that did not pass decides. Where all passed, the comparison does, provided
    that every assessment is there and that each names the digest of what it was made from. A baseline that does not
    meet its published scores leads over whatever the candidate did, also where that never came to a comparison.

    Args:
        release: name, model, recipe, candidate, suite, policy, ``external`` (the published scores of the model), and
            ``warnings`` of the plan, which stand until a comparison has its own.
        evidence: the assessments at hand, by the names in STAGES.
    """
    stage, failure_class, detail = _deciding(evidence)
    comparison = evidence[COMPARISON_STAGE].content if COMPARISON_STAGE in evidence else {}
    classes = _classes(stage, failure_class, evidence)
    within_limits = stage == COMPARISON_STAGE and comparison.get("pass") is True
    decision, next_action = decide(failure_class, stage, within_limits)
    failure_class = failure_class and lasting(failure_class)
    external = comparison.get("external") or _external_check(release, evidence)
    if external and external["status"] == FAILED and stage in ABOUT_THE_CANDIDATE:
        sentences = [entry["sentence"] for entry in external["entries"] if entry["status"] == FAILED]
        detail = f"{'. '.join(sentences)}. Of the candidate itself ({failure_class}): {detail}"
        stage, failure_class, of_the_candidate = EXTERNAL_STAGE, FailureClass.EXTERNAL_BASELINE_MISMATCH, next_action
        classes = [failure_class, *classes]
        decision, next_action = decide(failure_class, stage)
        next_action += f" For the candidate: {of_the_candidate}"
    validation = evidence["validation"].content if "validation" in evidence else {}
    return {
        "release": release["name"],
        **{key: release[key] for key in ("model", "recipe", "candidate", "suite", "policy")},
        "decision": decision,
        "pass": decision == Decision.ACCEPT,
        "failure_class": failure_class,
        "failure_classes": classes,
        "stage": stage,
        "detail": detail,
        "next_action": next_action,
        "evidence_strength": comparison.get("evidence"),
        "evidence_sentence": comparison.get("evidence_sentence"),
        "warnings": comparison.get("warnings", release.get("warnings", [])),
        "external": external,
        "baseline_precision": comparison.get("baseline_precision"),
        "size_ratio": validation.get("size_ratio"),
        "bits_per_weight": validation.get("bits_per_weight"),
        "tasks": comparison.get("tasks", {}),
        "evidence": {name: {"path": found.path, "sha256": found.sha256} for name, found in evidence.items()},
        "digests": _digests(evidence),
        "versions": {},
        "durations": {},
        "gpu": None,
        "git_commit": None,
        "created": None,
    }


def make_crash_verdict(
    release: Mapping[str, Any],
    rule: str,
    attempt: int,
    log: str | None,
    attempts: Sequence[Attempt] = (),
    refusal: str | None = None,
) -> dict[str, Any]:
    """The verdict of a release whose stage crashed: nothing is known of the model, so it is ANOMALOUS.

    Args:
        attempts: those that failed on a cluster, with their jobs' ids, states and logs.
        refusal: what the stage found to be wrong with its input, where it refused that.
    """
    where = f"its log is {log}" if log else "it has no log"
    detail = f"Rule {rule} crashed in attempt {attempt}; {where}."
    if refusal:
        detail = f"Rule {rule} cannot use its input: {refusal.rstrip('.')}; {where}."
    if attempts:
        detail += f" On the cluster: {'; '.join(map(str, attempts))}."
    return make_verdict(release, {}) | {
        "failure_class": FailureClass.SYSTEMIC,
        "failure_classes": [FailureClass.SYSTEMIC],
        "stage": rule,
        "detail": detail,
        "next_action": REFUSAL_ACTION
        if refusal
        else next_action_after(attempts) or decide(FailureClass.SYSTEMIC, rule).next_action,
    }


def _classes(stage: str, failure_class: FailureClass | None, evidence: Mapping[str, Evidence]) -> list[FailureClass]:
    """All failure classes of the assessment that decides, the deciding one first."""
    if failure_class is None:
        return []
    told = evidence[stage].content.get("failure_classes") if stage in evidence else None
    others = [FailureClass.of(name) for name in told if isinstance(name, str)] if isinstance(told, list) else []
    return list(dict.fromkeys([lasting(failure_class), failure_class, *others]))


def _external_check(release: Mapping[str, Any], evidence: Mapping[str, Evidence]) -> dict[str, Any] | None:
    """The external check by the baseline's run alone; None where there is no sound one."""
    if "baseline_run" not in evidence or evidence["baseline_run"].content.get("pass") is not True:
        return None
    scores = scores_of(Run(evidence["baseline_run"].content))
    scales = {task: entry["scale"] for task, entry in scores.items() if entry.get("scale")}
    policy, _ = read_policy(with_declared(release["policy"], scales=scales))
    return check_external(release.get("external", []), scores, policy.scales)


def _deciding(evidence: Mapping[str, Evidence]) -> tuple[str, FailureClass | None, str]:
    for stage in STAGES:
        if stage not in evidence:
            return stage, FailureClass.UNKNOWN, f"The assessment {stage} is missing, so nothing can be decided."
        content = evidence[stage].content
        passed, named = content.get("pass"), content.get("failure_class")
        failure_class = None if named is None else FailureClass.of(named)
        detail = str(content.get("detail") or "it gives no reason").removeprefix(f"{named}: ")
        if failure_class not in (None, named):
            detail = f"{stage} failed with {named!r}, which is no failure class of this version: {detail}"
        has_no_answer = passed is not False and failure_class is None
        if passed is not True and (stage != COMPARISON_STAGE or has_no_answer):
            return stage, failure_class or FailureClass.UNKNOWN, detail
        if passed is True and failure_class is not None:
            return stage, FailureClass.UNKNOWN, f"{stage} says both that it passed and that it failed with {named}."
    broken = _broken_links(evidence)
    if broken:
        return "evidence", FailureClass.UNKNOWN, f"The chain of evidence is broken: {'; '.join(broken)}."
    return COMPARISON_STAGE, failure_class, detail


def _broken_links(evidence: Mapping[str, Evidence]) -> list[str]:
    """Places where an artefact was not made from the one that lies beside it."""

    def value(stage: str, key: str) -> Any:
        return evidence[stage].content.get(key)

    def evaluated(stage: str) -> Any:
        """Digest that a run tells; an imported one that tells none is of the checkpoint that it was imported for."""
        imported = value(stage, "imported")
        attributed = imported.get("attributed_digest") if isinstance(imported, Mapping) else None
        return value(stage, "checkpoint_digest") or attributed

    links = [
        ("the checkpoint that was validated", value("validation", "checkpoint_digest"),
         "the one that was evaluated", evaluated("candidate_run")),
        ("the source that the checkpoint was validated against", value("validation", "source_digest"),
         "the baseline's model", evaluated("baseline_run")),
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
