"""Ask one task of a suite through lm-eval and write what came back, sample by sample.

One process per task, in the harness's environment: it imports and loads the task while the server still starts, then
waits for the server's address. lm-eval itself renders the prompts, retries failing requests, extracts and scores the
answers (``simple_evaluate`` over ``local-completions`` or ``local-chat-completions``); this client adds what lm-eval
does not record: the finish reason of every answer, counts of requests, a seed per repeat, and a store of answers that
makes a killed run go on where it stopped.

Standard input: a JSON line with the job, later a JSON line ``{"base_url": ...}``. Standard output: a JSON line per
event (loaded, progress, done). Standard error: lm-eval's own log. The key of the server comes as OPENAI_API_KEY.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Any

# The finish reasons of the request that the current asyncio task is waiting for.
_finish_reasons: ContextVar[list[str | None] | None] = ContextVar("finish_reasons", default=None)

_events = os.fdopen(os.dup(1), "w", buffering=1)


def emit(event: str, **fields: Any) -> None:
    """Tell the stage what happened, as one line of JSON."""
    with contextlib.suppress(BrokenPipeError):
        _events.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")


def sha256(text: str) -> str:
    """Hexadecimal sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class AnswerStore:
    """Answers by request, appended to a JSONL file line by line; a last line cut by a kill is skipped."""

    def __init__(self, path: str | None) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.stream = None
        if path is None:
            return
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                    self.answers[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            os.truncate(file, whole)
        self.stream = file.open("a", encoding="utf-8", buffering=1)

    def add(self, key: str, answers: list[Any], finish_reasons: list[str | None]) -> None:
        """Keep the answers of one request."""
        if self.stream is not None:
            entry = {"key": key, "answers": answers, "finish_reasons": finish_reasons}
            self.stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


class Recorder:
    """Counts of requests, and the finish reason of each prompt's answer."""

    def __init__(self, store: AnswerStore) -> None:
        self.store = store
        self.answered = self.stored = self.retried = 0
        self.failed: dict[str, str] = {}
        self.finish_reasons: dict[str, str | None] = {}
        self.total = 0
        self._next_report = 0.0

    def progress(self, last: bool = False) -> None:
        """Report the number of answered requests, at most once a second."""
        now = time.monotonic()
        if last or now >= self._next_report:
            self._next_report = now + 1
            emit("progress", done=self.answered, total=self.total)


def recording(base: type) -> type:
    """A subclass of one of lm-eval's API models that records what happens to its requests."""

    class Recording(base):  # type: ignore[misc,valid-type]
        recorder: Recorder

        async def amodel_call(self, session, sem, messages, *, generate=True, cache_keys=None, **options):
            recorder = self.recorder
            key = sha256(repr((generate, messages, options.get("gen_kwargs"), options.get("ctxlens"), self._seed)))
            known = recorder.store.answers.get(key)
            if known is not None:
                answers = known["answers"] if generate else [tuple(answer) for answer in known["answers"]]
                reasons = known["finish_reasons"]
                recorder.stored += len(answers)
            else:
                reasons = []
                _finish_reasons.set(reasons)
                try:
                    answers = await super().amodel_call(
                        session, sem, messages, generate=generate, cache_keys=cache_keys, **options
                    )
                except Exception as error:
                    recorder.retried += len(messages)
                    recorder.failed[key] = f"{type(error).__name__}: {error}"
                    raise
                recorder.failed.pop(key, None)
                recorder.store.add(key, answers, reasons)
            if generate:
                for cache_key, reason in zip(cache_keys or [], reasons, strict=False):
                    recorder.finish_reasons[str(cache_key[0])] = reason
            recorder.answered += len(answers)
            recorder.progress()
            return answers

        def parse_generations(self, outputs, **options):
            reasons = _finish_reasons.get()
            if reasons is not None:
                for output in outputs if isinstance(outputs, list) else [outputs]:
                    choices = sorted(output.get("choices") or [], key=lambda choice: choice["index"])
                    reasons.extend(choice.get("finish_reason") for choice in choices)
            return super().parse_generations(outputs=outputs, **options)

        async def get_batched_requests(self, requests, cache_keys, **options):
            self.recorder.total += len(requests)
            return await super().get_batched_requests(requests, cache_keys, **options)

    return Recording


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts a beginning-of-sequence token, and nothing else, before a text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids == [tokenizer.bos_token_id, *bare]


def load_tasks(job: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The task manager and the task objects by name; several where the job names a group."""
    from lm_eval.tasks import TaskManager

    include = job["include_path"]
    manager = TaskManager(include_path=include, include_defaults=include is None)
    try:
        loaded = manager.load([job["task"]])
    except (KeyError, ValueError) as error:
        if not include:
            raise
        # Not one of the suite's own task files: perhaps one that lm-eval brings along.
        print(f"{job['task']}: not under {include} ({error}); looking among lm-eval's own tasks", file=sys.stderr)
        manager = TaskManager(include_path=include, include_defaults=True)
        loaded = manager.load([job["task"]])
    return manager, loaded["tasks"]


def make_model(job: dict[str, Any], base_url: str, chat: bool, recorder: Recorder) -> Any:
    """lm-eval's API model for the server, with recording."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    common = {
        "model": job["served_name"],
        "max_length": job["context_length"],
        "max_gen_toks": max(1, min(256, job["context_length"] // 2)),
        "max_retries": job["max_retries"],
        "timeout": job["request_timeout_seconds"],
        "seed": job["seed"],
    }
    if chat:
        model = recording(LocalChatCompletion)(
            base_url=f"{base_url}/v1/chat/completions", num_concurrent=max(2, job["concurrency"]), **common
        )
    else:
        batch = max(1, min(16, job["concurrency"] // 2))
        model = recording(LocalCompletionsAPI)(
            base_url=f"{base_url}/v1/completions",
            tokenizer_backend="huggingface",
            tokenizer=job["tokenizer"],
            tokenized_requests=True,
            trust_remote_code=job["trust_remote_code"],
            batch_size=batch,
            # One request in flight would take another path of lm-eval, which records nothing.
            num_concurrent=max(2, job["concurrency"] // batch),
            **common,
        )
        model.add_bos_token = not job["apply_chat_template"] and adds_bos(model.tokenizer)
    model.recorder = recorder
    return model


def ask(job: dict[str, Any], manager: Any, tasks: dict[str, Any], base_url: str, recorder: Recorder) -> dict[str, Any]:
    """Ask the task once per repeat, each with its own seed, and gather scores and samples."""
    from lm_eval.evaluator import simple_evaluate

    types = {task.OUTPUT_TYPE for task in tasks.values()}
    chat = bool(job["apply_chat_template"]) and types == {"generate_until"}
    model = make_model(job, base_url, chat, recorder)
    if types != {"loglikelihood_rolling"}:
        # lm-eval cuts too long prompts without a word; the server refuses them instead.
        model.max_length = sys.maxsize // 2
    runs = []
    for repeat in range(job["repeats"]):
        model._seed = job["seed"] + repeat
        results = simple_evaluate(
            model=model,
            tasks=[job["task"]],
            num_fewshot=job["num_fewshot"],
            limit=job["limit"],
            bootstrap_iters=0,
            log_samples=True,
            confirm_run_unsafe_code=job["runs_generated_code"],
            system_instruction=job["system_prompt"],
            apply_chat_template=job["apply_chat_template"],
            gen_kwargs=job["generation"] or None,
            task_manager=manager,
            random_seed=job["seed"],
            numpy_random_seed=job["seed"],
            torch_random_seed=job["seed"],
            fewshot_random_seed=job["seed"],
        )
        recorder.progress(last=True)
        runs.append(collect(job, results, repeat, recorder))
    tokenizer = getattr(model, "tokenizer", None)
    template = tokenizer.chat_template if job["apply_chat_template"] and tokenizer is not None else None
    first = runs[0]
    return {
        **{key: first[key] for key in ("version", "task_hash", "generation", "higher_is_better")},
        "values": [run["value"] for run in runs],
        "samples": [sample for run in runs for sample in run["samples"]],
        "endpoint": "chat" if chat else "completions",
        "chat_template_digest": sha256(template) if isinstance(template, str) else None,
        "adds_bos": bool(getattr(model, "add_bos_token", False)),
        "output_types": sorted(types),
    }


def collect(job: dict[str, Any], results: dict[str, Any], repeat: int, recorder: Recorder) -> dict[str, Any]:
    """The score that the suite names and one entry per document, in the order of the documents."""
    metric, _, filter_name = job["metric"].partition(",")
    filter_name = filter_name or "none"
    key = f"{metric},{filter_name}"
    name = job["task"]
    scores = {**results["results"].get(name, {}), **(results.get("groups") or {}).get(name, {})}
    if key not in scores:
        available = sorted(score for score in scores if "," in score and "_stderr" not in score)
        raise LookupError(f"{name}: has no metric {key!r}; it has {', '.join(available) or 'none'}")
    samples, generation, hashes = [], {}, []
    for subtask, entries in sorted(results["samples"].items()):
        for entry in sorted(entries, key=lambda entry: entry["doc_id"]):
            if entry.get("filter") != filter_name:
                continue
            samples.append(sample_of(job, entry, subtask, metric, repeat, recorder))
            hashes.append(entry["doc_hash"] + entry["prompt_hash"] + entry["target_hash"])
            arguments = entry["arguments"][0]
            if not generation and len(arguments) > 1 and isinstance(arguments[1], dict):
                generation = arguments[1]
    value = scores[key]
    higher = results.get("higher_is_better", {}).get(name, {})
    return {
        "value": value if isinstance(value, (int, float)) else None,
        "version": results["versions"].get(name),
        "task_hash": sha256("".join(hashes)),
        "generation": generation,
        "higher_is_better": higher.get(metric) if isinstance(higher, dict) else None,
        "samples": samples,
    }


def sample_of(
    job: dict[str, Any], entry: dict[str, Any], subtask: str, metric: str, repeat: int, recorder: Recorder
) -> dict[str, Any]:
    """One line of the samples file, with the digests that a fingerprint is made of."""
    arguments = entry["arguments"]
    generated = isinstance(arguments[0][1], dict) if len(arguments[0]) > 1 else False
    if generated:
        answer = entry["resps"][0][0]
        filtered = entry["filtered_resps"][0]
    else:
        likelihoods = [response[0] for response in entry["resps"]]
        values = [value[0] if isinstance(value, (tuple, list)) else value for value in likelihoods]
        answer = str(max(range(len(values)), key=values.__getitem__)) if len(values) > 1 else repr(values[0])
        filtered = answer
    score = entry.get(metric)
    if isinstance(score, bool):
        score = float(score)
    return {
        "id": str(entry["doc_id"]) if subtask == job["task"] else f"{subtask}/{entry['doc_id']}",
        "repeat": repeat,
        "prompt_digest": entry["prompt_hash"],
        "target_digest": entry["target_hash"],
        "document_digest": entry["doc_hash"],
        "answer": answer if isinstance(answer, str) else str(answer),
        "unparsed": generated and filtered == "[invalid]",
        "score": score if isinstance(score, (int, float)) else None,
        "finish_reason": recorder.finish_reasons.get(str(arguments[0][0])) if generated else None,
        "generated": generated,
    }


def main() -> int:
    """Run one job; the outcome, good or bad, is in the job's output file."""
    sys.stdout = sys.stderr  # lm-eval prints; standard output belongs to the events
    job = json.loads(sys.stdin.readline())
    recorder = Recorder(AnswerStore(job["cache"]))
    outcome: dict[str, Any] = {"status": "FAILED", "error": None, "error_kind": None}
    started = time.monotonic()
    try:
        if job["runs_generated_code"]:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # read by the metric that runs the code
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        manager, tasks = load_tasks(job)
        documents = sum(len(task.eval_docs) for task in tasks.values())
        outcome["documents"] = documents
        import lm_eval.evaluator  # noqa: F401  the slow imports belong before the start signal
        from lm_eval.models import openai_completions  # noqa: F401

        emit("loaded", documents=documents, seconds=round(time.monotonic() - started, 2))
        go = sys.stdin.readline()
        if not go:
            return 0
        started = time.monotonic()
        outcome.update(ask(job, manager, tasks, json.loads(go)["base_url"], recorder), status="COMPLETED")
    except Exception as error:
        traceback.print_exc()
        outcome.update(
            error=f"{type(error).__name__}: {error}",
            error_kind="requests" if recorder.failed else "configuration" if isinstance(error, LookupError) else "task",
        )
    import importlib.metadata

    outcome.update(
        seconds=round(time.monotonic() - started, 3),
        requests={
            "asked": recorder.total,
            "answered": recorder.answered,
            "from_store": recorder.stored,
            "retried": recorder.retried,
            "failed": len(recorder.failed),
        },
        failed_request=next(iter(recorder.failed.values()), None),
        harness_version=importlib.metadata.version("lm_eval"),
    )
    Path(job["output"]).write_text(json.dumps(outcome, ensure_ascii=False), encoding="utf-8")
    emit("done", status=outcome["status"], error=outcome["error"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
