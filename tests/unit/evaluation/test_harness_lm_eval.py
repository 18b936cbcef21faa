"""What lm-eval is asked for: slices and shards of a task's documents, by their numbers in the whole data set."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.suite.documents import asked_documents
from harness_lm_eval import UnusableTask, shard_of


def asked(documents, offset=0, limit=None, shard=None):
    tasks = {"t": SimpleNamespace(eval_docs=list(range(documents)))}
    found = shard_of(tasks, {"offset": offset, "limit": limit, "shard": shard})
    return None if found is None else found["t"]


@given(st.integers(1, 60), st.integers(0, 70), st.none() | st.integers(1, 70), st.integers(1, 4))
def test_the_shards_of_a_slice_are_its_documents_each_once(documents, offset, limit, count):
    """The harness counts as the accounts do (day0/suite/documents.py), though it imports nothing of the project."""
    wanted = asked_documents({"offset": offset, "limit": limit}, documents)
    if len(wanted) < count:
        with pytest.raises(UnusableTask, match="leaves no document" if not wanted else "need as many documents"):
            asked(documents, offset, limit, [0, count])
        return
    shards = [asked(documents, offset, limit, [number, count]) for number in range(count)]
    assert sorted(number for shard in shards for number in shard) == list(wanted)
    assert all(shard == sorted(shard) for shard in shards), "lm-eval numbers documents in the order of the data set"


@pytest.mark.parametrize(
    ("offset", "limit", "found"),
    [(0, None, None), (0, 3, None), (7, None, [7, 8, 9]), (2, 3, [2, 3, 4]), (8, 5, [8, 9])],
)
def test_a_run_that_is_not_split_names_its_documents_only_where_it_has_an_offset(offset, limit, found):
    assert asked(10, offset, limit) == found
