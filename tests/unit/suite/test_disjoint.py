"""Suites that must share no document are held against each other before anything is asked."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from day0.suite.disjoint import overlaps
from day0.suite.documents import declared_documents
from day0.suite.suites import Suite, load_suite

ROOT = Path(__file__).parents[3]
DEMO = yaml.safe_load((ROOT / "config" / "suites" / "demo.yaml").read_text())
SLICES = st.fixed_dictionaries(
    {"offset": st.integers(0, 40), "limit": st.none() | st.integers(1, 40), "samples": st.sampled_from([None, 41, 60])}
)


def suite(tasks=None, **changes):
    """The demo suite with its addition changed, and nothing else."""
    content = copy.deepcopy(DEMO) | changes
    content["tasks"] = {"addition": content["tasks"]["addition"] | (tasks or {})}
    return Suite.model_validate(content)


@given(SLICES, SLICES)
def test_just_the_slices_that_overlap_are_named(one, two):
    found = overlaps(suite(one), "other", suite(two))
    ours, theirs = (declared_documents(slice_) for slice_ in (one, two))
    shared = set(ours[:200]) & set(theirs[:200])
    assert len(found) == bool(shared)
    assert not shared or f"documents {min(shared)} to " in found[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({"limit": 250}, {}, "documents 0 to 249 of demo_addition are asked by suite other too (task addition)"),
        ({"samples": None}, {"samples": None}, "documents 0 to its end of demo_addition"),
        ({"offset": 250, "limit": 50}, {"limit": 250}, None),
        (
            {},
            {"harness": "nemo-evaluator", "task": "lm-evaluation-harness.demo_addition", "limit": 10},
            "documents 0 to 9 of",
        ),
        ({}, {"task": "demo_reversal"}, None),
    ],
)
def test_a_task_is_known_by_its_own_name_in_both_harnesses(ours, theirs, words):
    found = overlaps(suite(ours), "other", suite(theirs))
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_tasks_of_the_same_name_from_other_files_are_other_data():
    assert overlaps(suite(), "other", suite(include_path="elsewhere")) == []


def test_the_screening_suite_shares_no_document_with_the_one_that_decides():
    screening, standard = (load_suite(name, ROOT / "config" / "suites") for name in ("standard-screening", "standard"))
    assert screening.disjoint_from == ["standard"]
    assert overlaps(screening, "standard", standard) == []
    assert sum(len(declared_documents(task.model_dump())) for task in screening.tasks.values()) >= 6000
