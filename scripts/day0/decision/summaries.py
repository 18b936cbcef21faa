"""The run summary of the original design, translated into what the run gate judges: no second judge.

NVIDIA/Model-Optimizer, .agents/skills/day0-release/scripts/gate_run.py (pull request 1596) reads
``{"tasks": {TASK: {status, expected_samples, scored_samples, score, errors}}}``. A task's status and errors become
findings, its counts an account, and its score gets a scale: up to 1 where it lies in [0, 1], else up to 100.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from day0.base.numbers import is_number, mapping_or_empty
from day0.decision.policy import assumed_scale
from day0.decision.quoting import short
from day0.records.failure_class import FailureClass

TASK_KEYS = frozenset({"status", "expected_samples", "scored_samples", "errors"})
COMPLETED = "COMPLETED"
DONE = frozenset({"SUCCESS", COMPLETED})
# States of NeMo Evaluator's launcher and of Slurm 24.05 (man sacct, JOB STATE CODES) after which a run goes on, or is
# run again as it is; every other is an end that somebody must look at.
TRANSIENT_STATUSES = frozenset(
    {"TIMEOUT", "RUNNING", "PENDING", "RESUMING", "NODE_FAIL", "PREEMPTED"}
    | {
        "BOOT_FAIL",
        "CONFIGURING",
        "COMPLETING",
        "REQUEUED",
        "RESIZING",
        "SIGNALING",
        "STAGE_OUT",
        "STOPPED",
        "SUSPENDED",
    }
)
_JUDGE = re.compile(
    r"judge|rate.?limit|too many requests|quota|unauthori[sz]ed|forbidden|\bauth\b|authenticat|api.?key"
    r"|\b(401|403|429)\b",
    re.IGNORECASE,
)


def is_original(summary: Any) -> bool:
    """Whether a summary is one of the original design: a task has one of its keys."""
    tasks = mapping_or_empty(summary).get("tasks")
    return any(isinstance(task, Mapping) and task.keys() & TASK_KEYS for task in mapping_or_empty(tasks).values())


def of_original(summary: Any) -> Any:
    """A summary of the original design as the run gate judges it; any other as it is.

    Tasks of the result have neither ``status`` nor ``errors``: what these mean is in its ``findings``, as
    ``{class, detail}``.
    """
    if not is_original(summary):
        return summary
    findings = []
    tasks: dict[Any, Any] = {}
    for name, task in summary["tasks"].items():
        if not isinstance(task, Mapping) or not task.keys() & TASK_KEYS:
            tasks[name] = task
            continue
        failure_class, detail = _problem_of(task)
        if failure_class is not None:
            findings.append({"class": failure_class, "detail": f"task {name}: {detail}"})
        score = task.get("score")
        tasks[name] = {
            **({"scale": assumed_scale(score)} if is_number(score) else {}),
            **{key: value for key, value in task.items() if key not in TASK_KEYS},
            "accounting": {"expected": task.get("expected_samples"), "scored": task.get("scored_samples")},
        }
    status = summary.get("status", COMPLETED)
    status = COMPLETED if isinstance(status, str) and status.upper() in DONE else status
    return {**summary, "status": status, "tasks": tasks, "findings": findings}


def _problem_of(task: Mapping[str, Any]) -> tuple[FailureClass | None, str]:
    """What a task's status and errors mean; an error of the judge or a rate limit leads."""
    status, errors = task.get("status"), task.get("errors")
    given = errors if isinstance(errors, list) else [errors] if errors else []
    texts = [error if isinstance(error, str) else short(error) for error in given]
    failure_class, details = None, []
    state = (status.upper().split() or [""])[0].rstrip("+") if isinstance(status, str) else None
    if state in TRANSIENT_STATUSES:
        failure_class = FailureClass.INFRA_TRANSIENT
        details.append(f"its status is {short(status)}: it did not end by itself, so it is to be resumed or run again")
    elif state not in DONE:
        failure_class = FailureClass.UNKNOWN
        details.append(f"its status is {short(status)}, expected SUCCESS")
    if texts:
        judge = next((text for text in texts if _JUDGE.search(text)), None)
        failure_class = FailureClass.EVAL_JUDGE_FAILED if judge else failure_class or FailureClass.UNKNOWN
        details.append(f"{len(texts)} errors, such as {short(judge or texts[0], 200)}")
    return failure_class, "; ".join(details)
