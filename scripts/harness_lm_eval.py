"""Ask one task of a suite through lm-eval and write what came back, sample by sample.

One process per task, in the harness's environment, by the protocol of day0/suite/harness.py: it imports, loads the task
and renders its prompts while the server still starts, then waits for the server's address. lm-eval itself renders the
prompts, extracts and scores the answers (``simple_evaluate`` over ``local-completions`` or ``local-chat-completions``);
the requests go through harness_transport.py, which records what lm-eval does not: finish reasons, tokens, attempts by
their result, a seed per repeat (and per question, where answers are sampled), a store of answers from which a killed
run goes on, and prompts that were never answered, which have no score instead of a wrong one.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_questions import Questions
from harness_transport import Abandoned, AnswerStore, DiskFull, NotAnswered, Transport, seed_of

SHOWN = 2000  # characters of a prompt's beginning and of its end that the samples keep

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


def parse_generations(
    response: Any, prompts: int, chat: bool, asked: Sequence[Any] | None = None
) -> list[dict[str, Any]]:
    """Text, finish reason and number of tokens of each answer, in the order of the prompts.

    Args:
        asked: the prompts' tokens, which the server was to return (vLLM's ``return_token_ids``); None: it was not.

    Raises:
        ValueError, KeyError, TypeError: the response does not hold one finished text per prompt, or is to others.
    """
    choices = sorted(response["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(prompts)):
        raise ValueError(f"{len(choices)} choices for {prompts} prompts")
    for choice, prompt in zip(choices, asked or [], strict=bool(asked)):
        answered = choice.get("prompt_token_ids")
        if answered is not None and list(answered) != list(prompt):
            raise ValueError(f"choice {choice['index']} answers another prompt than was asked")
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


def parse_likelihoods(
    response: Any, context_lengths: list[int], lengths: list[int] | None = None
) -> list[dict[str, Any]]:
    """Sum of log probabilities of each continuation, and whether it is the greedy one, as lm-eval computes them.

    Args:
        context_lengths: tokens of each prompt before its continuation.
        lengths: tokens of each prompt with its continuation; None: asked as texts, whose tokens the server counts.

    Raises:
        ValueError, KeyError, TypeError: the response does not hold a finite log probability of every token.
    """
    choices = sorted(response["choices"], key=lambda choice: choice["index"])
    if [choice["index"] for choice in choices] != list(range(len(context_lengths))):
        raise ValueError(f"{len(choices)} choices for {len(context_lengths)} prompts")
    answers = []
    for number, (choice, context) in enumerate(zip(choices, context_lengths, strict=True)):
        # The last token is the one that the server had to generate.
        found, whole = len(choice["logprobs"]["token_logprobs"]), lengths[number] + 1 if lengths else context + 2
        if found < whole or (lengths and found > whole):
            raise ValueError(f"{found} log probabilities; expected {whole}, with that of the token that was generated")
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
        transport: its limiter gets the larger shares of the concurrency that further lines give; another stops it.
    """

    def __init__(self, transport: Transport) -> None:
        self.received_at: float | None = None
        self._base_url, self._transport = "", transport

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
                message = json.loads(line)
                if message.get("stop"):
                    self._transport.stop()
                else:
                    self._transport.limiter.set_limit(int(message["concurrency"]))


def number_or_none(score: Any) -> float | int | None:
    """A sample's score where it is a finite number."""
    if isinstance(score, bool):
        return float(score)
    return score if isinstance(score, (int, float)) and math.isfinite(score) else None


