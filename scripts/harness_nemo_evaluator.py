"""Ask one task of a suite through NeMo Evaluator and read back what it and its framework wrote.

The protocol is day0/suite/harness.py's. The tool's own ``evaluate`` runs in this process, offline, with telemetry off:
it puts its adapter (a proxy with interceptors) between the framework and the server, runs the framework's command and
parses its output. Each run has a folder, a response store and a statistics folder of its own; no two runs ever share
one, since a used store answers for a server that is gone.

What is taken from where: the score from results.yml by its canonical key; samples from the framework's own per-sample
files, where it leaves any; requests, statuses and tokens from the adapter's statistics; finish reasons from the stored
responses. What none of them gives is null.

Repeats: a framework whose command takes a number of repeats makes them itself; then no stored answer is reused, since
equal requests would get equal answers. Any other framework runs once per repeat, with a store of its own, and a killed
run goes on from that store. Requests have a seed only where nothing is sampled: the adapter adds the same to all, so
that sampled answers to different questions would depend on the same draws.

``--describe TASK...`` prints, as JSON, what is known of tasks without asking anything, for the set-up gate.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from day0.base.artefacts import read_yaml
from day0.evaluation.nemo_evaluator import (
    COLOURS,
    LM_EVALUATION_HARNESS,
    MARKERS,
    REPEAT_PARAMETERS,
    count_of,
    documents_of,
    read_response_statistics,
    read_samples,
    version_of,
)
from day0.serving.ports import free_port
from day0.suite.score_names import find_score, find_task

# Names that suites give the largest number of tokens of an answer.
TOKEN_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens")
NOT_SENT = ("do_sample",)
# How a request to another endpoint fails, in the words of its client.
REFUSED = re.compile(r"\b(401|403|404|429|5\d\d)\b|(?i:unauthorized|authentication|rate.?limit|connection|timed? ?out)")
# Words of lm-eval's last traceback that say that a request was given up after its attempts.
LOST_REQUEST = ("aiohttp.", "API request failed", "RetryError")


class Misconfigured(Exception):
    """A setting that the suite's author must mend."""


class RequestsLost(Exception):
    """Requests that were never answered."""


class JudgeFailed(Exception):
    """The framework ended with an error of its judge."""


class Events:
    """The stage's side of the protocol, on the process's original standard output."""

    def __init__(self) -> None:
        self.stream = os.fdopen(os.dup(1), "w", buffering=1)
        os.set_inheritable(self.stream.fileno(), False)
        os.dup2(2, 1)  # what the tool and its children print belongs to the log

    def emit(self, event: str, **fields: Any) -> None:
        """Tell the stage what happened, as one line of JSON."""
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")


def prepare_environment() -> None:
    """Offline, silent to the outside, and with this environment's own commands first on the PATH."""
    os.environ["NEMO_EVALUATOR_TELEMETRY_LEVEL"] = "0"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).absolute().parent), os.environ.get("PATH", "")])
    os.environ["ADAPTER_HOST"] = "127.0.0.1"


