"""A failed attempt of a job on a cluster, as a verdict names it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
