"""The chain of evidence: that every artefact of a release is of that release, and says what the others say.

A digest shows that a file is the one that was named; it does not show that an edited comparison.json agrees with the
runs that it names. So identities, scores, counts and decisions are held against one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from day0.base.numbers import is_number, mapping_or_empty
from day0.decision.failures import COMPARISON_STAGE
from day0.decision.quoting import short
from day0.records.failure_class import Decision
from day0.records.policy import Policy

BASELINE = "baseline"
CLOSE = 1e-9  # of a score: what a number may lose on its way through a file of another tool


@dataclass(frozen=True)
class Evidence:
    """An assessment as it lies on disk."""

    path: str
    sha256: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Identity:
    """What a release is about."""

    model: str
    candidate: str
    suite: str
    policy: Policy


def broken_links(release: Identity, evidence: Mapping[str, Evidence]) -> list[str]:
    """Places where an artefact was not made from the one that lies beside it, is of something else, or contradicts it.

    Args:
        release: what the evidence must be of.
        evidence: every assessment of a release, by the names of day0.decision.verdict.STAGES.

    Returns:
        A sentence for each.
    """
    contents = {stage: held.content for stage, held in evidence.items()}
    comparison = contents[COMPARISON_STAGE]
    found = [*_digests(evidence), *_identities(release, contents), *_decisions(release.policy, comparison)]
    # One that could not compare, and says by what, has its reason in its class.
    return found if comparison.get("decision") == Decision.ANOMALOUS else [*found, *_scores(contents)]


def _digests(evidence: Mapping[str, Evidence]) -> Iterator[str]:
    def value(stage: str, key: str) -> Any:
        return evidence[stage].content.get(key)

    def evaluated(stage: str) -> Any:
        """Digest that a run states; an imported one that states none is of the checkpoint that it was imported for."""
        return value(stage, "checkpoint_digest") or mapping_or_empty(value(stage, "imported")).get("attributed_digest")

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
    speed = mapping_or_empty(value(COMPARISON_STAGE, "speed"))
    for side in (BASELINE, "candidate"):
        of_run, compared = value(f"{side}_run", "speed_digest"), speed.get(f"{side}_sha256")
        if of_run != compared:
            yield f"the {side}'s speed has digest {str(of_run)[:12]}, the one that was compared {str(compared)[:12]}"
    for first, found, second, expected in links:
        if not isinstance(found, str) or found != expected:
            yield f"{first} has digest {str(found)[:12]}, {second} {str(expected)[:12]}"


def _identities(release: Identity, contents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What names another model, candidate or suite than the release."""
    expected = {
        "baseline_run": {"model": release.model, "candidate": BASELINE, "suite": release.suite},
        "candidate_run": {"model": release.model, "candidate": release.candidate, "suite": release.suite},
    }
    for stage, named in expected.items():
        for key, wanted in named.items():
            found = contents[stage].get(key)
            if found != wanted:
                yield f"{stage} is of {key} {short(found)}, the release of {short(wanted)}"
    for stage in ("preflight_model", "preflight_recipe", "preflight_suite"):
        request = mapping_or_empty(contents[stage].get("request"))
        found, key, wanted = request.get("model"), "model", release.model
        if found == wanted and stage == "preflight_suite":
            found, key, wanted = request.get("suite"), "suite", release.suite
        if found != wanted:
            yield f"{stage} is of {key} {short(found)}, the release of {short(wanted)}"


