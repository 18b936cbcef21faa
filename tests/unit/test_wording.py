"""Comments, messages and pages are in plain English: phrases that readers stumbled over do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each with what to write instead.
AVOIDED = {
    r"amiss": "wrong",
    r"at hand": "existing, available",
    r"laid over": "overrides",
    r"stands? above": "overrides",
    r"says? of (itself|its|a|the)": "records about, sets for",
    r"told|tells": "reports, records, shows, distinguishes",
    r"whoever": "the person, the process",
    r"none the less": "still",
    r"nobody's": "of no one; name what it is",
    r"is one no more": "is no longer one",
    r"let be": "left as it is",
}
FILES = sorted(
    file
    for pattern in (
        "*.md",
        "Snakefile",
        "docs/*.md",
        "docs/*.rst",
        "rules/**/*.smk",
        "rules/**/*.py",
        "scripts/**/*.py",
    )
    for file in ROOT.glob(pattern)
)


def avoided_in(text):
    """Lines of a text with a phrase to avoid, as (line number, phrase, what to write instead)."""
    return [
        (number, match[0], instead)
        for number, line in enumerate(text.splitlines(), 1)
        for phrase, instead in AVOIDED.items()
        if (match := re.search(rf"(?<!\w)({phrase})(?!\w)", line, re.IGNORECASE))
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_text_uses_a_phrase_to_avoid(file):
    assert avoided_in(file.read_text(encoding="utf-8")) == []


def test_a_phrase_to_avoid_is_found_as_a_word_of_its_own():
    assert avoided_in("x = 1\n# Whoever asks is told.") == [
        (2, "told", AVOIDED["told|tells"]),
        (2, "Whoever", AVOIDED["whoever"]),
    ]
    assert avoided_in("untold, toldi") == []
