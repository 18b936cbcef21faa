"""The GPUs and nodes that a vLLM server spans, and how it is started on several nodes of a Slurm job.

The head runs where the stage does, a headless worker on each other node by srun. That is vLLM's own way without Ray
(vllm/config/parallel.py, vllm/entrypoints/cli/serve.py of 0.32): each node runs the same command with its rank; all
meet at the head's address; only the head listens for requests.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping, Sequence

# The name under which a stage knows its Slurm job: SLURM_* is unset, since torch would take it for that of a rank.
JOB_ID_VARIABLE = "DAY0_SLURM_JOB_ID"
OPENAI_SERVER = "vllm.entrypoints.openai.api_server"
# Only vLLM's command line starts a headless worker; its CPU build needs a hand there (scripts/vllm_plugin).
COMMAND_LINE, COMMAND_LINE_ON_CPU = "vllm.entrypoints.cli.main", "day0_vllm_cli"


def serving_gpus(serving: Mapping[str, object]) -> int:
    """GPUs of an evaluate job: those that are asked for, else what vLLM's parallel sizes multiply to."""
    if serving.get("gpus"):
        return int(serving["gpus"])  # type: ignore[call-overload]
    sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return math.prod(int(serving.get(size) or 1) for size in sizes)  # type: ignore[call-overload]


def serving_nodes(serving: Mapping[str, object]) -> int:
    """Nodes that the engine of these serving settings is spread over, each with as many of its GPUs."""
    return int(serving.get("nodes") or 1)  # type: ignore[call-overload]


def host_address() -> str:
    """The address by which other nodes reach this one: that of its default route, which vLLM takes, too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; an address of documentation's
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostbyname(socket.gethostname())


def head_command(command: Sequence[str], nodes: int, address: str, port: int) -> list[str]:
    """The server's command as that of the first of several nodes."""
    meeting = ["--nnodes", str(nodes), "--node-rank", "0", "--master-addr", address, "--master-port", str(port)]
    return [*command, "--distributed-executor-backend", "mp", *meeting]


def worker_commands(head: Sequence[str], nodes: int, job_id: str, gpus: int) -> list[list[str]]:
    """The commands that start the other nodes' workers from the first node of the job, in the order of their ranks.

    Args:
        head: see :func:`head_command`.
        gpus: GPUs of each node; 0 on CPU.
    """
    step = ["srun", f"--jobid={job_id}", "--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--cpu-bind=none"]
    step += [f"--gpus-per-node={gpus}"] if gpus else []
    place = head.index(OPENAI_SERVER)
    commands = []
    for rank in range(1, nodes):
        words = [
            *head[:place],
            COMMAND_LINE if gpus else COMMAND_LINE_ON_CPU,
            "serve",
            *head[place + 1 :],
            "--headless",
        ]
        words[words.index("--node-rank") + 1] = str(rank)
        commands.append([*step, f"--relative={rank}", *words])
    return commands


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """The Slurm job that this stage runs in, or None."""
    return environment.get(JOB_ID_VARIABLE) or environment.get("SLURM_JOB_ID") or None