def _decisions(policy: Policy, comparison: Mapping[str, Any]) -> Iterator[str]:
    """Where a comparison contradicts itself, or was made by another policy."""
    decision, passed, failed = (comparison.get(key) for key in ("decision", "pass", "failure_class"))
    if (decision == Decision.ACCEPT) != (passed is True):
        yield f"the comparison's decision is {short(decision)}, its pass {short(passed)}"
    if passed is True and comparison.get("failure_classes"):
        yield f"the comparison says both that it passed and that it failed with {comparison['failure_classes']}"
    if decision == Decision.ANOMALOUS:
        return
    for key in ("threshold", "relative"):
        if comparison.get(key) != getattr(policy, key):
            said, wanted = short(comparison.get(key)), short(getattr(policy, key))
            yield f"the comparison was made with {key} {said}, the release has {wanted}"
    criterion = comparison.get("criterion")
    # Where the criterion suite has nothing to read, point takes its place.
    if criterion not in (policy.criterion, "point"):
        yield f"the comparison was decided by the criterion {short(criterion)}, the release has {policy.criterion}"
    judged = mapping_or_empty(mapping_or_empty(comparison.get("criteria")).get(str(criterion))).get("decision")
    if passed is True and judged != Decision.ACCEPT:
        yield f"the comparison passed, but its criterion {short(criterion)} says {short(judged)}"
    if passed is True and failed is not None:
        yield f"the comparison says both that it passed and that it failed with {short(failed)}"
    if passed is True and policy.min_speedup is not None:
        speed = mapping_or_empty(comparison.get("speed"))
        least = speed.get("least_ratio")
        if speed.get("is_native") is not True or not is_number(least) or least < policy.min_speedup:
            yield (
                f"the comparison passed, but its speed does not reach min_speedup {policy.min_speedup:g}: "
                f"is_native {short(speed.get('is_native'))}, least_ratio {short(least)}"
            )


def _scores(contents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Where the comparison's scores and counts are not those of the runs, or do not follow from one another."""
    comparison = contents[COMPARISON_STAGE]
    tasks = mapping_or_empty(comparison.get("tasks"))
    stopped = mapping_or_empty(comparison.get("early_stop"))
    if stopped != mapping_or_empty(contents["candidate_run"].get("early_stop")):
        yield "the comparison and the candidate's run say differently that it was stopped early"
    if stopped and comparison.get("pass") is True:
        yield "the comparison says both that it passed and that the candidate was stopped early"
    scores = {side: mapping_or_empty(contents[f"{side}_run"].get("scores")) for side in (BASELINE, "candidate")}
    if not tasks:
        yield "the comparison has no task, so nothing was compared"
    for side, found in scores.items():
        # Of a candidate that was stopped, a part of the baseline is compared: fewer samples, perhaps fewer tasks.
        if (more := sorted(map(str, found.keys() - tasks.keys()))) and not (stopped and side == BASELINE):
            yield f"the {side}'s run has scores of {', '.join(more)}, the comparison has none"
    for task, entry in tasks.items():
        entry = mapping_or_empty(entry)
        held = {side: mapping_or_empty(found.get(task)) for side, found in scores.items()}
        if stopped and _is_more(held[BASELINE].get("samples"), held["candidate"].get("samples")):
            del held[BASELINE]
        for side, of_run in held.items():
            said, made = entry.get(side), of_run.get("score")
            if not _agree(said, made):
                yield f"{short(task)}: the {side}'s score is {said} in the comparison and {made} in its run"
        old, new, drop = entry.get(BASELINE), entry.get("candidate"), entry.get("drop")
        if is_number(old) and is_number(new) and is_number(drop):
            sign = -1 if mapping_or_empty(entry.get("scale")).get("direction") == "lower" else 1
            if not math.isclose(drop, sign * (old - new), rel_tol=CLOSE, abs_tol=CLOSE):
                yield f"{short(task)}: its drop is {drop} in the comparison, its scores are {old} and {new}"
        paired = mapping_or_empty(entry.get("paired")).get("samples")
        for side, of_run in held.items():
            count = of_run.get("samples")
            if paired is not None and count is not None and paired != count:
                yield f"{short(task)}: {paired} samples are paired, the {side}'s run has {count}"


def _is_more(one: Any, other: Any) -> bool:
    return is_number(one) and is_number(other) and one > other


def _agree(one: Any, other: Any) -> bool:
    if is_number(one) and is_number(other):
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one is None and other is None
