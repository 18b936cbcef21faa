"""The decision: is the candidate no worse than the baseline, task by task, by more than the limit?

``evaluate_comparison`` judges two plain ``{task: score}`` mappings; ``compare_runs`` judges two assessed runs, checks
first that they were made alike, and adds the paired evidence of their samples. Both are pure and total: whatever is
wrong with the input becomes an ANOMALOUS result that says what, never an exception and never a pass.

A task is within its limit if its drop (positive = worse, whatever the scale's direction) is at most ``threshold`` times
the width of its scale or, with ``relative``, at most ``threshold`` times the baseline's score; where the policy has a
relative guard that holds for the baseline's score, also at most that. Tiers "critical" and "supporting" block;
"advisory" is reported.

Criterion "point": ACCEPT where every blocking task is within its limit, else REGRESSION. Criterion "confident": ACCEPT
where the whole interval of the paired drop is within the limit on every blocking task, REGRESSION where on one of them
it is wholly beyond (with Holm's correction for the number of tasks), else the samples do not decide and the result is
ANOMALOUS with INSUFFICIENT_EVIDENCE. A lossless candidate is so called REGRESSION in at most 2.5 % of releases.
That all intervals must be within needs no correction: it is an intersection-union test (Berger, Technometrics 24, 1982,
295).

A gain of more than 5 % of the scale is ANOMALOUS, for quantization teaches a model nothing; except where the paired
samples cannot tell it from none, that is where the interval of the drop holds 0 and, where the exact test applies, its
p is above 0.05. Then it is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from day0.decision.comparability import (
    Pairs,
    Run,
    baseline_precision,
    cluster_of,
    comparability,
    difference_sentence,
    pair_samples,
    plain,
    scores_of,
)
from day0.decision.external import FAILED, check_external
from day0.decision.failures import BASELINE_STAGE, COMPARISON_STAGE, decide
from day0.decision.policy import Problem, assumed_scale, number, read_policy, with_declared
from day0.decision.policy import short as _short
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import BLOCKING_TIERS, DEFAULT_THRESHOLD, TIERS, Policy, Scale
from day0.statistics.paired import CONCLUSIVE, INCONCLUSIVE, NOTHING, holm, is_proven_regression, paired_evidence

ANOMALOUS_GAIN = 0.05  # of the scale
TOLERANCE = 1e-9  # of the scale: a drop of 0.90 to 0.89 is 0.01, not 0.010000000000000009
FLIPS_SHOWN = 20
TEXT_SHOWN = 200


def evaluate_comparison(
    baseline: Mapping[str, Any],
    candidate: Mapping[str, Any],
    threshold: float = DEFAULT_THRESHOLD,
    relative: bool = False,
    scales: Mapping[str, Any] | None = None,
    tiers: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Decide over two mappings of task to score.

    Args:
        baseline, candidate: score per task, native units; anything but a finite number makes the result ANOMALOUS.
        threshold: allowed drop, 0 <= threshold < 1: a fraction of the scale's width, or of the baseline's score.
        relative: the threshold is a fraction of the baseline's score.
        scales: per task a number (the maximum, from 0, higher is better) or {min, max, direction}; an undeclared
            scale ends at 1 where both scores lie in [0, 1], else at 100.
        tiers: per task critical, supporting or advisory; critical where not named.
        settings: further keys of a policy (day0/decision/policy.py), such as thresholds and max_relative_drop.

    Returns:
        {pass, decision, failure_class, failure_classes, detail, threshold, relative, criterion, warnings, tasks: {task:
        {baseline, candidate, drop, drop_fraction, limit, within, relative_guard, scale, tier, note}}}. Tasks are sorted
        by name, the detail puts the worst first.
    """
    raw = {"threshold": threshold, "relative": relative, "scales": scales, "tiers": tiers, **settings}
    policy, problems = read_policy(raw)
    sides = [_mapping(name, side, problems) for name, side in (("baseline", baseline), ("candidate", candidate))]
    return _decide(*sides, policy, problems, {})


