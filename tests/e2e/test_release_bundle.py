"""The real bundle in its receiver's hands, and the real MLflow."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from google.protobuf import json_format
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

pytestmark = pytest.mark.e2e
READ_RUN = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
run = client.get_run(sys.argv[2])
files = [entry.path for entry in client.list_artifacts(run.info.run_id)]
files += [entry.path for entry in client.list_artifacts(run.info.run_id, "evidence/comparison")]
content = {"params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags, "files": files}
experiment = client.get_experiment(run.info.experiment_id).name
print(json.dumps({**content, "status": run.info.status, "experiment": experiment}))
"""


def verify(workspace, folder):
    command = [sys.executable, "-I", "-S", str(workspace.folder / "scripts" / "verify_release.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_real_bundle_is_sound_and_one_changed_weight_is_seen(workspace, tmp_path):
    bundle = workspace.path("tiny-llama/fp8/release")
    done = verify(workspace, bundle)
    assert done.returncode == 0 and "sound" in done.stdout, done.stdout
    copy = shutil.copytree(bundle, tmp_path / "copy")
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 4
    weights.write_bytes(content)
    done = verify(workspace, copy)
    assert done.returncode == 1 and "model.safetensors: changed" in done.stdout


def test_card_and_provenance_are_of_the_published_forms(workspace):
    bundle = workspace.path("tiny-llama/fp8/release")
    card = ModelCard.load(bundle / "README.md")
    scores = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    verdict = workspace.read("tiny-llama/fp8/verdict.json")
    assert scores == {task: entry["candidate"] for task, entry in verdict["tasks"].items()}
    assert "vllm serve PATH_OF_THIS_FOLDER --max-model-len" in card.text
    statement = json.loads((bundle / "provenance.json").read_text())
    Statement.copy_from_pb(json_format.ParseDict(statement, StatementMessage())).validate()
    predicate = json_format.ParseDict(statement["predicate"], Provenance())
    names = {entry.name for entry in predicate.build_definition.resolved_dependencies}
    expected = {"source/model.safetensors", "recipe fp8", "config/suites/demo.yaml", "envs/quantize.cpu.lock"}
    assert expected | {"results/demo/data/calibration.jsonl", "envs/serve.cpu.lock", "envs/lm-eval.lock"} <= names
    commands = predicate.build_definition.internal_parameters["commands"]
    assert "vllm" in commands["candidate_run, serve"]


@pytest.mark.parametrize("uri", ["sqlite:///tracking/mlflow.db", "tracking/runs"])
def test_a_release_is_logged_with_mlflow_and_its_verdict_names_the_run(workspace, uri):
    setting = f'mlflow={{tracking_uri: "{uri}", experiment: releases}}'
    (workspace.folder / "tracking").mkdir(exist_ok=True)
    status, output = workspace.snakemake("release", "--config", setting)
    assert status == 0 and "evaluate_run" not in output.split("Job stats")[-1].split("Reasons")[0], output
    logged = workspace.read("tiny-llama/fp8/verdict.json")["mlflow"]
    assert logged["status"] == "logged", logged
    command = [".envs/mlflow/bin/python", "-c", READ_RUN, uri, logged["run_id"]]
    environment = os.environ | {"MLFLOW_ALLOW_FILE_STORE": "true"}
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout.splitlines()[-1])
    assert (run["status"], run["experiment"], run["tags"]["day0.decision"]) == ("FINISHED", "releases", "ACCEPT")
    assert run["params"]["recipe"] == "fp8" and run["metrics"]["addition/candidate"] >= 0.99
    assert {"verdict.json", "report.html", "evidence", "evidence/comparison/comparison.json"} <= set(run["files"])
    assert logged["run_id"] in workspace.path("tiny-llama/fp8/report.html").read_text()
