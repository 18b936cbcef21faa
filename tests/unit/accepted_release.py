"""An accepted release as the graph leaves it, small.

The runs, the comparison and the decision are made by the stages' own code. Only
the checkpoint, its validation and the preflights are written by hand.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from decision_input import PASSED, SUITE_REQUEST, VALIDATED, described_source
from measured_speed import speed_of

import bundle as bundle_script
import decide
import gate_compare
import gate_run
from day0.base.artefacts import (
    digest_of,
    digest_of_inventory,
    inventory,
    read_json,
    read_yaml,
    write_json,
    write_text,
    write_yaml,
)
from day0.base.cli import run_cli
from day0.evaluation.run_folder import write_run
from day0.records.part import Part
from day0.records.results import RunIdentity, ServerFacts, Timing
from day0.suite.suites import read_suite

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
RECIPE = {"name": "fp8", "kind": "preset", "definition": {"preset": "fp8"}, "digest": "5e" * 32}
PREFLIGHTS = {
    "preflight_model": ("m/preflight.json", {"model": "m"}),
    "preflight_recipe": ("m/fp8/preflight.json", {"model": "m", "candidate": "fp8", "checkpoint": "x"}),
    "preflight_suite": ("m/baseline/s/preflight.json", SUITE_REQUEST | {"suite": "s"}),
}
SUITE = Path("config/suites/s.yaml")
REQUEST = {
    "name": "fp8",
    "model": "m",
    "recipe": "fp8",
    "candidate": "fp8",
    "suite": "s",
    "policy": {"threshold": 0.01, "criterion": "point", "tiers": {"addition": "critical"}},
}
SAMPLES = 400
COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"
FILES = {
    "config.json": '{"model_type": "llama"}',
    "tokenizer.json": "{}",
    "model.safetensors": "weights" * 300,
    "below/vocab.txt": "a",
}


def make_accepted_release(root, files=None, metadata=None, rates=None, policy=None, **recorded):
    """Write the release m/fp8 below a folder, which must be the working directory; returns its folder.

    Args:
        files: further ones of the checkpoint, names with their content as JSON.
        metadata: of both results.yml, above what the stage writes.
        rates: output tokens per second of both sides' servers, a list for each; None: they were not put under load.
        policy: keys of the release's, above those of REQUEST.
        recorded: keys of quantization.json.
    """
    source, checkpoint = root / "models" / "m", root / "m" / "fp8" / "checkpoint"
    write_text(source / "LICENSE", "Do as you like.\n")
    (source / "model.safetensors").write_bytes(b"source weights")
    for name, text in FILES.items():
        write_text(checkpoint / name, text)
    (checkpoint / ".snakemake_timestamp").write_text("")
    for name, content in (files or {}).items():
        write_json(checkpoint / name, content)
    files, source_files = inventory(checkpoint), inventory(source)
    checkpoint_digest, source_digest = digest_of_inventory(files), digest_of_inventory(source_files)
    record = {
        "files": files,
        "checkpoint_digest": checkpoint_digest,
        "source_digest": source_digest,
        "recipe": RECIPE,
        "versions": {"nvidia-modelopt": "0.47.0"},
        "kv_cache": None,
        "calibration": {"samples": 1, "sequence_length": 2, "dataset": "d.jsonl"},
        "seed": 1234,
        "device": "cpu",
        **QUANTIZED,
        **recorded,
    }
    write_json("m/fp8/quantization.json", record)
    described = described_source(
        path="models/m", location={"path": "models/m"}, card={"license": "mit"}, parameters=1234567
    )
    write_json("m/source.json", {**described, "files": source_files, "digest": source_digest})
    for path, request in PREFLIGHTS.values():
        write_json(path, {**PASSED, "checks": [], "request": request})
    counts = {"layer_precision_counts": {"FP8": 21, "BF16": 2}, "size_ratio": 0.5}
    digests = {"checkpoint_digest": checkpoint_digest, "source_digest": source_digest}
    write_json("m/fp8/validation.json", {**PASSED, **VALIDATED, **counts, **digests})
    task = {"task": "addition", "metric": "exact_match,none", "samples": SAMPLES}
    write_yaml(
        SUITE, {"description": "s", "context_length": 64, "canary": {"prompt": "x"}, "tasks": {"addition": task}}
    )
    old, new = rates or (None, None)
    run("baseline", source_digest, SAMPLES, metadata, rates=old)
    run("fp8", checkpoint_digest, SAMPLES - 2, metadata, rates=new)
    write_text("d.jsonl", "{}\n")
    changes = {"policy": REQUEST["policy"] | policy} if policy else {}
    decide_again(recipe=record["recipe"]["name"], **changes)
    write_text("m/fp8/report.html", "<p>report</p>")
    return root / "m" / "fp8"


def run(candidate, checkpoint_digest, correct, metadata=None, suite=SUITE, rates=None):
    """Write a run as the evaluate stage does, with so many right answers, and assess it; returns its folder."""
    folder = Path("m", candidate, suite.stem)
    samples = [
        {
            "id": str(number),
            "repeat": 0,
            "prompt_digest": f"prompt {number}",
            "target_digest": f"target {number}",
            "document_digest": f"document {number}",
            "answer": f"{number * 7 % 199} {number < correct}",
            "score": float(number < correct),
            "finish_reason": "stop",
            "generated": True,
        }
        for number in range(SAMPLES)
    ]
    outcome = {
        "status": "COMPLETED",
        "documents": SAMPLES,
        "values": [correct / SAMPLES],
        "samples": samples,
        "requests": {"asked": SAMPLES, "answered": SAMPLES},
        "harness_version": "0",
    }
    server = ServerFacts(
        engine="vllm",
        engine_version="0.32.0",
        served="",
        image=None,
        device_name=None,
        gpu=None,
        chat_template_digest=None,
        max_model_len=64,
        options_digest="0" * 64,
        command="python server --max-model-len 64 --dtype auto",
    )
    identity = RunIdentity(model="m", candidate=candidate, suite=suite.stem, checkpoint_digest=checkpoint_digest)
    part = Part(
        identity=identity,
        shard=None,
        tasks=["addition"],
        failure=None,
        outcomes={"addition": outcome},
        server=server,
        canary=None,
        incidents=[],
        timing=Timing(server_start_seconds=None, canary_seconds=None, tasks={}, total_seconds=None),
        attempts=[],
        versions={},
        endpoint_url="",
        speed=speed_of(*rates, identity=identity) if rates else None,
    )
    side = "baseline" if candidate == "baseline" else "candidate"
    write_run(folder, read_suite(suite), [part], f"evaluate {side}_run")
    if metadata:
        content = read_yaml(folder / "results.yml")
        write_yaml(folder / "results.yml", content | {"metadata": content["metadata"] | metadata})
    digest = digest_of(candidate)
    by_hand(gate_run, "--run", folder, "--suite", suite, "--definition-digest", digest, "--output", folder / "run.json")
    return folder


def compare_again(policy=None):
    """Compare the runs as the graph does."""
    sides = [
        "--baseline",
        "m/baseline/s/run.json",
        "--candidate",
        "m/fp8/s/run.json",
        "--source-record",
        "m/source.json",
    ]
    policy = json.dumps(policy or REQUEST["policy"])
    options = ["--external", '{"scores": []}', "--assess", "--output", "m/fp8/comparison.json"]
    return by_hand(gate_compare, *sides, "--policy", policy, *options)


def decide_again(**changes):
    """Compare and decide as the graph does; ``changes`` replace keys of the release."""
    assert compare_again(changes.get("policy")).returncode == 0
    return decide_on(**changes)


def decide_on(**changes):
    """Decide on the comparison that lies there; returns the verdict."""
    evidence = {name: path for name, (path, _) in PREFLIGHTS.items()}
    evidence |= {"validation": "m/fp8/validation.json", "baseline_run": "m/baseline/s/run.json"}
    evidence |= {"candidate_run": "m/fp8/s/run.json", "comparison": "m/fp8/comparison.json"}
    arguments = ["--release", json.dumps(REQUEST | changes), "--evidence", json.dumps(evidence)]
    done = by_hand(decide, *arguments, "--output", "m/fp8/verdict.json")
    assert done.returncode == 0, done.stderr
    stamped = {"git_commit": COMMIT, "created": "2030-01-02T03:04:05+00:00"}
    write_json("m/fp8/verdict.json", read_json("m/fp8/verdict.json") | stamped)
    return read_json("m/fp8/verdict.json")


def by_hand(script, *arguments):
    """Run a script's command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        run_cli(script.main)
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def bundle(*options, **changes):
    """Bundle the release of the working directory by the command line; ``changes`` replace keys of the release."""
    arguments = ["--verdict", "m/fp8/verdict.json", "--checkpoint", "m/fp8/checkpoint", "--output", "m/fp8/release"]
    arguments += ["--record", "m/fp8/quantization.json", "--source-record", "m/source.json", *options]
    arguments += ["--report", "m/fp8/report.html", "--suite", SUITE, "--release", json.dumps(REQUEST | changes)]
    return by_hand(bundle_script, *arguments)


def make_bundled_release(folder):
    """The same with its bundle, below a folder that need not be the working directory; returns the release's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        made = make_accepted_release(folder)
        done = bundle()
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def change_verdict(release, **changes):
    """Change keys of the release's verdict, as nobody should."""
    verdict = json.loads((release / "verdict.json").read_text())
    write_json(release / "verdict.json", {**verdict, **changes})
