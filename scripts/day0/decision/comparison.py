"""The decision: is the candidate no worse than the baseline, task by task, by more than the limit?

``evaluate_comparison`` judges two plain ``{task: score}`` mappings; ``compare_runs`` judges two assessed runs, checks
first that they were made alike, and adds the paired evidence of their samples. Both are pure and total: whatever is
wrong with the input becomes an ANOMALOUS result that says what, never an exception and never a pass.

A task is within its limit if its drop (positive = worse, whatever the scale's direction) is at most ``threshold`` times
the width of its scale or, with ``relative``, at most ``threshold`` times the baseline's score; where the policy has a
relative guard that holds for the baseline's score, also at most that. Tiers "critical" and "supporting" block;
"advisory" is reported.

Which drops make a REGRESSION says the policy's criterion (day0/decision/criteria.py); every comparison says what the
others would have said. Where the samples do not decide, the result is ANOMALOUS with INSUFFICIENT_EVIDENCE.

A gain of more than 5 % of the scale is ANOMALOUS, for quantization teaches a model nothing; except where the paired
samples cannot tell it from none, that is where the interval of the drop holds 0 and, where the exact test applies, its
p is above 0.05. Then it is a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from day0.decision.answers import compare_answers, hold_answers
from day0.decision.comparability import (
    Pairs,
    Run,
    baseline_precision,
    cluster_of,
    comparability,
    difference_sentence,
    pair_samples,
    scores_of,
)
from day0.decision.criteria import (
    NOTHING_MORE,
    TOLERANCE,
    Asked,
    Judgement,
    Measured,
    by_confidence,
    by_point,
    by_suite,
    cure_sentence,
    held_to_proofs,
    listed,
)
from day0.decision.external import FAILED, check_external
from day0.decision.failures import BASELINE_STAGE, COMPARISON_STAGE, decide
from day0.decision.policy import Problem, assumed_scale, read_policy, with_declared
from day0.decision.quoting import number, printable, short
from day0.decision.speed import compare_speed, hold_speed
from day0.records.comparison import (
    Comparison,
    CriterionResult,
    Evidence,
    Flip,
    Flips,
    Paired,
    RelativeGuard,
    ScoreComparison,
    SuiteEvidence,
    Task,
    TaskWarning,
)
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import BLOCKING_TIERS, DEFAULT_THRESHOLD, TIERS, Criterion, Policy, Scale
from day0.statistics.paired import NOTHING, holm, needed_sentence, paired_evidence
from day0.statistics.resolution import CONCLUSIVE, INCONCLUSIVE, shared_confidence

ANOMALOUS_GAIN = 0.05  # of the scale
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
) -> ScoreComparison:
    """Decide over two mappings of task to score.

    Args:
        baseline, candidate: score per task, native units; anything but a finite number makes the result ANOMALOUS.
        threshold: allowed drop, 0 <= threshold < 1: a fraction of the scale's width, or of the baseline's score.
        relative: the threshold is a fraction of the baseline's score.
        scales: per task a number (the maximum, from 0, higher is better) or {min, max, direction}; an undeclared
            scale ends at 1 where both scores lie in [0, 1], else at 100.
        tiers: per task critical, supporting or advisory; critical where not named.
        settings: further keys of a policy (day0/records/policy.py), such as thresholds and max_relative_drop.

    Returns:
        The comparison, tasks sorted by name; its detail puts the worst first.
    """
    raw = {"threshold": threshold, "relative": relative, "scales": scales, "tiers": tiers, **settings}
    policy, problems = read_policy(raw)
    sides = [_scores_by_task(name, side, problems) for name, side in (("baseline", baseline), ("candidate", candidate))]
    return _decide(sides[0], sides[1], policy, problems, {}).comparison


def compare_runs(
    baseline: Run,
    candidate: Run,
    policy: Policy | Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    external: Iterable[Mapping[str, Any]] = (),
) -> Comparison:
    """Decide over two assessed runs, with comparability, external sanity and paired evidence.

    Args:
        baseline, candidate: the runs; an assessment's ``scores`` hold {task: {score, metric, scale, tier, ...}}.
        policy: a policy, or what ``day0.decision.policy.read_policy`` takes; its scales and tiers take precedence over
            those of the runs. Runs that do not say how they were made are NOT_COMPARABLE unless require_fingerprints is
            False.
        source: source.json of the model, which says in which precision the baseline stands.
        external: published scores of the model, as ``day0.decision.external.ExternalScores.of_model`` gives them.

    Returns:
        The comparison, without the digests of the files that the runs were read from.
    """
    before, after = scores_of(baseline), scores_of(candidate)
    raw: Any = policy.as_plain() if isinstance(policy, Policy) else {} if policy is None else policy
    if isinstance(raw, Mapping):
        scales = {task: entry["scale"] for task, entry in {**before, **after}.items() if entry.get("scale")}
        raw = with_declared(raw, scales=scales, tiers=_stricter_tiers(before, after))
    rules, problems = read_policy(raw)
    checked = check_external(external, before, rules.scales)
    problems += _run_problems("baseline", baseline)
    problems += [
        (FailureClass.EXTERNAL_BASELINE_MISMATCH, entry.sentence) for entry in checked.entries if entry.status == FAILED
    ]
    problems += _run_problems("candidate", candidate)
    compared = comparability(baseline, candidate, rules.require_fingerprints, source)
    problems += [
        (FailureClass.NOT_COMPARABLE, difference_sentence(entry, compared.unknown)) for entry in compared.differences
    ]

    pairs: dict[str, Pairs] = {}
    unpaired: dict[str, Problem] = {}
    for task in sorted(before.keys() & after.keys()):
        found, problem = pair_samples(task, baseline.samples.get(task), candidate.samples.get(task))
        pairs |= {task: found} if found else {}
        unpaired |= {task: problem} if problem else {}
    problems += [problem for task, problem in unpaired.items() if rules.blocks(task)]

    answers = compare_answers(baseline, candidate, sorted(before.keys() & after.keys()), pairs)
    problems += answers.problems

    scores = [{task: entry.get("score") for task, entry in side.items()} for side in (before, after)]
    reasons = {task: sentence for task, (_, sentence) in unpaired.items()}
    asked = Asked(
        frozenset(task for task in pairs if baseline.is_sampled(task)),
        frozenset(task for task in pairs if number(baseline.fingerprint(task).get("limit")) is not None),
    )
    result, measured, judgement = _decide(scores[0], scores[1], rules, problems, pairs, reasons, asked)
    for task, entry in result.tasks.items():
        metric = after.get(task, before.get(task, {})).get("metric")
        entry.metric = None if metric is None else printable(metric)
    evidence, sentence = _overall_evidence(result, measured, judgement)
    stage = COMPARISON_STAGE
    if result.failure_class and baseline.assessment.get("pass") is not True:
        stage = BASELINE_STAGE
    decision, next_action = decide(result.failure_class, stage, result.passed)
    suite = candidate.assessment.get("suite")
    next_action = _next_action(result, judgement, None if suite is None else printable(suite)) or next_action
    scored = {name: getattr(result, name) for name in ScoreComparison.model_fields}
    comparison = Comparison(
        **scored | {"decision": decision},
        evidence=evidence,
        evidence_sentence=sentence,
        comparability=compared,
        baseline_precision=baseline_precision(source, baseline),
        external=checked,
        next_action=next_action,
        speed=compare_speed(baseline, candidate),
    )

    def again(left: Mapping[str, Pairs]) -> ScoreComparison:
        fewer = [_scores_of_pairs(side, pairs, left, measured, place) for place, side in enumerate(scores)]
        return _decide(fewer[0], fewer[1], rules, problems, left, reasons, asked).comparison

    held = hold_answers(comparison, answers, pairs, rules, again)
    return hold_speed(held, rules, candidate.assessment.get("model"))


def _scores_of_pairs(
    scores: Mapping[str, Any],
    pairs: Mapping[str, Pairs],
    left: Mapping[str, Pairs],
    measured: Mapping[str, Measured],
    place: int,
) -> dict[str, Any]:
    """A side's scores, moved by what its mean over the pairs that are left differs from that over all."""
    moved = dict(scores)
    for task, kept in left.items():
        if task not in measured or len(kept) == len(pairs[task]):
            continue
        scale = measured[task].scale
        values, fewer = ([pair.new if place else pair.old for pair in found] for found in (pairs[task], kept))
        factor = 1.0 if _is_mean(scores[task], values, scale) else scale.width  # samples in units of the scale, or 0-1
        moved[task] = scores[task] + factor * (math.fsum(fewer) / len(fewer) - math.fsum(values) / len(values))
    return moved


