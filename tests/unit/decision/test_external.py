"""Published scores: a file's mistakes are named with their places, and the project's own file is sound."""

from pathlib import Path

import pytest

from day0.base.artefacts import read_yaml
from day0.base.cli import UnusableInput
from day0.decision.assess_run import evaluate_run, summary_of_results
from day0.decision.external import check_external, parse_external_scores, protocol_of
from day0.records.policy import Scale
from day0.suite.suites import load_suite

ROOT = Path(__file__).parents[3]
ENTRY = {
    "model": "org/model",
    "task": "gsm8k",
    "metric": "exact_match,flexible-extract",
    "score": 85,
    "source": "https://example.org/card",
    "notes": "5-shot, completions",
}


OWN = parse_external_scores(read_yaml(ROOT / "config" / "external_scores.yaml"), "external_scores.yaml")
STANDARD = load_suite("standard", ROOT / "config" / "suites")


def test_the_projects_own_file_names_ten_models_with_their_protocol_and_source():
    assert all(entry.protocol is not None for entry in OWN.scores), "an entry that nobody vouches for"
    whole = [entry for entry in OWN.scores if entry.protocol and None not in entry.protocol.model_dump().values()]
    assert len({entry.model for entry in whole}) >= 10
    for entry in whole:
        task = STANDARD.tasks[entry.task]
        assert entry.metric == task.metric, "no run of the standard suite could ever be held against it"
        assert entry.protocol and entry.protocol.num_fewshot == task.num_fewshot


def asked(**changes):
    """The fingerprint of a task as the entry below was asked, but for the changes."""
    return {"num_fewshot": 5, "apply_chat_template": False, "limit": None, "offset": None} | changes


PROTOCOL = {"num_fewshot": 5, "prompt": "completion"}


@pytest.mark.parametrize(
    ("protocol", "fingerprint", "words"),
    [
        (PROTOCOL, asked(), None),
        (None, asked(), None),
        (None, asked(num_fewshot=0), None),
        (PROTOCOL, asked(num_fewshot=0), "worked examples: published with 5, asked with 0"),
        (PROTOCOL, asked(apply_chat_template=True), "kind of prompt: published with completion, asked with chat"),
        (PROTOCOL, asked(limit=250), "published over every document, asked on some"),
        (PROTOCOL, asked(offset=250), "published over every document, asked on some"),
        (PROTOCOL, asked(num_fewshot=None), "the baseline does not name its worked examples"),
        (PROTOCOL, asked(apply_chat_template="no"), "the baseline does not name its kind of prompt"),
        (PROTOCOL, {}, "the baseline does not name its worked examples"),
        (PROTOCOL, None, "the baseline does not say how it was asked"),
        (PROTOCOL | {"num_fewshot": None}, asked(), "the publication does not name its worked examples"),
        (PROTOCOL | {"prompt": None}, asked(), "the publication does not name its kind of prompt"),
    ],
)
def test_an_entry_of_another_protocol_fails_no_baseline_and_verifies_none(protocol, fingerprint, words):
    (entry,) = parse_external_scores({"scores": [ENTRY | {"protocol": protocol}]}, "mine.yaml").of_model("org/model")
    made = protocol_of(fingerprint)
    for score, status in ((0.1, "failed"), (0.85, "verified")):
        held = {"score": score, "metric": "exact_match__flexible-extract", "protocol": made and made.as_plain()}
        found = check_external([entry], {"gsm8k": held}, {"gsm8k": Scale(min=0, max=1)})
        assert found.status == (status if words is None else "unverified")
        assert words is None or words in found.entries[0].sentence


@pytest.mark.parametrize("fingerprint", [asked(), asked(limit=2), {}, None, "?", {"num_fewshot": True, "limit": []}])
def test_a_runs_assessment_says_how_each_task_was_asked(fingerprint):
    content = {
        "results": {"tasks": {"gsm8k": {"metrics": {"acc": {"scores": {"acc": {"value": 0.5}}}}}}},
        "metadata": {
            "status": "COMPLETED",
            "accounting": {"gsm8k": {"expected": 9, "scored": 9}},
            "fingerprint": {"gsm8k": fingerprint},
        },
    }
    judged = evaluate_run(summary_of_results(content))
    assert judged.passed and judged.scores["gsm8k"].protocol == protocol_of(fingerprint)


def test_a_sites_own_file_takes_precedence():
    ours = parse_external_scores({"scores": [ENTRY | {"metric": "exact_match__flexible-extract", "score": 3}]}, "ours")
    theirs = parse_external_scores({"scores": [ENTRY, ENTRY | {"task": "other"}]}, "theirs")
    merged = theirs.replaced_by(ours)
    assert [(entry.task, entry.score) for entry in merged.scores] == [("other", 85), ("gsm8k", 3)]


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
        ({"protocol": {"num_fewshot": 5}}, "scores[0].protocol.prompt: missing"),
        ({"protocol": {"num_fewshot": -1, "prompt": "chat"}}, "scores[0].protocol.num_fewshot: found -1"),
        ({"protocol": {"num_fewshot": 0, "prompt": "few-shot"}}, "scores[0].protocol.prompt: found 'few-shot'"),
        ({"notes": ""}, "scores[0].notes: found ''"),
        (
            {"shots": 5},
            "scores[0].shots: unknown key; allowed here: metric, model, notes, protocol, scale, score, source",
        ),
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
