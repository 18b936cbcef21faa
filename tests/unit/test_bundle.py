"""A bundle holds what was accepted, byte for byte, or it is not made."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from day0.artefacts import digest_of_file, digest_of_inventory, inventory, write_json

SCRIPT = Path(__file__).parents[2] / "scripts" / "bundle.py"


@pytest.fixture
def release(tmp_path, monkeypatch):
    """An accepted release, as the graph leaves it."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "m" / "fp8" / "checkpoint"
    (checkpoint / "below").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "below" / "config.json").write_text("{}")
    (checkpoint / ".snakemake_timestamp").write_text("")
    files = inventory(checkpoint)
    record = {
        "files": files,
        "checkpoint_digest": digest_of_inventory(files),
        "versions": {"nvidia-modelopt": "0.47.0"},
        "kv_cache": None,
        "calibration": {"samples": 1, "sequence_length": 2, "dataset": "d.jsonl"},
    }
    write_json("m/fp8/quantization.json", record)
    write_json("m/source.json", {"location": {"path": "models/m"}, "license": "mit", "parameters": 1234567})
    write_json("m/fp8/validation.json", {"layer_precision_counts": {"FP8": 21, "BF16": 2}})
    evidence = {"validation": "m/fp8/validation.json"}
    for run, folder in {"baseline_run": "m/baseline/s", "candidate_run": "m/fp8/s"}.items():
        evidence[run] = f"{folder}/run.json"
        write_json(evidence[run], {"pass": True})
        Path(folder, "results.yml").write_text("results: {}\n")
    Path("m/fp8/report.html").write_text("<p>report</p>")
    verdict = {
        "model": "m",
        "recipe": "fp8",
        "suite": "s",
        "policy": {"threshold": 0.01, "relative": False},
        "decision": "ACCEPT",
        "tasks": {"addition": {"baseline": 1.0, "candidate": 0.995, "drop": 0.005, "limit": 0.01}},
        "size_ratio": 0.5,
        "bits_per_weight": 8.0,
        "evidence": {name: {"path": path, "sha256": digest_of_file(path)} for name, path in evidence.items()},
        "digests": {"checkpoint_digest": record["checkpoint_digest"]},
    }
    write_json("m/fp8/verdict.json", verdict)
    return tmp_path / "m" / "fp8"


def bundle():
    arguments = ["--verdict", "m/fp8/verdict.json", "--checkpoint", "m/fp8/checkpoint", "--output", "m/fp8/release"]
    arguments += ["--record", "m/fp8/quantization.json", "--source-record", "m/source.json"]
    command = [sys.executable, str(SCRIPT), *arguments, "--report", "m/fp8/report.html"]
    return subprocess.run(command, capture_output=True, text=True)


def change_verdict(release, **changes):
    verdict = json.loads((release / "verdict.json").read_text())
    write_json(release / "verdict.json", {**verdict, **changes})


def test_the_bundle_is_whole_and_its_sums_cover_every_file(release):
    done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    folder = release / "release"
    check = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert check.returncode == 0
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
    assert {"README.md", "below/config.json", "evidence/verdict.json", "evidence/baseline_run_results.yml"} <= listed
    assert (folder / "model.safetensors").stat().st_ino == (release / "checkpoint" / "model.safetensors").stat().st_ino


def test_the_model_card_has_the_front_matter_of_the_hub(release):
    bundle()
    _, front, text = (release / "release" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit" and "fp8" in yaml.safe_load(front)["tags"]
    for words in (
        "1,234,567 parameters",
        "50.0 %",
        "21 FP8, 2 BF16",
        "| addition | 1.0000 | 0.9950 | +0.0050 | 0.0100 |",
    ):
        assert words in text, words


def test_a_second_bundle_replaces_the_first_whole(release):
    assert bundle().returncode == 0
    (release / "release" / "leftover").write_text("")
    assert bundle().returncode == 0
    assert not (release / "release" / "leftover").exists()


@pytest.mark.parametrize("decision", ["REGRESSION", "ANOMALOUS", "INFEASIBLE", None, "accept"])
def test_nothing_but_accept_is_bundled(release, decision):
    change_verdict(release, decision=decision)
    done = bundle()
    assert done.returncode == 2 and "only an accepted release is bundled" in done.stderr
    assert not (release / "release").exists()


@pytest.mark.parametrize(
    "path",
    ["checkpoint/model.safetensors", "checkpoint/new.json", "validation.json", "s/run.json", "quantization.json"],
)
def test_what_changed_since_the_verdict_is_named_and_not_bundled(release, path):
    if path == "quantization.json":
        record = json.loads((release / path).read_text())
        write_json(release / path, {**record, "checkpoint_digest": "0"})
    else:
        (release / path).write_text("changed")
    done = bundle()
    assert done.returncode == 1 and Path(path).name in done.stdout, done.stdout + done.stderr
    assert not (release / "release").exists()
