"""A run that was made elsewhere stands in for one of the graph's, and passes the same gate."""

import shutil

import pytest
import yaml

MODEL = {"path": "results/demo/model"}


@pytest.fixture
def made(released):
    """A project whose runs of an earlier release lie in elsewhere/, and nothing but its model below results/."""
    for candidate in ("baseline", "fp8"):
        source = released.folder / "results" / "tiny-llama" / candidate / "demo"
        shutil.copytree(source, released.folder / "elsewhere" / candidate)
    shutil.rmtree(released.folder / "results" / "tiny-llama")
    shutil.rmtree(released.folder / ".snakemake")
    model = MODEL | {"baseline": {"demo": "elsewhere/baseline"}}
    released.configure(models={"tiny-llama": model}, releases=[{"model": "tiny-llama", "recipe": "fp8"}])
    return released


def edit(project, path, change):
    file = project.folder / path
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


def test_an_imported_baseline_is_not_evaluated_and_the_release_is_decided(made):
    jobs = made.snakemake("-n", "release").jobs()
    assert (jobs["import_run"], jobs["evaluate_run"], jobs["assess_run"], jobs["gate_run"]) == (1, 1, 2, 2)
    run = made.snakemake("release")
    assert run.status == 0, run.output
    assert [call for call in made.calls() if call.startswith("evaluate")] == ["evaluate fp8"]
    assert made.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"
    imported = made.read("tiny-llama/baseline/demo/run.json")["imported"]
    assert (imported["path"], imported["producer"], imported["counts"]) == ("elsewhere/baseline", "day0", "require")


def test_a_change_of_the_imported_run_redoes_what_follows_and_no_evaluation(made):
    made.configure(parallel_evaluation=True)
    assert made.snakemake("release").status == 0
    assert made.snakemake("-n", "release").jobs().keys() <= {"release"}
    made.calls()
    file = made.folder / "elsewhere/baseline/samples/addition.jsonl"
    file.write_text(file.read_text().replace('"score": 0.0', '"score": 1.0', 1))
    run = made.snakemake("verdict")
    assert run.status == 0 and run.jobs()["import_run"] == 1 and "evaluate_run" not in run.jobs(), run.output
    assert not [call for call in made.calls() if call.startswith("evaluate")]


def test_with_both_runs_imported_nothing_is_served(made):
    release = {"model": "tiny-llama", "recipe": "fp8", "candidate_run": "elsewhere/fp8/results.yml"}
    made.configure(releases=[release])
    run = made.snakemake("verdict")
    assert run.status == 0, run.output
    assert run.jobs()["import_run"] == 2 and "evaluate_run" not in run.jobs()
    assert not any("serve" in call or call.startswith("evaluate") for call in made.calls())
    assert made.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"


def test_a_run_of_something_else_is_refused_before_the_candidate_is_evaluated(made):
    edit(made, "elsewhere/baseline/results.yml", lambda content: content["metadata"].update(model="other"))
    made.snakemake("release")
    verdict = made.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"], verdict["stage"]) == (
        "ANOMALOUS",
        "USER_CONFIG_ERROR",
        "baseline_run",
    )
    assert "model is 'other', expected 'tiny-llama'" in verdict["detail"]
    assert not [call for call in made.calls() if call.startswith("evaluate")]


def test_an_import_that_is_not_there_or_is_of_no_release_is_refused_at_planning(made):
    baseline = {"demo": "elsewhere/none", "standart": "elsewhere/baseline"}
    made.configure(models={"tiny-llama": MODEL | {"baseline": baseline}})
    run = made.snakemake("-n", "release")
    assert run.status == 1 and "2 mistakes" in run.output
    assert "found no elsewhere/none" in run.output and "no release of this model uses suite 'standart'" in run.output


def test_a_run_that_does_not_tell_its_checkpoint_needs_the_policys_consent(made):
    edit(made, "elsewhere/baseline/results.yml", lambda content: content["metadata"].update(checkpoint_digest=None))
    made.snakemake("release")
    verdict = made.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "NOT_COMPARABLE")
    assert "checkpoint_digest of the baseline" in verdict["detail"]
    made.configure(releases=[{"model": "tiny-llama", "recipe": "fp8", "require_fingerprints": False}])
    assert made.snakemake("release").status == 0
    assert made.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"