class SampleScores:
    """Scores of single samples while the task is still asked, as lm-eval gives them at the end.

    lm-eval 0.4.13 scores a document by ``FilterEnsemble.apply`` and ``Task.process_results`` (lm_eval/evaluator.py,
    ``evaluate``), which see nothing but that document. What a corpus-level metric gives there is no number.

    Args:
        tasks: lm-eval's task objects by name.
        metric: the suite's name of the score, 'metric,filter'.
    """

    def __init__(self, tasks: dict[str, Any], metric: str) -> None:
        self._tasks = tasks
        self._metric, _, self._filter = metric.partition(",")

    def score(self, instances: list[Any], responses: list[list[Any]]) -> float | int | None:
        """Score of a document by the responses to each of its instances; None where it has no score of its own."""
        answered = []
        for instance, given in zip(instances, responses, strict=True):
            one = copy.copy(instance)
            one.resps, one.filtered_resps = given, {}
            answered.append(one)
        task, name = self._tasks[instances[0].task_name], self._filter or "none"
        for ensemble in task._filters:
            if ensemble.name == name:
                ensemble.apply(answered)
        results = [one.filtered_resps[name] for one in answered]
        return number_or_none(task.process_results(instances[0].doc, results).get(self._metric))


def question_id(job: Mapping[str, Any], subtask: str, document: int) -> str:
    """Id of a document's samples."""
    return str(document) if subtask == job["task"] else f"{subtask}/{document}"


