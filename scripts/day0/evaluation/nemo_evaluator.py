"""What NeMo Evaluator and its frameworks write, read into this project's terms.

Sources of the formats: ``EvaluationResult`` and ``SampleRecord`` of nemo_evaluator.api.api_dataclasses, the
``response_stats`` interceptor's eval_factory_metrics.json, and lm-eval's samples_TASK_DATE.jsonl. What a file does not
tell is None here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json, read_json_lines
from day0.base.cli import UnusableInput
from day0.base.numbers import is_number
from day0.suite.score_names import canonical_score, find_score

COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # in which it and its frameworks write their logs
LM_EVALUATION_HARNESS = "lm-evaluation-harness"
SAMPLE_OUTPUTS = "nemo-evaluator-per-sample-outputs"
# Names under which frameworks take the number of repeats.
REPEAT_PARAMETERS = ("n_samples", "num_repeats")
METRICS_FILE = "eval_factory_metrics.json"
# A framework's own count of documents, where it stands as a score beside the others.
COUNT_SCORES = ("num_entries",)
# What a marker that the tool leaves in a run's folder says about the run.
MARKERS = {
    ".nemo_evaluator_interrupted": "the run was interrupted",
    ".nemo_evaluator_server_error": "the endpoint failed during the run",
}
_SAMPLES_NAME = re.compile(r"samples_(?P<task>.+)_\d{4}-\d{2}-\d{2}T.*\.jsonl")


def count_of(metrics: Mapping[str, Any], key: str, repeats: int) -> tuple[int, str] | None:
    """How many samples a framework says it scored, repeats included, and where it says so; None where it does not."""
    try:
        metric, _, entry = find_score(metrics, key)
    except LookupError:
        return None
    statistics = entry.get("stats")
    count = statistics.get("count") if isinstance(statistics, Mapping) else None
    if (whole := _whole(count)) is not None:
        return whole, "the score's statistics"
    scores = metrics[metric].get("scores")
    for name in COUNT_SCORES:
        value = scores[name].get("value") if isinstance(scores.get(name), Mapping) else None
        if (whole := _whole(value)) is not None:
            return whole * repeats, f"{metric}.{name}"
    return None


def accounting_without_samples(expected: int | None, outcome: Mapping[str, Any]) -> dict[str, int | None]:
    """Accounts of a task whose harness left no lines per sample: what the framework counted, and what it did not tell.

    Args:
        expected: samples times repeats that the suite declares.
        outcome: of a harness (day0/suite/harness.py), with ``counted`` and ``finish_reasons``.
    """
    counted, requests = outcome.get("counted"), outcome.get("requests") or {}
    one_request_per_sample = counted is not None and requests.get("answered") == counted
    return {
        "expected": expected,
        "asked": counted,
        "answered": counted,
        "scored": counted,
        "empty": None,
        "cut": (outcome.get("finish_reasons") or {}).get("length", 0) if one_request_per_sample else None,
        "unparsed": None,
        "failed": requests.get("failed"),
    }


def _whole(value: Any) -> int | None:
    """A count as frameworks write it, 40 or 40.0; None where it is no whole number of 0 or more."""
    return int(value) if is_number(value) and value >= 0 and value == int(value) else None


def read_response_statistics(folder: Path) -> dict[str, Any] | None:
    """Requests of a run as the adapter saw them: {asked, answered, retried, failed, statuses, finish_reasons}.

    ``retried`` and ``failed`` are None unless every response was a success: the adapter cannot tell a request that was
    asked again from one that was lost. None where the run has no such file, or one that cannot be read.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return None
    try:
        statistics = read_json(path).get("response_stats")
    except UnusableInput:
        return None
    if not isinstance(statistics, Mapping):
        return None
    statuses, reasons = statistics.get("status_codes"), statistics.get("finish_reason")
    asked, answered = _whole(statistics.get("count")), _whole(statistics.get("successful_count"))
    if asked is None or answered is None or not isinstance(statuses, Mapping):
        return None
    sound = asked == answered
    return {
        "asked": asked,
        "answered": answered,
        "retried": 0 if sound else None,
        "failed": 0 if sound else None,
        "statuses": {str(status): count for status, count in statuses.items()},
        "finish_reasons": dict(reasons) if isinstance(reasons, Mapping) else {},
    }


def _lm_eval_results(folder: Path) -> dict[str, Any]:
    """The results file of lm-eval below a run's folder, or nothing."""
    files = sorted(folder.rglob("results_*.json"))
    try:
        return read_json(files[-1]) if files else {}
    except UnusableInput:
        return {}


def documents_of(folder: Path) -> int | None:
    """Documents of the task before any limit, where lm-eval records it."""
    counts = _lm_eval_results(folder).get("n-samples")
    try:
        return sum(entry["original"] for entry in counts.values()) if counts else None
    except (AttributeError, KeyError, TypeError):
        return None


def version_of(folder: Path, task: str) -> Any:
    """The task's version, where lm-eval records it."""
    versions = _lm_eval_results(folder).get("versions")
    return versions.get(task) if isinstance(versions, dict) else None


def read_samples(
    folder: Path, key: str, finish_reason_of: Callable[[str], str | None] = lambda prompt: None, repeat: int = 0
) -> dict[str, Any] | None:
    """The per-sample lines that a framework left below a run's folder, or None where it left none.

    Args:
        folder: output folder of a run.
        key: canonical score; it picks metric and filter of lm-eval's lines.
        finish_reason_of: the finish reason of a prompt's answer, where somebody kept it.
        repeat: which repeat the run was.

    Returns:
        {samples: as in a harness's outcome, generation: sampling settings or None}.

    Raises:
        UnusableInput: a line is no JSON object, or lacks what its format promises.
    """
    lm_eval = sorted(path for path in folder.rglob("samples_*.jsonl") if _SAMPLES_NAME.fullmatch(path.name))
    if lm_eval:
        return _lm_eval_samples(lm_eval, key, finish_reason_of, repeat)
    normalized = sorted((folder / SAMPLE_OUTPUTS).rglob("*.jsonl"))
    if normalized:
        return {"samples": _normalized_samples(normalized), "generation": None}
    return None


