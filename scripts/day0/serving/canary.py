"""Whether a server that has just started answers like a sound model: one generation, and the perplexity of fixed texts.

Perplexity is exp of the mean negative log probability per token (Jelinek et al., J. Acoust. Soc. Am. 62, 1977, S63),
over the tokens of all passages of the suite together; what stands before a passage does not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from day0.base.numbers import is_number

REPEATED_TOKENS = 4


def judge_generation(response: Any) -> str | None:
    """Why a completion with logprobs shows a broken deployment, or None where it is sound.

    Sound: some text, finite log probabilities, and not one and the same token four times or more.
    """
    try:
        choice = response["choices"][0]
        text = choice["text"]
        tokens = choice["logprobs"]["tokens"]
        logprobs = choice["logprobs"]["token_logprobs"]
        if not isinstance(text, str) or not isinstance(tokens, list) or not isinstance(logprobs, list):
            raise TypeError
    except (KeyError, IndexError, TypeError):
        return f"the answer to the canary has no text with log probabilities: {json.dumps(response)[:200]}"
    if not text.strip() or not tokens:
        return "the answer to the canary is empty"
    for value in logprobs:
        if not is_number(value):
            return f"a log probability of the canary's answer is {value!r}"
    if len(tokens) >= REPEATED_TOKENS and len(set(map(str, tokens))) == 1:
        return f"the answer to the canary is one token repeated: {text!r}"
    return None


def passage_logprobs(response: Any, text: str) -> list[float]:
    """Log probabilities, in nats, of the tokens of a passage that ends an echoed prompt.

    Args:
        response: a completion with ``echo``, ``logprobs`` and ``max_tokens`` 1, whose last token is the generated one.
        text: the passage; the token that holds its first character is its first.

    Raises:
        ValueError: the response has no finite log probability for each of the passage's tokens.
    """
    try:
        logprobs = response["choices"][0]["logprobs"]
        offsets, values = logprobs["text_offset"], logprobs["token_logprobs"][:-1]
        end = offsets[-1]
        starts = [offset for offset in offsets[:-1] if offset <= end - len(text)]
        found = [value for offset, value in zip(offsets, values, strict=False) if offset >= starts[-1]]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no log probabilities of the prompt: {json.dumps(response)[:200]}") from error
    if found and found[0] is None:  # the very first token of a prompt has none
        found = found[1:]
    if not found or not all(map(is_number, found)):
        raise ValueError(f"log probabilities {found} of the passage {text!r}; expected finite numbers")
    return found


def perplexity_of(logprobs: Sequence[float]) -> float:
    """Exponential of the mean negative log probability; log probabilities in nats, at least one.

    >>> perplexity_of([math.log(0.25), math.log(0.25)])
    4.0
    """
    return math.exp(min(-math.fsum(logprobs) / len(logprobs), 700.0))


def judge_perplexity(perplexity: float, baseline: Any, limit: float) -> str | None:
    """Why a perplexity shows a broken checkpoint, or None where it does not, or there is nothing to hold it against.

    Args:
        baseline: the baseline's perplexity on the same passages, or None.
        limit: largest sound ratio of the two.
    """
    if not is_number(baseline) or perplexity <= limit * baseline:
        return None
    return (
        f"the perplexity of the suite's passages is {perplexity:.4g}, {perplexity / baseline:.3g} times the baseline's "
        f"{baseline:.4g}; at most {limit:g} times is sound (canary.max_perplexity_ratio)"
    )


def baseline_perplexity(metadata: Any, suite_canary: Mapping[str, Any]) -> float | None:
    """The perplexity that a baseline's results.yml records, where it was measured on the same passages."""
    canary = metadata.get("canary") if isinstance(metadata, Mapping) else None
    if not isinstance(canary, Mapping) or canary.get("passages") != suite_canary["passages"]:
        return None
    return canary["perplexity"] if is_number(canary.get("perplexity")) else None