def compare_runs(
    baseline: Run,
    candidate: Run,
    policy: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    external: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Decide over two assessed runs, with comparability, external sanity and paired evidence.

    Args:
        baseline, candidate: the runs; an assessment's ``scores`` hold {task: {score, metric, scale, tier, ...}}.
        policy: as ``day0.decision.policy.read_policy`` takes it; its scales and tiers take precedence over the runs'.
            Runs that do not say how they were made are NOT_COMPARABLE unless require_fingerprints is False.
        source: source.json of the model, which says in which precision the baseline stands.
        external: published scores of the model, as ``day0.decision.external.ExternalScores.of_model`` gives them.

    Returns:
        As ``evaluate_comparison``, with metric and ``paired`` per task, ``comparability``, ``baseline_precision``,
        ``external``, ``evidence``, ``evidence_sentence`` and ``next_action``.
    """
    before, after = scores_of(baseline), scores_of(candidate)
    raw = {} if policy is None else policy
    if isinstance(raw, Mapping):
        scales = {task: entry["scale"] for task, entry in {**before, **after}.items() if entry.get("scale")}
        raw = with_declared(raw, scales=scales, tiers=_stricter_tiers(before, after))
    rules, problems = read_policy(raw)
    checked = check_external(external, before, rules.scales)
    problems += _run_problems("baseline", baseline)
    problems += [
        (FailureClass.EXTERNAL_BASELINE_MISMATCH, entry["sentence"])
        for entry in checked["entries"]
        if entry["status"] == FAILED
    ]
    problems += _run_problems("candidate", candidate)
    compared = comparability(baseline, candidate, rules.require_fingerprints, source)
    problems += [
        (FailureClass.NOT_COMPARABLE, difference_sentence(entry, compared["unknown"]))
        for entry in compared["differences"]
    ]

    pairs: dict[Any, Pairs] = {}
    unpaired: dict[Any, Problem] = {}
    for task in sorted(set(before) & set(after), key=str):
        found, problem = pair_samples(task, baseline.samples.get(task), candidate.samples.get(task))
        pairs |= {task: found} if found else {}
        unpaired |= {task: problem} if problem else {}
    problems += [problem for task, problem in unpaired.items() if rules.blocks(task)]

    scores = [{task: entry.get("score") for task, entry in side.items()} for side in (before, after)]
    result = _decide(*scores, rules, problems, pairs, {task: problem[1] for task, problem in unpaired.items()})
    for task, entry in result["tasks"].items():
        entry["metric"] = plain(after.get(task, before.get(task, {})).get("metric"))
    evidence, sentence = _overall_evidence(result)
    stage = COMPARISON_STAGE
    if result["failure_class"] and baseline.assessment.get("pass") is not True:
        stage = BASELINE_STAGE
    result["decision"], result["next_action"] = decide(result["failure_class"], stage, result["pass"])
    return {
        **result,
        "evidence": evidence,
        "evidence_sentence": sentence,
        "comparability": compared,
        "baseline_precision": baseline_precision(source, baseline),
        "external": checked,
    }


# --- the decision over scores ---------------------------------------------------------------------------------------


def _decide(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    policy: Policy,
    problems: Sequence[Problem],
    pairs: Mapping[Any, Pairs],
    unpaired: Mapping[Any, str] | None = None,
) -> dict[str, Any]:
    """The decision over scores, with the evidence of the pairs; ``unpaired`` says why a task has none."""
    config = [problem for problem in problems if problem[0] == FailureClass.USER_CONFIG_ERROR]
    other = [problem for problem in problems if problem[0] != FailureClass.USER_CONFIG_ERROR]
    tasks: dict[Any, dict[str, Any]] = {}
    wrong: list[Problem] = []
    notes: list[Problem] = []
    warnings: list[dict[str, Any]] = []
    if not config and not before and not after:
        config.append(
            (FailureClass.USER_CONFIG_ERROR, "neither side has a score; give at least one task with a score on each")
        )
    names = sorted(set(before) | set(after), key=str)
    for key, named in (("scales", policy.scales), ("thresholds.tasks", policy.thresholds.tasks)):
        for task in sorted(set(named) - {*names, *policy.tiers}, key=str):
            config.append(
                (
                    FailureClass.USER_CONFIG_ERROR,
                    f"{key}: {task!r} is named but has no score on either side; the tasks are {names}",
                )
            )
    if not config:
        for task in sorted({*names, *policy.tiers}, key=str):
            entry, problem = _judge(task, before, after, policy)
            tasks[task] = entry
            entry["paired"] = _paired_of_task(entry, pairs.get(task), (unpaired or {}).get(task))
            gain = None if problem else _gain_problem(task, entry)
            if gain and is_chance(entry["paired"]):
                warnings.append({"task": task, "sentence": _chance_sentence(task, entry)})
            else:
                problem = problem or gain
            if problem:
                (wrong if policy.blocks(task) else notes).append(problem)
            entry["note"] = problem[1] if problem else (unpaired or {}).get(task)
            warning = _resolution_warning(entry)
            if warning and policy.blocks(task):
                warnings.append({"task": task, "sentence": f"{task}: {warning}."})
        _correct_for_number(tasks)
        if not any(entry["tier"] in BLOCKING_TIERS for entry in tasks.values()):
            config.append(
                (FailureClass.USER_CONFIG_ERROR, "every task is advisory, so nothing would block; name one as critical")
            )
    found = [*config, *other, *wrong]
    blocking = {task: entry for task, entry in tasks.items() if entry["tier"] in BLOCKING_TIERS}
    within = bool(blocking) and all(entry["within"] is True for entry in blocking.values())
    if policy.criterion == "confident" and not found:
        within, undecided = _confident(blocking)
        found += undecided
    decision = Decision.ANOMALOUS if found else decide(None, COMPARISON_STAGE, within).decision
    return {
        "pass": decision == Decision.ACCEPT,
        "decision": decision,
        "failure_class": found[0][0] if found else None,
        "failure_classes": list(dict.fromkeys(failure_class for failure_class, _ in found)),
        "detail": _detail(found, notes, tasks, decision, policy.criterion),
        "criterion": policy.criterion,
        "threshold": policy.threshold,
        "relative": policy.relative,
        "warnings": warnings,
        "tasks": tasks,
    }


def _judge(
    task: str, before: Mapping[str, Any], after: Mapping[str, Any], policy: Policy
) -> tuple[dict[str, Any], Problem | None]:
    declared = policy.scales.get(task)
    entry: dict[str, Any] = {
        "baseline": number(before.get(task)),
        "candidate": number(after.get(task)),
        "drop": None,
        "drop_fraction": None,
        "limit": None,
        "within": None,
        "relative_guard": None,
        "scale": declared.as_plain() if declared else None,
        "tier": policy.tier(task),
        "note": None,
    }
    sides = (("baseline", before), ("candidate", after))
    missing = [name for name, scores in sides if task not in scores]
    if missing:
        return entry, (FailureClass.SAMPLE_ACCOUNTING_FAILED, f"{task}: no score from the {' and the '.join(missing)}")
    for name, scores in sides:
        if number(scores[task]) is None:
            return entry, (
                FailureClass.SAMPLE_ACCOUNTING_FAILED,
                f"{task}: the {name}'s score is {_short(scores[task])}, expected a finite number",
            )
    old, new = entry["baseline"], entry["candidate"]
    scale = declared or assumed_scale(old, new)
    entry["scale"] = scale.as_plain()
    slack = TOLERANCE * scale.width
    for name, score in (("baseline", old), ("candidate", new)):
        if not scale.min - slack <= score <= scale.max + slack:
            origin = "declared" if declared else "assumed"
            return entry, (
                FailureClass.UNKNOWN,
                f"{task}: the {name}'s score {score:.6g} is outside its {origin} scale "
                f"{scale.min:g} to {scale.max:g}; correct the scale or the run",
            )
    drop = scale.drop(old, new)
    entry["drop"], entry["drop_fraction"], entry["limit"] = drop, drop / scale.width, policy.limit(task, old, scale)
    entry["within"] = drop <= entry["limit"] + slack
    guard = policy.guard_limit(old, scale)
    if guard is not None:
        kept = drop <= guard + slack
        height = scale.above_worst(old)
        entry["relative_guard"] = {
            "relative_drop": drop / height if math.isfinite(drop / height) else None,
            "limit": policy.max_relative_drop,
            "within": kept,
        }
        entry["within"] = entry["within"] and kept
    return entry, None


def _effective_limit(entry: Mapping[str, Any]) -> float:
    """The smaller of the threshold's and the guard's limit, native units."""
    guard, scale = entry["relative_guard"], _scale_of(entry)
    return min(entry["limit"], guard["limit"] * scale.above_worst(entry["baseline"])) if guard else entry["limit"]


def _scale_of(entry: Mapping[str, Any]) -> Scale:
    return Scale(**entry["scale"])


def _gain_problem(task: Any, entry: Mapping[str, Any]) -> Problem | None:
    gain, width = -entry["drop"], _scale_of(entry).width
    if gain <= (ANOMALOUS_GAIN + TOLERANCE) * width:
        return None
    return (
        FailureClass.UNKNOWN,
        f"{task}: the candidate gains {gain:.6g} over the baseline ({entry['baseline']:.6g} to "
        f"{entry['candidate']:.6g}), more than {ANOMALOUS_GAIN * 100:g} % of the scale; suspect the baseline's run "
        "before the gain",
    )


def is_chance(paired: Mapping[str, Any]) -> bool:
    """Whether the paired samples cannot tell a gain from none."""
    interval, p = paired.get("interval"), paired.get("mcnemar_p")
    return interval is not None and interval[1] >= 0 and (p is None or p > 1 - paired["confidence"])


def _chance_sentence(task: Any, entry: Mapping[str, Any]) -> str:
    paired = entry["paired"]
    return (
        f"{task}: the candidate gains {-entry['drop']:.6g}, more than {ANOMALOUS_GAIN * 100:g} % of the scale, but "
        f"{paired['samples']:,} samples cannot tell it from none (interval of the drop {paired['interval'][0]:.4g} to "
        f"{paired['interval'][1]:.4g})."
    )


def _confident(blocking: Mapping[Any, Mapping[str, Any]]) -> tuple[bool, list[Problem]]:
    """Whether all intervals lie within their limits, and what is undecided where none is proven beyond."""
    p_values = [entry["paired"].get("regression_p") for entry in blocking.values()]
    if is_proven_regression([p for p in p_values if p is not None]):
        return False, []
    undecided = [
        (FailureClass.INSUFFICIENT_EVIDENCE, f"{task}: {entry['paired']['sentence'].rstrip('.')}")
        for task, entry in blocking.items()
        if not (entry["within"] and _is_inside(entry))
    ]
    return not undecided, undecided


def _is_inside(entry: Mapping[str, Any]) -> bool:
    """Whether the whole interval of the drop lies within the limit."""
    interval = entry["paired"].get("interval")
    return interval is not None and interval[1] <= _effective_limit(entry) + TOLERANCE * _scale_of(entry).width


def _detail(found: list[Problem], notes: list[Problem], tasks: Mapping[str, Any], decision: str, criterion: str) -> str:
    sentences = list(dict.fromkeys(text for _, text in found))
    measured = [(task, entry) for task, entry in tasks.items() if entry["drop"] is not None]
    worst_first = sorted(
        measured, key=lambda item: (item[1]["tier"] not in BLOCKING_TIERS, -item[1]["drop_fraction"], str(item[0]))
    )
    blocking = [item for item in worst_first if item[1]["tier"] in BLOCKING_TIERS]
    what = "the whole interval of the drop" if criterion == "confident" else ""
    if decision == Decision.ACCEPT and what:
        sentences.append(f"On {_of_all(len(blocking))} {what} is within the limit")
    elif decision == Decision.REGRESSION and what:
        proven = [task for task, entry in blocking if _is_beyond(entry)]
        sentences.append(f"On {len(proven)} of {len(blocking)} blocking tasks {what} is beyond the limit")
    elif decision == Decision.ACCEPT:
        sentences.append(
            "The only blocking task is within its limit"
            if len(blocking) == 1
            else f"All {len(blocking)} blocking tasks are within their limits"
        )
    elif decision == Decision.REGRESSION:
        failed = sum(entry["within"] is False for _, entry in blocking)
        sentences.append(f"{failed} of {len(blocking)} blocking tasks dropped by more than the limit")
    sentences += [_task_sentence(task, entry) for task, entry in worst_first if entry["note"] is None]
    sentences += [f"{text} (advisory, does not block)" for _, text in notes]
    return " ".join(f"{text}." for text in sentences)


def _of_all(count: int) -> str:
    return "the only blocking task" if count == 1 else f"all {count} blocking tasks"


def _is_beyond(entry: Mapping[str, Any]) -> bool:
    interval = entry["paired"].get("interval")
    return interval is not None and interval[0] > _effective_limit(entry) + TOLERANCE * _scale_of(entry).width


def _task_sentence(task: str, entry: Mapping[str, Any]) -> str:
    drop, limit, guard = entry["drop"], entry["limit"], entry["relative_guard"]
    move = f"{task}: {entry['baseline']:.6g} to {entry['candidate']:.6g}"
    if abs(drop) <= TOLERANCE * _scale_of(entry).width:
        text = f"{move}, no drop (limit {limit:.6g})"
    elif drop < 0:
        text = f"{move}, a gain of {-drop:.6g} (limit for a drop {limit:.6g})"
    elif guard and not guard["within"]:
        text = (
            f"{move}, a drop of {drop:.6g}, {guard['relative_drop']:.2%} of what the baseline reaches, beyond the "
            f"relative limit of {guard['limit'] * 100:g} %"
        )
    else:
        verdict = "within" if entry["within"] else "beyond"
        text = f"{move}, a drop of {drop:.6g}, {verdict} the limit of {limit:.6g}"
    return text if entry["tier"] in BLOCKING_TIERS else f"{text} (advisory, does not block)"


def _mapping(name: str, value: Any, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    problems.append(
        (FailureClass.USER_CONFIG_ERROR, f"{name}: expected a mapping of task to score, found {_short(value)}")
    )
    return {}


# --- two runs -------------------------------------------------------------------------------------------------------


def _run_problems(name: str, run: Run) -> list[Problem]:
    if run.assessment.get("pass") is True:
        return []
    failure_class = FailureClass.of(run.assessment.get("failure_class"))
    detail = str(run.assessment.get("detail") or "its assessment gives no detail").rstrip(".")
    return [(failure_class, f"the {name}'s run did not pass its assessment: {detail}")]


def _stricter_tiers(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    tiers = {}
    for task in {**before, **after}:
        found = [scores[task].get("tier") for scores in (before, after) if task in scores and scores[task].get("tier")]
        if found:  # a tier that is none sorts first, so that it is refused
            tiers[task] = min(found, key=lambda tier: TIERS.index(tier) if tier in TIERS else -1)
    return tiers


def _paired_of_task(entry: Mapping[str, Any], pairs: Pairs | None, problem: str | None) -> dict[str, Any]:
    """Paired evidence of one task in its native units, or why there is none."""

    def nothing(sentence: str) -> dict[str, Any]:
        return {**NOTHING, "evidence": INCONCLUSIVE, "sentence": sentence, "flips": None}

    if entry["drop"] is None:
        return nothing("There is no drop to support.")
    if not pairs:
        return nothing(problem or "There are no paired samples; only the two scores were compared.")
    scale = _scale_of(entry)
    for factor, offset in ((1.0, 0.0), (scale.width, scale.min)):
        old = [offset + factor * number(row["score"]) for _, row, _ in pairs]
        new = [offset + factor * number(row["score"]) for _, _, row in pairs]
        sides = ((old, entry["baseline"]), (new, entry["candidate"]))
        if all(abs(math.fsum(values) / len(values) - score) <= 1e-4 * scale.width for values, score in sides):
            break
    else:
        return nothing(
            f"The task's scores ({entry['baseline']:.6g}, {entry['candidate']:.6g}) are not the means of its samples, "
            "so the samples do not support them; only the two scores were compared."
        )
    evidence = paired_evidence(
        old,
        new,
        _effective_limit(entry),
        groups=[cluster_of(identity, row) for identity, row, _ in pairs],
        width=scale.width,
        higher_is_better=scale.drop(1, 0) > 0,
    )
    flips: dict[str, list[dict[str, Any]]] = {"lost": [], "won": []}
    for identity, before, after in pairs:
        change = scale.drop(number(before["score"]), number(after["score"]))
        kind = "lost" if change > 0 else "won"
        if change and len(flips[kind]) < FLIPS_SHOWN:
            answers = {name: _text(row.get("answer")) for name, row in (("baseline", before), ("candidate", after))}
            flips[kind].append({"id": identity, "repeat": plain(before.get("repeat", 0)), **answers})
    return {**evidence, "flips": flips}


def _correct_for_number(tasks: Mapping[Any, Mapping[str, Any]]) -> None:
    """Add McNemar's p corrected for the number of tasks to each task that has one."""
    tested = [entry["paired"] for entry in tasks.values() if entry["paired"].get("mcnemar_p") is not None]
    for paired, corrected in zip(tested, holm([paired["mcnemar_p"] for paired in tested]), strict=True):
        paired["mcnemar_p_holm"] = corrected


def _resolution_warning(entry: Mapping[str, Any]) -> str | None:
    """That so many samples, with so many of them different, could not show a drop of the limit's size."""
    paired = entry["paired"]
    if paired["evidence"] == CONCLUSIVE or paired.get("interval") is None:
        return None
    limit, detectable = _effective_limit(entry), paired["detectable_drop"]
    if detectable <= limit:
        return None
    text = (
        f"{paired['samples']:,} samples, {paired['disagreement_rate']:.2%} of them scored differently, cannot resolve "
        f"the limit of {limit:.4g}: a drop below about {detectable:.2g} cannot be told from chance"
    )
    return f"{text}; the limit needs about {paired['samples_needed']:,} samples" if paired["samples_needed"] else text


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _overall_evidence(result: Mapping[str, Any]) -> tuple[str, str]:
    """Conclusive if the samples support the decision: all blocking tasks inside, or one proven beyond its limit."""
    blocking = {task: entry for task, entry in result["tasks"].items() if entry["tier"] in BLOCKING_TIERS}
    if result["decision"] == Decision.ACCEPT:
        open_tasks = [task for task, entry in blocking.items() if not _is_inside(entry)]
        if not open_tasks:
            return (
                CONCLUSIVE,
                "Conclusive: on every blocking task the whole interval of the drop lies within the limit.",
            )
        return INCONCLUSIVE, (
            f"Inconclusive: the scores are within their limits, but on {_listed(open_tasks)} the interval of the drop "
            "reaches beyond the limit or cannot be told."
        )
    if result["decision"] == Decision.REGRESSION:
        beyond = [task for task, entry in blocking.items() if _is_beyond(entry)]
        p_values = [entry["paired"].get("regression_p") for entry in blocking.values()]
        if is_proven_regression([p for p in p_values if p is not None]):
            return CONCLUSIVE, f"Conclusive: on {_listed(beyond)} the whole interval of the drop lies beyond the limit."
        if beyond:
            return INCONCLUSIVE, (
                f"Inconclusive: the interval of the drop on {_listed(beyond)} lies beyond the limit, but among "
                f"{len(blocking)} tasks one such interval may be chance (Holm's correction)."
            )
        dropped = [task for task, entry in blocking.items() if entry["within"] is False]
        return INCONCLUSIVE, (
            f"Inconclusive: the drop on {_listed(dropped)} is beyond the limit, but its interval holds the limit or "
            "cannot be told."
        )
    if result["failure_class"] == FailureClass.INSUFFICIENT_EVIDENCE:
        return (
            INCONCLUSIVE,
            "Inconclusive: the samples show neither that every drop is within its limit nor that one is not.",
        )
    return INCONCLUSIVE, "Inconclusive: the runs cannot be compared as they are."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:-1])) + (" and " if len(names) > 1 else "") + str(names[-1])
