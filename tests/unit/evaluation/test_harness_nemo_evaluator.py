"""The run configuration that NeMo Evaluator gets, and what one outcome is made of."""

import json
from pathlib import Path

import pytest

import harness_nemo_evaluator as harness
from day0.evaluation.nemo_evaluator import LM_EVALUATION_HARNESS

URL, OUTPUT, STORE = "http://127.0.0.1:8000", Path("out"), Path("store")
LM_EVAL = {
    "framework": LM_EVALUATION_HARNESS,
    "endpoints": ["completions"],
    "repeats_parameter": None,
    "parameters": {"extra": {"args": "--trust_remote_code"}},
}
SKILLS = {"framework": "nemo_skills", "endpoints": ["chat"], "repeats_parameter": "num_repeats", "parameters": {}}


def job(**changes):
    return {
        "task": "lm-evaluation-harness.demo_addition",
        "metric": "exact_match,none",
        "num_fewshot": 5,
        "limit": None,
        "repeats": 4,
        "generation": {"temperature": 0.6, "top_k": 20, "max_gen_toks": 64, "until": [";"], "do_sample": True},
        "include_path": "my tasks",
        "seed": 1234,
        "system_prompt": None,
        "apply_chat_template": False,
        "reasoning": None,
        "concurrency": 8,
        "served_name": "model",
        "tokenizer": "folder",
        "shard": None,
        "max_attempts": 3,
        "request_timeout_seconds": 60,
        "judge": None,
        "simulator": None,
        "parameters": {},
        **changes,
    }


def chain(configuration):
    interceptors = configuration["target"]["api_endpoint"]["adapter_config"]["interceptors"]
    return {entry["name"]: entry.get("config", {}) for entry in interceptors}


def test_settings_reach_the_tools_own_parameters_and_the_rest_the_request():
    configuration = harness.run_configuration(job(), LM_EVAL, URL, OUTPUT, STORE, repeat=2)
    parameters = configuration["config"]["params"]
    assert (parameters["temperature"], parameters["max_new_tokens"], parameters["parallelism"]) == (0.6, 64, 8)
    assert "limit_samples" not in parameters and "top_p" not in parameters
    assert parameters["extra"]["args"] == "--trust_remote_code --include_path 'my tasks' --seed 1234"
    assert (parameters["extra"]["tokenizer"], parameters["extra"]["num_fewshot"]) == ("folder", 5)
    added = {"top_k": 20, "stop": [";"]}
    # All requests would share the draws of one seed, which greedy answers alone do not mind.
    assert chain(configuration)["payload_modifier"] == {"params_to_add": added}
    greedy = job(generation={**job()["generation"], "temperature": 0.0})
    configuration = harness.run_configuration(greedy, LM_EVAL, URL, OUTPUT, STORE, repeat=2)
    assert chain(configuration)["payload_modifier"] == {"params_to_add": {**added, "seed": 1236}}
    endpoint = configuration["target"]["api_endpoint"]
    assert (endpoint["url"], endpoint["type"]) == (f"{URL}/v1/completions", "completions")
    assert endpoint["api_key_name"] == "OPENAI_API_KEY"


def test_each_run_has_a_store_and_statistics_of_its_own():
    configuration = harness.run_configuration(job(), LM_EVAL, URL, OUTPUT, STORE, repeat=0)
    assert chain(configuration)["caching"]["cache_dir"] == "store"
    assert chain(configuration)["response_stats"]["cache_dir"] == "out/response_statistics"


def test_a_framework_that_repeats_itself_gets_no_seed_and_no_stored_answers():
    asked = job(task="nemo_skills.ns_gpqa", apply_chat_template=True, include_path=None)
    configuration = harness.run_configuration(asked, SKILLS, URL, OUTPUT, STORE, repeat=None)
    assert configuration["config"]["params"]["extra"] == {"num_repeats": 4}
    assert "seed" not in chain(configuration)["payload_modifier"]["params_to_add"]
    assert chain(configuration)["caching"]["reuse_cached_responses"] is False


