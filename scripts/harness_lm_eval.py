"""Ask one task of a suite through lm-eval and write what came back, sample by sample.

One process per task, in the harness's environment, by the protocol of day0/suite/harness.py: it imports, loads the task
and renders its prompts while the server still starts, then waits for the server's address. lm-eval itself renders the
prompts, extracts and scores the answers (``simple_evaluate`` over ``local-completions`` or ``local-chat-completions``);
the requests go through harness_transport.py, which records what lm-eval does not: finish reasons, tokens, attempts by
their result, a seed per repeat, a store of answers from which a killed run goes on, and prompts that were never
answered, which have no score instead of a wrong one.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness_transport import Abandoned, AnswerStore, DiskFull, Limiter, NotAnswered, Transport

# Prompts of one request: many where answers are short, one where a long answer would hold up the rest.
SHORT_ANSWER_TOKENS = 64
PROMPTS_PER_REQUEST = 16
THOUGHTS = ("reasoning", "reasoning_content")  # where vLLM's parsers put them, by version
NO_ANSWER = "\x00 no answer \x00"

_events = os.fdopen(os.dup(1), "w", buffering=1)


def emit(event: str, **fields: Any) -> None:
    """Tell the stage what happened, as one line of JSON."""
    with contextlib.suppress(BrokenPipeError):
        _events.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")


class UnusableTask(Exception):
    """The task cannot be asked as the suite says."""


class Answers:
    """What is known of each prompt's answer beside its text, by the arguments of lm-eval's request."""

    def __init__(self) -> None:
        self.facts: dict[str, tuple[str | None, int | None]] = {}
        self.failed: set[str] = set()

    @staticmethod
    def key(arguments: Any) -> str:
        """Of a generation its context, of a likelihood its context and continuation."""
        first, second = arguments[0], arguments[1] if len(arguments) > 1 else None
        return repr((str(first), second if isinstance(second, str) else None))


def parse_generations(response: Any, prompts: int, chat: bool) -> list[dict[str, Any]]:
    """Text, finish reason and number of tokens of each answer, in the order of the prompts.

    Raises:
        ValueError, KeyError, TypeError: the response does not hold one finished text per prompt.
    """
    choices = sorted(response["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(prompts)):
        raise ValueError(f"{len(choices)} choices for {prompts} prompts")
    answers = []
    for choice in choices:
        reason = choice["finish_reason"]
        text = choice["message"]["content"] if chat else choice["text"]
        if chat and text is None and (reason == "length" or any(choice["message"].get(key) for key in THOUGHTS)):
            text = ""  # a reasoning model whose server keeps the thoughts apart, and which came to no answer
        if not isinstance(text, str) or not isinstance(reason, str):
            raise ValueError(f"a choice with text {text!r:.40} and finish reason {reason!r}")
        ids = choice.get("token_ids")
        answers.append({"text": text, "finish_reason": reason, "tokens": len(ids) if ids is not None else None})
    if prompts == 1 and answers[0]["tokens"] is None and isinstance(response.get("usage"), dict):
        answers[0]["tokens"] = response["usage"].get("completion_tokens")
    return answers


def parse_likelihoods(response: Any, context_lengths: list[int]) -> list[dict[str, Any]]:
    """Sum of log probabilities of each continuation, and whether it is the greedy one, as lm-eval computes them.

    Args:
        context_lengths: tokens of each prompt before its continuation.

    Raises:
        ValueError, KeyError, TypeError: the response does not hold finite log probabilities for every prompt.
    """
    choices = sorted(response["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(len(context_lengths))):
        raise ValueError(f"{len(choices)} choices for {len(context_lengths)} prompts")
    answers = []
    for choice, context in zip(choices, context_lengths, strict=True):
        # The last token is the one that the server had to generate.
        values = choice["logprobs"]["token_logprobs"][context:-1]
        likeliest = choice["logprobs"]["top_logprobs"][context:-1]
        total = math.fsum(values)
        if not math.isfinite(total):
            raise ValueError("a log probability that is no finite number")
        greedy = all(value == max(top.values()) for value, top in zip(values, likeliest, strict=True))
        answers.append({"log_probability": sum(values), "greedy": greedy})
    return answers


class ServerAddress:
    """The server's address, which the stage sends as the second line of the standard input.

    Args:
        limiter: gets the larger shares of the concurrency that further lines give.
    """

    def __init__(self, limiter: Limiter) -> None:
        self.received_at: float | None = None
        self._base_url, self._limiter = "", limiter

    def wait(self) -> str:
        """The address, once it is sent; ends the process where the stage closes the pipe first."""
        if self.received_at is None:
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            self._base_url, self.received_at = json.loads(line)["base_url"], time.monotonic()
            threading.Thread(target=self._listen, daemon=True).start()
        return self._base_url

    def _listen(self) -> None:
        for line in sys.stdin:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._limiter.set_limit(int(json.loads(line)["concurrency"]))


def recording(base: type) -> type:
    """A subclass of one of lm-eval's API models that sends its requests through a transport."""

    class Recording(base):  # type: ignore[misc,valid-type]
        transport: Transport
        server: ServerAddress
        path: str
        answers: Answers
        reasoning: Mapping[str, Any] | None
        chat: bool
        repeats_to_come: int

        async def get_batched_requests(self, requests, cache_keys, *, generate=True, ctxlens=None, **options):
            items = list(zip(requests, cache_keys, ctxlens or [None] * len(requests), strict=True))
            settings = options.get("gen_kwargs") or {}
            length = settings.get("max_gen_toks", settings.get("max_tokens", self._max_gen_toks))
            size = 1 if generate and length > SHORT_ANSWER_TOKENS else self._batch_size
            batches = [items[first : first + size] for first in range(0, len(items), size)]
            self.transport.expected += len(items) * self.repeats_to_come
            self.base_url = self.server.wait() + self.path
            return await self.transport.gather(self._ask(batch, generate, settings) for batch in batches)

        async def _ask(self, batch, generate, settings):
            """Answers of a batch in lm-eval's form; where it fails as a whole, each of its prompts alone."""

            def payload_of(numbers):
                # The payload takes the settings apart, so each request gets its own.
                payload = self._create_payload(
                    self.create_message([batch[number][0] for number in numbers]),
                    generate=generate,
                    gen_kwargs=copy.deepcopy(settings),
                    seed=self._seed,
                )
                if generate and not self.chat:
                    payload["return_token_ids"] = True
                return payload

            def parse(response, numbers):
                if generate:
                    return parse_generations(response, len(numbers), self.chat)
                return parse_likelihoods(response, [batch[number][2] for number in numbers])

            try:
                found = await self.transport.ask(self.base_url, len(batch), payload_of, parse)
            except NotAnswered as error:
                if len(batch) > 1 and error.kind in ("rejected", "failed"):
                    return [answer for one in batch for answer in await self._ask([one], generate, settings)]
                for _, key, _ in batch:
                    self.answers.failed.add(self.answers.key(key))
                self.transport.give_up(len(batch), error)
                return [NO_ANSWER if generate else (-math.inf, False)] * len(batch)
            if not generate:
                return [(answer["log_probability"], answer["greedy"]) for answer in found]
            for (_, key, _), answer in zip(batch, found, strict=True):
                self.answers.facts[self.answers.key(key)] = (answer["finish_reason"], answer["tokens"])
            return [without_reasoning(answer["text"], self.reasoning) for answer in found]

    return Recording


