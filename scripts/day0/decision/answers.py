"""What two runs show beyond their scores: answers that one side alone left malformed, tokens, and runs too much alike.

``compare_answers`` is the one call that the comparison makes before it decides, ``hold_answers`` the one after.

**Malformed answers.** An answer is cut (it ended at the largest length), empty, degenerate (one part over and over), or
shows control tokens as text. Counted per side and paired; an exact sign test over questions (repeats together) says
whether one side has more, at ``LEVEL``.

**A loss is explained by them**, and the release ANOMALOUS with ANSWERS_MALFORMED instead of a REGRESSION, where all
three hold:

1. on some blocking task the candidate alone has more malformed answers than the baseline alone, by the test;
2. decided again by the same criterion, without the samples of these tasks that one side alone left malformed, it is no
   REGRESSION;
3. over the tasks whose drop is beyond the limit (all blocking ones where none is), those samples hold more than
   ``EXPLAINED_SHARE`` of the drop, as fractions of the scales.

So a model that is worse and also rambles a little stays a REGRESSION: what is left without the malformed answers is
beyond the limit still, or most of the loss is elsewhere.

**Tokens.** Per answer, both sides, with the interval of the ratio (day0/statistics/ratio.py). ``max_token_growth`` is
held against the ratio itself, over the suite, and its interval is said with it; where tokens are not known on a
blocking task that generates, it cannot be met.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from day0.base.numbers import is_count, mapping_or_empty
from day0.decision.answer_texts import DEFAULT_END, is_empty, is_loop
from day0.decision.comparability import Pairs, Row, Run, cluster_of, is_generated
from day0.decision.failures import COMPARISON_STAGE, decide
from day0.decision.policy import Problem
from day0.decision.quoting import printable
from day0.decision.sameness import same_answers
from day0.records.comparison import Comparison, OneSided, ScoreComparison, TaskWarning, Tokens
from day0.records.comparison import Task as ComparedTask
from day0.records.failure_class import Decision, FailureClass
from day0.records.policy import Policy
from day0.statistics.paired import mcnemar_p
from day0.statistics.ratio import ratio_of_means

LEVEL = 0.01
EXPLAINED_SHARE = 0.5
COUNT_TOKENS = (
    "Evaluate both sides with a harness that counts tokens (lm-eval does), or leave max_token_growth out, then rerun."
)
MOST_TOKENS = 10**9  # of an answer: a larger number counts as not known, and its sums stay finite
# As chat templates and tokenizers write them; an answer that holds one ended at a token that its engine did not know.
CONTROL_TOKEN = re.compile(
    r"<\|[a-z][a-z0-9_]{1,30}\|>|</?s>|<(?:unk|pad|bos|eos|end_of_turn|start_of_turn)>|\[/?INST\]"
)
WORDS = {
    "cut": "cut at the largest length",
    "empty": "empty",
    "degenerate": "one part over and over",
    "control tokens": "with control tokens as text",
}


@dataclass(frozen=True)
class TaskAnswers:
    """The answers of one task on both sides.

    Attributes:
        kinds: what is malformed, of which kinds there are any.
        one_sided: numbers of the pairs that one side alone left malformed, of kinds of which the candidate has more.
        tokens: None where the task generates nothing, or nothing is known of it.
    """

    kinds: list[OneSided] = field(default_factory=list)
    one_sided: frozenset[int] = frozenset()
    tokens: Tokens | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of two runs; ``problems`` are why their scores are no evidence."""

    tasks: dict[str, TaskAnswers]
    tokens: Tokens | None
    problems: list[Problem]


def compare_answers(baseline: Run, candidate: Run, tasks: Iterable[str], pairs: Mapping[str, Pairs]) -> Answers:
    """Compare what two runs answered.

    Args:
        tasks: that both sides have a score of.
        pairs: their paired samples, where they have any.
    """
    found = {task: _task_answers(task, baseline, candidate, pairs.get(task)) for task in tasks}
    counted = {task: pairs[task] for task, answers in found.items() if answers.tokens and task in pairs}
    unpaired = [answers.tokens for task, answers in found.items() if answers.tokens and task not in pairs]
    return Answers(found, _suite_tokens(counted, unpaired), same_answers(baseline, candidate, pairs))