# --- the decision over scores ---------------------------------------------------------------------------------------


class _Decided(NamedTuple):
    """A decision over scores, the tasks that have a drop, and what the criterion says; None where it was not asked."""

    comparison: ScoreComparison
    measured: dict[str, Measured]
    judgement: Judgement | None


def _decide(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    policy: Policy,
    problems: Sequence[Problem],
    pairs: Mapping[str, Pairs],
    unpaired: Mapping[str, str] | None = None,
    asked: Asked = NOTHING_MORE,
) -> _Decided:
    """The decision over scores with the evidence of the pairs.

    Args:
        unpaired: why a task has no pairs.
        asked: which tasks can be asked more.
    """
    config = [problem for problem in problems if problem[0] is FailureClass.USER_CONFIG_ERROR]
    other = [problem for problem in problems if problem[0] is not FailureClass.USER_CONFIG_ERROR]
    reasons = unpaired or {}
    tasks: dict[str, Task] = {}
    measured: dict[str, Measured] = {}
    wrong: list[Problem] = []
    notes: list[Problem] = []
    warnings: list[TaskWarning] = []
    if not config and not before and not after:
        config.append(
            (FailureClass.USER_CONFIG_ERROR, "neither side has a score; give at least one task with a score on each")
        )
    names = sorted({*before, *after})
    confidence = shared_confidence(policy.decisions)
    for key, named in (
        ("scales", policy.scales),
        ("thresholds.tasks", policy.thresholds.tasks),
        ("require", policy.require),
    ):
        for task in sorted({*named} - {*names, *policy.tiers}):
            sentence = f"{key}: {task!r} is named but has no score on either side; the tasks are {names}"
            config.append((FailureClass.USER_CONFIG_ERROR, sentence))
    if not config:
        for task in sorted({*names, *policy.tiers}):
            entry, found, problem = _judge(task, before, after, policy)
            tasks[task] = entry
            if found is not None:
                measured[task] = found
                entry.paired = _paired_of_task(found, pairs.get(task), reasons.get(task), confidence)
                gain = _gain_problem(task, found)
                if gain and is_chance(entry.paired.interval, entry.paired.mcnemar_p, entry.paired.confidence):
                    warnings.append(TaskWarning(task=task, sentence=_chance_sentence(task, found)))
                else:
                    problem = gain
                warning = _resolution_warning(found)
                if warning and policy.blocks(task):
                    warnings.append(TaskWarning(task=task, sentence=f"{task}: {warning}."))
            if problem:
                (wrong if policy.blocks(task) else notes).append(problem)
            entry.note = problem[1] if problem else reasons.get(task)
        _correct_for_number(tasks.values())
        if measured and all(found.is_nothing for found in measured.values()):
            sentence = f"every score of both sides is 0 ({', '.join(measured)}): nothing was measured"
            wrong.append((FailureClass.UNKNOWN, sentence))
        if not any(entry.tier in BLOCKING_TIERS for entry in tasks.values()):
            config.append(
                (FailureClass.USER_CONFIG_ERROR, "every task is advisory, so nothing would block; name one as critical")
            )
    decisive = [*config, *other, *wrong]
    blocking = _blocking(measured)
    judgements: dict[Criterion, Judgement] = {}
    evidence: SuiteEvidence | None = None
    criterion = policy.criterion
    judgement: Judgement | None = None
    if blocking and not decisive:
        judgements = {"point": by_point(blocking), "confident": by_confidence(blocking)}
        together = by_suite(blocking, policy, asked)
        if together:
            judgements["suite"], evidence = together
        elif criterion == "suite":
            criterion = "point"
        judgement = judgements[criterion]
        if criterion != policy.criterion:
            judgement = held_to_proofs(judgement, blocking, policy)
        decisive += judgement.problems
    decision = Decision.ANOMALOUS if decisive or judgement is None else judgement.decision
    comparison = ScoreComparison(
        passed=decision is Decision.ACCEPT,
        decision=decision,
        failure_class=decisive[0][0] if decisive else None,
        failure_classes=list(dict.fromkeys(failure_class for failure_class, _ in decisive)),
        detail=_detail(decisive, notes, measured, judgement, is_replaced=criterion != policy.criterion),
        criterion=criterion,
        criteria={
            name: CriterionResult(decision=said.decision, sentence=f"{said.sentence}.")
            for name, said in judgements.items()
        },
        suite_evidence=evidence,
        threshold=policy.threshold,
        relative=policy.relative,
        warnings=warnings,
        tasks=tasks,
    )
    return _Decided(comparison, measured, judgement)


