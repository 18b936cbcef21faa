"""What a server's first answers show of the model behind it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.serving.canary import (
    baseline_perplexity,
    judge_generation,
    judge_perplexity,
    passage_logprobs,
    perplexity_of,
)


def completion(text="abc", tokens=("a", "b", "c"), logprobs=(-0.1, -0.2, -0.3)):
    return {"choices": [{"text": text, "logprobs": {"tokens": list(tokens), "token_logprobs": list(logprobs)}}]}


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (completion(text="  "), "empty"),
        (completion(tokens=(), logprobs=()), "empty"),
        (completion(tokens=("!",) * 4, logprobs=(-1.0,) * 4), "repeated"),
        (completion(logprobs=(-0.1, math.nan, -0.1)), "nan"),
        (completion(logprobs=(-0.1, None, -0.1)), "None"),
        (completion(logprobs=(-0.1, -math.inf, -0.1)), "inf"),
        ({}, "no text"),
        ({"choices": []}, "no text"),
        ("text", "no text"),
        (None, "no text"),
    ],
)
def test_canary_of_a_broken_deployment(answer, word):
    assert word in judge_generation(answer)


def test_sound_canary():
    assert judge_generation(completion()) is None
    assert judge_generation(completion(text="1", tokens=("1",), logprobs=(-0.0,))) is None


def echoed(tokens, values, special=0):
    """A completion that echoes its prompt; the first ``special`` tokens are not part of the given text."""
    offsets, place = [], 0
    for token in tokens:
        offsets.append(place)
        place += len(token)
    return {"choices": [{"logprobs": {"text_offset": offsets, "token_logprobs": values, "tokens": tokens}}]}


def test_only_the_passage_counts_whatever_stands_before_it():
    response = echoed(["<bos>", "12", "+1=", "3", "1", ";", "x"], [None, -9.0, -8.0, -0.1, -0.2, -0.3, -7.0])
    assert passage_logprobs(response, "31;") == [-0.1, -0.2, -0.3]
    assert passage_logprobs(response, "12+1=31;") == [-9.0, -8.0, -0.1, -0.2, -0.3]


def test_a_token_that_begins_before_the_passage_belongs_to_it():
    response = echoed(["a b", " c", " d", "x"], [None, -1.0, -2.0, -7.0])
    assert passage_logprobs(response, "c d") == [-1.0, -2.0]
    assert passage_logprobs(response, "a b c d") == [-1.0, -2.0]


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"choices": []},
        "text",
        {"choices": [{"logprobs": None}]},
        echoed(["a", "x"], [None, -1.0]),
        echoed(["a", "b", "x"], [None, math.nan, -1.0]),
        echoed(["a", "b", "x"], [None, "1", -1.0]),
    ],
)
def test_a_passage_without_numbers_is_an_error(response):
    with pytest.raises(ValueError, match=r"log probabilities"):
        passage_logprobs(response, "b" if isinstance(response, dict) and response.get("choices") else "a")


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=50))
def test_perplexity_lies_between_those_of_its_tokens(values):
    found = perplexity_of(values)
    assert math.exp(-max(values)) * (1 - 1e-9) <= found <= math.exp(-min(values)) * (1 + 1e-9)


def test_perplexity_is_held_against_the_baseline():
    assert judge_perplexity(1.9, 1.0, 2.0) is None and judge_perplexity(1e9, None, 2.0) is None
    assert "2.1 times the baseline's" in judge_perplexity(2.1, 1.0, 2.0)
    assert judge_perplexity(perplexity_of([-5000.0]), 1.0, 2.0) is not None


def test_a_baseline_counts_only_on_the_same_passages():
    passages = [{"context": "", "text": "a"}]
    measured = {"canary": {"passages": passages, "perplexity": 3.0}}
    assert baseline_perplexity(measured, {"passages": passages}) == 3.0
    for metadata in (None, {}, {"canary": None}, {"canary": {"passages": passages, "perplexity": None}}):
        assert baseline_perplexity(metadata, {"passages": passages}) is None
    assert baseline_perplexity(measured, {"passages": []}) is None
