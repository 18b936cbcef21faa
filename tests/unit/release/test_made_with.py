"""What a decision was made with is read from what lies beside its evidence, and nothing breaks where it does not."""

import pytest

from day0.base.artefacts import write_json, write_text, write_yaml
from day0.release.made_with import benchmark_seconds, gather, stamp

HEADER = "s\th:m:s\tmax_rss\n"


def release(folder, baseline_versions=None, server=None):
    versions = {"serve": {"vllm": "1"}, "lm-eval": {"lm_eval": "2"}}
    for side, found in (("fp8", versions), ("baseline", baseline_versions or versions)):
        metadata = {"versions": found, "server": server or {}}
        write_yaml(folder / side / "demo" / "results.yml", {"metadata": metadata})
        write_text(folder / side / "demo" / "evaluate.tsv", f"{HEADER}99\t-\t1\n54.5\t-\t1\n")
    write_json(folder / "fp8" / "quantization.json", {"versions": {"nvidia-modelopt": "0.47.0"}, "gpu": None})
    for name in ("quantize", "compare_runs", "decide_release"):
        write_text(folder / "fp8" / "benchmarks" / f"{name}.tsv", f"{HEADER}2.5\t-\t1\n")
    write_text(folder / "benchmarks" / "describe_source.tsv", "s\n")
    return {
        "preflight_model": folder / "preflight.json",
        "validation": folder / "fp8" / "validation.json",
        "baseline_run": folder / "baseline" / "demo" / "run.json",
        "candidate_run": folder / "fp8" / "demo" / "run.json",
        "comparison": folder / "fp8" / "comparison.json",
    }


def test_versions_durations_and_gpu(tmp_path):
    found = gather(release(tmp_path, server={"gpu": "NVIDIA H100 80GB HBM3"}))
    assert set(found["versions"]) == {"driver", "quantize", "serve", "lm-eval"}
    assert found["versions"]["quantize"] == {"nvidia-modelopt": "0.47.0"}
    assert found["durations"] == {
        "candidate/quantize": 2.5,
        "release/compare_runs": 2.5,
        "baseline/evaluate": 54.5,
        "candidate/evaluate": 54.5,
    }
    assert found["gpu"] == "NVIDIA H100 80GB HBM3"


def test_a_baseline_of_other_versions_is_told_apart(tmp_path):
    found = gather(release(tmp_path, baseline_versions={"serve": {"vllm": "0"}}))["versions"]
    assert (found["serve"], found["baseline serve"]) == ({"vllm": "1"}, {"vllm": "0"})


def test_nothing_beside_the_evidence_leaves_its_part_out(tmp_path):
    found = gather({"validation": tmp_path / "validation.json", "candidate_run": tmp_path / "run.json"})
    assert list(found["versions"]) == ["driver"] and found["durations"] == {} and found["gpu"] is None


@pytest.mark.parametrize("text", ["", "s\n", "s\nx\n", "t\n1\n", "\x00"])
def test_a_benchmark_file_that_says_nothing(tmp_path, text):
    write_text(tmp_path / "a.tsv", text)
    assert benchmark_seconds(tmp_path / "a.tsv") is None


def test_a_stamp_names_the_commit_and_the_time():
    found = stamp()
    assert set(found) == {"git_commit", "created"} and found["created"].endswith("+00:00")
