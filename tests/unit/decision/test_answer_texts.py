"""What the text of an answer shows by itself: loops, errors, open thoughts; and no false alarm on real texts."""

import doctest
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.decision import answer_texts
from day0.decision.answer_texts import LOOP_LENGTH, LOOP_SHARE, LOOP_TIMES, is_error_text, is_loop

ROOT = Path(__file__).parents[3]
LETTERS = "abcdefghij ,.:0123456789"


def noise(size, seed=0):
    return "".join(random.Random(seed).choices(LETTERS, k=size))


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(answer_texts).failed == 0


@given(st.text(min_size=1, max_size=80), st.integers(0, 300), st.integers(0, 2**30))
def test_a_part_that_fills_most_of_a_long_text_is_a_loop(part, before, seed):
    loop = part * max(LOOP_TIMES + 2, -(-600 // len(part)))
    head = noise(min(before, int(len(loop) / LOOP_SHARE * (1 - LOOP_SHARE))), seed)
    assert is_loop(head + loop) and is_loop(loop + head)


@given(st.text(min_size=1, max_size=30), st.integers(0, 2**30))
def test_a_part_that_fills_less_is_none(part, seed):
    loop = (part * 300)[:300]
    assert not is_loop(noise(300, seed) + loop + noise(300, seed + 1))


@given(st.text(max_size=LOOP_LENGTH - 1))
def test_a_short_text_is_none(text):
    assert not is_loop(text)


REPETITIVE = {
    "JSON": "[" + ", ".join(f'{{"id": {n}, "name": "item", "score": {n % 3}, "done": true}}' for n in range(60)) + "]",
    "table": "| n | square | cube |\n|---|---|---|\n" + "".join(f"| {n} | {n * n} | {n**3} |\n" for n in range(60)),
    "list": "".join(f"{n}. Add {n} and {n + 1} to get {2 * n + 1}.\n" for n in range(60)),
    "code": "".join(f"    assert add({n}, {n + 1}) == {2 * n + 1}\n" for n in range(60)),
    "matrix": "\n".join(" ".join(str((r * c) % 7) for c in range(20)) for r in range(1, 21)),
    "counting": " ".join(map(str, range(400))),
    "steps": "".join(f"Step {n}: I will look at the number {n} again. " for n in range(50)),
}


@pytest.mark.parametrize("text", REPETITIVE.values(), ids=REPETITIVE)
def test_rows_that_differ_are_no_loop(text):
    assert len(text) > LOOP_LENGTH and not is_loop(text)


def test_no_text_of_this_repository_is_a_loop_or_an_error():
    files = [
        path for kind in ("*.py", "*.md", "*.yaml", "*.json", "*.smk") for path in ROOT.glob(f"[cdrst]*/**/{kind}")
    ]
    texts = [path.read_text(encoding="utf-8") for path in sorted(files)]
    pieces = [text[start : start + 2000] for text in texts for start in range(0, min(len(text), 20000), 2000)]
    assert len(pieces) > 500
    assert [piece for piece in pieces if is_loop(piece) or is_error_text(piece)] == []


def test_a_very_long_answer_takes_milliseconds():
    # The worst: the probe is found again at once, everywhere, and no distance holds.
    text = ("a" * 40 + noise(200)) * 2000
    began = time.process_time()
    is_loop(text)
    assert time.process_time() - began < 2


ERRORS = [
    "Error code: 500",
    "Error code: 429 - {'error': {'message': 'Rate limit reached'}}",
    "500 Internal Server Error",
    "HTTP 503: Service Unavailable",
    "Error: 504 Gateway Time-out",
    "Internal Server Error",
    "Too Many Requests",
    "Rate limit exceeded, try again later",
    "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
    "litellm.InternalServerError: OpenAIException - Connection error.",
    "openai.APITimeoutError: Request timed out.",
    "I'm sorry, an error occurred.",
    "Sorry, something went wrong. Please try again.",
    "An error occurred while processing your request.",
    "<html><head><title>502 Bad Gateway</title></head></html>",
    '{"error": {"message": "The server is overloaded", "type": "server_error"}}',
    '{"object": "error", "message": "context length", "code": 400}',
]
ANSWERS = [
    "A",
    "500",
    "503 apples",
    "The server answers with error code 500.",
    "An error occurred to me only later: the sum is 12.\n" + "So we add again. " * 30,
    "I'm sorry, but I can't help with that.",
    "Sorry, the answer is no.",
    "Rate limiting protects a server.",
    '{"name": "error handling", "steps": [1, 2]}',
    "<!DOCTYPE html><html><head><title>My garden</title></head></html>",
    "ValueError: invalid literal for int()",
    "404",
]


@pytest.mark.parametrize("text", ERRORS)
def test_the_text_of_an_error_is_known(text):
    assert is_error_text(text)


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_error(text):
    assert not is_error_text(text)


def test_a_line_of_one_word_is_no_loop_and_a_page_of_it_is():
    assert not is_loop("ha" * 150) and is_loop("ha" * 250)