def definitions() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Installed frameworks: (framework -> tasks, framework -> defaults, task -> evaluation or evaluations)."""
    from nemo_evaluator.core.input import get_available_evaluations

    return get_available_evaluations()


def describe_task(task: str) -> dict[str, Any]:
    """{framework, endpoints, repeats_parameter, parameters} of a task, or {problem}."""
    by_framework, defaults, by_task = definitions()
    framework, _, name = task.rpartition(".")
    if framework and framework not in defaults:
        there = ", ".join(sorted(defaults)) or "none"
        return {"problem": f"{task}: no framework {framework!r} is installed; there is {there}", "missing": framework}
    if not framework:
        found = by_task.get(name)
        if found is None:
            there = ", ".join(sorted(by_task))
            return {"problem": f"no installed framework has a task {name!r}; there are {there}", "missing": name}
        if isinstance(found, list):
            return {"problem": f"{name!r} is a task of several frameworks; write FRAMEWORK.{name}", "missing": None}
        framework = found.framework_name
    evaluation = by_framework.get(framework, {}).get(name)
    whole = evaluation.model_dump() if evaluation is not None else defaults[framework]
    command = whole.get("command") or ""
    configuration = whole.get("config") or {}
    return {
        "framework": framework,
        "endpoints": configuration.get("supported_endpoint_types") or [],
        "repeats_parameter": next((name for name in REPEAT_PARAMETERS if f"extra.{name}" in command), None),
        "parameters": configuration.get("params") or {},
    }


def endpoint_of(known: dict[str, Any], job: dict[str, Any]) -> str:
    """The endpoint that the suite asks for: chat with its chat template, completions without.

    Raises:
        Misconfigured: the task cannot be asked there.
    """
    if job["shard"] is not None:
        raise Misconfigured(f"{job['task']}: NeMo Evaluator asks a task whole; set shards: 1 or shards: per-task")
    wanted = "chat" if job["apply_chat_template"] else "completions"
    if known["endpoints"] and wanted not in known["endpoints"]:
        needed = "true" if "chat" in known["endpoints"] else "false"
        raise Misconfigured(
            f"{job['task']}: is asked by {', '.join(known['endpoints'])} only, but the suite asks for {wanted}; set "
            f"apply_chat_template: {needed} for this task"
        )
    if job["system_prompt"] and wanted != "chat":
        raise Misconfigured(f"{job['task']}: a system prompt needs apply_chat_template: true")
    return wanted


def run_configuration(
    job: dict[str, Any], known: dict[str, Any], base_url: str, output: Path, store: Path, repeat: int | None
) -> dict[str, Any]:
    """NeMo Evaluator's run configuration of one run; it names the key's variable, never the key.

    Args:
        job: the job.
        known: what ``describe_task`` returned.
        base_url: of the server.
        output: folder of the run.
        store: folder of the run's stored responses.
        repeat: which repeat the run is; None where the framework makes all repeats in this one run.
    """
    endpoint = endpoint_of(known, job)
    generation = dict(job["generation"])
    tokens = next((generation.pop(name) for name in TOKEN_LIMITS if name in generation), None)
    extra = dict(job.get("parameters") or {})
    for name, role in (("judge", "judge"), ("simulator", "user")):
        if job.get(name):
            extra[role] = {**(extra.get(role) or {}), **named_endpoint(job[name])}
    if repeat is None:
        extra[known["repeats_parameter"]] = job["repeats"]
    if known["framework"] == LM_EVALUATION_HARNESS:
        extra = lm_eval_parameters(job, known, extra)
    parameters = {
        "limit_samples": job["limit"],
        "parallelism": job["concurrency"],
        "max_retries": job["max_attempts"],
        "request_timeout": job["request_timeout_seconds"],
        "temperature": generation.pop("temperature", None),
        "top_p": generation.pop("top_p", None),
        "max_new_tokens": tokens,
        "extra": extra,
    }
    if "until" in generation:
        generation["stop"] = generation.pop("until")
    added = {key: value for key, value in generation.items() if key not in NOT_SENT}
    if repeat is not None and parameters["temperature"] == 0:
        # One seed for all requests of a sampled task would let all questions share their draws.
        added["seed"] = job["seed"] + repeat
    path = "chat/completions" if endpoint == "chat" else "completions"
    return {
        "config": {
            "type": job["task"],
            "output_dir": str(output),
            "params": {key: value for key, value in parameters.items() if value is not None},
        },
        "target": {
            "api_endpoint": {
                "url": f"{base_url}/v1/{path}",
                "model_id": job["served_name"],
                "type": endpoint,
                "api_key_name": "OPENAI_API_KEY",
                "adapter_config": {
                    "endpoint_type": endpoint,
                    "interceptors": interceptors(job, added, output, store, reuse=repeat is not None),
                    "post_eval_hooks": [],
                },
            }
        },
    }


def lm_eval_parameters(job: dict[str, Any], known: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """What the command of lm-evaluation-harness takes besides the common parameters."""
    own = (known["parameters"].get("extra") or {}).get("args")
    arguments = [text for text in (own, extra.pop("args", None)) if text]
    if job["include_path"]:
        arguments.append(f"--include_path {shlex.quote(job['include_path'])}")
    arguments.append(f"--seed {job['seed']}")
    return {
        "tokenizer": job["tokenizer"],
        "tokenizer_backend": "huggingface",
        "num_fewshot": job["num_fewshot"],
        **extra,
        "args": " ".join(arguments),
    }


def named_endpoint(endpoint: dict[str, Any]) -> dict[str, Any]:
    """A judge's or simulator's address, and the name of the variable that holds its key."""
    url = os.environ.get(endpoint["url_variable"])
    if not url:
        raise Misconfigured(f"{endpoint['url_variable']} is not set; it must hold the address of {endpoint['model']}")
    found = {"model_id": endpoint["model"], "url": url}
    return {**found, "api_key": endpoint["key_variable"]} if endpoint.get("key_variable") else found


def interceptors(
    job: dict[str, Any], added: dict[str, Any], output: Path, store: Path, reuse: bool
) -> list[dict[str, Any]]:
    """The adapter's chain; requests pass it downwards, responses upwards."""
    chain: list[dict[str, Any]] = []
    if job["system_prompt"]:
        chain.append({"name": "system_message", "config": {"system_message": job["system_prompt"]}})
    if added:
        chain.append({"name": "payload_modifier", "config": {"params_to_add": added}})
    caching = {
        "cache_dir": str(store),
        "reuse_cached_responses": reuse,
        "save_requests": True,
        "save_responses": True,
    }
    chain += [
        {"name": "caching", "config": caching},
        {"name": "endpoint"},
        {"name": "response_stats", "config": {"cache_dir": str(output / "response_statistics")}},
    ]
    reasoning = job.get("reasoning") or {}
    if reasoning.get("strip"):
        tracking = {"end_reasoning_token": reasoning["end"], "cache_dir": str(output / "reasoning_statistics")}
        chain.append({"name": "reasoning", "config": tracking})
    return chain


