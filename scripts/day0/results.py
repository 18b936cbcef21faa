"""From a harness's raw outcome to the results of a run: scores, accounting, fingerprints, NeMo Evaluator's schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from day0.artefacts import digest_of
from day0.nemo_evaluator import accounting_without_samples, canonical_score

ACCOUNTING_FIELDS = ("expected", "asked", "answered", "scored", "empty", "cut", "unparsed", "failed")
SAMPLE_FIELDS = ("id", "repeat", "prompt_digest", "target_digest", "answer", "score", "finish_reason")


def standard_error(samples: Iterable[Mapping[str, Any]]) -> float | None:
    """Standard error of the mean score over documents; a document's repeats count as one, their mean.

    s / sqrt(n) with the sample standard deviation s (n - 1). None below two documents or where a score is no number.
    """
    by_document: dict[str, list[float]] = {}
    for sample in samples:
        score = sample.get("score")
        if not _is_number(score):
            return None
        by_document.setdefault(str(sample.get("id")), []).append(float(score))
    means = [sum(scores) / len(scores) for scores in by_document.values()]
    if len(means) < 2:
        return None
    mean = sum(means) / len(means)
    return math.sqrt(sum((value - mean) ** 2 for value in means) / (len(means) - 1) / len(means))


def statistics_of(scores: Sequence[float]) -> dict[str, float | int]:
    """NeMo Evaluator's statistics of a list of sample scores (population variance, as its own parsers give)."""
    count, total, squares = len(scores), math.fsum(scores), math.fsum(score * score for score in scores)
    mean = total / count
    variance = max(0.0, squares / count - mean * mean)
    return {
        "count": count,
        "sum": total,
        "sum_squared": squares,
        "min": min(scores),
        "max": max(scores),
        "mean": mean,
        "variance": variance,
        "stddev": math.sqrt(variance),
    }


def score_of(outcome: Mapping[str, Any]) -> dict[str, Any] | None:
    """{value, stats} of a task's outcome: lm-eval's own aggregate, its mean over the repeats.

    None where the task did not complete or has no finite score.
    """
    values = outcome.get("values") or []
    if outcome.get("status") != "COMPLETED" or not values or not all(_is_number(value) for value in values):
        return None
    samples = outcome.get("samples") or []
    scores = [float(sample["score"]) for sample in samples if _is_number(sample.get("score"))]
    told = dict(outcome.get("score_statistics") or {})
    statistics: dict[str, Any] = statistics_of(scores) if scores and len(scores) == len(samples) else told
    error = standard_error(samples)
    if error is not None:
        statistics["stderr"] = error
    return {"value": math.fsum(values) / len(values), "stats": statistics}


