"""Canonical keys of scores, and what they name in a results.yml."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_BRACKETED_DOT = re.compile(r"\.(?![^\[]*\])")
_ONE_ANSWER = re.compile(r"[\[_]avg[-_]of[-_]1(?:\]|(?=_)|$)")
_TASK_BEFORE = re.compile(r"^.+?_(?=pass_at_\d)")  # MLflow's keys begin with the task
_AVERAGE = re.compile(r"_avg_of_\d+(?=_|$)")


def canonical_score(key: str) -> tuple[str, str]:
    """(metric, score) of a canonical key, as they nest in results.yml.

    >>> canonical_score("pass@1[avg-of-16].symbolic_correct")
    ('pass@1[avg-of-16]', 'symbolic_correct')
    >>> canonical_score("exact_match,flexible-extract")
    ('exact_match__flexible-extract', 'exact_match__flexible-extract')
    >>> canonical_score("accuracy")
    ('accuracy', 'accuracy')
    """
    if "," in key:
        metric, _, filter_name = key.partition(",")
        name = metric if filter_name in ("", "none") else f"{metric}__{filter_name}"
        return name, name
    metric, *score = _BRACKETED_DOT.split(key, maxsplit=1)
    return metric, score[0] if score else metric


def spelling(key: str) -> str:
    """What a canonical key has in common with its other spellings.

    NeMo Skills writes the score of one answer as pass@1 or pass@1[avg-of-1]; MLflow, which takes no @ and no brackets,
    pass_at_1_avg-of-16_symbolic_correct; lm-eval a filter behind a comma, which NeMo Evaluator makes two underscores.

    >>> spelling("pass@1[avg-of-16].symbolic_correct"), spelling("pass_at_1_avg-of-16_symbolic_correct")
    ('pass_at_1_avg_of_16_symbolic_correct', 'pass_at_1_avg_of_16_symbolic_correct')
    >>> spelling("pass@1[avg-of-1].subtask_accuracy"), spelling("pass@1.subtask_accuracy")
    ('pass_at_1_subtask_accuracy', 'pass_at_1_subtask_accuracy')
    >>> spelling("exact_match,none"), spelling("exact_match,flexible-extract")
    ('exact_match', 'exact_match_flexible_extract')
    """
    metric, score = canonical_score(key)
    name = (metric if metric == score else f"{metric}.{score}").casefold().replace("@", "_at_")
    return re.sub(r"[^a-z0-9]+", "_", _ONE_ANSWER.sub("", name)).strip("_")


def find_score(metrics: Any, key: str) -> tuple[str, str, Mapping[str, Any]]:
    """The score that a canonical key names among a task's metrics: (metric, score, {value, stats}).

    A key of one word names a metric of its own name, else the only score of that name, else the only score of that
    metric. What is not there by its own name is looked for by its other spellings; pass@1 also names the one average
    over repeats that there is.

    Raises:
        LookupError: there is none, or several; the message lists what there is.
    """
    found: list[tuple[str, str, Mapping[str, Any]]] = []
    for metric, entry in metrics.items() if isinstance(metrics, Mapping) else ():
        scores = entry.get("scores") if isinstance(entry, Mapping) else None
        for score, value in scores.items() if isinstance(scores, Mapping) else ():
            if isinstance(value, Mapping):
                found.append((str(metric), str(score), value))
    metric, score = canonical_score(key)
    wanted = spelling(key)
    choices: tuple[Callable[[tuple[str, str, Any]], bool], ...] = (
        lambda entry: entry[:2] == (metric, score),
        lambda entry: metric == score and entry[1] == score,
        lambda entry: metric == score and entry[0] == metric,
        lambda entry: _spelling_of(entry) == wanted,
        lambda entry: _AVERAGE.sub("", _spelling_of(entry)) == wanted,
        lambda entry: _spelling_of(entry) == _TASK_BEFORE.sub("", wanted),
    )
    for choice in choices:
        matching = [entry for entry in found if choice(entry)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            break
    there = ", ".join(sorted(m if m == s else f"{m}.{s}" for m, s, _ in found)) or "none"
    raise LookupError(f"{'several scores fit' if matching else 'has no score'} {key!r}; it has {there}")


def _spelling_of(entry: tuple[str, str, Any]) -> str:
    metric, score, _ = entry
    return spelling(metric if metric == score else f"{metric}.{score}")


def find_task(results: Any, names: Iterable[str], key: str) -> Mapping[str, Any]:
    """The metrics of the task, or the group, that one of ``names`` names; else the only one that has the score.

    Args:
        results: ``results`` of a results.yml: {tasks, groups}.
        names: in the order of preference.
        key: canonical score.

    Raises:
        LookupError: nothing fits; the message lists what there is.
    """
    sections = [results.get(part) if isinstance(results, Mapping) else None for part in ("groups", "tasks")]
    entries = [
        (str(name), entry["metrics"])
        for section in sections
        for name, entry in (section.items() if isinstance(section, Mapping) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("metrics"), Mapping)
    ]
    named = [metrics for wanted in names for name, metrics in entries if name == wanted]
    if named:
        return next((metrics for metrics in named if _has_score(metrics, key)), named[0])
    having = {name: metrics for name, metrics in entries if _has_score(metrics, key)}
    if len(having) == 1:
        return next(iter(having.values()))
    there = ", ".join(sorted({name for name, _ in entries})) or "none"
    raise LookupError(f"holds no task {' or '.join(dict.fromkeys(names))}; its tasks and groups are {there}")


def _has_score(metrics: Mapping[str, Any], key: str) -> bool:
    try:
        find_score(metrics, key)
    except LookupError:
        return False
    return True
