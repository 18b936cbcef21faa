"""What the jobs of a model ask for.

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
from collections.abc import Sequence

from day0.records.attempt import Attempt

GB = 10**9
USABLE_GPU_SHARE = 0.9
# A job that ran out of memory has a second chance on the same nodes.
MEMORY_GROWTH = 1.5


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


# A candidate's GPU hours are a guess before anything ran; what follows from the model's size is kept, the rest assumed.
START_SECONDS = 600  # of a job: loading libraries, compiling kernels, capturing graphs
CALIBRATION_PASSES = 3.0  # readings of the weights: load, calibrate, export
ANSWER_TOKENS, ANSWERS_AT_ONCE = 256, 64
GPU_BYTES_PER_SECOND = 2e12  # that a decoding step reads of the weights, of an H100's 3.35e12


def quantize_gpu_hours(weights: int, gpus: int) -> float:
    """About how many GPU hours a quantize job takes; ``weights`` in bytes."""
    return gpus * (START_SECONDS + CALIBRATION_PASSES * weights / 100e6) / 3600


def evaluate_gpu_hours(weights: int, gpus: int, samples: int) -> float:
    """About how many GPU hours an evaluate job takes: start, load, and a reading of the weights for each token step.

    Args:
        weights: bytes.
        gpus: of the server.
        samples: answers, repeats counted.
    """
    if not gpus:
        return 0.0
    steps = math.ceil(samples / ANSWERS_AT_ONCE) * ANSWER_TOKENS
    seconds = START_SECONDS + weights / 100e6 + steps * weights / (gpus * GPU_BYTES_PER_SECOND)
    return gpus * seconds / 3600
