"""What the text of an answer shows by itself: nothing, unfinished thoughts, a loop, or the text of an error.

Each check is a pure function of one text and has a stated limit; none knows the question. What counts as a loop was set
on real texts (see ``is_loop``).
"""

from __future__ import annotations

import re

import numpy as np

DEFAULT_END = "</think>"

LOOP_LENGTH = 400  # characters: a shorter answer is not looked at
LOOP_SHARE = 0.6  # of the text that one repeated part fills without a break
LOOP_TIMES = 8  # at least so often
_PROBE = 24  # characters that are looked for again
_PROBES = 16  # places at which they are found again that are tried as a period

ERROR_LENGTH = 2000  # characters: a longer text is an answer, whatever it starts with
# The start of an answer that is the text of a failed request and not a model's: what clients, gateways and servers say.
_ERROR_TEXTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        # openai-python's APIStatusError, litellm's and requests' exceptions as text
        r"(?:\w*error:\s*)?error code: [45]\d\d\b",
        r"(?:error:?\s*)?(?:http(?: error|/\d\.\d)?:?\s*)?[45]\d\d[ :,-]+(?:\w+ )?(?:internal server error|bad gateway|"
        r"service unavailable|gateway time-?out|too many requests|bad request|unauthorized|forbidden|not found|"
        r"(?:client|server) error)\b",
        r"(?:internal server error|bad gateway|service (?:temporarily )?unavailable|gateway time-?out|"
        r"too many requests|rate limit (?:reached|exceeded)|upstream (?:connect|request) (?:error|timeout)|"
        r"request timed out|connection (?:error|refused|reset by peer)|no healthy upstream)\b.{0,400}\Z",
        r"(?:litellm|openai|httpx|requests\.exceptions|aiohttp\S*)\.\w*(?:error|timeout|exception)\b",
        r"(?:i'?m |i am |we'?re |we are )?sorry,? (?:but )?(?:an?|there was an|something|some) (?:\w+ )?"
        r"(?:error|went wrong)\b.{0,300}\Z",
        r"(?:an?|there was an) (?:\w+ )?error (?:has )?(?:occurred|happened)\b.{0,300}\Z",
        r"<(?:!doctype html|html)\b.*<(?:title|h1)>\s*(?:(?:error )?[45]\d\d\b|[^<]{0,40}(?:server error|"
        r"service unavailable|bad gateway|gateway time-?out|access denied|too many requests))",
        r"\{\s*['\"](?:error|detail|message)['\"]\s*:.*(?:error|rate.?limit|overloaded|timed? ?out|\b[45]\d\d\b)",
        r"\{\s*['\"](?:object|type)['\"]\s*:\s*['\"]error['\"]",
    )
)


def after_thoughts(text: str, end: str = DEFAULT_END) -> str:
    """What follows the last end mark of a model's thoughts; all of the text where there is none.

    >>> after_thoughts("2 + 2 is </think> 4").strip()
    '4'
    """
    return text.rpartition(end)[2]


def is_empty(text: str, end: str = DEFAULT_END) -> bool:
    """Whether nothing is left but blanks, also once the thoughts are taken off.

    >>> is_empty(" <think>Hm.</think> ")
    True
    """
    return not after_thoughts(text, end).strip()


def has_open_thoughts(text: str, end: str = DEFAULT_END) -> bool:
    """Whether thoughts begin and do not end: a start mark, as the end mark has it, after the last end mark.

    >>> has_open_thoughts("<think> Let me see"), has_open_thoughts("<think>Hm.</think> 4")
    (True, False)
    """
    start = end.replace("</", "<", 1)
    return start != end and after_thoughts(text, end).lstrip().startswith(start)


def is_loop(text: str) -> bool:
    """Whether one part, repeated without a break, fills most of a long text.

    At least ``LOOP_LENGTH`` characters, of which at least ``LOOP_SHARE`` in one piece have a period p (each character
    is that of p places before), and the piece is at least ``LOOP_TIMES`` periods long. A loop with a counter in it, or
    with words that change, is not found; nor are code, tables, JSON and lists, whose rows differ.

    Of 34,718 pieces of code, documentation, tables and JSON, of 600 to 30,000 characters each, one was a loop: the
    base64 of a picture of one colour. A ratio of compression above 10 calls 0.5 % of them loops.
    """
    size = len(text)
    if size < LOOP_LENGTH:
        return False
    # A piece of that share holds the middle fifth of the text, whatever the place where it begins.
    anchor = int((1 - LOOP_SHARE) * size)
    probe = text[anchor : anchor + _PROBE]
    longest = int(size / LOOP_TIMES)
    periods = _distances(text, probe, anchor, longest)
    if not periods:
        return False
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    for period in periods:
        breaks = np.flatnonzero(characters[period:] != characters[:-period])
        place = int(np.searchsorted(breaks, anchor))
        begin = int(breaks[place - 1]) + 1 if place else 0
        end = int(breaks[place]) if place < len(breaks) else size - period
        piece = end + period - begin  # the last period counts, too
        if piece >= LOOP_SHARE * size and piece >= LOOP_TIMES * period:
            return True
    return False


def _distances(text: str, probe: str, anchor: int, longest: int) -> list[int]:
    """How far from a place its characters stand again, the nearest first, in both directions."""
    found: set[int] = set()
    place = anchor
    for _ in range(_PROBES):
        place = text.find(probe, place + 1, anchor + longest + len(probe))
        if place < 0:
            break
        found.add(place - anchor)
    place = anchor
    for _ in range(_PROBES):
        place = text.rfind(probe, max(0, anchor - longest), place + len(probe) - 1)
        if place < 0:
            break
        found.add(anchor - place)
    return sorted(found)


def is_error_text(text: str) -> bool:
    """Whether the whole of an answer has the shape of an error that a client, a gateway or a server wrote.

    >>> is_error_text("Error code: 500 - {'error': 'internal'}"), is_error_text("The error code 500 means ...")
    (True, False)
    """
    text = text.strip()
    return len(text) <= ERROR_LENGTH and any(pattern.match(text) for pattern in _ERROR_TEXTS)
