"""A candidate's run that was stopped early beside the baseline: what the samples that both have say.

It can show a loss. It cannot be a release: no score of it is the suite's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from day0.base.numbers import is_number, mapping_or_empty
from day0.decision.comparability import Run, scores_of
from day0.decision.comparison import compare_runs
from day0.decision.external import FAILED, check_external
from day0.decision.failures import COMPARISON_STAGE, decide
from day0.decision.policy import read_policy, with_declared
from day0.decision.quoting import printable
from day0.evaluation.early_stopping import drop_of, limits_of, scores_by_question
from day0.records.comparison import Comparison
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Policy, Scale
from day0.statistics.resolution import CONCLUSIVE, INCONCLUSIVE
from day0.statistics.sequential import needed_to_reject, rejection_of, rejects

# Digests over all samples of a task; of a run that asked fewer, each sample's own are compared.
OF_ALL_SAMPLES = frozenset({"task_hash", "data_digest", "sample_ids_digest", "prompts_digest"})
ASK_THE_REST = (
    "Ask the rest: set early_stopping: off for this release, then run the same command again; the answers so far are "
    "kept."
)
ASK_AGAIN = "Run the same command again, which evaluates the candidate beside the baseline that is there now."


def compare_stopped_run(
    baseline: Run,
    candidate: Run,
    policy: Policy | Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    external: Sequence[Mapping[str, Any]] = (),
) -> Comparison:
    """Decide over a candidate that was stopped early, by the samples that both runs have; never an ACCEPT.

    Arguments as for ``day0.decision.comparison.compare_runs``. A loss is REGRESSION where the samples show it again, to
    this release's limit; whatever else would keep two runs from being compared is found as for any two runs.
    """
    stop = EarlyStop.model_validate(candidate.assessment["early_stop"])
    raw: Any = policy.as_plain() if isinstance(policy, Policy) else dict(policy or {})
    asked = scores_of(candidate)
    whole = scores_of(baseline)
    declared = {task: entry["scale"] for task, entry in whole.items() if entry.get("scale")}
    rules, problems = read_policy(with_declared(raw, scales=declared))
    result = compare_runs(_part_of(baseline, candidate), _without_digests(candidate), _of_tasks(raw, asked), source)
    checked = check_external(external, whole, rules.scales)
    wrong = [
        *problems,
        *[(FailureClass.EXTERNAL_BASELINE_MISMATCH, e.sentence) for e in checked.entries if e.status == FAILED],
    ]
    next_action = None
    if stop.baseline_digest != baseline.assessment.get("results_digest"):
        looked_at, found = stop.baseline_digest[:12], str(baseline.assessment.get("results_digest"))[:12]
        sentence = f"the candidate was stopped beside another run of the baseline: {looked_at}, found {found}"
        wrong.append((FailureClass.NOT_COMPARABLE, sentence))
        next_action = ASK_AGAIN
    own = result.failure_class
    if own is not None and own is not FailureClass.INSUFFICIENT_EVIDENCE:
        wrong += [(failure_class, result.detail) for failure_class in result.failure_classes]
    shown = [] if wrong else _shown_again(stop, baseline, candidate, rules)
    detail = _detail(stop, baseline, asked)
    if not wrong and not shown:
        reason = (
            "no task can have lost much, but a release states the scores of all samples"
            if stop.end == "accepted"
            else "the samples do not show the loss to this release's limits"
        )
        wrong.append((FailureClass.INSUFFICIENT_EVIDENCE, f"{detail}; {reason}. {ASK_THE_REST}"))
        next_action = ASK_THE_REST
    failure_class = wrong[0][0] if wrong else None
    triage = decide(failure_class, COMPARISON_STAGE, False)
    sentence = f"{detail}; {'; '.join(shown)}" if shown else "; ".join(dict.fromkeys(text for _, text in wrong))
    tasks = {
        task: entry.model_copy(update={"note": _note(task, entry.note, baseline, candidate)})
        for task, entry in result.tasks.items()
    }
    regressed = result.decision is Decision.REGRESSION
    return result.model_copy(
        update={
            "passed": False,
            "decision": triage.decision,
            "failure_class": failure_class,
            "failure_classes": list(dict.fromkeys(found for found, _ in wrong)),
            "detail": printable(sentence),
            "next_action": next_action or (result.next_action if shown and regressed else triage.next_action),
            "external": checked,
            "tasks": tasks,
            "early_stop": stop,
            "evidence": CONCLUSIVE if shown else INCONCLUSIVE,
            "evidence_sentence": f"{'Conclusive' if shown else 'Inconclusive'}: {printable(sentence)}",
        }
    )


def _shown_again(stop: EarlyStop, baseline: Run, candidate: Run, policy: Policy) -> list[str]:
    """The tasks of a rejection whose samples show the loss, to this release's limit, a sentence each."""
    if stop.end != "rejected":
        return []
    blocking = sum(policy.blocks(task) for task in policy.tiers) or 1
    sentences = []
    for task in stop.tasks_decided:
        entry = scores_of(baseline).get(task, {})
        if not policy.blocks(task) or not is_number(entry.get("score")):
            continue
        try:
            scale = Scale.model_validate(policy.scales.get(task) or entry.get("scale"))
            old, new = (scores_by_question(run.samples.get(task, ())) for run in (baseline, candidate))
            drops = [drop_of(scale, old[name], scores) for name, scores in new.items() if name in old]
        except (ValueError, ValidationError):
            continue
        limits = limits_of([policy], task, float(entry["score"]), scale)
        found = rejection_of(drops, limits.rejected, limits.share)
        needed = needed_to_reject(blocking)
        if rejects(found, limits.rejected, needed):
            sentences.append(
                f"{task}: over {len(drops):,} questions the drop is {found.drop:.4f} of the scale, beyond the limit of "
                f"{limits.rejected:.4f} (evidence {found.against_none:.3g}, {needed:g} needed)"
            )
    return sentences