def open_store(folder: Path) -> Any:
    """The stored (requests, responses) of a run, as the tool's own class reads them."""
    from nemo_evaluator.adapters.caching.diskcaching import Cache

    return Cache(directory=str(folder / "requests")), Cache(directory=str(folder / "responses"))


def decoded(response: Any) -> Any:
    """A stored response, which the tool keeps as a mapping or as JSON."""
    return response if isinstance(response, dict) else json.loads(response)


def choices_of(response: Any) -> list[Any]:
    """A response's choices in the order of the prompts."""
    return sorted(response["choices"], key=lambda choice: choice["index"])


def finish_reasons(store: Path) -> dict[str, str]:
    """Finish reason by prompt, from the stored requests and responses; prompts that got several are left out."""
    requests, responses = open_store(store)
    found: dict[str, set[str]] = {}
    for key in requests:
        request, response = requests.get(key), responses.get(key)
        prompts = request.get("prompt") if isinstance(request, dict) else None
        with contextlib.suppress(ValueError, TypeError, KeyError):
            choices = choices_of(decoded(response))
            for prompt, choice in zip([prompts] if isinstance(prompts, str) else prompts, choices, strict=True):
                if isinstance(prompt, str):
                    found.setdefault(prompt, set()).add(str(choice["finish_reason"]))
    return {prompt: next(iter(reasons)) for prompt, reasons in found.items() if len(reasons) == 1}


def drop_partial_likelihoods(store: Path) -> tuple[int, int]:
    """Take out of a store the responses that lack a finite log probability of a token of what was asked.

    lm-eval adds up those that are there, and takes the sum of a part for that of the whole. What is taken out is asked
    again by a later run.

    Returns:
        How many were taken out, and how many responses hold log probabilities of a prompt in all.
    """
    requests, responses = open_store(store)
    asked = {key: request for key in requests if is_of_likelihoods(request := requests.get(key))}
    partial = [key for key, request in asked.items() if key in responses and not is_whole(request, responses.get(key))]
    for key in partial:
        del responses[key]
    return len(partial), len(asked)


