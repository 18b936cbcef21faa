"""An outcome that does not follow the protocol is a failed one that says where, never a traceback."""

import pytest

from day0.base.cli import UnusableInput
from day0.evaluation.harness_process import usable_outcome
from day0.evaluation.results import accounting_of, merge_outcomes
from day0.evaluation.run_folder import open_attempt
from day0.records.part import Part

SAMPLE = {"id": "0", "repeat": 0, "score": 1.0}
SOUND = {
    "status": "COMPLETED",
    "documents": 1,
    "values": [1.0],
    "samples": [SAMPLE],
    "requests": {"asked": 1, "answered": 1, "attempts": {"200": 1}, "prompt_tokens": 7},
    "harness_version": "1",
}
TASK = {"samples": 1, "limit": None, "repeats": 1}


def test_a_sound_outcome_is_taken_as_it_is():
    assert usable_outcome(SOUND, "addition") == SOUND


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"status": "DONE"}, "status"),
        ({"values": None}, "values"),
        ({"values": []}, "values"),
        ({"documents": "1"}, "documents"),
        ({"counted": -1}, "counted"),
        ({"finish_reasons": {"length": "x"}}, "finish_reasons.length"),
        ({"requests": {"asked": "x"}}, "requests.asked"),
        ({"requests": {"attempts": {"500": "y"}}}, "requests.attempts.500"),
        ({"error_kind": "nonsense"}, "error_kind"),
        ({"samples": [{"score": 1.0}]}, "sample 1.id"),
        ({"samples": [SAMPLE, {**SAMPLE, "score": "x"}]}, "sample 2.score"),
    ],
)
def test_an_outcome_beside_the_protocol_is_a_failure_with_its_field(changes, place):
    found = usable_outcome(SOUND | changes, "addition")
    assert (found["status"], found["error_kind"]) == ("FAILED", "task") and place in found["error"]
    assert accounting_of(TASK, found)["scored"] == 0
    assert merge_outcomes([found, SOUND])["status"] == "FAILED"


@pytest.mark.parametrize("content", [None, [], "text", 1])
def test_an_outcome_that_is_no_mapping_is_a_failure(content):
    assert usable_outcome(content, "addition")["status"] == "FAILED"


@pytest.mark.parametrize("sample", [{"id": "0"}, {"id": "0", "repeat": 0}])
def test_shards_whose_samples_lack_a_score_are_not_put_together(sample):
    found = usable_outcome(SOUND | {"samples": [sample]}, "addition")
    assert merge_outcomes([found, found])["error_kind"] == "configuration"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"schema_version": 2, "identity": "", "attempts": []}'])
def test_edited_notes_of_attempts_and_shards_are_refused_with_the_file(tmp_path, content):
    for name in ("attempts.json", "part.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(UnusableInput, match=r"attempts\.json"):
        open_attempt(tmp_path, "a" * 64, "2026-01-01T00:00:00+00:00")
    with pytest.raises(UnusableInput, match=r"part\.json"):
        Part.read(tmp_path / "part.json")