def accounting_of(task: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, int | None]:
    """Counts of documents times repeats: expected, asked, answered, scored, empty, cut, unparsed, failed.

    ``expected`` is what the suite declares, not what the harness found: a data set that lost lines must show. It is
    None only where the suite declares nothing and the harness could not load the task.
    """
    repeats = int(task.get("repeats") or 1)
    found = outcome.get("documents")
    declared = task.get("samples") or found
    limit = task.get("limit")

    def bounded(documents: int | None) -> int | None:
        return None if documents is None else min(documents, limit or documents) * repeats

    if outcome.get("status") == "COMPLETED" and outcome.get("has_samples") is False:
        return accounting_without_samples(bounded(declared), outcome)
    samples = outcome.get("samples") or []
    requests = outcome.get("requests") or {}
    asked = bounded(found) or 0
    if outcome.get("status") == "COMPLETED":
        asked = answered = len(samples)
        failed = 0
    else:
        per_document = max(1, round((requests.get("asked") or 0) / asked)) if asked else 1
        asked = min(asked, (requests.get("asked") or 0) // per_document)
        answered = min(asked, (requests.get("answered") or 0) // per_document)
        failed = asked - answered
    return {
        "expected": bounded(declared),
        "asked": asked,
        "answered": answered,
        "scored": sum(_is_number(sample.get("score")) for sample in samples),
        "empty": sum(not str(sample.get("answer") or "").strip() for sample in samples if sample.get("generated")),
        "cut": sum(sample.get("finish_reason") == "length" for sample in samples),
        "unparsed": sum(bool(sample.get("unparsed")) for sample in samples),
        "failed": failed,
    }


def fingerprint_of(
    suite: Mapping[str, Any], task: Mapping[str, Any], outcome: Mapping[str, Any], engine: str
) -> dict[str, Any]:
    """Everything that must be alike for two runs of a task to be comparable."""
    samples = outcome.get("samples") or []

    def digest(field: str) -> str | None:
        return digest_of([sample.get(field) for sample in samples]) if samples else None

    return {
        "task": task["task"],
        "task_version": outcome.get("version"),
        "task_hash": outcome.get("task_hash"),
        "data_digest": digest("document_digest"),
        "sample_ids_digest": digest("id"),
        "prompts_digest": digest("prompt_digest"),
        "metric": task["metric"],
        "endpoint": outcome.get("endpoint"),
        "apply_chat_template": bool(suite.get("apply_chat_template")),
        "chat_template_digest": outcome.get("chat_template_digest"),
        "adds_bos": outcome.get("adds_bos"),
        "system_prompt_digest": digest_of(suite["system_prompt"]) if suite.get("system_prompt") else None,
        "sampling": outcome.get("generation") or {},
        "seed": suite.get("seed"),
        "repeats": int(task.get("repeats") or 1),
        "limit": task.get("limit"),
        "num_fewshot": task.get("num_fewshot"),
        "context_length": suite.get("context_length"),
        "harness": f"{task.get('harness', 'lm-eval')} {outcome.get('harness_version')}",
        "engine": engine,
    }


def sample_lines(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of a task's samples file, ordered by repeat and document as the harness gave them."""
    return [{field: sample.get(field) for field in SAMPLE_FIELDS} for sample in outcome.get("samples") or []]


def task_failure(name: str, outcome: Mapping[str, Any] | None) -> tuple[str, str] | None:
    """(failure class, sentence) of a task that did not complete, else None."""
    if outcome is None:
        return "UNKNOWN", f"task {name}: the harness ended without an outcome; see logs/{name}.log"
    if outcome.get("status") == "COMPLETED":
        return None
    error = str(outcome.get("error"))[:500]
    if outcome.get("error_kind") == "requests":
        requests = outcome.get("requests") or {}
        return "SAMPLE_ACCOUNTING_FAILED", (
            f"task {name}: {requests.get('failed')} requests failed after their retries, so that its samples are "
            f"incomplete: {outcome.get('failed_request')}"[:700]
        )
    if outcome.get("error_kind") == "configuration":
        return "USER_CONFIG_ERROR", f"task {name}: {error}"
    return "UNKNOWN", f"task {name}: the harness failed: {error}"


def results_document(
    *,
    suite: Mapping[str, Any],
    model: str,
    endpoint_url: str,
    command: str,
    output_dir: str,
    outcomes: Mapping[str, Mapping[str, Any]],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """results.yml: NeMo Evaluator's schema, ours under ``metadata``."""
    tasks: dict[str, Any] = {}
    for name, task in suite["tasks"].items():
        score = score_of(outcomes.get(name) or {})
        if score is not None:
            metric, score_name = canonical_score(task["metric"])
            tasks[name] = {"metrics": {metric: {"scores": {score_name: score}}}}
    return {
        "command": command,
        "config": {
            "output_dir": output_dir,
            "type": "lm-eval",
            "params": {
                "parallelism": suite.get("concurrency"),
                "temperature": (suite.get("generation") or {}).get("temperature", 0.0),
                "task": ",".join(task["task"] for task in suite["tasks"].values()),
            },
        },
        "git_hash": "",
        "results": {"groups": {}, "tasks": tasks},
        "target": {"api_endpoint": {"model_id": model, "type": "completions", "url": endpoint_url}},
        "metadata": dict(metadata),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
