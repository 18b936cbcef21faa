"""The project as a module of another workflow, and run from other folders: paths, names and configuration."""

import shutil

import pytest
import yaml

from conftest import Project

RELEASE = {
    "models": {
        "tiny-llama": {
            "path": "results/demo/model",
            "calibration": {"dataset": "results/demo/data/calibration.jsonl", "samples": 512, "sequence_length": 32},
        }
    },
    "releases": [{"model": "tiny-llama", "recipe": "fp8", "suite": "demo", "expected_disagreement_rate": 0.01}],
}
IMPORTER = """
configfile: "settings.yaml"


shell.prefix("export OF_THE_IMPORTER=yes SLURM_KEPT=yes; ")


module day0:
    snakefile: {snakefile!r}
    config: config["quantization"]


use rule * from day0 as day0_*


rule all:
    default_target: True
    input:
        verdict="results/tiny-llama/fp8/verdict.json",
        bundle="results/tiny-llama/fp8/release/SHA256SUMS",
    output: "summary.txt"
    shell: "echo $OF_THE_IMPORTER $SLURM_KEPT > {{output}}"
"""


class Elsewhere(Project):
    """A folder of its own, from which the Snakefile of a project with stand-ins is used."""

    def __init__(self, folder, project):
        self.folder, self.project = folder, project
        self.behave({})

    def import_it(self, configuration):
        """Write the workflow that imports the project."""
        (self.folder / "Snakefile").write_text(IMPORTER.format(snakefile=str(self.project.folder / "Snakefile")))
        (self.folder / "settings.yaml").write_text(yaml.safe_dump({"quantization": configuration}))


@pytest.fixture
def elsewhere(tmp_path, fresh_project):
    folder, origin = tmp_path / "a {strange} 'place'", tmp_path / "the project's $HOME"
    folder.mkdir()
    origin.mkdir()
    return Elsewhere(folder, Project(origin, fresh_project))


def test_a_module_runs_to_its_bundle_and_leaves_the_importers_rules_alone(elsewhere):
    elsewhere.import_it(RELEASE)
    plan = elsewhere.snakemake("-n", "--cores", "2")
    assert plan.status == 0, plan.output
    assert plan.jobs()["day0_evaluate_run"] == 2 and plan.jobs()["all"] == 1 and "localrules" not in plan.output
    run = elsewhere.snakemake("--cores", "2")
    assert run.status == 0, run.output
    assert elsewhere.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"
    assert (elsewhere.folder / "summary.txt").read_text() == "yes yes\n"
    assert not (elsewhere.project.folder / "results").exists()
    again = elsewhere.snakemake("-n", "--cores", "2")
    assert again.jobs() == {}, again.output


def test_a_crash_within_a_module_is_decided_as_in_the_project(elsewhere):
    elsewhere.import_it(RELEASE)
    elsewhere.behave({"quantize": {"fp8": {"crashes": 9}}})
    run = elsewhere.snakemake("--cores", "2", "--keep-going")
    assert run.status == 1
    verdict = elsewhere.read("tiny-llama/fp8/verdict.json")
    assert verdict["decision"] == "ANOMALOUS" and "quantize_candidate crashed" in verdict["detail"]
    assert "tiny-llama fp8: ANOMALOUS" in run.output


def test_a_failed_gate_within_a_module_is_no_crash(elsewhere):
    elsewhere.import_it(RELEASE)
    elsewhere.behave({"validate": {"fp8": {"failure_class": "QUANT_COVERAGE_FAILURE"}}})
    run = elsewhere.snakemake("--cores", "2", "day0_verdict")
    verdict = elsewhere.read("tiny-llama/fp8/verdict.json")
    assert verdict["decision"] == "INFEASIBLE", run.output


def test_a_suite_and_a_recipe_of_the_importer_are_found_before_the_projects(elsewhere):
    suites, recipes = (elsewhere.folder / "config" / name for name in ("suites", "recipes"))
    suites.mkdir(parents=True)
    recipes.mkdir()
    suite = yaml.safe_load((elsewhere.project.folder / "config" / "suites" / "demo.yaml").read_text())
    shutil.copytree(elsewhere.project.folder / "config" / "suites" / "demo", suites / "mine")
    (suites / "mine.yaml").write_text(yaml.safe_dump({**suite, "include_path": "config/suites/mine"}))
    (recipes / "mine.yaml").write_text("preset: nvfp4\n")
    releases = [{"model": "tiny-llama", "recipe": "mine", "suite": "mine"}]
    releases += [{"model": "tiny-llama", "recipe": "nvfp4-mlp-fp8-kv", "suite": "demo"}]
    elsewhere.import_it({**RELEASE, "releases": releases})
    run = elsewhere.snakemake("--cores", "2", "day0_verdict")
    assert run.status == 0, run.output
    assert {elsewhere.read(f"tiny-llama/{name}/verdict.json")["suite"] for name in ("mine", "nvfp4-mlp-fp8-kv")} == {
        "mine",
        "demo",
    }


def test_a_mistake_in_the_importers_configuration_is_reported_with_its_place(elsewhere):
    elsewhere.import_it({**RELEASE, "releases": [{"model": "tiny-llama", "recipe": "fp9", "suite": "dem"}]})
    run = elsewhere.snakemake("-n", "--cores", "2")
    assert run.status == 1 and "releases[0].suite: unknown suite 'dem'" in run.output
    assert "unknown recipe 'fp9'" in run.output and "2 mistakes" in run.output
    assert "Traceback" not in run.output and "common.smk" not in run.output  # the mistake is in no rule


def test_a_prefix_for_a_module_is_refused(elsewhere):
    elsewhere.import_it(RELEASE)
    snakefile = elsewhere.folder / "Snakefile"
    snakefile.write_text(snakefile.read_text().replace("    config:", '    prefix: "p"\n    config:', 1))
    run = elsewhere.snakemake("-n", "--cores", "2")
    assert run.status == 1 and "give the run a --directory instead" in run.output


@pytest.mark.parametrize("how", ["-s", "--directory"])
def test_a_release_runs_from_another_folder(elsewhere, how):
    snakefile = str(elsewhere.project.folder / "Snakefile")
    if how == "-s":
        run = elsewhere.snakemake("-s", snakefile, "--cores", "2", "release")
    else:
        run = elsewhere.project.snakemake("--directory", str(elsewhere.folder), "--cores", "2", "release")
    assert run.status == 0, run.output
    assert elsewhere.read("tiny-llama/fp8/verdict.json")["decision"] == "ACCEPT"
    assert not (elsewhere.project.folder / "results").exists()


def test_the_texts_of_the_commands_are_plain_in_the_projects_folder(project):
    """Snakemake compares them with those of finished jobs: a path in them would run every stage again."""
    run = project.snakemake("-n", "-p", "release")
    commands = [line for line in run.output.splitlines() if "scripts/" in line and "Shell command" in line]
    assert len(commands) > 15
    assert not [line for line in commands if str(project.folder) in line or "find_file" in line]
    assert any("--suite config/suites/demo.yaml --serving" in line for line in commands)