def _blocking(measured: Mapping[str, Measured]) -> dict[str, Measured]:
    return {task: found for task, found in measured.items() if found.entry.tier in BLOCKING_TIERS}


def _judge(
    task: str, before: Mapping[str, Any], after: Mapping[str, Any], policy: Policy
) -> tuple[Task, Measured | None, Problem | None]:
    """A task without its paired evidence, its drop where it has one, and what is wrong where it has none."""
    declared = policy.scales.get(task)
    old, new = number(before.get(task)), number(after.get(task))
    entry = Task(
        baseline=old,
        candidate=new,
        drop=None,
        drop_fraction=None,
        limit=None,
        within=None,
        relative_guard=None,
        scale=declared,
        tier=policy.tier(task),
        note=None,
        paired=_nothing_paired("There is no drop to support."),
    )
    sides = (("baseline", before), ("candidate", after))
    missing = [name for name, scores in sides if task not in scores]
    if missing:
        sentence = f"{task}: no score from the {' and the '.join(missing)}"
        return entry, None, (FailureClass.SAMPLE_ACCOUNTING_FAILED, sentence)
    if old is None or new is None:
        name, scores = sides[0] if old is None else sides[1]
        sentence = f"{task}: the {name}'s score is {short(scores[task])}, expected a finite number"
        return entry, None, (FailureClass.SAMPLE_ACCOUNTING_FAILED, sentence)
    scale = declared or assumed_scale(old, new)
    entry.scale = scale
    slack = TOLERANCE * scale.width
    for name, score in (("baseline", old), ("candidate", new)):
        if not scale.min - slack <= score <= scale.max + slack:
            origin = "declared" if declared else "assumed"
            sentence = (
                f"{task}: the {name}'s score {score:.6g} is outside its {origin} scale "
                f"{scale.min:g} to {scale.max:g}; correct the scale or the run"
            )
            return entry, None, (FailureClass.UNKNOWN, sentence)
    drop, limit, guard = scale.drop(old, new), policy.limit(task, old, scale), policy.guard_limit(old, scale)
    entry.drop, entry.drop_fraction, entry.limit = drop, drop / scale.width, limit
    entry.within = drop <= limit + slack
    if guard is not None and policy.max_relative_drop is not None:
        relative_drop = drop / scale.above_worst(old)
        entry.relative_guard = RelativeGuard(
            relative_drop=relative_drop if math.isfinite(relative_drop) else None,
            limit=policy.max_relative_drop,
            within=drop <= guard + slack,
        )
        entry.within = entry.within and entry.relative_guard.within
    return entry, Measured(entry, scale, old, new, drop, limit, policy.reach(task, old, scale)), None


