"""The order in which questions are asked, and what of them is reported."""

from hypothesis import given
from hypothesis import strategies as st

from harness_questions import Questions

IDS = [str(number // 2) for number in range(40)]  # two prompts each


def test_the_order_is_shared_random_and_keeps_a_question_together():
    order = Questions(IDS, "1234 task", 1).order
    assert order == Questions(IDS, "1234 task", 3).order != sorted(order)
    assert order != Questions(IDS, "1235 task", 1).order
    assert all(IDS[first] == IDS[second] for first, second in zip(order[::2], order[1::2], strict=True))


def test_a_part_of_the_questions_keeps_their_order():
    whole = [IDS[number] for number in Questions(IDS, "s", 1).order]
    part = [name for name in whole if int(name) % 2]
    ids = [name for name in IDS if int(name) % 2]
    assert [ids[number] for number in Questions(ids, "s", 1).order] == part


@given(st.permutations(range(40)), st.integers(1, 3))
def test_only_the_first_questions_of_the_order_are_reported_however_answers_arrive(arrival, repeats):
    questions = Questions(IDS, "s", repeats)
    expected = list(dict.fromkeys(IDS[number] for number in questions.order))
    reported = []
    for _ in range(repeats):
        assert not questions.all_complete
        for number in arrival:
            reported += questions.take([number])
            assert reported == expected[: len(reported)] == questions.complete
    assert reported == expected and questions.all_complete
