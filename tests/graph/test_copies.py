"""What runs is the code of the copy at hand, though it is a fork of a process that imported that of others."""

import json

import pytest
from test_reruns import append

REDEFINED = """
_of_the_project = make_verdict


def make_verdict(release, evidence):
    return _of_the_project(release, evidence).model_copy(update={"detail": "Of this copy."})
"""
REFUSING = """
def make_plan(*arguments, **options):
    raise UnusableInput("of this copy")
"""


def test_a_changed_module_of_a_stage_is_the_one_that_runs(released):
    append(released.folder / "scripts" / "day0" / "decision" / "verdict.py", REDEFINED)
    run = released.snakemake("results/tiny-llama/fp8/verdict.json")
    assert run.status == 0, run.output
    assert released.read("tiny-llama/fp8/verdict.json")["detail"] == "Of this copy."


def test_a_changed_module_of_the_driver_is_the_one_that_runs(project):
    module = project.folder / "scripts" / "day0" / "plan" / "check.py"
    text = module.read_text()
    append(module, REFUSING)
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "error: of this copy" in run.output, run.output
    module.write_text(text)
    assert project.snakemake("-n", "release").status == 0


@pytest.mark.parametrize("is_known", [True, False])
def test_a_file_beside_the_scripts_is_that_of_the_copy(project, is_known):
    options = [{"names": ["--of-this-copy"], "nargs": None}] if is_known else []
    (project.folder / "envs" / "server_options.json").write_text(json.dumps({"options": options}))
    serving = {"extra_arguments": ["--of-this-copy"]}  # without its value
    releases = [{"model": "tiny-llama", "recipe": "mine"}]
    project.configure(recipes={"mine": {"preset": "fp8", "serving": serving}}, releases=releases)
    run = project.snakemake("-n", "release")
    assert run.status == is_known and is_known == ("--of-this-copy: expected one argument" in run.output), run.output
