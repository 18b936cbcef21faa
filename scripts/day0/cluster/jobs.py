"""A Slurm cluster's jobs: how they are named, and what became of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
    """The exit status of the job's command by its log: 0, 1, or None where the log has no end."""
    found = re.findall(rf"^{re.escape(ENDED)} (\d+)$", text, re.MULTILINE)
    return int(found[-1]) if found else None


def has_ended(text: str) -> bool:
    """Whether a job's log says that the job is over, by its own last line or by Slurm's."""
    return status_in_log(text) is not None or ENDED_BY_SLURM.search(text) is not None


def state_from_log(state: str, text: str) -> str:
    """Refine FAILED: where Slurm enforces memory without cgroups, only the log says that memory ran out."""
    return "OUT_OF_MEMORY" if state == "FAILED" and OUT_OF_MEMORY_LINE.search(text) else state