def recording(base: type) -> type:
    """A subclass of one of lm-eval's API models that sends its requests through a transport."""

    class Recording(base):  # type: ignore[misc,valid-type]
        transport: Transport
        server: ServerAddress
        path: str
        job: Mapping[str, Any]
        chat: bool
        documents: dict[str, list[int]] | None  # numbers of the documents that a shard asks
        scores: SampleScores | None  # None: samples are not reported while the task is asked
        repeat: int  # that lm-eval is at
        answers: list[Answers]  # by repeat
        known: dict[bytes, dict[int, list[Any]]]  # answers by what was asked, and repeat
        instances: list[Any] | None = None  # lm-eval's requests, where an instance is one question and not a window
        instance_of: list[int]  # by item
        questions: Questions | None = None

        def generate_until(self, requests, disable_tqdm=False):
            self.instances = list(requests)
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

        def loglikelihood(self, requests, disable_tqdm=False):
            self.instances = list(requests)
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        async def get_batched_requests(self, requests, cache_keys, *, generate=True, ctxlens=None, **options):
            """The answers of one repeat; the first call asks the repeats to come as well, a question's together."""
            items = list(zip(requests, cache_keys, ctxlens or [None] * len(requests), strict=True))
            names = [repr(item[0]) if item[1] is None else Answers.key(item[1]) for item in items]
            asked = hashlib.sha256(repr(names).encode()).digest()
            if self.repeat not in self.known.get(asked, {}):
                self.known[asked] = await self._ask_all(items, names, generate, options.get("gen_kwargs") or {})
            return [self.known[asked][self.repeat]]  # lm-eval joins what batches gave

        async def _ask_all(self, items, names, generate, settings):
            """Ask items in the shared order; by repeat their answers in lm-eval's form, in the order of the items."""
            repeats = range(self.repeat, self.job["repeats"])
            nothing = NO_ANSWER if generate else (-math.inf, False)
            found = {repeat: [nothing] * len(items) for repeat in repeats}
            questions = self._questions_of(names, len(repeats))
            length = settings.get("max_gen_toks", settings.get("max_tokens", self._max_gen_toks))
            # A request has one seed, so the prompts of one would share their draws.
            size = 1 if generate and (is_sampled(settings) or length > SHORT_ANSWER_TOKENS) else self._batch_size
            order = range(len(items)) if questions is None else questions.order
            batches = [order[first : first + size] for first in range(0, len(items), size)]
            self.transport.expected += len(items) * len(repeats)
            self.base_url = self.server.wait() + self.path

            async def ask(numbers, repeat):
                answers = await self._ask([items[number] for number in numbers], repeat, generate, settings)
                for number, answer in zip(numbers, answers, strict=True):
                    found[repeat][number] = answer
                if questions is not None and (complete := questions.take(numbers)):
                    self._report(questions, complete, found)

            await self.transport.gather(ask(batch, repeat) for batch in batches for repeat in repeats)
            self.questions = questions
            return found

        def _questions_of(self, names, repeats):
            """The questions that the items belong to; None where lm-eval asks them in several calls, or in windows."""
            if self.instances is None or len(self.instances) != len(names):
                return None
            waiting: dict[str, list[int]] = {}
            for number, instance in enumerate(self.instances):
                waiting.setdefault(Answers.key(instance.args), []).append(number)
            if any(len(waiting.get(name, ())) != count for name, count in Counter(names).items()):
                return None
            ids = []
            self.instance_of = [waiting[name].pop(0) for name in names]
            for number in self.instance_of:
                instance = self.instances[number]
                own = self.documents[instance.task_name] if self.documents else None
                ids.append(question_id(self.job, instance.task_name, own[instance.doc_id] if own else instance.doc_id))
            return Questions(ids, f"{self.job['seed']} {self.job['task']}", repeats)

        def _report(self, questions, complete, found):
            """Tell the stage the scores of questions that are answered, in their order."""
            if self.scores is None:
                return
            samples = []
            try:
                for name in complete:
                    instances: dict[int, Any] = {}
                    numbers: dict[int, list[int]] = {}
                    for number in questions.items[name]:
                        instance = self.instances[self.instance_of[number]]
                        instances[instance.idx] = instance
                        numbers.setdefault(instance.idx, []).append(number)
                    for repeat, answers in found.items():
                        if any(
                            self.answers[repeat].key(one.args) in self.answers[repeat].failed
                            for one in instances.values()
                        ):
                            raise ValueError(f"question {name} was not answered")
                        score = self.scores.score(
                            [instances[idx] for idx in sorted(instances)],
                            [[answers[number] for number in numbers[idx]] for idx in sorted(instances)],
                        )
                        if score is None:
                            raise ValueError(f"question {name} has no score of its own by {self.job['metric']}")
                        samples.append({"id": name, "repeat": repeat, "score": score})
            except Exception as error:  # whatever a task's own code raises: it is asked whole, and scored at the end
                print(f"samples are no longer reported while they are asked: {error}", file=sys.stderr)
                self.scores = None
                return
            emit("samples", samples=samples)

        async def _ask(self, batch, repeat, generate, settings):
            """Answers of a batch in lm-eval's form; where it fails as a whole, each of its prompts alone."""

            def payload_of(numbers):
                # The payload takes the settings apart, so each request gets its own.
                prompts = [batch[number][0] for number in numbers]
                seed = self.job["seed"] + repeat
                payload = self._create_payload(
                    self.create_message(prompts),
                    generate=generate,
                    gen_kwargs=copy.deepcopy(settings),
                    seed=seed_of(seed, prompts[0]) if generate and is_sampled(settings) else seed,
                )
                if generate and not self.chat:
                    payload["return_token_ids"] = True
                return payload

            def parse(response, numbers):
                asked = [batch[number][0] for number in numbers]
                are_tokens = not self.chat and all(isinstance(prompt, list | tuple) for prompt in asked)
                if generate:
                    return parse_generations(response, len(numbers), self.chat, asked if are_tokens else None)
                lengths = list(map(len, asked)) if are_tokens else None
                return parse_likelihoods(response, [batch[number][2] for number in numbers], lengths)

            answers = self.answers[repeat]
            try:
                found = await self.transport.ask(self.base_url, len(batch), payload_of, parse)
            except NotAnswered as error:
                if len(batch) > 1 and error.kind in ("rejected", "failed"):
                    return [answer for one in batch for answer in await self._ask([one], repeat, generate, settings)]
                for _, key, _ in batch:
                    answers.failed.add(answers.key(key))
                self.transport.give_up(len(batch), error)
                return [NO_ANSWER if generate else (-math.inf, False)] * len(batch)
            if not generate:
                return [(answer["log_probability"], answer["greedy"]) for answer in found]
            for (_, key, _), answer in zip(batch, found, strict=True):
                answers.facts[answers.key(key)] = (answer["finish_reason"], answer["tokens"])
            return [without_reasoning(answer["text"], self.job["reasoning"]) for answer in found]

    return Recording


def is_sampled(settings: Mapping[str, Any]) -> bool:
    """Whether answers by these generation settings are drawn; lm-eval sends a temperature of 0 where there is none."""
    return (settings.get("temperature") or 0) > 0


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


