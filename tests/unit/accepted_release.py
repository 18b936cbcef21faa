"""An accepted release as the graph leaves it, small, with a whole chain of evidence; and its bundle."""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from decision_input import PASSED, VALIDATED, described_source

from day0.base.artefacts import digest_of_file, digest_of_inventory, inventory, write_json, write_text
from day0.statistics.paired import NOTHING

SCRIPT = Path(__file__).parents[2] / "scripts" / "bundle.py"
QUANTIZED = {
    "status": "done",
    "failure_class": None,
    "detail": "",
    "model": "m",
    "duration_seconds": {},
    "peak_memory_bytes": None,
    "peak_gpu_memory_bytes": None,
    "search": None,
    "quantizers": None,
}
STAGES = ("preflight_model", "preflight_recipe", "preflight_suite", "validation", "baseline_run", "candidate_run")


def make_accepted_release(root, files=(), metadata=None):
    """Write the release m/fp8 below a folder, which must be the working directory; returns its folder.

    ``files``: further ones of the checkpoint, names with their content as JSON; ``metadata``: of both results.yml.
    """
    source, checkpoint = root / "models" / "m", root / "m" / "fp8" / "checkpoint"
    (checkpoint / "below").mkdir(parents=True)
    source.mkdir(parents=True)
    (source / "LICENSE").write_text("Do as you like.\n")
    (source / "model.safetensors").write_bytes(b"source weights")
    (checkpoint / "model.safetensors").write_bytes(b"weights" * 300)
    (checkpoint / "below" / "config.json").write_text("{}")
    (checkpoint / ".snakemake_timestamp").write_text("")
    for name, content in dict(files).items():
        write_json(checkpoint / name, content)
    files, source_files = inventory(checkpoint), inventory(source)
    checkpoint_digest, source_digest = digest_of_inventory(files), digest_of_inventory(source_files)
    record = {
        "files": files,
        "checkpoint_digest": checkpoint_digest,
        "source_digest": source_digest,
        "recipe": {"name": "fp8", "kind": "preset", "definition": {"preset": "fp8"}, "digest": "5e" * 32},
        "versions": {"nvidia-modelopt": "0.47.0"},
        "kv_cache": None,
        "calibration": {"samples": 1, "sequence_length": 2, "dataset": "d.jsonl"},
        "seed": 1234,
        "device": "cpu",
        **QUANTIZED,
    }
    write_json("m/fp8/quantization.json", record)
    described = described_source(
        path="models/m", location={"path": "models/m"}, card={"license": "mit"}, parameters=1234567
    )
    write_json("m/source.json", {**described, "files": source_files, "digest": source_digest})
    digests = {"checkpoint_digest": checkpoint_digest, "source_digest": source_digest}
    evidence = {name: f"m/{name}.json" for name in STAGES[:3]}
    for path in evidence.values():
        write_json(path, {"pass": True})
    evidence["validation"] = "m/fp8/validation.json"
    counts = {"layer_precision_counts": {"FP8": 21, "BF16": 2}, "size_ratio": 0.5}
    write_json(evidence["validation"], {**PASSED, **VALIDATED, **counts, **digests})
    served = {"baseline_run": ("m/baseline/s", source_digest), "candidate_run": ("m/fp8/s", checkpoint_digest)}
    for run, (folder, digest) in served.items():
        server = {"engine_version": "0.32.0", "command": "python server --max-model-len 64 --dtype auto"}
        write_text(
            f"{folder}/results.yml",
            yaml.safe_dump({"command": f"evaluate {run}", "metadata": {"server": server, **(metadata or {})}}),
        )
        write_text(f"{folder}/samples/addition.jsonl", '{"id": "0", "score": 1.0}\n')
        evidence[run] = f"{folder}/run.json"
        results = digest_of_file(f"{folder}/results.yml")
        write_json(evidence[run], {"pass": True, "results_digest": results, "checkpoint_digest": digest})
    compared = {f"{side}_sha256": digest_of_file(evidence[f"{side}_run"]) for side in ("baseline", "candidate")}
    evidence["comparison"] = "m/fp8/comparison.json"
    write_json(evidence["comparison"], {"pass": True, **compared})
    write_text("m/fp8/report.html", "<p>report</p>")
    paired = dict.fromkeys(NOTHING) | {"interval": [-0.001, 0.008], "flips": None, "evidence": "conclusive"}
    task = {
        "baseline": 1.0,
        "candidate": 0.995,
        "drop": 0.005,
        "drop_fraction": 0.005,
        "limit": 0.01,
        "within": True,
        "relative_guard": None,
        "scale": {"min": 0, "max": 1},
        "metric": "exact_match",
        "tier": "critical",
        "note": None,
        "paired": {**paired, "sentence": "Conclusive."},
    }
    verdict = {
        "model": "m",
        "release": "fp8",
        "recipe": "fp8",
        "candidate": "fp8",
        "suite": "s",
        "policy": {"threshold": 0.01, "relative": False},
        "decision": "ACCEPT",
        "pass": True,
        "failure_class": None,
        "failure_classes": [],
        "stage": "comparison",
        "detail": "All is well.",
        "next_action": "Publish the release bundle.",
        "evidence_strength": "conclusive",
        "evidence_sentence": "Conclusive.",
        "warnings": [],
        "external": None,
        "baseline_precision": "BF16",
        "tasks": {"addition": task},
        "size_ratio": 0.5,
        "bits_per_weight": 8.0,
        "evidence": {name: {"path": path, "sha256": digest_of_file(path)} for name, path in evidence.items()},
        "digests": digests,
        "git_commit": "0123456789abcdef0123456789abcdef01234567-dirty",
        "created": "2030-01-02T03:04:05+00:00",
    }
    write_json("m/fp8/verdict.json", verdict)
    write_text("d.jsonl", "{}\n")
    return root / "m" / "fp8"


def bundle(*options):
    """Bundle the release of the working directory by the command line."""
    arguments = ["--verdict", "m/fp8/verdict.json", "--checkpoint", "m/fp8/checkpoint", "--output", "m/fp8/release"]
    arguments += ["--record", "m/fp8/quantization.json", "--source-record", "m/source.json", *options]
    command = [sys.executable, str(SCRIPT), *arguments, "--report", "m/fp8/report.html"]
    return subprocess.run(command, capture_output=True, text=True)


def change_verdict(release, **changes):
    """Change keys of the release's verdict."""
    verdict = json.loads((release / "verdict.json").read_text())
    write_json(release / "verdict.json", {**verdict, **changes})
