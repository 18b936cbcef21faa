"""A search for a recipe on a real Slurm: rungs are checkpoints, whose candidates are jobs side by side."""

import pytest

from slurm_cluster import Driver, jobs_of

pytestmark = pytest.mark.slurm
RECIPES = {
    "four": {"preset": "w4a8_nvfp4_fp8"},
    "weights": {"preset": "w4a16_nvfp4"},
    "eight": {"preset": "int8"},
}


def test_a_search_of_two_candidates_a_rung_ends_with_the_bundle_of_its_winner(cluster, project):
    """The first rung asks four and eight, each of which waits until the other is quantized, the next one weights."""
    budget = {"candidates": 3, "decisions": 3, "parallel": 2, "rungs": 3}
    search = {"objective": "size", "space": list(RECIPES), "budget": budget}
    project.configure(
        recipes=RECIPES,
        releases=[{"model": "tiny-llama", "name": "smallest", "search": search}],
        defaults={"suite": "demo", "threshold": 0.01, "expected_disagreement_rate": 0.01},
    )
    waits = {
        name: {"waits_for": [f"results/tiny-llama/{other}/logs/quantize.log"]}
        for name, other in (("four", "eight"), ("eight", "four"))
    }
    project.behave({"quantize": waits, "evaluate": {"four": {"scores": {"addition": 0.8}}}})
    driver = Driver(cluster, project.folder, "release")
    assert driver.wait(900) == 0, driver.output[-8000:]

    found = project.read("tiny-llama/smallest/search/search.json")
    rungs = [sorted(one["name"] for one in rung["asked"]) for rung in found["rungs"]]
    assert (found["winner"], rungs) == ("weights", [["eight", "four"], ["weights"], []])
    verdict = project.read("tiny-llama/smallest/verdict.json")
    assert (verdict["decision"], verdict["candidate"]) == ("ACCEPT", "weights")
    assert project.exists("tiny-llama/smallest/release/SHA256SUMS")
    for rule, name in (("quantize_candidate", "four"), ("quantize_candidate", "weights")):
        (job,) = jobs_of(cluster, project, f"{rule}:tiny-llama/{name}")
        assert job["state"] == "COMPLETED"
    # A job builds the graph anew, and must find the winner's checkpoint through all rungs.
    (bundle,) = jobs_of(cluster, project, "bundle_release:tiny-llama/smallest")
    assert bundle["state"] == "COMPLETED"
    bundled = project.read("tiny-llama/smallest/release/evidence/search.json")
    assert bundled["winner"] == "weights" and project.exists("tiny-llama/smallest/release/model.safetensors")