def datasets_of(tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The data sets that the documents come from, each once; lm-eval asks the test split where there is one."""
    found = []
    for task in tasks.values():
        config = task.config
        split = config.test_split if task.has_test_docs() else config.validation_split
        dataset = {"path": config.dataset_path, "name": config.dataset_name, "split": split}
        if dataset["path"] and dataset not in found:
            found.append(dataset)
    return found


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
    model.job, model.chat, model.known = job, chat, {}
    model.answers = [Answers() for _ in range(job["repeats"])]
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
    model.documents = documents
    # Scoring what the model wrote as code means running it; that is done once, at the end.
    reported = job.get("reports_samples") and not job["runs_generated_code"]
    model.scores = SampleScores(tasks, job["metric"]) if reported else None
    if types != {"loglikelihood_rolling"}:
        # lm-eval cuts too long prompts without a word; the server refuses them instead.
        model.max_length = sys.maxsize // 2
    if (job["limit"] or job["offset"]) and len(tasks) > 1:
        raise UnusableTask(
            f"{job['task']} is a group of {len(tasks)} tasks: lm-eval would limit each; remove the limit and the offset"
        )
    runs = []
    for repeat in range(job["repeats"]):
        model.repeat = repeat
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
        runs.append(collect(job, results, repeat, model.answers[repeat]))
    first = runs[0]
    values = [run["value"] for run in runs]
    stopped = transport.is_stopped and not (model.questions and model.questions.all_complete)
    if stopped:
        kept = set(model.questions.complete) if model.questions else set()
        for run in runs:
            run["samples"] = [sample for sample in run["samples"] if sample["id"] in kept]
        values = []
    return {
        **{key: first[key] for key in ("version", "generation")},
        "status": "STOPPED" if stopped else "COMPLETED",
        "values": values,
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
    score = number_or_none(entry.get(metric))
    failed = any(answers.key(one) in answers.failed for one in arguments)
    reason, tokens = answers.facts.get(answers.key(arguments[0]), (None, None))
    if failed:
        answer, filtered, score = None, None, None
    return {
        "id": question_id(job, subtask, entry["doc_id"]),
        "repeat": repeat,
        "prompt_digest": entry["prompt_hash"],
        "target_digest": entry["target_hash"],
        "document_digest": entry["doc_hash"],
        "answer": answer if answer is None or isinstance(answer, str) else str(answer),
        "unparsed": generated and filtered == "[invalid]",
        "score": score,
        "finish_reason": reason,
        "tokens": tokens,
        "generated": generated,
        "failed": failed,
        **({} if repeat else {"prompt": shown_prompt(arguments, generated), "target": shown(entry.get("target"))}),
    }


def shown_prompt(arguments: Sequence[Any], generated: bool) -> str | None:
    """A prompt as people read it, with the numbers of its choices, which answer and target name."""
    choices = [] if generated else [one[1] for one in arguments]
    text = shown(arguments[0][0])
    return text if text is None or len(choices) < 2 else text + "".join(f"\n{n}: {c}" for n, c in enumerate(choices))


def shown(value: Any) -> str | None:
    """A text for people to read, without the middle of what no one would; chats of lm-eval hold theirs as JSON."""
    text = getattr(value, "prompt", value)
    if text is not None and not isinstance(text, str):
        text = json.dumps(text, ensure_ascii=False, default=str)
    return text if text is None or len(text) <= 2 * SHOWN else f"{text[:SHOWN]}\n[…]\n{text[-SHOWN:]}"


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
    server, began = ServerAddress(transport), time.monotonic()
    try:
        transport.store.open()
        if job["runs_generated_code"]:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # read by the metric that runs the code
        import logging

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        manager, tasks = load_tasks(job)
        outcome["documents"] = sum(len(task.eval_docs) for task in tasks.values())
        outcome["datasets"] = datasets_of(tasks)
        emit("loaded", documents=outcome["documents"], seconds=round(time.monotonic() - began, 2))
        outcome.update(ask(job, manager, tasks, server, transport))
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
