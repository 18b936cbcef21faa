"""What NeMo Evaluator writes is read as it is; what it does not tell stays unknown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from day0.base.cli import UnusableInput
from day0.evaluation.nemo_evaluator import accounting_without_samples, count_of, read_response_statistics, read_samples
from day0.suite.score_names import canonical_score, find_score, find_task


def metrics(**named):
    """{metric: {score: value}} in NeMo Evaluator's nesting."""
    return {
        metric: {"scores": {score: {"value": value, "stats": {}} for score, value in scores.items()}}
        for metric, scores in named.items()
    }


# The canonical scores of the Artificial Analysis tasks, as they nest in a results.yml.
@pytest.mark.parametrize(
    ("key", "nesting"),
    [
        ("pass@1[avg-of-16].symbolic_correct", ("pass@1[avg-of-16]", "symbolic_correct")),
        ("pass@1[avg-of-1.5].a", ("pass@1[avg-of-1.5]", "a")),
        ("score.micro_avg_of_64", ("score", "micro_avg_of_64")),
        ("pass@1", ("pass@1", "pass@1")),
        ("exact_match,none", ("exact_match", "exact_match")),
        ("exact_match,flexible-extract", ("exact_match__flexible-extract", "exact_match__flexible-extract")),
    ],
)
def test_a_canonical_key_nests(key, nesting):
    assert canonical_score(key) == nesting
    found = {nesting[0]: {"scores": {nesting[1]: {"value": 0.5, "stats": {}}, "other": {"value": 0.1, "stats": {}}}}}
    assert find_score(found, key)[2]["value"] == 0.5


def test_one_word_names_a_score_or_a_metric_where_there_is_just_one():
    several = metrics(**{"pass@1": {"symbolic_correct": 71.0, "no_answer": 1.0}, "majority@4": {"majority": 75.0}})
    assert find_score(several, "symbolic_correct")[2]["value"] == 71.0
    assert find_score(several, "majority@4")[2]["value"] == 75.0
    with pytest.raises(LookupError, match=r"pass@1\.no_answer, pass@1\.symbolic_correct"):
        find_score(several, "pass@1")
    twice = metrics(**{"pass@1": {"symbolic_correct": 71.0}, "pass@4": {"symbolic_correct": 80.0}})
    with pytest.raises(LookupError, match="several scores fit"):
        find_score(twice, "symbolic_correct")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values, st.text(min_size=1))
def test_whatever_stands_in_a_file_is_found_or_named_missing(value, key):
    for look in (lambda: find_score(value, key), lambda: find_task(value, [key], key)):
        try:
            look()
        except LookupError as error:
            assert "it has" in str(error) or "groups are" in str(error)


def test_a_task_is_found_by_its_name_before_a_group_and_else_by_its_score():
    results = {
        "tasks": {"gpqa": {"metrics": metrics(**{"pass@1": {"symbolic_correct": 1}})}},
        "groups": {"all": {"metrics": metrics(score={"micro": 2})}},
    }
    assert find_score(find_task(results, ["gpqa"], "symbolic_correct"), "symbolic_correct")[2]["value"] == 1
    assert find_score(find_task(results, ["other"], "score.micro"), "score.micro")[2]["value"] == 2
    with pytest.raises(LookupError, match="all, gpqa"):
        find_task(results, ["other"], "accuracy")


def test_a_count_is_the_frameworks_own_word():
    told = {"pass@1": {"scores": {"ok": {"value": 5.0, "stats": {"count": 12}}}}}
    assert count_of(told, "pass@1.ok", 4) == (12, "the score's statistics")
    beside = metrics(**{"pass@1": {"ok": 5.0, "num_entries": 198}})
    assert count_of(beside, "pass@1.ok", 16) == (198 * 16, "pass@1.num_entries")
    assert count_of(metrics(**{"pass@1": {"ok": 5.0}}), "pass@1.ok", 16) is None


def statistics(folder, **response_stats):
    (folder / "eval_factory_metrics.json").write_text(json.dumps({"response_stats": response_stats}))
    return read_response_statistics(folder)


def test_a_response_that_was_no_success_leaves_failures_unknown(tmp_path):
    sound = statistics(tmp_path, count=9, successful_count=9, status_codes={"200": 9}, finish_reason={"stop": 9})
    assert (sound["asked"], sound["failed"], sound["retried"]) == (9, 0, 0)
    mixed = statistics(tmp_path, count=9, successful_count=8, status_codes={"200": 8, "500": 1}, finish_reason={})
    assert (mixed["answered"], mixed["failed"], mixed["statuses"]) == (8, None, {"200": 8, "500": 1})
    assert statistics(tmp_path, count="nine") is None


def test_normalized_sample_records_are_read_and_intermediate_steps_left_out(tmp_path):
    folder = tmp_path / "nemo-evaluator-per-sample-outputs"
    folder.mkdir()
    record = {"generation": "4", "num_generated_tokens": 1, "num_prompt_tokens": 5, "query": "2+2", "ground_truth": "4"}
    rows = [{**record, "id": "a", "score": 1}, {**record, "id": "a", "score": 0}, {**record, "id": "b", "score": None}]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = read_samples(tmp_path, "accuracy")["samples"]
    assert [(s["id"], s["repeat"], s["score"], s["finish_reason"]) for s in samples] == [
        ("a", 0, 1.0, None),
        ("a", 1, 0.0, None),
    ]
    (folder / "task.jsonl").write_text('{"score": 1}\n')
    with pytest.raises(UnusableInput, match=r"line 1: expected a SampleRecord with id and score"):
        read_samples(tmp_path, "accuracy")


def test_without_lines_per_sample_only_what_the_framework_counted_is_known():
    told = accounting_without_samples(8, {"counted": 8, "requests": {"answered": 8, "failed": 0}, "finish_reasons": {}})
    assert told == dict.fromkeys(("expected", "asked", "answered", "scored"), 8) | {
        "empty": None,
        "unparsed": None,
        "cut": 0,
        "failed": 0,
    }
    untold = accounting_without_samples(8, {"counted": None, "requests": {"answered": 8, "failed": None}})
    assert {key for key, value in untold.items() if value is not None} == {"expected"}
