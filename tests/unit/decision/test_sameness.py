"""Two runs that answered too much alike for two checkpoints; and those that may, for one."""

import copy

import pytest
from decision_input import compare_runs, run

from day0.decision.comparability import Run
from day0.decision.sameness import EQUAL_TOKENS

DIGESTS = ("source", "quantized")


def side(digest, answers, tokens, temperature=0.0, repeats=1, generated=True):
    """A run whose samples have these answers, one per sample; ``repeats`` of each question stand together."""
    made = run(390, fingerprint={"sampling": {"temperature": temperature}}, checkpoint_digest=digest)
    rows = copy.deepcopy(made.samples["a"])
    for place, row in enumerate(rows):
        row |= {"answer": answers(place), "id": place // repeats, "repeat": place % repeats}
        row |= {"prompt_digest": "p", "target_digest": "t"}
        row |= {"tokens": tokens, "finish_reason": "stop"} if generated else {}
    return Run(made.assessment, made.metadata, {"a": rows})


def text(tokens, other=0):
    """An answer of so many tokens, by four characters each; the first ``other`` ones differ from the plain ones."""
    return lambda place: f"{'other' if place < other else 'answer'} {place} ".ljust(4 * tokens, "x")


# Tokens of each of the 400 answers, how many differ, temperature, and whether that is too much alike.
CASES = {
    "long greedy answers": (100, 0, 0.0, True),
    "greedy answers of which enough differ": (100, 4, 0.0, False),
    "greedy answers of which hardly any differ": (100, 1, 0.0, True),
    "greedy answers, not enough of them": (24, 0, 0.0, False),
    "short greedy answers": (8, 0, 0.0, False),
    "sampled answers": (40, 0, 0.6, True),
    "sampled answers of which one in a hundred differs": (40, 4, 0.6, True),
    "sampled answers of which one in ten differs": (40, 40, 0.6, False),
    "short sampled answers": (8, 0, 0.6, False),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_too_much_alike_are_not_comparable(case):
    tokens, other, temperature, is_too_much = CASES[case]
    sides = [side("source", text(tokens), None, temperature), side("quantized", text(tokens, other), None, temperature)]
    result = compare_runs(*sides, {"criterion": "point"})
    assert (result["failure_class"] == "NOT_COMPARABLE") is is_too_much, result["detail"]
    if is_too_much:
        assert result["decision"] == "ANOMALOUS" and "a cache of answers that both runs shared" in result["detail"]


def test_one_checkpoint_asked_again_may_answer_alike():
    assert compare_runs(*(side("source", text(100), 100) for _ in range(2)), {"criterion": "point"})["pass"] is True


def test_a_checkpoint_that_is_not_known_is_held_to_be_another():
    found = compare_runs(side(None, text(100), 100), side("quantized", text(100), 100), {"criterion": "point"})
    assert found["failure_class"] == "NOT_COMPARABLE"


def test_short_answers_after_long_thoughts_are_short():
    sides = [side(digest, lambda place: "ABCD"[place % 4], 3000) for digest in DIGESTS]
    assert compare_runs(*sides, {"criterion": "point"})["pass"] is True


def test_thoughts_of_other_lengths_are_other_answers():
    sides = [side("source", text(100), 300), side("quantized", text(100), 301)]
    assert compare_runs(*sides, {"criterion": "point"})["pass"] is True


def test_short_sampled_answers_count_where_chance_chose_them():
    def letters(place):
        return "ABCD"[place * 7 % 4]  # other letters in the repeats of one question

    few = [side(digest, letters, 1, 1.0, repeats=4) for digest in DIGESTS]
    assert compare_runs(*few, {"criterion": "point"})["pass"] is True  # 400 of them are too few to say
    assert EQUAL_TOKENS["sampled"] > 400


def test_equal_log_probabilities_are_not_comparable():
    def likelihood(place):
        return repr(-12.3456789 - place / 7)

    sides = [side(digest, likelihood, None, generated=False) for digest in DIGESTS]
    found = compare_runs(*sides, {"criterion": "point"})
    assert found["failure_class"] == "NOT_COMPARABLE" and "log-probabilities" in found["detail"]
    other = side("quantized", lambda place: repr(-12.3456789 - place / 7 + 1e-7), None, generated=False)
    assert compare_runs(sides[0], other, {"criterion": "point"})["pass"] is True
    choices = [side(digest, lambda place: str(place % 4), None, generated=False) for digest in DIGESTS]
    assert compare_runs(*choices, {"criterion": "point"})["pass"] is True