def _gain_problem(task: str, found: Measured) -> Problem | None:
    if -found.drop <= (ANOMALOUS_GAIN + TOLERANCE) * found.scale.width:
        return None
    return (
        FailureClass.UNKNOWN,
        f"{task}: the candidate gains {-found.drop:.6g} over the baseline ({found.old:.6g} to {found.new:.6g}), more "
        f"than {ANOMALOUS_GAIN * 100:g} % of the scale; suspect the baseline's run before the gain",
    )


def is_chance(interval: Sequence[float] | None, p: float | None, confidence: float | None) -> bool:
    """Whether the paired samples cannot tell a gain from none.

    Args:
        interval: low and high end of the drop, native units; None where nothing is paired.
        p: of the exact McNemar test, or None where it does not apply.
        confidence: of the interval, 0 < confidence < 1.
    """
    return interval is not None and interval[1] >= 0 and (p is None or confidence is None or p > 1 - confidence)


def _chance_sentence(task: str, found: Measured) -> str:
    paired = found.entry.paired
    low, high = paired.interval or (math.nan, math.nan)
    return (
        f"{task}: the candidate gains {-found.drop:.6g}, more than {ANOMALOUS_GAIN * 100:g} % of the scale, but "
        f"{paired.samples:,} samples cannot tell it from none (interval of the drop {low:.4g} to {high:.4g})."
    )


