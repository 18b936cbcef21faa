"""A run in shards: a job with a server each, one result, and the same decision as of a whole run."""

import pytest


@pytest.mark.parametrize(
    ("shards", "calls"),
    [
        (2, ["evaluate baseline 1-of-2", "evaluate baseline 2-of-2", "evaluate fp8 1-of-2", "evaluate fp8 2-of-2"]),
        (
            "per-task",
            [f"evaluate {side} {task}" for side in ("baseline", "fp8") for task in ("addition", "reversal", "sorting")],
        ),
    ],
)
def test_shards_are_evaluated_apart_and_decided_together(project, shards, calls):
    run = project.snakemake("release")
    assert run.status == 0, run.output
    whole = project.read("tiny-llama/fp8/comparison.json")
    project.calls()
    project.configure(shards=shards)
    project.configure(quantization={"seed": 7, "calibration": {"dataset": "results/demo/data/calibration.jsonl"}})
    for name in ("baseline", "fp8"):
        (project.folder / f"results/tiny-llama/{name}/demo/results.yml").unlink()
    run = project.snakemake("release")
    assert run.status == 0, run.output
    assert [call for call in project.calls() if call.startswith("evaluate")] == calls
    split = project.read("tiny-llama/fp8/comparison.json")
    assert split["tasks"] == whole["tasks"] and split["decision"] == "ACCEPT"


def test_a_shard_that_fails_fails_the_run(project):
    project.configure(shards=2)
    project.behave({"evaluate": {"baseline 2-of-2": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}})
    run = project.snakemake("verdict")
    assert run.status == 0, run.output
    verdict = project.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "DEPLOYMENT_HEALTH_FAILED")


def test_a_wrong_number_of_shards_is_a_mistake_with_its_place(project):
    project.configure(shards=0)
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "shards" in run.output and "Traceback" not in run.output
