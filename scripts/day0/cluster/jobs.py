"""A Slurm cluster: what the jobs of a model ask for, how they are named, and what became of them.

Memory and GPUs follow from W, the bytes of the source model's weights (``payload_bytes`` of source.json, or the sizes
of a local folder's *.safetensors), unless the model's ``resources`` say otherwise:

==========  ===================================================  ==================================================
stage       host memory                                          GPUs
==========  ===================================================  ==================================================
quantize    6 GB + 1.5 W (CUDA), 6 GB + 3 W (CPU)                1; spread by ``device_map``: as many as hold 1.25 W
evaluate    12 GB + W (CUDA), 8 GB + 2 W (CPU)                   tensor x pipeline x data parallel size
==========  ===================================================  ==================================================

Quantizing holds the weights once and half of them again while shards are exported; on CPU vLLM and PyTorch also keep
the converted copy. A GPU counts with 0.9 of its memory, the share that vLLM takes by default.

Measured on an H100 with a model of 8.2 B parameters (W = 16.4 GB), to NVFP4 and to FP8: 17.5 GB of host memory, the
mapped weights included (2 GB without any), and on the GPU W and 1.3 GB, the logits of 8 x 512 tokens over a vocabulary
of 152,000. A server with three clients takes 6.7 GB of host memory without weights, 8.9 GB while it compiles Humming's
kernels, as Slurm counts without cgroups: shared pages once for each process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

GB = 10**9
USABLE_GPU_SHARE = 0.9
# A job that ran out of memory has a second chance on the same nodes.
MEMORY_GROWTH = 1.5

ENDED = "day0: the job ended with status"
LIVE_STATES = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
    | {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
)
ENDED_BY_SLURM = re.compile(
    r"^slurmstepd[^:]*: error: \*\*\* (?:JOB|STEP) \S+ ON \S+ (?:CANCELLED|FAILED)", re.MULTILINE
)
OUT_OF_MEMORY_LINE = re.compile(
    r"oom[-_]kill|Out Of Memory|Exceeded (?:job|step) memory limit|exceeded memory limit", re.IGNORECASE
)


def quantize_memory_mb(weights: int, on_cpu: bool) -> int:
    """Host memory of a quantize job in MB (10^6 bytes); ``weights`` in bytes."""
    return math.ceil(6000 + (3 if on_cpu else 1.5) * weights / 1e6)


def evaluate_memory_mb(weights: int, on_cpu: bool) -> int:
    """Host memory of an evaluate job in MB (10^6 bytes); ``weights`` in bytes."""
    return math.ceil(8000 + 2 * weights / 1e6 if on_cpu else 12000 + weights / 1e6)


def quantize_gpus(weights: int, device: str, gpu_memory_gb: float) -> int:
    """GPUs of a quantize job: one, unless its device is spread over as many as hold the weights and a quarter more."""
    if device != "device_map":
        return 1
    return max(1, math.ceil(1.25 * weights / (USABLE_GPU_SHARE * gpu_memory_gb * GB)))


def grown_memory(memory_mb: int, attempts: Sequence[Attempt], limit_mb: int | None) -> int:
    """Memory in MB of a job after failed attempts: more for each that ran out of it, never more than a node has."""
    shortages = sum(attempt.state == "OUT_OF_MEMORY" for attempt in attempts)
    grown = math.ceil(memory_mb * MEMORY_GROWTH**shortages)
    return grown if limit_mb is None else min(grown, limit_mb)


def reading_minutes(weights: int, minimum: int) -> int:
    """Minutes to fetch, hash or copy the weights at 100 MB/s, a slow shared file system."""
    return minimum + math.ceil(weights / 100e6 / 60)


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """A Slurm job's name: the stage first, since squeue shows the first letters only, then whose it is.

    >>> job_name("evaluate_run", {"model": "m", "candidate": "fp8", "suite": "demo"})
    'evaluate_run:m/fp8/demo'
    """
    return ":".join(filter(None, [rule, "/".join(str(value) for value in wildcards.values())]))


def job_comment(rule: str, wildcards: Mapping[str, str], releases: Iterable[str], attempt: int) -> str:
    """A Slurm job's comment: stage, wildcards, the releases that wait for it, and the attempt."""
    words = [f"stage={rule}", *(f"{name}={value}" for name, value in wildcards.items())]
    waiting = ",".join(sorted(set(releases)))
    return " ".join([*words, *([f"releases={waiting}"] if waiting else []), f"attempt={attempt}"])


def base_state(state: str) -> str:
    """A state without what squeue and sacct add to it: 'CANCELLED by 0', 'CANCELLED+'."""
    return (state.split() or [""])[0].rstrip("+")


def status_in_log(text: str) -> int | None:
    """The status of the job's command as its log tells it: 0, 1, or None where the log has no end."""
    found = re.findall(rf"^{re.escape(ENDED)} (\d+)$", text, re.MULTILINE)
    return int(found[-1]) if found else None


def has_ended(text: str) -> bool:
    """Whether a job's log says that the job is over, by its own last line or by Slurm's."""
    return status_in_log(text) is not None or ENDED_BY_SLURM.search(text) is not None


def state_from_log(state: str, text: str) -> str:
    """Refine FAILED: where Slurm enforces memory without cgroups, only the log says that memory ran out."""
    return "OUT_OF_MEMORY" if state == "FAILED" and OUT_OF_MEMORY_LINE.search(text) else state


@dataclass(frozen=True)
class Attempt:
    """One failed attempt of a job on the cluster."""

    number: int
    job_id: str | None
    state: str
    log: str | None

    def __str__(self) -> str:
        place = f"Slurm job {self.job_id}" if self.job_id else "no Slurm job"
        return f"attempt {self.number}: {place}, {self.state}" + (f", log {self.log}" if self.log else "")


NEXT_ACTIONS = {
    "OUT_OF_MEMORY": "Give the model's resources more mem_mb (or fewer samples in flight), then rerun.",
    "TIMEOUT": "Give the model's resources a longer runtime, then rerun; an evaluation goes on from stored answers.",
    "CANCELLED": "Somebody or the site cancelled the job; rerun when that is settled.",
    "SUBMISSION FAILED": "sbatch refused the job; correct config/site.yaml or the model's resources, then rerun.",
}


def next_action_after(attempts: Sequence[Attempt]) -> str | None:
    """What to do after the last attempt, where its state says so."""
    return NEXT_ACTIONS.get(attempts[-1].state) if attempts else None