def test_judge_and_simulator_are_named_and_their_keys_are_not(monkeypatch):
    monkeypatch.setenv("JUDGE_URL_OF_TEST", "http://judge/v1")
    monkeypatch.setenv("JUDGE_KEY_OF_TEST", "secret-key")
    endpoint = {"model": "a-judge", "url_variable": "JUDGE_URL_OF_TEST", "key_variable": "JUDGE_KEY_OF_TEST"}
    asked = job(apply_chat_template=True, judge=endpoint, simulator=endpoint, parameters={"judge": {"enabled": True}})
    configuration = harness.run_configuration(asked, SKILLS, URL, OUTPUT, STORE, repeat=None)
    extra = configuration["config"]["params"]["extra"]
    named = {"model_id": "a-judge", "url": "http://judge/v1", "api_key": "JUDGE_KEY_OF_TEST"}
    assert extra["judge"] == {"enabled": True, **named} and extra["user"] == named
    assert "secret-key" not in json.dumps(configuration)
    monkeypatch.delenv("JUDGE_URL_OF_TEST")
    with pytest.raises(harness.Misconfigured, match="JUDGE_URL_OF_TEST is not set"):
        harness.run_configuration(asked, SKILLS, URL, OUTPUT, STORE, repeat=None)


def test_thoughts_are_cut_off_before_the_framework_sees_an_answer():
    asked = job(apply_chat_template=True, reasoning={"strip": True, "end": "</think>"}, system_prompt="Think.")
    found = chain(harness.run_configuration(asked, SKILLS, URL, OUTPUT, STORE, repeat=None))
    assert found["reasoning"]["end_reasoning_token"] == "</think>"
    assert found["system_message"] == {"system_message": "Think."}
    kept = job(apply_chat_template=True, reasoning={"strip": False, "end": "</think>"})
    assert "reasoning" not in chain(harness.run_configuration(kept, SKILLS, URL, OUTPUT, STORE, repeat=None))


@pytest.mark.parametrize(
    ("asked", "known", "words"),
    [
        (job(apply_chat_template=True), LM_EVAL, "set apply_chat_template: false for this task"),
        (job(), SKILLS, "set apply_chat_template: true for this task"),
        (job(system_prompt="Be brief."), LM_EVAL, "a system prompt needs apply_chat_template: true"),
    ],
)
def test_an_endpoint_that_a_task_does_not_have_is_the_suites_mistake(asked, known, words):
    with pytest.raises(harness.Misconfigured, match=words):
        harness.endpoint_of(known, asked)


def run(**changes):
    return {
        "value": 0.5,
        "score_name": ["accuracy", "accuracy"],
        "statistics": {"count": 4},
        "samples": None,
        "generation": None,
        "count": (4, "the score's statistics"),
        "documents": None,
        "version": None,
        "requests": {"asked": 4, "answered": 4, "retried": 0, "failed": 0, "finish_reasons": {"stop": 4}},
        "from_store": 0,
        **changes,
    }


def test_repeats_add_up_and_a_run_without_samples_leaves_them_unknown():
    one = harness.merge(job(), LM_EVAL, [run()] * 4)
    assert (one["values"], one["counted"], one["documents"]) == ([0.5] * 4, 16, 4)
    assert (one["requests"]["asked"], one["finish_reasons"], one["has_samples"]) == (16, {"stop": 16}, False)
    untold = harness.merge(job(), LM_EVAL, [run(), run(count=None)])
    assert untold["counted"] is None and untold["samples"] == []


def test_a_failure_that_one_run_does_not_tell_is_not_told_by_the_sum():
    lost = {"asked": 5, "answered": 4, "retried": None, "failed": None}
    whole = harness.merge(job(), SKILLS, [run(), run(requests=lost)])
    assert (whole["requests"]["asked"], whole["requests"]["failed"]) == (9, None)