def without_reasoning(text: str, reasoning: Mapping[str, Any] | None) -> str:
    """What follows the last end mark of a reasoning model's thoughts; all of the text where there is no mark.

    >>> without_reasoning("2+2... </think>\\n4", {"strip": True, "end": "</think>"})
    '4'
    """
    if reasoning is None or not reasoning["strip"] or reasoning["end"] not in text:
        return text
    return text.rpartition(reasoning["end"])[2].lstrip()


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


def make_model(job: dict[str, Any], server: ServerAddress, chat: bool, transport: Transport) -> Any:
    """lm-eval's API model for the server, with recording."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    common = {
        "model": job["served_name"],
        "max_length": job["context_length"],
        "max_gen_toks": max(1, min(256, job["context_length"] // 2)),
        "seed": job["seed"],
        # One request in flight would take another path of lm-eval, which records nothing.
        "num_concurrent": 2,
    }
    if chat:
        model, path = recording(LocalChatCompletion)(**common), "/v1/chat/completions"
    else:
        model = recording(LocalCompletionsAPI)(
            tokenizer_backend="huggingface",
            tokenizer=job["tokenizer"],
            tokenized_requests=True,
            trust_remote_code=job["trust_remote_code"],
            batch_size=PROMPTS_PER_REQUEST,
            **common,
        )
        path = "/v1/completions"
        model.add_bos_token = not job["apply_chat_template"] and adds_bos(model.tokenizer)
    model.transport, model.server, model.path = transport, server, path
    model.chat, model.reasoning = chat, job["reasoning"]
    return model


def shard_of(tasks: dict[str, Any], job: dict[str, Any]) -> dict[str, list[int]] | None:
    """Numbers of the documents that are asked, by task, of a shard every n-th one; None where the limit says it all."""
    if job["shard"] is None and not job["offset"]:
        return None
    number, count = job["shard"] or (0, 1)
    start, documents = job["offset"], {}
    for name, task in tasks.items():  # as day0/suite/documents.py counts them
        found = len(task.eval_docs)
        documents[name] = range(min(start, found), min(found, start + (job["limit"] or found)))
    if empty := [name for name, asked in documents.items() if not asked]:
        raise UnusableTask(f"offset {job['offset']} leaves no document of {', '.join(empty)}; set a smaller one")
    small = [f"{name} with {len(asked)}" for name, asked in documents.items() if len(asked) < count]
    if small:
        raise UnusableTask(f"{count} shards need as many documents; found {', '.join(small)}; set fewer shards")
    return {name: list(asked)[number::count] for name, asked in documents.items()}


def ask(
    job: dict[str, Any], manager: Any, tasks: dict[str, Any], server: ServerAddress, transport: Transport
) -> dict[str, Any]:
    """Ask the task once per repeat, each with its own seed, and gather scores and samples."""
    from lm_eval.evaluator import simple_evaluate

    types = {task.OUTPUT_TYPE for task in tasks.values()}
    chat = bool(job["apply_chat_template"]) and types == {"generate_until"}
    model = make_model(job, server, chat, transport)
    documents = shard_of(tasks, job)
    if types != {"loglikelihood_rolling"}:
        # lm-eval cuts too long prompts without a word; the server refuses them instead.
        model.max_length = sys.maxsize // 2
    if (job["limit"] or job["offset"]) and len(tasks) > 1:
        raise UnusableTask(
            f"{job['task']} is a group of {len(tasks)} tasks: lm-eval would limit each; remove the limit and the offset"
        )
    runs = []
    for repeat in range(job["repeats"]):
        model._seed, model.answers = job["seed"] + repeat, Answers()
        # The first call shows how many prompts there will be in all.
        model.repeats_to_come = job["repeats"] if repeat == 0 else 0
        results = simple_evaluate(
            model=model,
            tasks=[job["task"]],
            num_fewshot=job["num_fewshot"],
            limit=job["limit"] if documents is None else None,
            samples=documents,
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
        runs.append(collect(job, results, repeat, model.answers))
    first = runs[0]
    return {
        **{key: first[key] for key in ("version", "generation")},
        "values": [run["value"] for run in runs],
        "samples": [sample for run in runs for sample in run["samples"]],
        "endpoint": "chat" if chat else "completions",
        "adds_bos": bool(getattr(model, "add_bos_token", False)),
    }


def collect(job: dict[str, Any], results: dict[str, Any], repeat: int, answers: Answers) -> dict[str, Any]:
    """The score that the suite names and one entry per document, in the order of the documents."""
    metric, _, filter_name = job["metric"].partition(",")
    filter_name = filter_name or "none"
    key = f"{metric},{filter_name}"
    name = job["task"]
    scores = {**results["results"].get(name, {}), **(results.get("groups") or {}).get(name, {})}
    if key not in scores:
        available = sorted(score for score in scores if "," in score and "_stderr" not in score)
        raise UnusableTask(f"{name}: has no metric {key!r}; it has {', '.join(available) or 'none'}")
    samples, generation = [], {}
    for subtask, entries in sorted(results["samples"].items()):
        for entry in sorted(entries, key=lambda entry: entry["doc_id"]):
            if entry.get("filter") != filter_name:
                continue
            samples.append(sample_of(job, entry, subtask, metric, repeat, answers))
            arguments = entry["arguments"][0]
            if not generation and len(arguments) > 1 and isinstance(arguments[1], dict):
                generation = arguments[1]
    value = scores[key]
    return {
        "value": value if isinstance(value, (int, float)) and math.isfinite(value) else None,
        "version": results["versions"].get(name),
        "generation": generation,
        "samples": samples,
    }


def sample_of(
    job: dict[str, Any], entry: dict[str, Any], subtask: str, metric: str, repeat: int, answers: Answers
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
    failed = any(answers.key(one) in answers.failed for one in arguments)
    reason, tokens = answers.facts.get(answers.key(arguments[0]), (None, None))
    if failed:
        answer, filtered, score = None, None, None
    return {
        "id": str(entry["doc_id"]) if subtask == job["task"] else f"{subtask}/{entry['doc_id']}",
        "repeat": repeat,
        "prompt_digest": entry["prompt_hash"],
        "target_digest": entry["target_hash"],
        "document_digest": entry["doc_hash"],
        "answer": answer if answer is None or isinstance(answer, str) else str(answer),
        "unparsed": generated and filtered == "[invalid]",
        "score": score if isinstance(score, (int, float)) and math.isfinite(score) else None,
        "finish_reason": reason,
        "tokens": tokens,
        "generated": generated,
        "failed": failed,
    }


def kind_of(error: Exception, transport: Transport) -> str:
    """What kind of failure ended the task; see day0/suite/harness.py."""
    if isinstance(error, DiskFull):
        return "disk"
    if isinstance(error, Abandoned):
        return {"refused": "refused", "rate limit": "rate limit"}.get(error.kind, "requests")
    if transport.failed:
        return "requests"
    return "configuration" if isinstance(error, UnusableTask) else "task"


def main() -> int:
    """Run one job; the outcome, good or bad, is in the job's output file."""
    # lm-eval and what it starts may print; standard output belongs to the events.
    sys.stdout = sys.stderr
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    outcome: dict[str, Any] = {"status": "FAILED", "error": None, "error_kind": None}
    transport = Transport(
        headers={"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"},
        concurrency=job["concurrency"],
        max_attempts=job["max_attempts"],
        timeout_seconds=job["request_timeout_seconds"],
        store=AnswerStore(job["cache"]),
        report=lambda answered, expected: emit("progress", done=answered, total=expected),
    )
    server, began = ServerAddress(transport.limiter), time.monotonic()
    try:
        transport.store.open()
        if job["runs_generated_code"]:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # read by the metric that runs the code
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        manager, tasks = load_tasks(job)
        outcome["documents"] = sum(len(task.eval_docs) for task in tasks.values())
        emit("loaded", documents=outcome["documents"], seconds=round(time.monotonic() - began, 2))
        outcome.update(ask(job, manager, tasks, server, transport), status="COMPLETED")
        emit("progress", done=transport.answered, total=transport.expected)
        if transport.failed:
            outcome.update(
                status="FAILED",
                error=f"{transport.failed} prompts were given up, the first one: {transport.first_failure}",
                error_kind={"refused": "refused", "rate limit": "rate limit"}.get(
                    transport.kind_of_failures(), "requests"
                ),
            )
    except Exception as error:
        traceback.print_exc()
        outcome.update(error=f"{type(error).__name__}: {error}", error_kind=kind_of(error, transport))
    import importlib.metadata

    outcome.update(
        seconds=round(time.monotonic() - (server.received_at or began), 3),
        requests=transport.counts(),
        harness_version=importlib.metadata.version("lm_eval"),
    )
    Path(job["output"]).write_text(json.dumps(outcome, ensure_ascii=False), encoding="utf-8")
    emit("done", status=outcome["status"], error=outcome["error"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
