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
def test_shards_are_evaluated_apart_and_decided_together(released, shards, calls):
    whole = released.read("tiny-llama/fp8/comparison.json")
    released.configure(shards=shards, releases=[{"model": "tiny-llama", "recipe": "fp8"}])
    released.configure(quantization={"seed": 7, "calibration": {"dataset": "results/demo/data/calibration.jsonl"}})
    for name in ("baseline", "fp8"):
        (released.folder / f"results/tiny-llama/{name}/demo/results.yml").unlink()
    run = released.snakemake("release")
    assert run.status == 0, run.output
    assert [call for call in released.calls() if call.startswith("evaluate")] == calls
    split = released.read("tiny-llama/fp8/comparison.json")
    assert split["tasks"] == whole["tasks"] and split["decision"] == "ACCEPT"


def test_a_shard_that_fails_fails_the_run(equipped):
    equipped.configure(shards=2)
    equipped.behave({"evaluate": {"baseline 2-of-2": {"failure_class": "DEPLOYMENT_HEALTH_FAILED"}}})
    run = equipped.snakemake("verdict")
    assert run.status == 0, run.output
    verdict = equipped.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "DEPLOYMENT_HEALTH_FAILED")


def test_a_wrong_number_of_shards_is_a_mistake_with_its_place(project):
    project.configure(shards=0)
    run = project.snakemake("-n", "release")
    assert run.status == 1 and "shards" in run.output and "Traceback" not in run.output
