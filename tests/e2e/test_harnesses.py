"""NeMo Evaluator for real: as a harness against vLLM, and as the reader of what this project writes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from day0.plan.preflight import check_frameworks
from day0.serving.processes import Children
from day0.serving.server import Server, new_key, server_command, server_environment
from day0.suite.suites import load_suite

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
# Run by the interpreter of NeMo Evaluator's environment, on results files: what its own classes make of them.
READ_BACK = """
import json, sys, yaml
from nemo_evaluator.api.api_dataclasses import Evaluation, EvaluationConfig, EvaluationResult, EvaluationTarget
for path in sys.argv[1:]:
    content = yaml.safe_load(open(path))
    whole = Evaluation(
        command=content["command"], framework_name="day0", pkg_name="day0",
        config=EvaluationConfig(**content["config"]), target=EvaluationTarget(**content["target"]),
    )
    read = EvaluationResult(**content["results"]).model_dump(exclude_none=True)
    endpoint = whole.target.api_endpoint
    print(json.dumps({"tasks": read["tasks"], "model": endpoint.model_id, "type": endpoint.type, "url": endpoint.url}))
"""


def nemo_python(workspace):
    return str(workspace.folder / ".envs" / "nemo-evaluator" / "bin" / "python")


def samples(workspace, path):
    return [json.loads(line) for line in workspace.path(path).read_text().splitlines()]


def test_results_are_read_back_by_nemo_evaluators_own_classes(workspace):
    files = [workspace.path(f"tiny-llama/{candidate}/demo/results.yml") for candidate in ("baseline", "fp8")]
    done = subprocess.run(
        [nemo_python(workspace), "-c", READ_BACK, *map(str, files)], capture_output=True, text=True, check=True
    )
    read = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(read) == 2
    for file, found in zip(files, read, strict=True):
        written = yaml.safe_load(file.read_text())
        assert found["tasks"] == written["results"]["tasks"]
        assert sorted(found["tasks"]) == ["addition", "reversal", "sorting"]
        assert found["tasks"]["addition"]["metrics"]["exact_match"]["scores"]["exact_match"]["stats"]["count"] == 1000
        assert (found["model"], found["type"]) == ("tiny-llama", "completions")
        assert found["url"].startswith("http://127.0.0.1:")


def test_a_release_evaluated_by_nemo_evaluator_says_what_lm_eval_says(workspace):
    status, output = workspace.snakemake("verdict", "--configfile", "config/examples/nemo-evaluator.yaml")
    assert status == 0, output[-5000:]
    verdict = workspace.read("tiny-llama/fp8-nemo-evaluator/verdict.json")
    assert (verdict["decision"], verdict["failure_class"]) == ("ACCEPT", None), verdict["detail"]
    for candidate in ("baseline", "fp8"):
        folder = f"tiny-llama/{candidate}/demo-nemo-evaluator"
        metadata = yaml.safe_load(workspace.path(f"{folder}/results.yml").read_text())["metadata"]
        for task, limit in (("addition", 300), ("sorting", 300)):
            asked = samples(workspace, f"{folder}/samples/{task}.jsonl")
            by_lm_eval = samples(workspace, f"tiny-llama/{candidate}/demo/samples/{task}.jsonl")[:limit]
            for key in ("id", "prompt_digest", "target_digest", "answer", "score", "finish_reason"):
                assert [line[key] for line in asked] == [line[key] for line in by_lm_eval], (candidate, task, key)
            counts = metadata["accounting"][task]
            assert counts["expected"] == counts["asked"] == counts["answered"] == counts["scored"] == limit
            assert (counts["cut"], counts["failed"]) == (0, 0)
            requests = metadata["requests"][task]
            assert requests["asked"] == requests["answered"] == limit * (4 if task == "sorting" else 1)
        harness = metadata["fingerprint"]["addition"]["harness"]
        assert harness.startswith("nemo-evaluator 0.2.8 (lm-evaluation-harness "), harness


def test_what_was_answered_is_not_asked_again_and_a_dead_server_is_no_result(workspace, tmp_path):
    suite = load_suite("demo-nemo-evaluator", ROOT / "config" / "suites").model_dump(mode="json")
    key, children = new_key(), Children()
    python, model = str(workspace.folder / ".envs/serve.cpu/bin/python"), str(workspace.path("demo/model"))
    server = Server(
        children,
        server_command(python, model, "tiny-llama", suite, {}, True),
        server_environment(os.environ, {}, True, key),
        tmp_path / "server.log",
    )
    job = {
        **suite["tasks"]["addition"],
        **{name: suite[name] for name in ("include_path", "seed", "generation", "context_length", "concurrency")},
        "system_prompt": None,
        "apply_chat_template": False,
        "documents": 0,
        "served_name": "tiny-llama",
        "tokenizer": model,
        "trust_remote_code": False,
        "shard": None,
        "max_attempts": 1,
        "request_timeout_seconds": 60,
        "output": str(tmp_path / "outcome.json"),
        "cache": str(tmp_path / "cache.jsonl"),
    }

    def ask(base_url, **changes):
        lines = "".join(json.dumps(line) + "\n" for line in ({**job, **changes}, {"base_url": base_url}))
        done = subprocess.run(
            [nemo_python(workspace), str(ROOT / "scripts" / "harness_nemo_evaluator.py")],
            input=lines,
            cwd=workspace.folder,
            env=dict(os.environ, OPENAI_API_KEY=key, HF_DATASETS_CACHE=str(tmp_path / "data")),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert key not in done.stdout + done.stderr
        assert all(json.loads(line)["event"] in ("loaded", "progress", "done") for line in done.stdout.splitlines())
        return json.loads((tmp_path / "outcome.json").read_text())

    try:
        server.wait(600)
        first = ask(server.base_url, limit=10)
        more = ask(server.base_url, limit=25)
        base_url = server.base_url
    finally:
        children.stop_all()
    assert (first["status"], first["requests"]["asked"], first["requests"]["from_store"]) == ("COMPLETED", 10, 0)
    assert (more["status"], more["requests"]["asked"], more["requests"]["from_store"]) == ("COMPLETED", 15, 10)
    assert more["samples"][:10] == first["samples"] and len(more["samples"]) == 25
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert not stored, "the key lies in a file"
    dead = ask(base_url, limit=26)
    assert (dead["status"], dead["error_kind"]) == ("FAILED", "requests"), dead
    assert "values" not in dead


# Run by the interpreter of lm-eval's environment: what it knows of tasks, with everything that they include.
KNOWN_TASKS = """
import json, sys
from lm_eval.tasks import TaskManager
index = TaskManager().task_index
print(json.dumps({name: index[name].cfg if name in index else None for name in sys.argv[1:]}, default=str))
"""


def test_the_tasks_of_every_suite_have_their_scores_in_the_installed_harness(workspace):
    tasks = {}
    for file in sorted((ROOT / "config" / "suites").glob("*.yaml")):
        suite = load_suite(file.stem, file.parent)
        if suite.include_path is None:
            tasks |= {(file.stem, name): task for name, task in suite.tasks.items() if task.harness == "lm-eval"}
    assert len(tasks) >= 15
    python = str(workspace.folder / ".envs" / "lm-eval" / "bin" / "python")
    names = sorted({task.task for task in tasks.values()})
    done = subprocess.run([python, "-c", KNOWN_TASKS, *names], capture_output=True, text=True, check=True)
    known = json.loads(done.stdout.splitlines()[-1])
    for place, task in tasks.items():
        settings = known[task.task]
        assert settings is not None, f"{place}: lm-eval has no task {task.task}"
        metric, _, filter_name = task.metric.partition(",")
        if "group" in settings:
            scores = {(entry["metric"], entry["filter_list"]) for entry in settings["aggregate_metric_list"]}
            assert (metric, filter_name) in scores, (place, scores)
            continue
        assert filter_name in {entry["name"] for entry in settings.get("filter_list") or [{"name": "none"}]}, place
        metrics = {entry["metric"] for entry in settings["metric_list"]}
        # A function's own name ends its path; this one names its scores by their k.
        functions = {entry.rpartition(".")[2].replace("pass_at_k", "pass@1") for entry in metrics}
        assert metric in metrics | functions, (place, metrics)
        assert bool(settings.get("unsafe_code")) is task.runs_generated_code, place


def test_a_framework_that_is_not_installed_is_found_before_anything_is_served(workspace):
    tasks = ["lm-evaluation-harness.demo_addition", "simple_evals.AIME_2025_aa_v2", "nemo_skills.ns_gpqa"]
    check = check_frameworks(Path(nemo_python(workspace)), tasks)
    assert check.failure_class == "USER_CONFIG_ERROR"
    assert "add nvidia-simple-evals to envs/nemo-evaluator.in" in check.detail and "'nemo_skills'" in check.detail
    assert check_frameworks(Path(nemo_python(workspace)), tasks[:1]).failure_class is None