def _part_of(baseline: Run, candidate: Run) -> Run:
    """The baseline with just the samples that the candidate has, and their scores."""
    samples, scores = {}, {}
    whole = scores_of(baseline)
    for task in scores_of(candidate).keys() & whole.keys():
        wanted = {_key(row) for row in candidate.samples.get(task, ())}
        samples[task] = [row for row in baseline.samples.get(task, ()) if _key(row) in wanted]
        values = [row.get("score") for row in samples[task]]
        known = [float(value) for value in values if is_number(value)]
        mean = math.fsum(known) / len(known) if known and len(known) == len(values) else None
        scores[task] = {**whole[task], "score": mean, "stderr": None, "samples": len(values)}
    return replace(_without_digests(baseline), assessment={**baseline.assessment, "scores": scores}, samples=samples)


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row.get("id")), str(row.get("repeat") or 0)


def _without_digests(run: Run) -> Run:
    prints = mapping_or_empty(run.metadata.get("fingerprint"))
    kept = {
        task: {key: value for key, value in fields.items() if key not in OF_ALL_SAMPLES}
        for task, fields in prints.items()
        if isinstance(fields, Mapping)
    }
    return replace(run, metadata={**run.metadata, "fingerprint": kept})


def _of_tasks(raw: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """A raw policy without the tasks that were not asked."""
    kept = dict(raw)
    for key in ("tiers", "scales", "require"):
        if isinstance(raw.get(key), Mapping):
            kept[key] = {task: value for task, value in raw[key].items() if task in asked}
    thresholds = raw.get("thresholds")
    if isinstance(thresholds, Mapping) and isinstance(thresholds.get("tasks"), Mapping):
        own = {task: value for task, value in thresholds["tasks"].items() if task in asked}
        kept["thresholds"] = {**thresholds, "tasks": own}
    return kept


def _detail(stop: EarlyStop, baseline: Run, asked: Mapping[str, Mapping[str, Any]]) -> str:
    whole = scores_of(baseline)
    counts = [sum(int(entry.get("samples") or 0) for entry in side.values()) for side in (asked, whole)]
    unasked = sorted(whole.keys() - asked.keys())
    none = f", none of {', '.join(unasked)}" if unasked else ""
    return f"stopped early: {counts[0]:,} of {counts[1]:,} samples asked{none}; {stop.end}"


def _note(task: str, note: str | None, baseline: Run, candidate: Run) -> str | None:
    asked, planned = (scores_of(run).get(task, {}).get("samples") for run in (candidate, baseline))
    if asked == planned:
        return note
    partial = f"partial: the scores of both sides are of {asked} of {planned} samples"
    return f"{note}; {partial}" if note else partial
