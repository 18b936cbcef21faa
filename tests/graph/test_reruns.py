"""Only what a change touches runs again."""

import os
import time

import pytest

from conftest import TWO_RELEASES

EVALUATIONS = ["evaluate baseline", "evaluate fp8", "evaluate nvfp4"]


def append(path, text="\n# changed\n"):
    path.write_text(path.read_text() + text)


def rerun(project):
    run = project.snakemake("release")
    assert run.status == 0, run.output
    return project.calls()


def test_nothing_runs_where_nothing_changed(released):
    assert rerun(released) == []


def test_a_touch_triggers_nothing(released):
    later = time.time() + 5
    for folder in ("scripts", "rules", "config", "envs"):
        for path in (released.folder / folder).rglob("*"):
            os.utime(path, (later, later))
    assert rerun(released) == []


def test_a_threshold_redoes_the_comparison_only(released):
    released.configure(defaults={"suite": "demo", "threshold": 0.02})
    jobs = released.snakemake("-n", "release").jobs()
    assert jobs["compare_runs"] == 2 and not {"evaluate_run", "assess_run", "quantize_candidate"} & jobs.keys()
    assert rerun(released) == []
    assert released.read("tiny-llama/fp8/verdict.json")["policy"]["threshold"] == 0.02


def test_a_published_score_redoes_the_comparison_only_and_decides(released):
    file = released.folder / "config" / "external_scores.yaml"
    entry = (
        "scores:\n- {{model: {}, task: addition, metric: exact_match, score: {}, source: 'https://a.org', notes: n}}\n"
    )
    file.write_text(entry.format("another", 50))
    assert "compare_runs" not in released.snakemake("-n", "release").jobs()
    file.write_text(entry.format("tiny-llama", 88))
    assert rerun(released) == []
    verdict = released.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["external"]["status"]) == ("ACCEPT", "verified")
    file.write_text(entry.format("tiny-llama", 50))
    run = released.snakemake("release")
    assert run.status == 1 and released.calls() == [], run.output
    verdict = released.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH")


def test_one_more_recipe_runs_that_candidate_only(released):
    released.configure(releases=[*TWO_RELEASES, {"model": "tiny-llama", "recipe": "mxfp8"}])
    assert rerun(released) == [
        "evaluate mxfp8",
        "preflight tiny-llama/mxfp8",
        "quantize mxfp8",
        "validate mxfp8",
    ]


def test_a_recipe_file_redoes_its_candidate_only(released):
    recipe = released.folder / "config" / "recipes" / "mine.yaml"
    recipe.write_text("description: mine\npreset: fp8\n")
    released.configure(releases=[{"model": "tiny-llama", "recipe": "mine"}, {"model": "tiny-llama", "recipe": "nvfp4"}])
    rerun(released)
    recipe.write_text("description: mine\npreset: mxfp8\n")
    assert rerun(released) == ["evaluate mine", "preflight tiny-llama/mine", "quantize mine", "validate mine"]


def test_a_suite_redoes_the_evaluations(released):
    append(released.folder / "config" / "suites" / "demo.yaml")
    assert rerun(released) == EVALUATIONS


@pytest.mark.parametrize(
    ("script", "stages"),
    [
        ("scripts/evaluate.py", EVALUATIONS),
        ("scripts/gate_ptq.py", ["evaluate fp8", "evaluate nvfp4", "validate fp8", "validate nvfp4"]),
        ("scripts/gate_compare.py", []),
        ("scripts/day0/decision/failures.py", []),
        ("scripts/bundle.py", []),
    ],
)
def test_a_script_redoes_its_stage_and_what_follows(released, script, stages):
    append(released.folder / script)
    assert rerun(released) == stages


def test_a_lock_redoes_the_stages_of_its_environment(released):
    append(released.folder / "envs" / "lm-eval.lock")
    assert rerun(released) == ["environment lm-eval", *EVALUATIONS, "preflight tiny-llama/baseline/demo"]


def test_serving_settings_of_a_recipe_redo_its_evaluation_only(released):
    releases = [{"model": "tiny-llama", "recipe": "mine"}, {"model": "tiny-llama", "recipe": "nvfp4"}]
    released.configure(recipes={"mine": {"preset": "fp8"}}, releases=releases)
    rerun(released)
    released.configure(recipes={"mine": {"preset": "fp8", "serving": {"max_model_len": 128}}})
    assert "evaluate nvfp4" not in (calls := rerun(released)) and "evaluate mine" in calls


def test_a_lost_artefact_is_made_again_with_what_it_needs(released):
    (released.folder / "results" / "tiny-llama" / "fp8" / "verdict.json").unlink()
    assert rerun(released) == []
    assert released.exists("tiny-llama/fp8/verdict.json")
