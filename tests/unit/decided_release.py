"""Releases of all four decisions, as the graph leaves them: real run folders, and the comparison of gate_compare.py."""

import contextlib
import io
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import gate_compare
import index
import report
from day0.base.artefacts import digest_of_file, read_json, write_json, write_text, write_yaml
from day0.base.cli import run_cli
from day0.decision.failures import decide

TASKS = ("addition", "reversal", "sorting")
DIGEST = "5f2c9f1f0b8a4e6d9c3b7a1e2d4f6081" * 2


def write_run(folder: Path, candidate: str, errors: dict[str, int], seed: int, samples: int = 1000) -> None:
    """A run folder as the evaluate and assess stages leave it, with that many wrong answers per task."""
    scores, accounting = {}, {}
    for task in TASKS:
        wrong = set(random.Random(f"{seed}{task}").sample(range(samples), errors[task]))
        rows = [
            {
                "id": number,
                "repeat": 0,
                "prompt_digest": f"{task}{number}",
                "target_digest": f"t{number}",
                "answer": f"{number * 7 % 199 + (number in wrong)}",
                "score": float(number not in wrong),
                "finish_reason": "stop",
            }
            for number in range(samples)
        ]
        write_text(folder / "samples" / f"{task}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        scores[task] = {
            "metric": "acc" if task == "sorting" else "exact_match",
            "score": 1 - errors[task] / samples,
            "stderr": 0.002,
            "samples": samples,
            "scale": {"min": 0, "max": 1, "direction": "higher"},
            "tier": "advisory" if task == "sorting" else "critical",
        }
        accounting[task] = {"expected": samples, "asked": samples, "answered": samples, "scored": samples}
        accounting[task] |= {"empty": 0, "cut": 0, "unparsed": 0, "failed": 0}
    versions = {"serve": {"vllm": "0.32.0"}, "harness": {"lm-eval": "0.4.13"}}
    metadata = {
        "status": "COMPLETED",
        "model": "tiny",
        "suite": "demo",
        "suite_digest": DIGEST,
        "accounting": accounting,
        "fingerprint": {task: {"task_hash": task, "seed": 1234, "engine": {"name": "vllm"}} for task in TASKS},
        "server": {"engine": "vllm", "engine_version": "0.32.0", "device": "cpu", "quantization": candidate},
        "versions": versions,
    }
    write_yaml(folder / "results.yml", {"results": {"groups": {}, "tasks": {}}, "metadata": metadata})
    write_text(folder / "evaluate.tsv", "s\th:m:s\tmax_rss\tmax_vms\n61.2031\t0:01:01\t2210.50\t9000.1\n")
    write_json(
        folder / "run.json",
        {
            "pass": True,
            "failure_class": None,
            "detail": f"All {3 * samples:,} samples were asked, answered and scored.",
            "model": "tiny",
            "candidate": candidate,
            "suite": "demo",
            "scores": scores,
        },
    )


def run_script(name: str, *arguments: object) -> SimpleNamespace:
    """Run a script's command line in this process, which spares its imports."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        run_cli({"report.py": report.main, "gate_compare.py": gate_compare.main, "index.py": index.main}[name])
    return SimpleNamespace(returncode=ended.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def make_release(root: Path, decision: str) -> Path:
    """Evidence and verdict.json of a release that ends in this decision; the comparison is made by gate_compare.py."""
    base, folder = root / "tiny" / "baseline" / "demo", root / "tiny" / "nvfp4"
    release, validation, evidence = folder / "verdict.json", folder / "validation.json", {}
    covered = decision != "INFEASIBLE"
    write_json(
        validation,
        {
            "pass": covered,
            "failure_class": None if covered else "QUANT_COVERAGE_FAILURE",
            "detail": "21 of 21 matched layers are NVFP4; 0.297 of the source's bytes."
            if covered
            else "0 of 21 matched layers are quantized: the pattern '*.q_projection*' matches no layer.",
            "source_bytes": 1_150_000,
            "output_bytes": 341_000,
            "size_ratio": 0.297,
            "bits_per_weight": 4.74,
            "layer_precision_counts": {"NVFP4": 21, "BF16": 9} if covered else {"BF16": 30},
            "checks": [
                {"name": "coverage", "pass": covered, "detail": "layers the recipe asks for"},
                {"name": "size", "pass": True, "detail": "0.297 of the source, at most 0.9"},
            ],
            "offenders": [] if covered else ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"],
        },
    )
    write_json(
        folder / "quantization.json",
        {
            "status": "done",
            "detail": "",
            "recipe": {"name": "nvfp4", "kind": "preset", "definition": {}},
            "calibration": {"samples": 256, "batch_size": 32},
            "kv_cache": None,
            "device": "cpu",
            "versions": {"torch": "2.13.0+cpu", "nvidia-modelopt": "0.47.0"},
            "quantizers": {"enabled": 42, "disabled": 84, "summary": []},
        },
    )
    write_text(folder / "benchmarks" / "quantize.tsv", "s\th:m:s\tmax_rss\n18.4\t0:00:18\t1400.2\n")
    evidence["validation"] = validation
    assessment = {"pass": False, **read_json(validation)}
    stage = "validation"
    if covered:
        errors = {"addition": 4, "reversal": 0, "sorting": 1}
        worse = {"ACCEPT": 6, "REGRESSION": 31, "ANOMALOUS": 4}[decision]
        write_run(base, "baseline", errors, seed=1)
        write_run(folder / "demo", "nvfp4", errors | {"addition": worse, "sorting": 21}, seed=2)
        if decision == "ANOMALOUS":
            samples = folder / "demo" / "samples" / "reversal.jsonl"
            write_text(samples, "".join(samples.read_text().splitlines(keepends=True)[:-17]))
        comparison = folder / "comparison.json"
        done = run_script(
            "gate_compare.py", "--baseline", base, "--candidate", folder / "demo", "--policy",
            '{"threshold": 0.01, "relative": false}', "--assess", "--output", comparison,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assessment, stage = read_json(comparison), "comparison"
        evidence |= {"baseline_run": base / "run.json", "candidate_run": folder / "demo" / "run.json"}
        evidence |= {"comparison": comparison}
    found, next_action = decide(assessment["failure_class"], stage, assessment["pass"])
    assert found == decision
    write_json(
        release,
        {
            "release": "nvfp4",
            "model": "tiny",
            "recipe": "nvfp4",
            "candidate": "nvfp4",
            "suite": "demo",
            "policy": {"threshold": 0.01, "relative": False},
            "decision": found,
            "failure_class": assessment["failure_class"],
            "stage": stage,
            "detail": assessment["detail"],
            "next_action": next_action,
            "size_ratio": 0.297,
            "bits_per_weight": 4.74,
            "tasks": assessment.get("tasks", {}),
            "evidence": {name: {"path": str(path), "sha256": digest_of_file(path)} for name, path in evidence.items()},
            "digests": {"source_digest": DIGEST, "checkpoint_digest": DIGEST[::-1]},
            "versions": {"driver": {"python": "3.11.7"}, "harness": {"lm-eval": "0.4.13"}},
            "git_commit": "1c7d2be0aa31",
            "created": "2030-01-02T03:04:05+00:00",
        },
    )
    return release
