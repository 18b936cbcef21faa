"""The recount of a task's samples: each fault is planted in a sound run, and the gate names it."""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.base.artefacts import write_yaml
from day0.decision.assess_run import assess_run
from day0.decision.recount import differences, read_samples_file, recount, with_recount
from day0.records.samples import Sample

QUESTIONS, REPEATS = 40, 2
REASONING = {"strip": True, "end": "</think>"}
LOOP = "The sum is 12. " * 60
RANDOM = random.Random(7)
WORDS = (
    "the",
    "sum",
    "of",
    "these",
    "terms",
    "is",
    "even",
    "so",
    "we",
    "add",
    "each",
    "and",
    "carry",
    "what",
    "is",
    "left",
)


def prose(words=60):
    return " ".join(RANDOM.choice(WORDS) for _ in range(words)) + "."


def sound():
    return [
        {
            "id": str(number),
            "repeat": repeat,
            "prompt_digest": f"p{number}",
            "target_digest": f"t{number % 7}",
            "answer": prose(),
            "score": float((number + repeat) % 3 != 0),
            "finish_reason": "stop",
            "tokens": 70,
        }
        for repeat in range(REPEATS)
        for number in range(QUESTIONS)
    ]


def run_folder(folder, samples, **stated):
    """A run whose account holds for ``sound()``, with these samples."""
    whole = QUESTIONS * REPEATS
    counts = dict.fromkeys(("expected", "asked", "answered", "scored"), whole)
    counts |= dict.fromkeys(("empty", "cut", "unparsed", "failed"), 0) | stated
    scores = [float(sample["score"]) for sample in samples if sample.get("score") is not None]
    score = {"value": sum(scores) / max(1, len(scores)), "stats": {"stderr": 0.1}}
    metadata = {"status": "COMPLETED", "failure_class": None, "detail": "", "model": "m", "suite": "s"}
    metadata |= {"candidate": "baseline", "checkpoint_digest": "d", "accounting": {"a": counts}}
    results = {"tasks": {"a": {"metrics": {"exact_match": {"scores": {"exact_match": score}}}}}}
    write_yaml(folder / "results.yml", {"results": results, "metadata": metadata})
    (folder / "samples").mkdir()
    (folder / "samples" / "a.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return folder


def suite(**changes):
    scale = {"min": 0, "max": 1, "direction": "higher"}
    task = {"metric": "exact_match,none", "scale": scale, "tier": "critical", "repeats": REPEATS, **changes}
    return {"tasks": {"a": task}}


def first(count, **changes):
    """Change the first samples; a callable takes the sample's number."""

    def plant(samples):
        for number, sample in enumerate(samples[:count]):
            sample |= {key: value(number) if callable(value) else value for key, value in changes.items()}
        return samples

    return plant


def judge(folder, samples, definition=None, **stated):
    return assess_run(run_folder(folder, samples, **stated), definition or suite()).as_plain()


def test_a_sound_run_passes(tmp_path):
    assert judge(tmp_path, sound())["pass"] is True


# What is planted, what the account states, and words of the finding.
FAULTS = {
    "cut, and the account says none": (first(3, finish_reason="length"), {}, "3 of 80 samples ended at the largest"),
    "none cut, and the account says so many": (first(0), {"cut": 3}, "0 of 80 samples ended at the largest"),
    "empty, and the account says none": (first(2, answer=" \n"), {}, "2 of 80 samples hold an empty answer"),
    "no answer beside others": (first(2, answer=None), {}, "2 of 80 samples hold an empty answer"),
    "too many cut, unknown to the account": (first(20, finish_reason="length"), {"cut": None}, "20 of 80 answers were"),
    "nothing after the thoughts": (
        first(20, answer="<think>Hm.</think>\n"),
        {"empty": 0},
        "20 of 80 answers are empty",
    ),
    "one sample twice": (lambda samples: [*samples[:-1], samples[0]], {}, "1 samples are there more than once"),
    "a repeat lacks a question": (
        lambda samples: [*samples[:-1], {**samples[-1], "id": "other"}],
        {},
        "repeat 1 lacks 1 of 41 questions (such as id 39), expected the same in each",
    ),
    "all of one repeat": (
        lambda samples: [{**sample, "repeat": 0} for sample in samples],
        {},
        "40 samples are there more than once (such as id 0, repeat 0)",
    ),
    "repeats of other numbers": (
        lambda samples: [{**sample, "repeat": sample["repeat"] + 1} for sample in samples],
        {},
        "its samples are of repeats 1, 2, expected 0 to 1",
    ),
    "a sample more": (
        lambda samples: [*samples, {**samples[0], "id": "40"}, {**samples[0], "id": "40", "repeat": 1}],
        {},
        "82 of 82 samples are there, but the accounts say 80",
    ),
    "an error of the client": (
        first(3, answer=lambda n: f"Error code: 500 - {{'error': {{'request': 'ab{n}f'}}}}", score=0.0),
        {},
        "3 answers, to 3 questions, are the text of an error",
    ),
    "an apology of a gateway": (first(4, answer="I'm sorry, an error occurred."), {}, "4 answers, to 4 questions"),
    "a page of a proxy": (
        first(4, answer="<html>\n<head><title>502 Bad Gateway</title></head><body>nginx</body></html>"),
        {},
        "502 Bad Gateway",
    ),
    "a rate limit": (first(5, answer="Rate limit reached for gpt-4o: try again in 20 s."), {}, "5 answers"),
    "thoughts that never end": (first(9, answer="<think>Let me see, the sum"), {}, "9 of 80 answers ended with their"),
    "cut in the thoughts": (
        first(9, answer="so the sum may be even and " * 12, finish_reason="length"),
        {"cut": 9},
        "9 of the cut answers never left their thoughts",
    ),
    "loops": (first(9, answer=LOOP), {}, "9 of 80 answers are mostly one part over and over (limit 10%)"),
    "loops after a beginning": (first(9, answer=f"{prose(30)} {LOOP}"), {}, "9 of 80 answers are mostly one part"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_samples_fails_the_run_and_is_named(tmp_path, fault):
    plant, stated, words = FAULTS[fault]
    found = judge(tmp_path, plant(sound()), suite(reasoning=REASONING), **stated)
    assert found["failure_class"] == "SAMPLE_ACCOUNTING_FAILED" and words in found["detail"], found["detail"]


def test_one_long_answer_to_most_questions_is_no_measurement(tmp_path):
    sentence = "As a language model I can not open the attached file."
    found = judge(tmp_path, first(60, answer=sentence, score=0.0)(sound()))
    assert found["failure_class"] == "UNKNOWN" and "60 of 80 answers are 'As a language model" in found["detail"]


# What repeats or looks odd by nature, and is no fault.
SOUND = {
    "letters": first(80, answer=lambda n: "ABCD"[n % 2]),
    "one number": first(79, answer="12"),
    "a sentence that is right for some": first(80, answer=lambda n: f"The final answer is ({'AB'[n % 5 == 0]})."),
    "refusals of some questions": first(20, answer="I'm sorry, but I can't help with that.", score=0.0),
    "answers about errors": first(5, answer=lambda n: f"Error code 500 means that the server failed ({n})."),
    "one lost answer to a question on errors": first(2, answer="404 Not Found"),
    "pages that are asked for": first(
        9, answer=lambda n: f"<html><title>Page {n}</title><body>{prose()}</body></html>"
    ),
    "few cut, as stated": (first(8, finish_reason="length"), {"cut": 8}),
    "few loops": first(8, answer=LOOP),
    "thoughts that end": first(80, answer=lambda n: f"<think>{prose()}</think> {n}"),
    "counts that nobody states": (first(0), {"cut": None, "empty": None, "unparsed": None}),
    "no answer is kept": (first(80, answer=None), {"empty": None}),
    "ends that are partly known": (first(40, finish_reason=None), {"cut": 5}),
}


@pytest.mark.parametrize("case", SOUND)
def test_what_repeats_by_nature_is_no_fault(tmp_path, case):
    plant, stated = SOUND[case] if isinstance(SOUND[case], tuple) else (SOUND[case], {})
    found = judge(tmp_path, plant(sound()), suite(reasoning=REASONING), **stated)
    assert found["pass"] is True, found["detail"]


def test_limits_of_the_suite_hold_for_what_is_recounted(tmp_path):
    plant = first(9, answer=LOOP)
    limits = {"cut": 0.1, "unparsed": 0.1, "empty": 0.1}
    (tmp_path / "wide").mkdir()
    assert judge(tmp_path / "wide", plant(sound()), suite(limits={**limits, "degenerate": 0.2}))["pass"] is True
    (tmp_path / "none").mkdir()
    assert "limit 0%" in judge(tmp_path / "none", plant(sound()), suite(limits={**limits, "degenerate": 0}))["detail"]


texts = st.none() | st.text(max_size=30) | st.sampled_from([LOOP, "<think>", "</think>", "Error code: 500", "A"])
rows = st.builds(
    Sample,
    id=st.sampled_from("abc"),
    repeat=st.integers(0, 2),
    answer=texts,
    score=st.none() | st.floats(0, 1),
    finish_reason=st.sampled_from([None, "stop", "length"]),
    tokens=st.none() | st.integers(0, 100),
)


@given(st.lists(rows, max_size=12), st.randoms())
def test_a_recount_knows_no_order_and_its_own_account_holds(samples, randomness):
    found = recount(samples, REASONING)
    shuffled = samples.copy()
    randomness.shuffle(shuffled)
    again = recount(shuffled, REASONING)
    assert (again.blank, again.cut, again.degenerate, again.uneven) == (
        found.blank, found.cut, found.degenerate, found.uneven,
    )  # fmt: skip
    own = {"asked": found.samples, "scored": found.scored, "empty": found.blank, "cut": found.cut}
    sentences = differences(found, own)
    assert not any("accounts say" in sentence for sentence in sentences)
    assert bool(sentences) == bool(found.doubled or found.uneven or found.errors)
    merged = with_recount(own, found)
    assert all(merged[name] >= (own[name] or 0) for name in ("empty", "cut") if merged[name] is not None)


@given(st.lists(st.text(max_size=40) | st.sampled_from(['{"id": 1}', "[1]", "{}", "null", "[" * 5000]), max_size=6))
def test_whatever_a_samples_file_holds_it_is_read(lines):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "a.jsonl"
        file.write_text("".join(line.replace("\n", " ") + "\n" for line in lines), encoding="utf-8", errors="replace")
        held = read_samples_file(file)
        assert held.lines >= len(held.samples) and bool(held.mistakes) == (held.lines > len(held.samples))
