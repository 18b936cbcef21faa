"""A checkpoint that was made elsewhere stands in for one that would be quantized, through all stages to the bundle."""

import os
import shutil

import pytest

RELEASE = {"model": "tiny-llama", "recipe": "unknown", "name": "awq", "checkpoint": "elsewhere"}


@pytest.fixture
def made(equipped):
    """A project with one release, of a checkpoint in elsewhere/."""
    folder = equipped.folder / "elsewhere"
    shutil.copytree(equipped.folder / "results/demo/model", folder)
    equipped.configure(releases=[RELEASE])
    return equipped


def change(file, keep_time=False):
    """Replace the last byte of a file, and where asked its time by the old one."""
    state, content = file.stat(), file.read_bytes()
    new = file.with_name("new")
    new.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if keep_time:
        os.utime(new, ns=(state.st_atime_ns, state.st_mtime_ns))
    os.replace(new, file)


def test_nothing_is_quantized_and_the_release_is_decided_and_bundled(made):
    jobs = made.snakemake("-n", "release").jobs()
    assert jobs["import_checkpoint"] == 1 and "quantize_candidate" not in jobs
    run = made.snakemake("release")
    assert run.status == 0, run.output
    assert not [call for call in made.calls() if call.startswith("quantize")]
    verdict = made.read("tiny-llama/awq/verdict.json")
    assert (verdict["decision"], verdict["recipe"]) == ("ACCEPT", "unknown")
    record = made.read("tiny-llama/awq/quantization.json")
    assert (record["recipe"]["kind"], record["calibration"], record["seed"]) == ("imported", None, None)
    bundle = made.folder / "results/tiny-llama/awq/release"
    assert (bundle / "model.safetensors").read_bytes() == (made.folder / "elsewhere/model.safetensors").read_bytes()
    assert not (bundle / "model.safetensors").is_symlink()
    card = (bundle / "README.md").read_text()
    assert "# tiny-llama, quantized\n" in card and "| calibration | not known |" in card
    assert made.snakemake("-n", "release").jobs().keys() <= {"release"}


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_checkpoint_that_changes_is_imported_and_evaluated_again(made, keep_time):
    assert made.snakemake("release").status == 0
    made.calls()
    change(made.folder / "elsewhere/model.safetensors", keep_time)
    run = made.snakemake("release")
    assert run.status == 0, run.output
    calls = made.calls()
    assert "evaluate awq" in calls and "evaluate baseline" not in calls
    assert run.jobs()["import_checkpoint"] == run.jobs()["bundle_release"] == 1


def test_a_checkpoint_that_is_not_there_is_refused_at_planning(made):
    made.configure(releases=[RELEASE | {"checkpoint": "nowhere"}])
    run = made.snakemake("-n", "release")
    assert run.status == 1 and "releases[0].checkpoint: found no folder nowhere" in run.output


def test_no_environment_of_quantizing_is_built_for_it(project):
    shutil.copytree(project.folder / "config", project.folder / "elsewhere")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (project.folder / "elsewhere" / name).write_text("{}")
    shutil.copytree(project.folder / "elsewhere", project.folder / "source")
    project.configure(releases=[RELEASE], models={"tiny-llama": {"path": "source"}})
    run = project.snakemake("-n", "release")
    assert run.status == 0, run.output
    assert "envs/quantize" not in run.output and "environment: quantize" not in run.output
