"""Whether two runs of different checkpoints answered too much alike: a shared cache, or one model served twice.

A checkpoint in lower precision gives other log-probabilities at every token, and so, token by token, sometimes another
answer. Measured on the embedded model, 600 prompts continued to 48 tokens beyond what it was trained on, against BF16:
FP8 gives another token after 27 tokens on average (greedy; 24 at temperature 0.6, 25 at 1.0), NVFP4 after 10 to 11; 72
of the greedy answers and 1 are equal. Where it was trained, in 5 to 7 tokens, 1,000 of 1,000 answers of FP8 and 982 to
999 of NVFP4 are equal. Models that are surer of their tokens differ more rarely, so some hundred times as much is
allowed.

The rule has no probability in it: for each answer that differs, and once more, ``EQUAL_TOKENS`` generated tokens may be
equal; more of them are not the work of two checkpoints. Short answers count for nothing, since a choice, a number or a
name is what both should give.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from day0.base.numbers import is_count, mapping_or_empty
from day0.decision.comparability import Pair, Pairs, Run, is_generated
from day0.decision.policy import Problem
from day0.records.failure_class import FailureClass

LONG_ANSWER = 32  # tokens, from which on an answer counts
# By the text: the count of tokens holds the thoughts, too, which were taken off before the answer was kept.
CHARACTERS_PER_TOKEN = 4
# Equal tokens of long answers allowed for each answer that differs, and once more.
EQUAL_TOKENS = {"greedy": 10_000, "sampled": 1_000}
LOG_PROBABILITIES = 20  # as many, equal to the last digit
_LOG_PROBABILITY = re.compile(r"-\d+\.\d{5,}(e-?\d+)?")
HINT = (
    "two checkpoints do not answer so; look for a cache of answers that both runs shared, or a server that served one "
    "model for both, and evaluate one side again"
)


def same_answers(baseline: Run, candidate: Run, pairs: Mapping[str, Pairs]) -> list[Problem]:
    """Problems of class NOT_COMPARABLE where the two runs' answers are too much alike; none for one checkpoint.

    Args:
        pairs: paired samples by task.
    """
    digests = [_checkpoint_of(run) for run in (baseline, candidate)]
    if digests[0] is not None and digests[0] == digests[1]:
        return []  # the same checkpoint asked again: equal answers are what is expected
    problems: list[Problem] = []
    whole: dict[str, tuple[int, int, int]] = {}
    for task, found in pairs.items():
        if _same_log_probabilities(found):
            sentence = f"{task}: all {len(found)} log-probabilities are the same to the last digit; {HINT}"
            problems.append((FailureClass.NOT_COMPARABLE, sentence))
            continue
        kind = "sampled" if baseline.is_sampled(task) else "greedy"
        counted = _equal_tokens(found, kind == "sampled")
        before = whole.get(kind, (0, 0, 0))
        whole[kind] = (before[0] + counted[0], before[1] + counted[1], before[2] + counted[2])
        if _too_many(kind, *counted):
            problems.append((FailureClass.NOT_COMPARABLE, f"{task}: {_sentence(kind, *counted)}"))
    if not problems:
        problems = [
            (FailureClass.NOT_COMPARABLE, f"over all {kind} tasks: {_sentence(kind, *counted)}")
            for kind, counted in whole.items()
            if _too_many(kind, *counted)
        ]
    return problems


def _checkpoint_of(run: Run) -> Any:
    stated = run.assessment.get("checkpoint_digest") or run.metadata.get("checkpoint_digest")
    return stated or mapping_or_empty(run.assessment.get("imported")).get("attributed_digest")


def _equal_tokens(pairs: Pairs, is_sampled: bool) -> tuple[int, int, int]:
    """Equal long answers, their tokens, and long answers that differ.

    Where answers are sampled, a short one counts as one token if the baseline answered its question differently in
    another repeat: chance chose it.
    """
    varying: set[str] = set()
    if is_sampled:
        seen: dict[str, set[Any]] = defaultdict(set)
        for pair in pairs:
            seen[pair.id].add(str(pair.baseline.get("answer")))
        varying = {identity for identity, answers in seen.items() if len(answers) > 1}

    def weight(pair: Pair) -> int:
        length = max(len(row["answer"]) for row in (pair.baseline, pair.candidate)) // CHARACTERS_PER_TOKEN
        return length if length >= LONG_ANSWER else int(pair.id in varying)

    equal = tokens = different = 0
    for pair in pairs:
        answers = [row.get("answer") for row in (pair.baseline, pair.candidate)]
        if not all(isinstance(answer, str) for answer in answers) or not weight(pair):
            continue
        counts = {row["tokens"] for row in (pair.baseline, pair.candidate) if is_count(row.get("tokens"))}
        if answers[0] == answers[1] and len(counts) < 2:  # thoughts of other lengths are other answers
            equal, tokens = equal + 1, tokens + weight(pair)
        else:
            different += 1
    return equal, tokens, different


def _too_many(kind: str, equal: int, tokens: int, different: int) -> bool:
    return tokens >= EQUAL_TOKENS[kind] * (different + 1)


def _sentence(kind: str, equal: int, tokens: int, different: int) -> str:
    return (
        f"{equal:,} of {equal + different:,} {kind} answers are the same to the last byte ({tokens:,} tokens; expected "
        f"another answer in each {EQUAL_TOKENS[kind]:,}), though the checkpoints differ; {HINT}"
    )


def _same_log_probabilities(pairs: Pairs) -> bool:
    """Whether the answers are log-probabilities, as tasks without choices keep them, and all the same."""
    if len(pairs) < LOG_PROBABILITIES:
        return False
    for pair in pairs:
        one, other = pair.baseline.get("answer"), pair.candidate.get("answer")
        if (
            is_generated(pair.baseline)
            or not isinstance(one, str)
            or one != other
            or not _LOG_PROBABILITY.fullmatch(one)
        ):
            return False
    return True
