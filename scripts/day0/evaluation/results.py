"""From a harness's raw outcome to the results of a run: scores, accounting, fingerprints, NeMo Evaluator's schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from day0.base.artefacts import digest_of
from day0.base.numbers import is_number
from day0.evaluation.nemo_evaluator import accounting_without_samples
from day0.records.failure_class import FailureClass
from day0.records.samples import Sample, make_sample
from day0.suite.documents import count_asked
from day0.suite.harness import harnesses_of
from day0.suite.score_names import canonical_score
from day0.suite.suites import effective


def standard_error(samples: Iterable[Mapping[str, Any]]) -> float | None:
    """Standard error of the mean score over documents; a document's repeats count as one, their mean.

    s / sqrt(n) with the sample standard deviation s (n - 1). None below two documents or where a score is no number.
    """
    by_document: dict[str, list[float]] = {}
    for sample in samples:
        score = sample.get("score")
        if not is_number(score):
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
    if outcome.get("status") != "COMPLETED" or not values or not all(is_number(value) for value in values):
        return None
    samples = outcome.get("samples") or []
    scores = [float(sample["score"]) for sample in samples if is_number(sample.get("score"))]
    reported = dict(outcome.get("score_statistics") or {})
    statistics: dict[str, Any] = statistics_of(scores) if scores and len(scores) == len(samples) else reported
    error = standard_error(samples)
    if error is not None:
        statistics["stderr"] = error
    return {"value": math.fsum(values) / len(values), "stats": statistics}


def judge_of(suite: Mapping[str, Any], task: Mapping[str, Any]) -> str | None:
    """Name and model of the judge and the simulator of a task; None where it has neither."""
    names = [task[role] for role in ("judge", "simulator") if task.get(role)]
    judges = suite.get("judges") or {}
    return ", ".join(f"{name} {(judges.get(name) or {}).get('model')}" for name in names) or None


def merge_outcomes(outcomes: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """One outcome of a task from those of its shards, which asked different documents of it.

    The score of a whole task is the mean of its shards' weighted by their samples, which holds for scores that are
    means of their samples; where a shard's is not, the outcome is a configuration error.
    """
    if any(outcome is None for outcome in outcomes):
        return None
    found: list[Mapping[str, Any]] = [outcome for outcome in outcomes if outcome is not None]
    if len(found) == 1:
        return {**found[0], "samples": in_order(found[0].get("samples") or [])}
    samples = in_order(sample for outcome in found for sample in outcome.get("samples") or [])
    merged = {**found[0], "samples": samples, "requests": _sum_counts(outcome.get("requests") for outcome in found)}
    merged["seconds"] = max((outcome.get("seconds") or 0.0 for outcome in found), default=None)
    failed = next((outcome for outcome in found if outcome.get("status") not in ("COMPLETED", "STOPPED")), None)
    if failed is not None:
        return {**failed, **{key: merged[key] for key in ("samples", "requests", "seconds")}}
    if any(outcome.get("status") == "STOPPED" for outcome in found):
        return {**merged, "status": "STOPPED", "values": []}
    values = []
    for repeat in range(min(len(outcome["values"]) for outcome in found)):
        sizes = []
        for outcome in found:
            samples_of_repeat = [s for s in outcome.get("samples") or [] if (s.get("repeat") or 0) == repeat]
            scores = [sample.get("score") for sample in samples_of_repeat]
            value = outcome["values"][repeat]
            if (
                not scores
                or not all(map(is_number, [*scores, value]))
                or not math.isclose(math.fsum(scores) / len(scores), value, rel_tol=1e-9, abs_tol=1e-12)
            ):
                error = "its score is not the mean of its samples, so shards of it cannot be put together"
                return {**merged, "status": "FAILED", "error_kind": "configuration", "error": f"{error}; ask it whole"}
            sizes.append(len(scores))
        total = math.fsum(outcome["values"][repeat] * size for outcome, size in zip(found, sizes, strict=True))
        values.append(total / sum(sizes))
    return {**merged, "values": values}


def in_order(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Samples by repeat and id, numbers in ids by their value: the order does not tell how a run was split."""

    def key(sample: Mapping[str, Any]) -> tuple[Any, ...]:
        group, _, number = str(sample.get("id")).rpartition("/")
        return sample.get("repeat") or 0, group, (0, int(number), "") if number.isdecimal() else (1, 0, number)

    return [dict(sample) for sample in sorted(samples, key=key)]


