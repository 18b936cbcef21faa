"""The records of an evaluation: written and read alike, and refused with the field where they were edited."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.base.artefacts import read_json, write_json
from day0.base.cli import UnusableInput
from day0.evaluation.harness_process import usable_outcome
from day0.evaluation.run_folder import close_attempt, open_attempt
from day0.records.attempts import Attempts
from day0.records.part import Part
from day0.records.samples import Sample, make_sample, write_samples

IDENTITY = "a" * 64
OUTCOME = {"status": "COMPLETED", "documents": 1, "values": [1.0], "samples": [{"id": "0", "repeat": 0, "score": 1.0}]}
PART = {
    "identity": {"model": "m", "candidate": "fp8", "suite": "demo", "checkpoint_digest": "c"},
    "shard": "1-of-2",
    "tasks": ["addition"],
    "failure": None,
    "outcomes": {"addition": OUTCOME},
    "server": None,
    "canary": None,
    "incidents": [],
    "timing": {"server_start_seconds": 1.0, "canary_seconds": None, "tasks": {}, "total_seconds": 2.0},
    "attempts": [],
    "versions": {},
    "endpoint_url": "",
}


def test_attempts_are_noted_one_after_another(tmp_path):
    first = open_attempt(tmp_path, IDENTITY, "2026-01-01T00:00:00+00:00")
    assert [attempt.status for attempt in first.attempts] == ["RUNNING"]
    second = open_attempt(tmp_path, IDENTITY, "2026-01-01T00:01:00+00:00")  # the first was killed
    close_attempt(tmp_path, second, "ANSWERED", None, 3.0)
    noted = Attempts.read(tmp_path / "attempts.json")
    assert [(attempt.status, attempt.seconds) for attempt in noted.attempts] == [("KILLED", None), ("ANSWERED", 3.0)]
    other = open_attempt(tmp_path, "b" * 64, "2026-01-01T00:02:00+00:00")
    assert len(other.attempts) == 1


@pytest.mark.parametrize(
    ("record", "content", "change", "said"),
    [
        (Attempts, {"identity": IDENTITY, "attempts": []}, {"identity": "short"}, "identity"),
        (Attempts, {"identity": IDENTITY, "attempts": []}, {"attempts": [{"started": "now"}]}, "attempts[0].status"),
        (Attempts, {"identity": IDENTITY, "attempts": []}, {"schema_version": 2}, "schema_version: found 2"),
        (Part, PART, {"tasks": None}, "tasks"),
        (Part, PART, {"outcome": {}}, "outcome: unknown key"),
        (Part, PART, {"failure": ["NO_CLASS", "sentence"]}, "failure[0]"),
        (Part, PART, {"timing": {}}, "timing.total_seconds: missing"),
    ],
)
def test_an_edited_record_is_refused_with_file_and_field(tmp_path, record, content, change, said):
    path = tmp_path / "record.json"
    write_json(path, content)
    record.read(path)
    write_json(path, content | change)
    with pytest.raises(UnusableInput) as refused:
        record.read(path)
    assert f"{path}: " in str(refused.value) and said in str(refused.value)
    assert "run the same command again" in str(refused.value)


def test_a_part_is_read_as_it_was_written(tmp_path):
    part = Part.model_validate(PART)
    part.write(tmp_path / "part.json")
    assert Part.read(tmp_path / "part.json") == part
    added = {
        "timing": PART["timing"] | {"stop_seconds": None, "speed_seconds": None},
        "early_stop": None,
        "speed": None,
    }
    assert read_json(tmp_path / "part.json") == {"schema_version": 1, **PART} | added


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.text(), "repeat": st.integers(0, 9)},
            optional={
                "answer": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
                "score": st.none() | st.floats(-1e6, 1e6),
                "tokens": st.none() | st.integers(0, 10**6),
                "group": st.text(min_size=1),
            },
        )
    )
)
def test_samples_are_read_as_they_were_written(tmp_path_factory, contents):
    file = tmp_path_factory.mktemp("samples") / "task.jsonl"
    samples = [make_sample(content, "sample") for content in contents]
    write_samples(file, samples)
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    assert [Sample.model_validate(json.loads(line)) for line in lines] == samples


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "DONE"}, "status"),
        ({"documents": -1}, "documents"),
        ({"error_kind": "other"}, "error_kind"),
        ({"samples": [{"id": "0", "score": "right"}]}, "sample 1.score"),
        ({"samples": [{"id": "0", "tokens": -5}]}, "sample 1.tokens"),
        ({"samples": {}}, "samples"),
    ],
)
def test_an_outcome_that_does_not_follow_the_protocol_failed_and_says_where(change, said):
    assert usable_outcome(OUTCOME, "addition") == OUTCOME
    found = usable_outcome(OUTCOME | change, "addition")
    assert found["status"] == "FAILED" and found["error_kind"] == "task" and said in found["error"]


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_an_outcome_that_is_no_mapping_failed(content):
    assert usable_outcome(content, "addition")["status"] == "FAILED"