def _task_answers(task: str, baseline: Run, candidate: Run, pairs: Pairs | None) -> TaskAnswers:
    if not pairs:
        return TaskAnswers(tokens=_counted_by_requests(task, baseline, candidate))
    ends = [_end_of_thoughts(run, task) for run in (baseline, candidate)]
    malformed = [(_kinds_of(pair.baseline, ends[0]), _kinds_of(pair.candidate, ends[1])) for pair in pairs]
    kinds, one_sided = [], set()
    for kind in WORDS:
        counts = _counts_of(kind, pairs, malformed)
        if counts.baseline or counts.candidate:
            kinds.append(counts)
        if _has_more(counts):
            one_sided |= {place for place, (old, new) in enumerate(malformed) if (kind in old) != (kind in new)}
    is_silent = _generates_nothing(baseline, candidate, task)
    generated = any(is_generated(row) for pair in pairs for row in (pair.baseline, pair.candidate))
    tokens = _tokens({task: pairs}) if generated or not is_silent else None
    return TaskAnswers(kinds, frozenset(one_sided), tokens)


def _generates_nothing(baseline: Run, candidate: Run, task: str) -> bool:
    """Whether both runs state that a task has no sampling: its answers are choices by their likelihood."""
    return all(run.fingerprint(task).get("sampling") == {} for run in (baseline, candidate))


def _end_of_thoughts(run: Run, task: str) -> str:
    end = mapping_or_empty(run.fingerprint(task).get("reasoning")).get("end")
    return end if isinstance(end, str) and end else DEFAULT_END


def _kinds_of(row: Row, end: str) -> frozenset[str]:
    kinds = {"cut"} if row.get("finish_reason") == "length" else set()
    answer = row.get("answer")
    if isinstance(answer, str):
        kinds |= {"empty"} if is_empty(answer, end) else set()
        kinds |= {"degenerate"} if is_loop(answer) else set()
        kinds |= {"control tokens"} if CONTROL_TOKEN.search(answer) else set()
    return frozenset(kinds)


def _counts_of(kind: str, pairs: Pairs, malformed: Sequence[tuple[frozenset[str], frozenset[str]]]) -> OneSided:
    sides = [(kind in old, kind in new) for old, new in malformed]
    balance: dict[str, int] = defaultdict(int)  # by question, so that repeats of one are one trial
    for pair, (old, new) in zip(pairs, sides, strict=True):
        balance[pair.id] += new - old
    return OneSided.model_validate(
        {
            "kind": kind,
            "baseline": sum(old for old, _ in sides),
            "candidate": sum(new for _, new in sides),
            "baseline_only": sum(old and not new for old, new in sides),
            "candidate_only": sum(new and not old for old, new in sides),
            "p": mcnemar_p(sum(count < 0 for count in balance.values()), sum(count > 0 for count in balance.values())),
        }
    )


def _has_more(counts: OneSided) -> bool:
    """Whether the candidate's answers are of this kind more often than by chance."""
    return counts.candidate_only > counts.baseline_only and counts.p <= LEVEL


# --- tokens ---------------------------------------------------------------------------------------------------------


def _is_known(row: Row) -> bool:
    return is_count(row.get("tokens")) and row["tokens"] <= MOST_TOKENS


def _tokens(pairs: Mapping[str, Pairs]) -> Tokens:
    known = [
        (task, pair, pair.baseline["tokens"], pair.candidate["tokens"])
        for task, found in pairs.items()
        for pair in found
        if _is_known(pair.baseline) and _is_known(pair.candidate)
    ]
    unknown = sum(map(len, pairs.values())) - len(known)
    if not known:
        lacking = [
            name
            for name in ("baseline", "candidate")
            if not any(_is_known(getattr(pair, name)) for found in pairs.values() for pair in found)
        ]
        return _unknown_tokens(unknown, lacking)
    old, new = [entry[2] for entry in known], [entry[3] for entry in known]
    groups = [(task, cluster_of(pair.id, pair.baseline)) for task, pair, _, _ in known]
    found_ratio = ratio_of_means(old, new, groups)
    return _described(
        sum(old) / len(known),
        sum(new) / len(known),
        None if found_ratio is None else found_ratio.ratio,
        None if found_ratio is None or found_ratio.interval is None else list(found_ratio.interval),
        len(known),
        unknown,
    )


def _unknown_tokens(unknown: int, lacking: Sequence[str]) -> Tokens:
    of = " and the ".join(lacking) or "same answers"
    return Tokens(
        baseline=None,
        candidate=None,
        ratio=None,
        interval=None,
        answers=0,
        unknown=unknown,
        sentence=f"Tokens per answer are not known of the {of}.",
    )


