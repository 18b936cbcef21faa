"""What jobs ask for, how they are named, and what Slurm's words about them mean."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from day0.base.cli import EXIT_TRANSIENT, UnusableInput
from day0.cluster.jobs import (
    ENDED,
    LIVE_STATES,
    base_state,
    has_ended,
    job_comment,
    job_name,
    state_from_log,
    status_in_log,
)
from day0.cluster.resources import (
    GB,
    evaluate_memory_mb,
    grown_memory,
    quantize_gpus,
    quantize_memory_mb,
    reading_minutes,
)
from day0.plan.check import make_plan
from day0.plan.config import Containers
from day0.records.attempt import Attempt, next_action_after
from day0.serving.container import NAMES_VARIABLE
from day0.serving.multinode import serving_gpus
from wrap_image import make_launcher

ROOT = Path(__file__).parents[3]
DEFAULT = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())


def plan(**changes):
    return make_plan(DEFAULT | changes, is_produced=lambda path: path.startswith("results/demo"), root=ROOT)


def mistakes(**changes):
    with pytest.raises(UnusableInput) as caught:
        plan(**changes)
    return str(caught.value)


def test_resources_follow_from_the_weights():
    qwen3_8b, deepseek = 16_400_000_000, 688_600_000_000
    assert quantize_memory_mb(qwen3_8b, on_cpu=False) == 30_600
    assert quantize_memory_mb(qwen3_8b, on_cpu=True) == 55_200
    assert evaluate_memory_mb(deepseek, on_cpu=False) == 700_600
    assert evaluate_memory_mb(qwen3_8b, on_cpu=True) == 40_800
    assert quantize_gpus(qwen3_8b, "cuda", 80) == 1
    assert quantize_gpus(qwen3_8b, "device_map", 80) == 1
    assert quantize_gpus(deepseek, "device_map", 80) == 12
    assert reading_minutes(deepseek, 60) == 60 + 115


@given(st.integers(0, 10**13), st.floats(1, 300))
def test_the_gpus_of_a_spread_model_hold_it(weights, memory):
    count = quantize_gpus(weights, "device_map", memory)
    assert count * 0.9 * memory * GB >= 1.25 * weights * (1 - 1e-9)
    assert count == 1 or (count - 1) * 0.9 * memory * GB < 1.25 * weights * (1 + 1e-9)


def test_a_server_takes_the_product_of_its_parallel_sizes():
    assert serving_gpus({}) == 1
    assert serving_gpus({"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "data_parallel_size": None}) == 8


def test_memory_grows_where_it_ran_out_and_nowhere_else_up_to_what_a_node_has():
    short, lost = Attempt(1, "17", "OUT_OF_MEMORY", None), Attempt(1, "17", "NODE_FAIL", None)
    assert [grown_memory(1000, past, None) for past in ([], [lost], [short], [short, short])] == [
        1000,
        1000,
        1500,
        2250,
    ]
    assert [grown_memory(1000, past, 1200) for past in ([], [short])] == [1000, 1200]


def test_names_and_comments_tell_stage_recipe_and_release():
    wildcards = {"model": "m", "candidate": "fp8", "suite": "demo"}
    assert job_name("evaluate_run", wildcards) == "evaluate_run:m/fp8/demo"
    assert job_name("make_demo_data", {}) == "make_demo_data"
    comment = job_comment("evaluate_run", wildcards, ["strict", "fp8", "fp8"], 2)
    assert comment == "stage=evaluate_run model=m candidate=fp8 suite=demo releases=fp8,strict attempt=2"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("CANCELLED by 1000", "CANCELLED"), ("CANCELLED+", "CANCELLED"), ("RUNNING\n", "RUNNING"), ("", "")],
)
def test_states_are_read_without_what_slurm_adds(said, meant):
    assert base_state(said) == meant


def test_a_log_tells_the_end_of_its_job_by_its_last_word():
    assert status_in_log("Elapsed time: 0:00:07\n") is None
    assert status_in_log(f"{ENDED} 1\nmore\n{ENDED} 0\n") == 0
    assert status_in_log(f"the stage wrote: {ENDED} 0\n{ENDED} 1\n") == 1
    assert has_ended(f"{ENDED} 1\n") and not has_ended("slurmstepd: info\n")
    assert has_ended("slurmstepd-c1: error: *** JOB 4 ON c1 CANCELLED AT 2026-11-26T22:04:36 DUE TO TIME LIMIT ***\n")
    assert "COMPLETED" not in LIVE_STATES and "PREEMPTED" not in LIVE_STATES


def test_memory_that_ran_out_is_told_from_a_failure():
    line = "slurmstepd: error: Exceeded job memory limit"
    assert state_from_log("FAILED", line) == "OUT_OF_MEMORY"
    assert state_from_log("FAILED", "Detected 1 oom_kill event in StepId=5.0") == "OUT_OF_MEMORY"
    assert state_from_log("FAILED", "memory") == "FAILED"
    assert state_from_log("TIMEOUT", line) == "TIMEOUT"


def test_attempts_name_job_state_and_log_and_lead_to_an_action():
    attempts = [Attempt(1, "17", "NODE_FAIL", None), Attempt(2, "18", "OUT_OF_MEMORY", "18.log")]
    assert str(attempts[0]) == "attempt 1: Slurm job 17, NODE_FAIL"
    assert str(attempts[1]) == "attempt 2: Slurm job 18, OUT_OF_MEMORY, log 18.log"
    assert "more mem_mb" in next_action_after(attempts)
    assert next_action_after(attempts[:1]) is None and next_action_after([]) is None


def test_a_models_resources_stand_above_the_formulas_and_a_stages_above_its_models():
    models = {"tiny-llama": {"path": "results/demo/model", "resources": {"mem_mb": 700, "evaluate": {"mem_mb": 900}}}}
    made = plan(models=models)
    assert made.resource("tiny-llama", "quantize", "mem_mb") == 700
    assert made.resource("tiny-llama", "evaluate", "mem_mb") == 900
    assert made.resource("tiny-llama", "evaluate", "gpu") is None
    models["tiny-llama"]["resources"] = {"memory": 700}
    assert "models.tiny-llama.resources.memory: unknown key; allowed here: cpus, evaluate" in mistakes(models=models)


def test_the_example_site_is_a_sound_one():
    site = yaml.safe_load((ROOT / "config" / "site.example.yaml").read_text())
    assert plan(cluster=site["cluster"]).config.cluster.gpu_type == "h100"
    assert Containers.model_validate(site["containers"]).images == ["/lustre/images/vllm-0.32.sqsh"]
    assert "containers.serve.image: found no file /lustre/images" in mistakes(**site)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--account=a", "set 'account' instead"),
        ("-pgpu", "set 'partition' and 'gpu_partition' instead"),
        ("--gres=gpu:1", "resources.gpu"),
        ("exclusive", "no flag of sbatch"),
    ],
)
def test_flags_that_the_executor_sets_are_refused_with_the_key_to_use(flag, words):
    text = mistakes(cluster={"extra": ["--nice=5", flag]})
    assert "cluster.extra" in text and words in text


def test_a_server_larger_than_a_node_is_refused():
    serving = {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}
    models = {"tiny-llama": {"path": "results/demo/model", "serving": serving}}
    assert "multiply to 16 GPUs; it runs on 1 node of 8" in mistakes(models=models)
    assert "or nodes: 2" in mistakes(models=models)
    assert plan(models=models, cluster={"gpus_per_node": 16})
    serving["nodes"] = 2
    assert plan(models=models)


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        ({"tensor_parallel_size": 3}, "3 GPUs cannot be spread evenly over 2 nodes"),
        ({"tensor_parallel_size": 8, "data_parallel_size": 2}, "'shards' runs several side by side"),
        ({"tensor_parallel_size": 8, "container": {"image": "vllm.sif"}}, "containers.serve"),
        ({"tensor_parallel_size": 32}, "or nodes: 4"),
        ({"tensor_parallel_size": 8, "extra_arguments": ["--node-rank=1"]}, "--node-rank=1: the evaluate stage sets"),
    ],
)
def test_a_server_that_cannot_be_laid_over_its_nodes_is_refused(serving, words):
    models = {"tiny-llama": {"path": "results/demo/model", "serving": {"nodes": 2, **serving}}}
    assert words in mistakes(models=models)


def test_launchers_mount_what_a_stage_reads_and_quote_what_they_are_given():
    text = make_launcher("enroot", "/images/a b.sqsh", "python3", ["/models", "/cache:/root/.cache"])
    assert "enroot start --rw --mount /tmp:/tmp --mount /models:/models --mount /cache:/root/.cache" in text
    assert "'/images/a b.sqsh'" in text
    text = make_launcher("pyxis", "/images/a b.sqsh", "python3", ["/models"])
    assert "--container-writable --container-image='/images/a b.sqsh'" in text
    assert '--container-mounts=/tmp:/tmp,/models:/models,"$PWD"' in text
    assert "apptainer exec $gpu --bind /tmp:/tmp --bind /m:/m" in make_launcher("apptainer", "x.sif", "python3", ["/m"])


@pytest.mark.parametrize("runtime", ["enroot", "apptainer"])
def test_what_the_caller_sets_stands_above_an_images_own_variables_and_the_homes_packages_are_left_out(
    tmp_path, runtime
):
    image = tmp_path / "image"
    image.touch()
    (tmp_path / runtime).write_text('#!/bin/sh\necho "$@"; env\n')
    (tmp_path / runtime).chmod(0o755)
    given = {"GLOO_SOCKET_IFNAME": "lo", "OWN": "a b", "OTHER": "x", NAMES_VARIABLE: "OWN"}
    launcher = make_launcher(runtime, str(image), "python3", [])
    environment = given | {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", launcher], env=environment, capture_output=True, text=True, check=True)
    words, *variables = done.stdout.splitlines()
    for name, value in {"GLOO_SOCKET_IFNAME": "lo", "OWN": "a b", "PYTHONNOUSERSITE": "1"}.items():
        assert f"--env {name}" in words if runtime == "enroot" else f"APPTAINERENV_{name}={value}" in variables
    assert "--env OTHER" not in words and "APPTAINERENV_OTHER=x" not in variables


@pytest.mark.parametrize(
    ("runtime", "there", "words"),
    [
        ("enroot", [], "found no enroot on "),
        ("apptainer", [], "found no apptainer on "),
        ("pyxis", ["srun"], "found no pyxis on "),
        ("apptainer", ["apptainer"], "found no nowhere.img on "),
    ],
)
def test_a_node_without_runtime_or_image_is_named_as_one_that_another_may_stand_in_for(tmp_path, runtime, there, words):
    for name in ("hostname", "grep"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for name in there:
        (tmp_path / name).symlink_to(shutil.which("true"))
    launcher = make_launcher(runtime, "nowhere.img", "python3", [])
    done = subprocess.run(["/bin/sh", "-c", launcher], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == EXIT_TRANSIENT and done.stderr.startswith(f"error: {words}"), done
