"""Slices of a data set are counted alike everywhere, and slices that follow each other are disjoint."""

from hypothesis import given
from hypothesis import strategies as st

from day0.suite.documents import asked_documents, count_asked, declared_documents

COUNTS = st.integers(0, 50)


@given(COUNTS, st.none() | st.integers(1, 50), COUNTS)
def test_a_task_asks_the_documents_from_its_offset_on_up_to_its_limit(offset, limit, documents):
    task = {"offset": offset, "limit": limit}
    wanted = list(range(documents))[offset:][:limit]
    assert list(asked_documents(task, documents)) == wanted
    assert count_asked(task, documents) == len(wanted)
    if documents:
        assert list(declared_documents(task | {"samples": documents})) == wanted


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 200))
def test_slices_that_follow_each_other_share_nothing_and_leave_nothing_out(offset, limit, documents):
    first = asked_documents({"offset": offset, "limit": limit}, documents)
    second = asked_documents({"offset": offset + limit, "limit": None}, documents)
    assert not set(first) & set(second)
    assert [*range(min(offset, documents)), *first, *second] == list(range(documents))


def test_a_count_that_is_not_known_stays_unknown():
    assert count_asked({"offset": 3, "limit": 2}, None) is None
    assert declared_documents({"offset": 3, "limit": None, "samples": None}).start == 3
