"""What a release took: wall time, processor time and GPU time of its stages, and what its runs asked and answered.

All of it is read from what the stages left: Snakemake's benchmark files, and the records of the runs and of the
quantize stage. What none of them says is None and never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from day0.base.numbers import is_number, mapping_or_empty

PARALLEL_SIZES = ("tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size")
GPU_STAGES = {"evaluate": "run", "quantize": "quantization"}  # the others use none


def benchmark_row(text: str) -> dict[str, str]:
    """The last row of a Snakemake benchmark file (tab separated, one header line); {} where it has none."""
    lines: Sequence[str] = [line for line in text.splitlines() if line.strip()]
    return dict(zip(lines[0].split("\t"), lines[-1].split("\t"), strict=False)) if len(lines) > 1 else {}


class Effort(NamedTuple):
    """What one stage took.

    Attributes:
        name: for people; with its group where two sides have the stage.
        stage: the rule.
        group: what it was for, such as baseline.
        start, seconds: since the epoch, and wall time.
        cpu_seconds: of the processors, as Snakemake sampled them.
        memory: largest resident memory, MiB.
        gpus: that it held; None where no record says.
    """

    name: str
    stage: str
    group: str
    start: float
    seconds: float
    cpu_seconds: float | None = None
    memory: float | None = None
    gpus: int | None = 0

    @property
    def gpu_seconds(self) -> float | None:
        """GPUs times wall time."""
        return None if self.gpus is None else self.gpus * self.seconds


class Total(NamedTuple):
    """What several stages took together; wall time counts each stage, also where two ran side by side."""

    seconds: float
    cpu_seconds: float | None
    gpu_seconds: float | None


def total_of(efforts: Iterable[Effort]) -> Total:
    """The sum over stages; None where one of them is not known."""
    found = list(efforts)
    return Total(
        math.fsum(one.seconds for one in found),
        _sum([one.cpu_seconds for one in found]),
        _sum([one.gpu_seconds for one in found]),
    )


def gpus_of_server(server: Mapping[str, Any]) -> int | None:
    """GPUs that a run's server held, from the command that the run records; 0 on a CPU."""
    if not server or server.get("device") == "cpu" or not server.get("gpu"):
        return 0
    command = str(server.get("command") or "")
    sizes = [re.search(rf"--{name}[ =](\d+)", command) for name in PARALLEL_SIZES]
    return math.prod(int(size[1]) if size else 1 for size in sizes) if command else None


def gpus_of_quantization(record: Mapping[str, Any]) -> int | None:
    """GPUs that the quantize stage held: its record says of one device, not of several."""
    device = str(record.get("device") or "cpu")
    return 0 if device == "cpu" else 1 if device.startswith("cuda") else None


class Asked(NamedTuple):
    """What a run asked of one task, or of all; None where it is not recorded.

    Attributes:
        seconds: from the first request to the last; tasks are asked side by side, so that these do not add up.
        rate: generated tokens per second; None also where answers came from an earlier run.
    """

    task: str
    asked: int | None
    answered: int | None
    prompt_tokens: int | None
    generated_tokens: int | None
    seconds: float | None
    rate: float | None


def asked_of(metadata: Mapping[str, Any]) -> list[Asked]:
    """Of each task of a run, from the metadata of results.yml; and of all together, named "all", where all say."""
    requests, accounting = mapping_or_empty(metadata.get("requests")), mapping_or_empty(metadata.get("accounting"))
    timing = mapping_or_empty(metadata.get("timing"))
    seconds = mapping_or_empty(timing.get("tasks"))
    rows = []
    for task in accounting:
        counts, account = mapping_or_empty(requests.get(task)), mapping_or_empty(accounting[task])
        rows.append(_asked(task, account, counts, seconds.get(task), bool(counts.get("from_store"))))
    if len(rows) > 1:
        asked, answered, read, written = (
            _sum([getattr(row, name) for row in rows])
            for name in ("asked", "answered", "prompt_tokens", "generated_tokens")
        )
        taken = [row.seconds for row in rows]
        # The tasks end at different times and begin at one.
        longest = max(one for one in taken if one is not None) if taken and None not in taken else None
        stored = any(row.rate is None for row in rows)
        rows.append(Asked("all", asked, answered, read, written, longest, _rate(written, longest, stored)))
    return rows


def _asked(task: str, account: Mapping[str, Any], counts: Mapping[str, Any], seconds: Any, stored: bool) -> Asked:
    taken = float(seconds) if is_number(seconds) else None
    generated = counts.get("completion_tokens")
    return Asked(
        task,
        account.get("asked"),
        account.get("answered"),
        counts.get("prompt_tokens"),
        generated,
        taken,
        _rate(generated, taken, stored),
    )


def _rate(tokens: Any, seconds: float | None, stored: bool) -> float | None:
    return tokens / seconds if is_number(tokens) and seconds and not stored else None


def _sum(values: Sequence[Any]) -> Any:
    """The sum, or None where one is none or nothing is there."""
    return sum(values) if values and all(is_number(value) for value in values) else None
