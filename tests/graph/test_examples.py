"""The plan of the example of a real model: its rules are run for it, and for nothing that does not ask for them."""

import shutil

from conftest import ROOT

EXAMPLE = ("--configfile", "config/examples/smollm2.yaml")
OF_THE_EXAMPLE = {"fetch_example_packages": 1, "make_example_model": 1, "make_example_questions": 1}


def test_the_plan_makes_model_and_questions_and_knows_their_size(project):
    run = project.snakemake("-n", "release", *EXAMPLE)
    assert run.status == 0, run.output
    jobs = run.jobs()
    assert OF_THE_EXAMPLE.items() <= jobs.items() and (jobs["evaluate_run"], jobs["build_environment"]) == (2, 4)
    assert "train_demo_model" not in jobs
    assert "smollm2-135m-instruct (269 MB)" in run.output and "not known yet" not in run.output


def test_questions_are_made_without_the_models_environment(project):
    run = project.snakemake("-n", "results/examples/smollm2/data/social_iqa.jsonl")
    assert run.status == 0, run.output
    assert run.jobs() == {"fetch_example_packages": 1, "make_example_questions": 1}


def test_another_release_asks_for_nothing_of_the_example(project):
    jobs = project.snakemake("-n", "release").jobs()
    assert not OF_THE_EXAMPLE.keys() & jobs.keys()


def test_packages_that_another_lock_names_are_downloaded_again(project):
    (project.folder / "results/examples/packages").mkdir(parents=True)
    shutil.copy2(ROOT / "envs/example-data.lock", project.folder / "envs/example-data.lock")
    target = "results/examples/packages"
    assert project.snakemake("--touch", target).status == 0
    assert project.snakemake("-n", target).jobs() == {}
    with open(project.folder / "envs/example-data.lock", "a") as lock:
        lock.write("# changed\n")
    assert project.snakemake("-n", target).jobs() == {"fetch_example_packages": 1}