def _detail(
    decisive: list[Problem],
    notes: list[Problem],
    measured: Mapping[str, Measured],
    judgement: Judgement | None,
    is_replaced: bool,
) -> str:
    """The sentences of a decision, the worst tasks first.

    Args:
        is_replaced: the criterion suite was asked for, but there are no samples.
    """
    sentences = list(dict.fromkeys(text for _, text in decisive))
    if judgement and not judgement.problems:
        sentences.append(judgement.sentence)
        if is_replaced:
            sentences.append("The criterion point decided, since suite needs the samples of both runs")
    worst_first = sorted(
        measured.items(),
        key=lambda item: (
            item[1].entry.tier not in BLOCKING_TIERS, item[1].entry.within is not False,
            -item[1].drop / item[1].scale.width, item[0],
        ),
    )  # fmt: skip
    shown = [(found, _task_sentence(task, found)) for task, found in worst_first if found.entry.note is None]
    within = next((place for place, (found, _) in enumerate(shown) if found.entry.within is not False), None)
    is_regression = judgement is not None and judgement.decision is Decision.REGRESSION
    if is_regression and not decisive and within:
        shown[within] = (shown[within][0], f"Within their limits: {shown[within][1]}")
    sentences += [sentence for _, sentence in shown]
    sentences += [f"{text} (advisory, does not block)" for _, text in notes]
    return " ".join(f"{text}." for text in sentences)


def _task_sentence(task: str, found: Measured) -> str:
    guard = found.entry.relative_guard
    move = f"{task}: {found.old:.6g} to {found.new:.6g}"
    if abs(found.drop) <= found.slack:
        text = f"{move}, no drop (limit {found.limit:.6g})"
    elif found.drop < 0:
        text = f"{move}, a gain of {-found.drop:.6g} (limit for a drop {found.limit:.6g})"
    elif guard and not guard.within:
        share = "" if guard.relative_drop is None else f"{guard.relative_drop:.2%} of what the baseline reaches, "
        text = f"{move}, a drop of {found.drop:.6g}, {share}beyond the relative limit of {guard.limit * 100:g} %"
    else:
        verdict = "within" if found.entry.within else "beyond"
        text = f"{move}, a drop of {found.drop:.6g}, {verdict} the limit of {found.limit:.6g}"
    return text if found.entry.tier in BLOCKING_TIERS else f"{text} (advisory, does not block)"