EXPERT = {"model": "a-judge", "url_variable": "JUDGE_URL_OF_TEST", "key_variable": "JUDGE_KEY_OF_TEST"}
REQUESTS = (
    "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: http://expert.test:81/v1/chat/completions"
)
REFUSED = "ConnectionError: HTTPConnectionPool(host='expert.test', port=81): Max retries exceeded (Connection refused)"
SDK = "openai.RateLimitError: Error code: 429 - too many requests"


@pytest.mark.parametrize(
    ("last", "answered", "at_fault"),
    [
        (REQUESTS, 3, True),
        (REQUESTS, None, True),
        (REFUSED, 5, True),
        (REQUESTS.replace("test:81", "test:8100"), 3, False),
        (REFUSED.replace("port=81", "port=82"), 3, False),
        (SDK, 5, True),
        (SDK, 3, False),
        (SDK, None, False),
        ("\x1b[31mValueError: the judge said nothing\x1b[0m", None, True),
        ("KeyError: 'question'", 5, False),
    ],
)
def test_whose_failure_an_error_is(monkeypatch, last, answered, at_fault):
    monkeypatch.setenv("JUDGE_URL_OF_TEST", "http://expert.test:81/v1")
    statistics = answered and {"asked": 5, "answered": answered}
    message = f"running --judge-url http://expert.test:81/v1\nTraceback (most recent call last):\n  File x\n{last}\n"
    found = harness.judge_at_fault(job(judge=EXPERT), message, statistics)
    assert found == ("judge a-judge (JUDGE_URL_OF_TEST, JUDGE_KEY_OF_TEST)" if at_fault else None)
    assert harness.judge_at_fault(job(), message, statistics) is None


OF_TOKENS = {"prompt": [[5, 6, 7], [8, 9]], "echo": True, "logprobs": 1, "max_tokens": 1}
OF_TEXT = {**OF_TOKENS, "prompt": "593104:"}


def likelihoods(*lists, tokens=None):
    choices = [{"index": number, "logprobs": {"token_logprobs": values}} for number, values in enumerate(lists)]
    return {"choices": choices, "usage": {"prompt_tokens": tokens, "completion_tokens": 1}}


@pytest.mark.parametrize(
    ("request_", "response", "whole"),
    [
        (OF_TOKENS, likelihoods([None, -1.0, -2.0, -0.5], [None, -1.0, -0.5]), True),
        (OF_TOKENS, json.dumps(likelihoods([None, -1.0, -2.0, -0.5], [None, -1.0, -0.5])).encode(), True),
        (OF_TOKENS, likelihoods([None, -1.0], [None, -1.0, -0.5]), False),
        (OF_TOKENS, likelihoods([None, -1.0, -2.0, -0.5]), False),
        (OF_TOKENS, likelihoods([None, -1.0, float("nan"), -0.5], [None, -1.0, -0.5]), False),
        (OF_TOKENS, likelihoods([None, -1.0, None, -0.5], [None, -1.0, -0.5]), False),
        ({**OF_TOKENS, "prompt": [5, 6]}, likelihoods([None, -1.0, -0.5]), True),
        (OF_TEXT, likelihoods([None, -1.0, -0.5], tokens=2), True),
        (OF_TEXT, likelihoods([None, -1.0], tokens=2), False),
        (OF_TEXT, b"<html>", False),
        (OF_TEXT, {"choices": [{"index": 0, "logprobs": None}]}, False),
    ],
)
def test_a_response_is_whole_that_has_a_log_probability_of_each_token(request_, response, whole):
    assert harness.is_of_likelihoods(request_) and harness.is_whole(request_, response) is whole


def test_a_request_for_text_is_not_one_for_likelihoods():
    assert not harness.is_of_likelihoods({"prompt": "1+1=", "max_tokens": 4}) and not harness.is_of_likelihoods(b"?")
