"""The commands of a server over several nodes; tests/slurm runs them on a real cluster."""

import socket

from day0.serving.multinode import head_command, host_address, job_id, worker_commands
from day0.serving.server import server_command

SERVING = {"tensor_parallel_size": 8, "pipeline_parallel_size": 3, "nodes": 3}
SUITE = {"context_length": 4096, "seed": 1}


def commands(on_cpu=False, gpus=8):
    single = server_command("python", "ckpt", "m", SUITE, SERVING, on_cpu)
    head = head_command(single, 3, "10.0.0.1", 2345)
    return single, head, worker_commands(head, 3, "17", gpus)


def test_the_head_is_the_server_and_says_where_the_others_meet_it():
    single, head, _ = commands()
    assert head[: len(single)] == single
    backend = ["--distributed-executor-backend", "mp"]
    where = ["--master-addr", "10.0.0.1", "--master-port", "2345"]
    assert head[len(single) :] == [*backend, "--nnodes", "3", "--node-rank", "0", *where]
    assert commands(on_cpu=True)[1].count("--distributed-executor-backend") == 1


def test_each_other_node_runs_the_same_command_headless_with_its_rank():
    _, head, workers = commands()
    assert len(workers) == 2
    for rank, worker in enumerate(workers, 1):
        step, engine = worker[: worker.index("python")], worker[worker.index("python") :]
        assert step[0] == "srun" and {"--jobid=17", "--overlap", "--gpus-per-node=8", f"--relative={rank}"} <= {*step}
        assert engine[:4] == ["python", "-m", "vllm.entrypoints.cli.main", "serve"] and engine[-1] == "--headless"
        told = [word if word != str(rank) or engine[n - 1] != "--node-rank" else "0" for n, word in enumerate(engine)]
        assert told[4:-1] == head[3:]
    worker = commands(gpus=0)[2][0]
    assert not any("gpus" in word for word in worker) and "day0_vllm_cli" in worker


def test_the_address_is_one_of_this_host():
    with socket.socket() as probe:
        probe.bind((host_address(), 0))


def test_a_stage_knows_its_slurm_job_by_a_name_that_no_library_reads():
    assert job_id({"DAY0_SLURM_JOB_ID": "17"}) == "17" and job_id({"SLURM_JOB_ID": "18"}) == "18"
    assert job_id({"DAY0_SLURM_JOB_ID": ""}) is None