def _scores_by_task(name: str, value: Any, problems: list[Problem]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {printable(task): score for task, score in value.items()}
    sentence = f"{name}: expected a mapping of task to score, found {short(value)}"
    problems.append((FailureClass.USER_CONFIG_ERROR, sentence))
    return {}


# --- two runs -------------------------------------------------------------------------------------------------------


def _run_problems(name: str, run: Run) -> list[Problem]:
    if run.assessment.get("pass") is True:
        return []
    detail = printable(run.assessment.get("detail") or "its assessment gives no detail").rstrip(".")
    sentence = f"the {name}'s run did not pass its assessment: {detail}"
    return [(FailureClass.of(run.assessment.get("failure_class")), sentence)]


def _next_action(result: ScoreComparison, judgement: Judgement | None, suite: str | None) -> str | None:
    """What to do about a drop that chance may have caused; None where the decision's own next action stands."""
    by_the_suite = result.criteria.get("suite")
    if result.failure_class is FailureClass.INSUFFICIENT_EVIDENCE and result.criterion == "suite":
        return cure_sentence(result.suite_evidence, suite) if result.suite_evidence else None
    if result.decision is not Decision.REGRESSION or result.failure_class is not None:
        return None
    if by_the_suite is None or (result.criterion == "suite" and judgement and not judgement.is_proven):
        return (
            "Do not publish. Scores alone cannot tell this loss from chance: before the recipe is changed, give the "
            "samples of both runs, so that the criterion suite can."
        )
    if by_the_suite.decision is Decision.REGRESSION:
        return None
    unproven = (
        "Do not publish by this criterion, but leave the recipe as it is: chance alone could have caused the drop"
    )
    if by_the_suite.decision is Decision.ACCEPT:
        return f"{unproven}, and the criterion suite accepts the candidate."
    return f"{unproven}. {cure_sentence(result.suite_evidence, suite)}" if result.suite_evidence else unproven


def _stricter_tiers(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    tiers = {}
    for task in {**before, **after}:
        found = [scores[task].get("tier") for scores in (before, after) if task in scores and scores[task].get("tier")]
        if found:  # a tier that is none sorts first, so that it is refused
            tiers[task] = min(found, key=lambda tier: TIERS.index(tier) if tier in TIERS else -1)
    return tiers


def _nothing_paired(sentence: str) -> Paired:
    return Paired.model_validate({**NOTHING, "evidence": INCONCLUSIVE, "sentence": sentence, "flips": None})


def _paired_of_task(found: Measured, pairs: Pairs | None, problem: str | None, confidence: float) -> Paired:
    """Paired evidence of one task in its native units, or why there is none."""
    if not pairs:
        return _nothing_paired(problem or "There are no paired samples; only the two scores were compared.")
    scale = found.scale
    for factor, offset in ((1.0, 0.0), (scale.width, scale.min)):
        old = [offset + factor * pair.old for pair in pairs]
        new = [offset + factor * pair.new for pair in pairs]
        if _is_mean(found.old, old, scale) and _is_mean(found.new, new, scale):
            break
    else:
        return _nothing_paired(
            f"The task's scores ({found.old:.6g}, {found.new:.6g}) are not the means of its samples, "
            "so the samples do not support them; only the two scores were compared."
        )
    evidence = paired_evidence(
        old,
        new,
        found.reach,
        groups=[cluster_of(pair.id, pair.baseline) for pair in pairs],
        questions=[pair.id for pair in pairs],
        width=scale.width,
        higher_is_better=scale.direction == "higher",
        confidence=confidence,
    )
    flips = Flips(lost=[], won=[])
    for pair in pairs:
        change = scale.drop(pair.old, pair.new)
        shown = flips.lost if change > 0 else flips.won
        if change and len(shown) < FLIPS_SHOWN:
            repeat = pair.baseline.get("repeat", 0)
            shown.append(
                Flip(
                    id=printable(pair.id),
                    repeat=repeat if isinstance(repeat, int) else printable(repeat),
                    baseline=_text(pair.baseline.get("answer")),
                    candidate=_text(pair.candidate.get("answer")),
                )
            )
    return Paired(**evidence, flips=flips)


def _is_mean(score: float, values: Sequence[float], scale: Scale) -> bool:
    """Whether a score is the mean of values that all lie within its scale."""
    slack = TOLERANCE * scale.width
    within = scale.min - slack <= min(values) and max(values) <= scale.max + slack
    return within and abs(math.fsum(values) / len(values) - score) <= 1e-4 * scale.width


def _correct_for_number(tasks: Iterable[Task]) -> None:
    """Add McNemar's p corrected for the number of tasks to each task that has one."""
    tested = [(entry.paired, entry.paired.mcnemar_p) for entry in tasks if entry.paired.mcnemar_p is not None]
    for (paired, _), corrected in zip(tested, holm([p for _, p in tested]), strict=True):
        paired.mcnemar_p_holm = corrected


def _resolution_warning(found: Measured) -> str | None:
    """That so many samples, with so many of them different, could not show a drop of the limit's size."""
    paired, detectable = found.entry.paired, found.entry.paired.detectable_drop
    if paired.evidence == CONCLUSIVE or detectable is None or detectable <= found.reach:
        return None
    text = (
        f"{paired.samples:,} samples, {paired.disagreement_rate:.2%} of them scored differently, cannot resolve "
        f"the limit of {found.reach:.4g}: a drop below about {detectable:.2g} cannot be distinguished from chance"
    )
    needed = needed_sentence(dict(paired), found.reach)
    return f"{text}; {needed}" if needed else text


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = printable(value)
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1]}…"