def is_of_likelihoods(request: Any) -> bool:
    """Whether a request asks for the log probabilities of its prompt: vLLM gives them with its echo."""
    return isinstance(request, dict) and bool(request.get("echo")) and request.get("logprobs") is not None


def is_whole(request: dict[str, Any], response: Any) -> bool:
    """Whether a response has a log probability of each token that was asked for, but of the first of a prompt."""
    prompts = request["prompt"]
    if isinstance(prompts, str) or not isinstance(prompts[0], (str, list)):
        prompts = [prompts]
    try:
        response = decoded(response)
        found = [choice["logprobs"]["token_logprobs"] for choice in choices_of(response)]
        if len(found) != len(prompts) or not all(math.isfinite(value) for values in found for value in values[1:]):
            return False
        if isinstance(prompts[0], str):  # the server alone knows how many tokens a text has
            usage = response["usage"]
            return sum(map(len, found)) == usage["prompt_tokens"] + usage["completion_tokens"]
        generated = request.get("max_tokens") or 0
        return [len(values) for values in found] == [len(prompt) + generated for prompt in prompts]
    except (ValueError, TypeError, KeyError):
        return False


@contextlib.contextmanager
def progress(events: Events, stores: list[Path], total: int) -> Iterator[None]:
    """Report the number of stored answers once a second; ``total`` is what the suite declares, 0 where it does not."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            with contextlib.suppress(Exception):  # a store that is just being made
                done = sum(len(open_store(store)[1]) for store in stores if (store / "responses").is_dir())
                events.emit("progress", done=done, total=max(done, total))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def run_once(configuration: dict[str, Any]) -> dict[str, Any]:
    """Let the tool run; returns the content of its results.yml."""
    from nemo_evaluator.api.api_dataclasses import EvaluationConfig, EvaluationTarget
    from nemo_evaluator.core.evaluate import evaluate
    from nemo_evaluator.core.input import validate_configuration

    os.environ["ADAPTER_PORT"] = str(free_port())  # adapters that each look for the first free one would meet
    whole = validate_configuration(configuration).model_dump()
    evaluate(EvaluationConfig(**whole["config"]), EvaluationTarget(**whole["target"]))
    output = Path(configuration["config"]["output_dir"])
    for marker, meaning in MARKERS.items():
        if (output / marker).exists():
            raise RequestsLost(meaning)
    return read_yaml(output / "results.yml")


def ask(job: dict[str, Any], known: dict[str, Any], base_url: str, scratch: Path, events: Events) -> dict[str, Any]:
    """Run the task, once or once per repeat, and gather scores, samples and counts."""
    itself = known["repeats_parameter"] is not None
    cache = Path(job["cache"]).with_suffix("")
    if itself and job["repeats"] > 1:
        # Its repeats are equal requests, which a store would answer alike.
        shutil.rmtree(cache, ignore_errors=True)
    repeats = [None] if itself else list(range(job["repeats"]))
    stores = [cache / f"repeat-{repeat or 0}" for repeat in repeats]
    total = (job.get("documents") or 0) * job["repeats"]
    runs = []
    with progress(events, stores, total):
        for repeat, store in zip(repeats, stores, strict=True):
            output = scratch / f"run-{repeat or 0}"
            configuration = run_configuration(job, known, base_url, output, store, repeat)
            try:
                results = run_once(configuration)
            except Exception as error:
                if known["framework"] == LM_EVALUATION_HARNESS and any(word in str(error) for word in LOST_REQUEST):
                    statuses = (read_response_statistics(output) or {}).get("statuses")
                    raise RequestsLost(f"{last_line(error)} (statuses of the responses: {statuses})") from error
                if judge := judge_at_fault(job, str(error), read_response_statistics(output)):
                    raise JudgeFailed(f"{judge}: {last_line(error)}") from error
                raise
            runs.append(collect(job, known, results, output, store, repeat or 0))
    return merge(job, known, runs)


def judge_at_fault(job: dict[str, Any], message: str, statistics: dict[str, Any] | None) -> str | None:
    """The judge or simulator that an error of a framework speaks of, with the variables that lead to it; else None.

    Args:
        message: of the framework, with its output.
        statistics: of the server's responses, see ``read_response_statistics``.
    """
    tail = COLOURS.sub("", message).rpartition("Traceback (most recent call last)")[2]
    named = {role: endpoint for role in ("judge", "simulator") if (endpoint := job.get(role))}

    def phrase(role: str) -> str:
        variables = [named[role][kind] for kind in ("url_variable", "key_variable") if named[role].get(kind)]
        return f"{role} {named[role]['model']} ({', '.join(variables)})"

    for role, endpoint in named.items():
        address = urlsplit(os.environ.get(endpoint["url_variable"], ""))
        places = (address.netloc, f"host='{address.hostname}', port={address.port}")
        if address.hostname and any(re.search(rf"(?<![\w.-]){re.escape(place)}(?!\d)", tail) for place in places):
            return phrase(role)
        if re.search(rf"(?i)\b{role}", tail.strip().rpartition("\n")[2]):
            return phrase(role)
    # Some clients name no address; where the server answered everything, it is not what refused.
    served = statistics is not None and statistics["asked"] == statistics["answered"]
    if named and served and REFUSED.search(tail.strip().rpartition("\n")[2]):
        return " or ".join(map(phrase, named))
    return None


def last_line(error: BaseException) -> str:
    """The last line of a message, where a framework's traceback says what happened."""
    lines = COLOURS.sub("", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[-1][:500]


def collect(
    job: dict[str, Any], known: dict[str, Any], results: dict[str, Any], output: Path, store: Path, repeat: int
) -> dict[str, Any]:
    """What one run says.

    Raises:
        Misconfigured: the task has no score of the name that the suite gives.
        RequestsLost: a request failed, and the framework does not report whether it was asked again; or a response
            holds a part only of the log probabilities that were asked for.
    """
    parameters = (results.get("config") or {}).get("params") or {}
    names = [str(parameters.get("task")), job["task"].rpartition(".")[2]]
    try:
        metrics = find_task(results.get("results"), names, job["metric"])
        metric, score, entry = find_score(metrics, job["metric"])
    except LookupError as error:
        raise Misconfigured(f"{job['task']}: {error.args[0]}") from error
    partial, of = drop_partial_likelihoods(store)
    if partial:
        raise RequestsLost(f"{partial} of {of} responses lack log probabilities of tokens that were asked for")
    reasons = finish_reasons(store)
    found = read_samples(output, job["metric"], reasons.get, repeat)
    # The adapter writes no statistics where every answer came from the store.
    statistics = read_response_statistics(output) or {**dict.fromkeys(("asked", "answered", "retried", "failed"), 0)}
    if statistics["failed"] is None:
        if known["framework"] != LM_EVALUATION_HARNESS:
            raise RequestsLost(
                f"responses had statuses {statistics['statuses']}, and {known['framework']} does not tell whether "
                "these requests were asked again"
            )
        # This framework ends without a result where a request got no answer in the end.
        lost = statistics["asked"] - statistics["answered"]
        statistics = {**statistics, "failed": 0, "retried": lost}
    return {
        "value": entry.get("value"),
        "score_name": [metric, score],
        "statistics": dict(entry.get("stats") or {}),
        "samples": found["samples"] if found else None,
        "generation": found["generation"] if found else None,
        "count": count_of(metrics, job["metric"], job["repeats"] if known["repeats_parameter"] else 1),
        "documents": documents_of(output),
        "version": version_of(output, job["task"].rpartition(".")[2]),
        "requests": statistics,
        "from_store": max(0, len(open_store(store)[1]) - statistics["answered"]),
        "command": results.get("command"),
    }


def merge(job: dict[str, Any], known: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One outcome of the runs of all repeats."""
    first = runs[0]
    complete = all(run["samples"] is not None for run in runs)
    samples = [sample for run in runs for sample in run["samples"]] if complete else []
    requests = [run["requests"] for run in runs]
    counts = [run["count"] for run in runs]
    summed = {
        name: None if any(part.get(name) is None for part in requests) else sum(part[name] for part in requests)
        for name in ("asked", "answered", "retried", "failed")
    }
    return {
        "values": [run["value"] for run in runs],
        "samples": samples,
        "has_samples": complete,
        "score_name": first["score_name"],
        "score_statistics": first["statistics"] if len(runs) == 1 else {},
        "counted": sum(count[0] for count in counts) if all(counts) else None,
        "documents": first["documents"] or found_documents(job, known, runs),
        "version": first["version"],
        "generation": first["generation"] or dict(job["generation"]),
        "endpoint": "chat" if job["apply_chat_template"] else "completions",
        "adds_bos": None,
        "framework": known["framework"],
        "requests": {
            **summed,
            "from_store": sum(run["from_store"] for run in runs),
            "attempts": add_up([part.get("statuses") or {} for part in requests]),
        },
        "finish_reasons": add_up([part.get("finish_reasons") or {} for part in requests]),
    }


def found_documents(job: dict[str, Any], known: dict[str, Any], runs: list[dict[str, Any]]) -> int | None:
    """Documents that the samples are of, or that the framework counted; with a limit the task may have more."""
    first = runs[0]
    if first["samples"]:
        return len({sample["id"] for sample in first["samples"]})
    repeats = job["repeats"] if known["repeats_parameter"] else 1
    return first["count"][0] // repeats if first["count"] else None


def add_up(counts: list[dict[str, int]]) -> dict[str, int]:
    """Sums of counts by name."""
    return {name: sum(part.get(name, 0) for part in counts) for name in sorted({n for part in counts for n in part})}


def speak(events: Events) -> int:
    """Run one job; the outcome, good or bad, is in the job's output file."""
    job = json.loads(sys.stdin.readline())
    outcome: dict[str, Any] = {"status": "FAILED", "error": None, "error_kind": None, "requests": {}}
    started = time.monotonic()
    try:
        import nemo_evaluator.core.evaluate  # noqa: F401  the slow imports belong before the start signal

        known = describe_task(job["task"])
        if "problem" in known:
            raise Misconfigured(known["problem"])
        endpoint_of(known, job)
        events.emit("loaded", documents=None, seconds=round(time.monotonic() - started, 2))
        go = sys.stdin.readline()
        if not go:
            return 0
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="nemo-evaluator-", dir=Path(job["output"]).parent) as scratch:
            outcome.update(ask(job, known, json.loads(go)["base_url"], Path(scratch), events), status="COMPLETED")
    except Misconfigured as error:
        outcome.update(error=str(error), error_kind="configuration")
    except RequestsLost as error:
        outcome.update(error=str(error), error_kind="requests", failed_request=str(error))
    except JudgeFailed as error:
        outcome.update(error=str(error), error_kind="judge")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        outcome.update(error=f"{type(error).__name__}: {last_line(error)}", error_kind="task")
    version = importlib.metadata.version("nemo-evaluator")
    framework = outcome.get("framework")
    outcome.update(
        seconds=round(time.monotonic() - started, 3),
        harness_version=f"{version} ({framework} {framework_version(framework)})" if framework else version,
    )
    Path(job["output"]).write_text(json.dumps(outcome, ensure_ascii=False), encoding="utf-8")
    events.emit("done", status=outcome["status"], error=outcome["error"])
    return 0


def framework_version(framework: str) -> str:
    """Version of the distribution that brings a framework, by the package that holds its definition."""
    package = (definitions()[1].get(framework) or {}).get("pkg_name")
    for distribution in importlib.metadata.distributions():
        if any(str(file) == f"core_evals/{package}/framework.yml" for file in distribution.files or []):
            return distribution.version
    return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--describe", nargs="+", metavar="TASK", help="print what is known of tasks, as JSON, and end")
    arguments = parser.parse_args()
    events = Events()
    prepare_environment()
    if arguments.describe:
        known = {task: describe_task(task) for task in arguments.describe}
        events.stream.write(json.dumps(known, default=str) + "\n")
        return 0
    return speak(events)


if __name__ == "__main__":
    sys.exit(main())