def _described(
    old: float, new: float, ratio: float | None, interval: list[float] | None, answers: int, unknown: int
) -> Tokens:
    if ratio is None:
        text = f"{new:,.1f} tokens per answer, the baseline {old:,.1f}; with none on a side there is no ratio"
    else:
        reach = "" if interval is None else f" (95 % interval {_change(interval[0])} to {_change(interval[1])})"
        text = f"{new:,.1f} tokens per answer, the baseline {old:,.1f}: {_change(ratio)}{reach}"
    if unknown:
        text += f"; of {unknown:,} answers they are not known"
    return Tokens(
        baseline=old,
        candidate=new,
        ratio=ratio,
        interval=interval,
        answers=answers,
        unknown=unknown,
        sentence=f"{text}.",
    )


def _change(ratio: float) -> str:
    """A ratio as a change in percent, one that is rounded away without a sign of its own."""
    return f"{round(ratio - 1, 3) + 0.0:+.1%}"


def _counted_by_requests(task: str, baseline: Run, candidate: Run) -> Tokens | None:
    """From the counts of requests where there are no samples to pair; without an interval."""
    if _generates_nothing(baseline, candidate, task):
        return None
    means: list[float | None] = []
    answers: list[int] = []
    for run in (baseline, candidate):
        counts = mapping_or_empty(mapping_or_empty(run.metadata.get("requests")).get(task))
        tokens, answered = counts.get("completion_tokens"), counts.get("answered")
        mean = tokens / answered if is_count(tokens) and is_count(answered) and answered else None
        means.append(mean if mean is not None and mean <= MOST_TOKENS else None)
        answers += [answered] if is_count(answered) else []
    old, new = means
    if old is None or new is None:
        sides = zip(("baseline", "candidate"), means, strict=True)
        return _unknown_tokens(0, [name for name, mean in sides if mean is None])
    return _described(old, new, new / old if old and new else None, None, min(answers), 0)


def _suite_tokens(pairs: Mapping[str, Pairs], unpaired: Sequence[Tokens]) -> Tokens | None:
    """Over all tasks that generate: each answer counts alike, a long task so by its cost."""
    if not pairs and not unpaired:
        return None
    paired = _tokens(pairs) if pairs else _unknown_tokens(0, ["baseline", "candidate"])
    known = [entry for entry in [paired, *unpaired] if entry.baseline is not None and entry.candidate is not None]
    if all(entry is paired for entry in known):
        return paired
    answers = sum(entry.answers for entry in known)
    old, new = (
        sum(entry.answers * (getattr(entry, side) or 0) for entry in known) / answers
        for side in ("baseline", "candidate")
    )
    return _described(old, new, new / old if old and new else None, None, answers, paired.unknown)


# --- the decision ---------------------------------------------------------------------------------------------------


Again = Callable[[Mapping[str, Pairs]], ScoreComparison]


def hold_answers(
    result: Comparison, found: Answers, pairs: Mapping[str, Pairs], rules: Policy, again: Again
) -> Comparison:
    """The comparison with what its answers show, and decided anew where they change what the scores mean.

    Args:
        result: the decision by scores.
        again: decides by the same criterion with fewer pairs on some tasks, whose scores are then their means.
    """
    for task, answers in found.tasks.items():
        if task in result.tasks:
            result.tasks[task].answers, result.tasks[task].tokens = answers.kinds, answers.tokens
    result.tokens = found.tokens
    result.warnings = [*result.warnings, *_warnings(found)]
    if result.decision is Decision.REGRESSION:
        sentence = _explanation(result, found, pairs, rules, again)
        if sentence:
            result.evidence, result.evidence_sentence = (
                "inconclusive",
                ("Inconclusive: without the answers that only the candidate left malformed there is no such loss."),
            )
            return _with_problem(result, FailureClass.ANSWERS_MALFORMED, sentence)
    growth = _growth_problem(found, rules)
    return _with_problem(result, *growth) if growth else result


def _warnings(found: Answers) -> list[TaskWarning]:
    return [
        TaskWarning(task=task, sentence=f"{task}: {_difference_sentence(counts)}.")
        for task, answers in found.tasks.items()
        for counts in answers.kinds
        if counts.p <= LEVEL and counts.baseline_only != counts.candidate_only
    ]


def _difference_sentence(counts: OneSided) -> str:
    return (
        f"{counts.candidate_only:,} answers are {WORDS[counts.kind]} of the candidate alone, "
        f"{counts.baseline_only:,} of the baseline alone (exact p {counts.p:.2g})"
    )