def _sum_counts(counts: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for entry in counts:
        for name, value in (entry or {}).items():
            if isinstance(value, Mapping):
                total[name] = _sum_counts([total.get(name), value])
            else:
                total[name] = (total.get(name) or 0) + value
    return total


def accounting_of(task: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, int | None]:
    """Counts of documents times repeats, and of the requests that failed on the way.

    ``expected`` is what the suite declares, not what the harness found: a data set that lost lines must show. It is
    None only where the suite declares nothing and the harness could not load the task. ``failed`` samples were given up
    and have no score. ``http_failures`` are attempts without a usable answer, ``retried`` those that were repeated.
    """
    repeats = int(task.get("repeats") or 1)
    found = outcome.get("documents")
    declared = task.get("samples") or found

    def bounded(documents: int | None) -> int | None:
        asked_of_all = count_asked(task, documents)
        return None if asked_of_all is None else asked_of_all * repeats

    if outcome.get("status") == "COMPLETED" and outcome.get("has_samples") is False:
        return accounting_without_samples(bounded(declared), outcome)
    samples = outcome.get("samples") or []
    requests = outcome.get("requests") or {}
    if samples or outcome.get("status") == "STOPPED":
        asked = len(samples)
        failed = sum(bool(sample.get("failed")) for sample in samples)
        answered = asked - failed
    else:
        whole = bounded(found) or 0
        prompts = requests.get("expected") or requests.get("asked") or 0
        per_document = max(1, round(prompts / whole)) if whole else 1
        asked = min(whole, -(-(requests.get("asked") or 0) // per_document))
        answered = min(asked, (requests.get("answered") or 0) // per_document)
        failed = asked - answered
    attempts = requests.get("attempts") or {}
    texts = [sample for sample in samples if sample.get("generated") and not sample.get("failed")]
    return {
        "expected": bounded(declared),
        "asked": asked,
        "answered": answered,
        "scored": sum(is_number(sample.get("score")) for sample in samples),
        "empty": sum(not str(sample.get("answer") or "").strip() for sample in texts),
        "cut": sum(sample.get("finish_reason") == "length" for sample in texts),
        "unparsed": sum(bool(sample.get("unparsed")) for sample in texts),
        "failed": failed,
        "http_failures": sum(count for status, count in attempts.items() if status != "200"),
        "retried": requests.get("retried") or 0,
    }


def fingerprint_of(
    suite: Mapping[str, Any], task: Mapping[str, Any], outcome: Mapping[str, Any], server: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that must be alike for two runs of a task to be comparable.

    Args:
        server: engine, engine_version, device, max_model_len, options_digest and chat_template_digest of the server
            that was asked.
    """
    samples = outcome.get("samples") or []

    def digest(*fields: str) -> str | None:
        return digest_of([[sample.get(field) for field in fields] for sample in samples]) if samples else None

    system_prompt, reasoning = (effective(suite, task, name) for name in ("system_prompt", "reasoning"))
    templated = bool(effective(suite, task, "apply_chat_template"))
    return {
        "task": task["task"],
        "task_version": outcome.get("version"),
        "task_hash": digest("document_digest", "prompt_digest", "target_digest"),
        "data_digest": digest("document_digest"),
        "sample_ids_digest": digest("id"),
        "prompts_digest": digest("prompt_digest"),
        "metric": task["metric"],
        "endpoint": outcome.get("endpoint"),
        "apply_chat_template": templated,
        "chat_template_digest": server.get("chat_template_digest") if templated else None,
        "adds_bos": outcome.get("adds_bos"),
        "system_prompt_digest": digest_of(system_prompt) if system_prompt else None,
        "reasoning": dict(reasoning) if reasoning else None,
        "sampling": outcome.get("generation") or {},
        "seed": suite.get("seed"),
        "repeats": int(task.get("repeats") or 1),
        "limit": task.get("limit"),
        "offset": task.get("offset") or 0,
        "num_fewshot": task.get("num_fewshot"),
        "context_length": server.get("max_model_len") or suite.get("context_length"),
        "serving_options": server.get("options_digest"),
        "judge": judge_of(suite, task),
        "harness": f"{task.get('harness', 'lm-eval')} {outcome.get('harness_version')}",
        "engine": f"{server.get('engine')} {server.get('engine_version')}",
        "device": server.get("device"),
    }


def samples_of(outcome: Mapping[str, Any], place: str) -> list[Sample]:
    """The lines of a task's samples file, by repeat and document.

    Raises:
        UnusableInput: a sample has a field of another type; the message starts with ``place``.
    """
    samples = outcome.get("samples") or []
    return [make_sample(sample, f"{place}, sample {number}") for number, sample in enumerate(samples, start=1)]


FAILURES = {
    "requests": (
        FailureClass.SAMPLE_ACCOUNTING_FAILED,
        "requests failed after their attempts: its samples are incomplete",
    ),
    "refused": (FailureClass.EVAL_JUDGE_FAILED, "requests were refused: unauthorized"),
    "rate limit": (FailureClass.EVAL_JUDGE_FAILED, "requests were turned away by a rate limit"),
    "judge": (FailureClass.EVAL_JUDGE_FAILED, "the judge failed"),
    "configuration": (FailureClass.USER_CONFIG_ERROR, "the task cannot be asked as the suite says"),
}


def task_failure(name: str, outcome: Mapping[str, Any] | None) -> tuple[FailureClass, str] | None:
    """(failure class, sentence) of a task that did not complete, else None."""
    if outcome is None:
        return FailureClass.UNKNOWN, f"task {name}: the harness ended without an outcome; see logs/{name}.log"
    if outcome.get("status") in ("COMPLETED", "STOPPED"):
        return None
    failure_class, what = FAILURES.get(str(outcome.get("error_kind")), (FailureClass.UNKNOWN, "the harness failed"))
    return failure_class, f"task {name}: {what}: {outcome.get('error')}"[:700]


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
            "type": ",".join(harnesses_of(suite["tasks"].values())),
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
