"""Every decision on a release stays readable, whatever came after it or was cut short."""

import pytest
from accepted_release import REQUEST
from decision_input import evidence

from day0.base.artefacts import digest_of_file
from day0.decision.verdict import ReleaseRequest, make_verdict
from day0.records.failure_class import Decision
from day0.records.history import HISTORY, read_history, write_verdict


@pytest.fixture
def verdict(tmp_path):
    return tmp_path / "verdict.json"


def decided(detail):
    made = make_verdict(ReleaseRequest.model_validate(REQUEST), evidence())
    return made.model_copy(update={"detail": detail, "created": "2030-01-01T00:00:00+00:00"})


def test_each_decision_adds_a_line_with_the_digest_of_its_verdict(verdict):
    digests = []
    for detail in ("first", "second"):
        write_verdict(verdict, decided(detail))
        digests.append(digest_of_file(verdict))
    found = read_history(verdict)
    assert [(one.detail, one.verdict_sha256) for one in found] == list(zip(("first", "second"), digests, strict=True))
    assert {one.decision for one in found} <= set(Decision)


def test_a_line_that_was_cut_short_costs_no_other(verdict):
    write_verdict(verdict, decided("first"))
    history = verdict.with_name(HISTORY)
    history.write_bytes(history.read_bytes() + b'{"created": "20')
    write_verdict(verdict, decided("second"))
    assert [one.detail for one in read_history(verdict)] == ["first", "second"]


def test_where_there_is_none_there_is_none(verdict):
    assert read_history(verdict) == []
