"""What a plan shows, and what it refuses, before any job starts."""

import pytest

from conftest import TWO_RELEASES

WHOLE_PLAN = {
    "build_environment": 3,
    "make_demo_data": 1,
    "train_demo_model": 1,
    "check_preflight": 3,
    "gate_preflight": 3,
    "describe_source": 1,
    "quantize_candidate": 1,
    "assess_checkpoint": 1,
    "gate_ptq": 1,
    "plan_stopping": 1,
    "evaluate_run": 2,
    "assess_run": 2,
    "gate_run": 2,
    "compare_runs": 1,
    "decide_release": 1,
    "render_report": 1,
    "render_index": 1,
    "gate_release": 1,
    "bundle_release": 1,
    "release": 1,
}


def test_the_plan_of_a_release_is_whole(project):
    run = project.snakemake("-n", "release")
    assert run.status == 0 and run.jobs() == WHOLE_PLAN, run.output
    assert project.calls() == []


def test_two_recipes_share_one_baseline(project):
    project.configure(releases=TWO_RELEASES)
    jobs = project.snakemake("-n", "release").jobs()
    assert (jobs["evaluate_run"], jobs["quantize_candidate"], jobs["describe_source"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("target", "absent"),
    [
        ("environments", {"train_demo_model", "quantize_candidate", "evaluate_run"}),
        ("quantize", {"evaluate_run", "assess_checkpoint", "compare_runs", "decide_release"}),
        ("evaluate", {"compare_runs", "decide_release", "bundle_release"}),
        ("compare", {"decide_release", "render_report", "bundle_release"}),
        ("verdict", {"gate_release", "bundle_release"}),
        ("report", {"gate_release", "bundle_release"}),
    ],
)
def test_a_single_stage_target_runs_no_stage_it_does_not_need(project, target, absent):
    run = project.snakemake("-n", target)
    assert run.status == 0 and run.jobs() and not absent & run.jobs().keys(), run.output


def test_releases_are_logged_where_the_configuration_says_so(project):
    run = project.snakemake("-n", "release", "--config", 'mlflow={tracking_uri: "sqlite:///mlflow.db"}')
    logging = {"log_evidence": 1, "log_decision": 1, "build_environment": WHOLE_PLAN["build_environment"] + 1}
    assert run.status == 0 and run.jobs() == WHOLE_PLAN | logging, run.output
    jobs = project.snakemake("-n", "verdict", "--config", 'mlflow={tracking_uri: "sqlite:///mlflow.db"}').jobs()
    assert (jobs["log_evidence"], jobs["log_decision"]) == (1, 1)


def test_credentials_have_no_place_in_the_configuration(project):
    run = project.snakemake("-n", "release", "--config", 'mlflow={tracking_uri: "https://me:secret@host"}')
    assert run.status == 1 and "MLFLOW_TRACKING_PASSWORD" in run.output


@pytest.mark.parametrize(
    ("publish", "expected"),
    [
        ({}, "releases[0].publish: names no destination"),
        ({"hub": "name"}, "publish: hub: 'name' is no repository id"),
        ({"hub": "a/b", "folder": "c"}, "publish: give one of 'hub' (a repository id) and 'folder', not both"),
        ({"folder": "c/{version}"}, "publish: {version} cannot be filled in"),
        ({"hub": "a/b", "token": "x"}, "publish.token: unknown key"),
    ],
)
def test_a_destination_that_cannot_be_meant_is_refused(project, publish, expected):
    project.configure(publish=publish)
    run = project.snakemake("-n", "release")
    assert run.status == 1 and expected in run.output, run.output


def test_the_slurm_profile_parses_and_plans_from_the_root(project):
    run = project.snakemake("--profile", "slurm", "-n", "release")
    assert run.status == 0 and run.jobs() == WHOLE_PLAN, run.output


def test_the_cluster_example_plans(project):
    run = project.snakemake("-n", "release", "--configfile", "config/examples/qwen3-8b-nvfp4.yaml")
    jobs = run.jobs()
    assert run.status == 0, run.output
    assert (jobs["quantize_candidate"], jobs["evaluate_run"], jobs["bundle_release"]) == (2, 3, 2)
    assert "train_demo_model" not in jobs
    assert ".envs/serve.cuda.json" in run.output


@pytest.mark.parametrize("example", ["accept", "regression", "infeasible", "anomalous"])
def test_every_example_plans(project, example):
    run = project.snakemake("-n", "verdict", "--configfile", f"config/examples/{example}.yaml")
    assert run.status == 0 and run.jobs()["decide_release"] >= 1, run.output


WARNING = "warning: tiny-llama fp8: addition: 1,000 samples cannot resolve the limit of 0.01"


def test_what_the_suite_cannot_resolve_is_said_once_by_a_plan_and_by_a_run(project):
    assert "cannot resolve" not in project.snakemake("-n", "release").output
    defaults = {"suite": "demo", "threshold": 0.01, "expected_disagreement_rate": 0.05, "criterion": "point"}
    project.configure(defaults=defaults)
    plan = project.snakemake("-n", "release")
    assert plan.status == 0 and plan.output.count(WARNING) == 1 and "about 3,925 samples" in plan.output
    run = project.snakemake("release")
    assert run.status == 0 and run.output.count(WARNING) == 1, run.output


def test_published_scores_are_checked_before_any_job(project):
    file = project.folder / "config" / "external_scores.yaml"
    file.write_text("scores:\n- {model: tiny-llama, task: addition, score: 101}\n")
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "Traceback" not in run.output
    for words in ("config/external_scores.yaml: scores[0].metric: missing", "scores[0].source: missing"):
        assert words in run.output


def test_mistakes_stop_the_run_before_any_job_and_without_a_traceback(project):
    project.configure(
        treshold=1, releases=[{"model": "tiny-llama", "recipe": "fp9"}, {"model": "tiny-lama", "recipe": "fp8"}]
    )
    run = project.snakemake("release")
    assert run.status == 1 and "Traceback" not in run.output
    assert "the configuration has 3 mistakes; nothing was started" in run.output
    for words in ("treshold: unknown key", "releases[0].recipe: unknown recipe 'fp9'", "did you mean tiny-llama?"):
        assert words in run.output
    assert project.calls() == [] and not project.exists("")


def test_a_missing_model_folder_is_reported_with_its_place(project):
    project.configure(models={"mine": {"path": "models/mine"}}, releases=[{"model": "mine", "recipe": "fp8"}])
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "models.mine.path: found no folder models/mine" in run.output