def _explanation(
    result: Comparison, found: Answers, pairs: Mapping[str, Pairs], rules: Policy, again: Again
) -> str | None:
    """Why malformed answers explain the loss, as the module's docstring defines it; None where they do not."""
    affected = {
        task: answers.one_sided for task, answers in found.tasks.items() if answers.one_sided and rules.blocks(task)
    }
    if not affected:
        return None
    left: dict[str, Pairs] = {}
    for task, held in pairs.items():
        kept = [pair for place, pair in enumerate(held) if place not in affected.get(task, ())]
        if not kept:
            return None  # nothing is left to decide by
        left[task] = kept
    if again(left).decision is Decision.REGRESSION:
        return None
    blocking = {task: entry for task, entry in result.tasks.items() if rules.blocks(task) and entry.scale}
    beyond = {task: entry for task, entry in blocking.items() if entry.within is False} or blocking
    whole = sum(entry.drop_fraction or 0.0 for entry in beyond.values())
    theirs = sum(_share_of_drop(entry, pairs.get(task), affected.get(task, ())) for task, entry in beyond.items())
    if theirs <= EXPLAINED_SHARE * whole:
        return None
    counted = "; ".join(
        f"{task}: {_difference_sentence(counts)}"
        for task in affected
        for counts in found.tasks[task].kinds
        if _has_more(counts)
    )
    share = min(1.0, theirs / whole)
    return (
        f"The loss is explained by answers that only one side left malformed: they hold {share:.0%} of it, and without "
        f"them it is no regression ({counted})"
    )


def _share_of_drop(entry: ComparedTask, pairs: Pairs | None, places: Iterable[int]) -> float:
    """What the pairs at these places add to a task's drop, as a fraction of its scale."""
    if not pairs or not entry.scale or not entry.drop_fraction:
        return 0.0
    chosen = set(places)
    drops = [entry.scale.drop(pair.old, pair.new) for pair in pairs]
    whole = sum(drops)  # in the samples' units, whatever those are
    return entry.drop_fraction * sum(drops[place] for place in chosen) / whole if whole else 0.0


def _growth_problem(found: Answers, rules: Policy) -> Problem | None:
    """What ``max_token_growth`` has against the candidate; where tokens are not known it cannot be met."""
    allowed = rules.max_token_growth
    if allowed is None:
        return None
    lacking = [
        task
        for task, answers in found.tasks.items()
        if rules.blocks(task) and answers.tokens and (answers.tokens.ratio is None or answers.tokens.unknown)
    ]
    tokens = found.tokens
    if tokens is None:
        return None  # nothing is generated
    if lacking or tokens.ratio is None:
        of = f" on {', '.join(map(printable, lacking))}" if lacking else ""
        return (
            FailureClass.INSUFFICIENT_EVIDENCE,
            f"max_token_growth {allowed:g} cannot be held: tokens per answer are not known of both sides{of}",
        )
    if tokens.ratio <= 1 + allowed + 1e-9:
        return None
    sides = tokens.interval and tokens.interval[0] > 1 + allowed
    sure = "the whole interval is beyond it" if sides else "its interval holds the limit, or there is none"
    return (
        FailureClass.TOKEN_GROWTH,
        f"The candidate generates more than max_token_growth allows ({allowed:+.0%}), by the ratio itself: "
        f"{tokens.sentence.rstrip('.')}; {sure}",
    )


def _with_problem(result: Comparison, failure_class: FailureClass, sentence: str) -> Comparison:
    """The comparison with one more problem; what was wrong before, or a loss of score, leads over longer answers."""
    explains = failure_class is FailureClass.ANSWERS_MALFORMED
    if result.failure_class is not None:
        classes = list(dict.fromkeys([*result.failure_classes, failure_class]))
        return result.model_copy(
            update={"failure_classes": classes, "detail": f"{result.detail} {sentence}."},
        )
    if result.decision is Decision.REGRESSION and not explains:
        return result.model_copy(update={"detail": f"{result.detail} {sentence}."})
    decision, next_action = decide(failure_class, COMPARISON_STAGE)
    if failure_class is FailureClass.INSUFFICIENT_EVIDENCE:
        next_action = COUNT_TOKENS  # more samples would not help
    return result.model_copy(
        update={
            "passed": False,
            "decision": decision,
            "failure_class": failure_class,
            "failure_classes": [failure_class],
            "detail": f"{sentence}. {result.detail}",
            "next_action": next_action,
        }
    )