def _overall_evidence(
    result: ScoreComparison, measured: Mapping[str, Measured], judgement: Judgement | None
) -> tuple[Evidence, str]:
    """Conclusive if the samples support the decision: the suite's, or that of the intervals of single tasks."""
    blocking = _blocking(measured)
    if result.criterion == "suite" and judgement and result.failure_class is None:
        sentence = f"{judgement.sentence[:1].lower()}{judgement.sentence[1:]}."
        if judgement.is_proven:
            return CONCLUSIVE, f"Conclusive: {sentence}"
        return INCONCLUSIVE, f"Inconclusive, since some tasks have no paired samples: {sentence}"
    if result.decision is Decision.ACCEPT:
        open_tasks = [task for task, found in blocking.items() if not found.is_inside]
        if not open_tasks:
            return (
                CONCLUSIVE,
                "Conclusive: on every blocking task the whole interval of the drop lies within the limit.",
            )
        return INCONCLUSIVE, (
            f"Inconclusive: the scores are within their limits, but on {listed(open_tasks)} the interval of the drop "
            "reaches beyond the limit or is not known."
        )
    if result.decision is Decision.REGRESSION:
        beyond = [task for task, found in blocking.items() if found.is_beyond]
        if judgement and judgement.is_proven:
            return CONCLUSIVE, f"Conclusive: on {listed(beyond)} the whole interval of the drop lies beyond the limit."
        if beyond:
            return INCONCLUSIVE, (
                f"Inconclusive: the interval of the drop on {listed(beyond)} lies beyond the limit, but among "
                f"{len(blocking)} tasks one such interval may be chance (Holm's correction)."
            )
        dropped = [task for task, found in blocking.items() if found.entry.within is False]
        return INCONCLUSIVE, (
            f"Inconclusive: the drop on {listed(dropped)} is beyond the limit, but its interval holds the limit or "
            "is not known."
        )
    if result.failure_class is FailureClass.INSUFFICIENT_EVIDENCE:
        return (
            INCONCLUSIVE,
            "Inconclusive: the samples show neither that the candidate is within its limits nor that it is not.",
        )
    return INCONCLUSIVE, "Inconclusive: the runs cannot be compared as they are."
