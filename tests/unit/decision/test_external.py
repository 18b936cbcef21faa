"""Published scores: a file's mistakes are named with their places, and the project's own file is sound."""

from pathlib import Path

import pytest

from day0.base.artefacts import read_yaml
from day0.base.cli import UnusableInput
from day0.decision.external import check_external, parse_external_scores
from day0.records.policy import Scale

ROOT = Path(__file__).parents[3]
ENTRY = {
    "model": "org/model",
    "task": "gsm8k",
    "metric": "exact_match,flexible-extract",
    "score": 85,
    "source": "https://example.org/card",
    "notes": "5-shot, completions",
}


def test_the_projects_own_file_is_sound():
    parse_external_scores(read_yaml(ROOT / "config" / "external_scores.yaml"), "external_scores.yaml")


@pytest.mark.parametrize(
    ("change", "quoted"),
    [
        ({"score": 101}, "scores[0]: score 101 is outside its scale 0 to 100"),
        ({"score": "85"}, "scores[0].score: found '85'"),
        ({"score": True}, "scores[0].score: found True"),
        ({"score": float("nan")}, "scores[0].score: found nan"),
        ({"scale": {"min": 1, "max": 1}}, "scores[0].scale: min must be below max"),
        ({"scale": {"maximum": 1}}, "scores[0].scale.maximum: unknown key"),
        ({"source": "the paper"}, "scores[0].source: found 'the paper'"),
        ({"notes": ""}, "scores[0].notes: found ''"),
        ({"shots": 5}, "scores[0].shots: unknown key; allowed here: metric, model, notes, scale, score, source, task"),
    ],
)
def test_mistakes_are_named_with_their_places(change, quoted):
    with pytest.raises(UnusableInput) as caught:
        parse_external_scores({"scores": [ENTRY | change]}, "mine.yaml")
    assert f"mine.yaml: {quoted}" in str(caught.value)


def test_all_mistakes_are_told_and_no_score_stands_twice():
    lacking = {key: value for key, value in ENTRY.items() if key not in ("model", "source")}
    with pytest.raises(UnusableInput) as caught:
        parse_external_scores({"scores": [lacking]}, "mine.yaml")
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(UnusableInput, match="listed twice"):
        parse_external_scores({"scores": [ENTRY, ENTRY | {"score": 3}]}, "mine.yaml")


def test_a_models_entries_are_found_by_any_of_its_names():
    scores = parse_external_scores({"scores": [ENTRY, ENTRY | {"model": "mine"}, ENTRY | {"model": "x"}]}, "mine.yaml")
    assert [entry["model"] for entry in scores.of_model("mine", "org/model")] == ["org/model", "mine"]
    assert scores.of_model("mine", None)[0]["scale"] == {"min": 0, "max": 100}


@pytest.mark.parametrize(
    ("score", "scale", "status"),
    [
        (0.85, Scale(min=0, max=1), "verified"),
        (0.80, Scale(min=0, max=1), "verified"),
        (0.799, Scale(min=0, max=1), "failed"),
        (70, Scale(min=-100, max=100), "verified"),
        (0.15, Scale(min=0, max=1, direction="lower"), "failed"),
        (None, Scale(min=0, max=1), "unverified"),
        ("0.85", Scale(min=0, max=1), "unverified"),
    ],
)
def test_scores_are_held_together_as_points_of_their_scales(score, scale, status):
    (entry,) = parse_external_scores({"scores": [ENTRY]}, "mine.yaml").of_model("org/model")
    held = {"gsm8k": {"score": score, "metric": "exact_match__flexible-extract"}}
    found = check_external([entry], held, {"gsm8k": scale}).as_plain()
    assert (found["status"], found["entries"][0]["status"]) == (status, status)
    assert found["entries"][0]["source"] == "https://example.org/card"


def test_a_metric_of_another_name_is_not_held_against_it():
    (entry,) = parse_external_scores({"scores": [ENTRY]}, "mine.yaml").of_model("org/model")
    held = {"gsm8k": {"score": 0.1, "metric": "exact_match__strict-match"}}
    found = check_external([entry], held, {"gsm8k": Scale(min=0, max=1)}).as_plain()
    assert found["status"] == "unverified" and "not held together" in found["entries"][0]["sentence"]
