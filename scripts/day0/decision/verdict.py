"""The verdict: one decision from all evidence, with its next action, and nothing taken on trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from day0.base.mistakes import mistakes_of
from day0.base.numbers import mapping_or_empty
from day0.decision.chain import Evidence, Identity, broken_links
from day0.decision.comparability import Run, scores_of
from day0.decision.external import FAILED, ExternalScore, check_external
from day0.decision.failures import BASELINE_STAGE, COMPARISON_STAGE, SEARCH_STAGE, decide, lasting
from day0.decision.policy import read_policy, with_declared
from day0.decision.quoting import number, printable
from day0.records.attempt import Attempt, next_action_after
from day0.records.comparison import CriterionResult, External, SuiteEvidence, Task, TaskWarning, Tokens
from day0.records.comparison import Evidence as Strength
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Criterion, Policy
from day0.records.record import Record
from day0.records.speed import SpeedComparison
from day0.records.verdict import EvidenceFile, Verdict

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
CHAIN = "evidence"
REFUSAL_ACTION = "Correct what the stage names, then run the same command again."
ABOUT_THE_CANDIDATE = ("preflight_recipe", "validation", "candidate_run")


class ReleaseRequest(Record):
    """The release that is decided on, as the plan has it."""

    name: str
    model: str
    recipe: str
    candidate: str
    suite: str
    policy: Policy
    external: list[ExternalScore] = Field([])
    warnings: list[TaskWarning] = Field([])
    may_be_searched: bool = Field(False, description="the recipe is one that a search could go on from")


class _FromComparison(Record):
    """What a verdict takes over from the comparison."""

    model_config = ConfigDict(extra="ignore")

    evidence: Strength | None = None
    evidence_sentence: str | None = None
    warnings: list[TaskWarning] | None = None
    external: External | None = None
    baseline_precision: str | None = None
    tasks: dict[str, Task] = Field({})
    tokens: Tokens | None = None
    speed: SpeedComparison | None = None
    criterion: Criterion | None = None
    criteria: dict[Criterion, CriterionResult] = Field({})
    suite_evidence: SuiteEvidence | None = None
    next_action: str | None = None


def make_verdict(release: ReleaseRequest, evidence: Mapping[str, Evidence]) -> Verdict:
    """Decide on a release.

    The first assessment in the graph's order that did not pass decides. Where all passed, the comparison does, provided
    that every assessment is there and that each names the digest of what it was made from. A baseline that does not
    meet its published scores leads over whatever the candidate did, also where that never came to a comparison.

    Args:
        release: its warnings are the plan's, and hold until a comparison has its own.
        evidence: the assessments that exist, by the names in STAGES; whatever they contain, there is a verdict.
    """
    stage, failure_class, detail = _deciding(release, evidence)
    comparison = evidence[COMPARISON_STAGE].content if COMPARISON_STAGE in evidence else {}
    taken, mistakes = _take_over(comparison)
    if mistakes and (failure_class is None or stage == CHAIN) and stage in (COMPARISON_STAGE, CHAIN):
        failure_class, detail = FailureClass.UNKNOWN, f"The comparison cannot be read: {'; '.join(mistakes)}."
    classes = _classes(stage, failure_class, evidence)
    within_limits = stage == COMPARISON_STAGE and comparison.get("pass") is True
    judged_as = BASELINE_STAGE if stage == SEARCH_STAGE and _failed_by_baseline(evidence[stage].content) else stage
    decision, next_action = decide(failure_class, judged_as, within_limits)
    failure_class = failure_class and lasting(failure_class)
    if stage == COMPARISON_STAGE and taken.next_action and decision == comparison.get("decision"):
        next_action = printable(taken.next_action)
    external = taken.external or _external_check(release, evidence)
    if external and external.status == FAILED and stage in ABOUT_THE_CANDIDATE:
        sentences = [entry.sentence for entry in external.entries if entry.status == FAILED]
        detail = f"{'. '.join(sentences)}. Of the candidate itself ({failure_class}): {detail}"
        stage, failure_class, of_the_candidate = EXTERNAL_STAGE, FailureClass.EXTERNAL_BASELINE_MISMATCH, next_action
        classes = [failure_class, *classes]
        decision, next_action = decide(failure_class, stage)
        next_action += f" For the candidate: {of_the_candidate}"
    validation = evidence["validation"].content if "validation" in evidence else {}
    return Verdict(
        release=release.name,
        model=release.model,
        recipe=release.recipe,
        candidate=release.candidate,
        suite=release.suite,
        policy=release.policy,
        decision=decision,
        passed=decision is Decision.ACCEPT,
        failure_class=failure_class,
        failure_classes=classes,
        stage=stage,
        detail=printable(detail),
        next_action=next_action,
        criterion=taken.criterion,
        criteria=taken.criteria,
        suite_evidence=taken.suite_evidence,
        evidence_strength=taken.evidence,
        evidence_sentence=taken.evidence_sentence,
        warnings=release.warnings if taken.warnings is None else taken.warnings,
        external=external,
        baseline_precision=taken.baseline_precision,
        size_ratio=number(validation.get("size_ratio")),
        bits_per_weight=number(validation.get("bits_per_weight")),
        tasks=taken.tasks,
        tokens=taken.tokens,
        speed=taken.speed,
        evidence={name: EvidenceFile(path=found.path, sha256=found.sha256) for name, found in evidence.items()},
        digests=_digests(evidence),
    )


def _take_over(comparison: Mapping[str, Any]) -> tuple[_FromComparison, list[str]]:
    """What the verdict takes over from the comparison, and what is wrong with that."""
    try:
        return _FromComparison.model_validate(dict(comparison)), []
    except ValidationError as error:
        return _FromComparison(), mistakes_of(error, _FromComparison)


def make_crash_verdict(
    release: ReleaseRequest,
    rule: str,
    attempt: int,
    log: str | None,
    attempts: Sequence[Attempt] = (),
    refusal: str | None = None,
) -> Verdict:
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
    next_action = next_action_after(attempts) or decide(FailureClass.SYSTEMIC, rule).next_action
    return make_verdict(release, {}).model_copy(
        update={
            "failure_class": FailureClass.SYSTEMIC,
            "failure_classes": [FailureClass.SYSTEMIC],
            "stage": rule,
            "detail": printable(detail),
            "next_action": REFUSAL_ACTION if refusal else next_action,
        }
    )


def _classes(stage: str, failure_class: FailureClass | None, evidence: Mapping[str, Evidence]) -> list[FailureClass]:
    """All failure classes of the assessment that decides, the deciding one first."""
    if failure_class is None:
        return []
    named = evidence[stage].content.get("failure_classes") if stage in evidence else None
    others = [FailureClass.of(name) for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return list(dict.fromkeys([lasting(failure_class), failure_class, *others]))


def _failed_by_baseline(search: Mapping[str, Any]) -> bool:
    """Whether a search ended because its baseline failed, whatever the recipe."""
    outcomes = search.get("outcomes")
    found = [mapping_or_empty(one) for one in (outcomes if isinstance(outcomes, list) else [])]
    return any(one.get("of_baseline") is True and one.get("decision") != Decision.ACCEPT for one in found)


def _external_check(release: ReleaseRequest, evidence: Mapping[str, Evidence]) -> External | None:
    """The external check by the baseline's run alone; None where there is no sound one."""
    if "baseline_run" not in evidence or evidence["baseline_run"].content.get("pass") is not True:
        return None
    scores = scores_of(Run(evidence["baseline_run"].content))
    scales = {task: entry["scale"] for task, entry in scores.items() if entry.get("scale")}
    policy, _ = read_policy(with_declared(release.policy.as_plain(), scales=scales))
    return check_external([entry.model_dump(mode="json") for entry in release.external], scores, policy.scales)


def _deciding(release: ReleaseRequest, evidence: Mapping[str, Evidence]) -> tuple[str, FailureClass | None, str]:
    if SEARCH_STAGE in evidence:
        search = evidence[SEARCH_STAGE].content
        if search.get("winner") is None:
            return SEARCH_STAGE, FailureClass.of(search.get("failure_class")), str(search.get("detail"))
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
    identity = Identity(release.model, release.candidate, release.suite, release.policy)
    if broken := broken_links(identity, evidence):
        return CHAIN, FailureClass.UNKNOWN, f"The chain of evidence is broken: {'; '.join(broken)}."
    return COMPARISON_STAGE, failure_class, detail


def _digests(evidence: Mapping[str, Evidence]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for assessment in evidence.values():
        for key in ("source_digest", "recipe_digest", "checkpoint_digest"):
            if key in assessment.content and (key != "checkpoint_digest" or "recipe_digest" in assessment.content):
                digest = assessment.content[key]
                found.setdefault(key, None if digest is None else printable(digest))
    return found