def _lm_eval_samples(
    paths: list[Path], key: str, finish_reason_of: Callable[[str], str | None], repeat: int
) -> dict[str, Any]:
    metric, filter_name = _lm_eval_key(key)
    newest: dict[str, Path] = {}
    for path in paths:  # sorted by name, so by date within a task
        match = _SAMPLES_NAME.fullmatch(path.name)
        assert match is not None
        newest[match["task"]] = path
    samples: list[dict[str, Any]] = []
    generation: dict[str, Any] | None = None
    for task, path in sorted(newest.items()):
        rows = [(place, row) for place, row in read_json_lines(path) if row.get("filter", filter_name) == filter_name]
        try:
            for _, row in sorted(rows, key=lambda entry: entry[1]["doc_id"]):
                sample, settings = _lm_eval_sample(row, metric, finish_reason_of)
                identity = sample["id"] if len(newest) == 1 else f"{task}/{sample['id']}"
                samples.append({**sample, "id": identity, "repeat": repeat})
                generation = generation or settings
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UnusableInput(
                f"{path}: expected lm-eval's sample lines (doc_id, doc_hash, prompt_hash, target_hash, arguments, "
                f"resps, filtered_resps, {metric}); {type(error).__name__}: {error}"
            ) from error
    return {"samples": samples, "generation": generation}


def _lm_eval_key(key: str) -> tuple[str, str]:
    name, _ = canonical_score(key)
    metric, _, filter_name = name.partition("__")
    return metric, filter_name or "none"


def _lm_eval_sample(
    row: Mapping[str, Any], metric: str, finish_reason_of: Callable[[str], str | None]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    arguments = row["arguments"]
    first = arguments["gen_args_0"] if isinstance(arguments, Mapping) else arguments[0]
    prompt, settings = (first["arg_0"], first.get("arg_1")) if isinstance(first, Mapping) else (first[0], first[1])
    generated = isinstance(settings, Mapping)
    if generated:
        answer = row["resps"][0][0]
        filtered = row["filtered_resps"][0]
    else:
        likelihoods = [_likelihood(response[0]) for response in row["resps"]]
        answer = filtered = (
            str(max(range(len(likelihoods)), key=likelihoods.__getitem__))
            if len(likelihoods) > 1
            else repr(likelihoods[0])
        )
    score = row[metric]
    return {
        "id": str(row["doc_id"]),
        "prompt_digest": row["prompt_hash"],
        "target_digest": row["target_hash"],
        "document_digest": row["doc_hash"],
        "answer": answer if isinstance(answer, str) else str(answer),
        "unparsed": generated and filtered == "[invalid]",
        "score": _score(score),
        "finish_reason": finish_reason_of(prompt) if generated and isinstance(prompt, str) else None,
        "generated": generated,
        "prompt": _shown_prompt(prompt, [] if generated else _choices(arguments)),
        "target": _text(row.get("target")),
    }, dict(settings) if isinstance(settings, Mapping) else None


def _choices(arguments: Any) -> list[str]:
    """The continuations that a question offers, in their order."""
    pairs = arguments.values() if isinstance(arguments, Mapping) else arguments
    return [str(pair["arg_1"] if isinstance(pair, Mapping) else pair[1]) for pair in pairs]


def _shown_prompt(prompt: Any, choices: list[str]) -> str | None:
    """A prompt as people read it, with the numbers of its choices, which answer and target name."""
    text = _text(prompt)
    return text if text is None or len(choices) < 2 else text + "".join(f"\n{n}: {c}" for n, c in enumerate(choices))


def _score(value: Any) -> float | None:
    """A sample's score; frameworks also write it as true or false."""
    return float(value) if isinstance(value, bool) or is_number(value) else None


def _likelihood(value: Any) -> float:
    return float(value[0] if isinstance(value, list | tuple) else value)


def _normalized_samples(paths: list[Path]) -> list[dict[str, Any]]:
    """Lines of SampleRecord; a line without a score is an intermediate step and counts for nothing."""
    samples: list[dict[str, Any]] = []
    repeats: dict[str, int] = {}
    for path in paths:
        for place, row in read_json_lines(path):
            if "id" not in row or "score" not in row:
                raise UnusableInput(f"{place}: expected a SampleRecord with id and score; found {', '.join(row)}")
            score = row["score"]
            if not isinstance(score, int | float):
                continue
            identity = str(row["id"])
            repeat = repeats.get(identity, 0)
            repeats[identity] = repeat + 1
            samples.append(
                {
                    "id": identity,
                    "repeat": repeat,
                    "prompt_digest": _text_digest(row.get("query")),
                    "target_digest": _text_digest(row.get("ground_truth")),
                    "document_digest": None,
                    "answer": _text(row.get("generation")),
                    "unparsed": None,
                    "score": _score(score),
                    "finish_reason": None,
                    "tokens": row.get("num_generated_tokens"),
                    "generated": True,
                    **({} if repeat else {"prompt": _text(row.get("query")), "target": _text(row.get("ground_truth"))}),
                }
            )
    return samples


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _text_digest(value: Any) -> str | None:
    text = _text(value)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()
