"""The logs of a run: which they are, and the lines in them that make a run suspect."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.mistakes import is_file_name
from day0.base.numbers import mapping_or_empty
from day0.evaluation.nemo_evaluator import COLOURS
from day0.records.failure_class import FailureClass
from day0.serving.engine_log import END_LINE

# Words of a log line that make a run suspect, with their class; the first that fits a line decides.
LOG_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        (
            FailureClass.DEPLOYMENT_HEALTH_FAILED,
            r"\b(EngineDeadError|OutOfMemoryError|CUDA out of memory|out of memory|oom-kill|OOM[- ][Kk]ill\w*"
            r"|died unexpectedly|health check failed)\b|^Killed\b",
        ),
        (
            FailureClass.EVAL_JUDGE_FAILED,
            r"(?i)\bjudge\b.*\b(error|failed|failure|timeout|unavailable|unparsable|invalid)\b",
        ),
        (FailureClass.EVAL_JUDGE_FAILED, r"(?i)\b(error|failed|failure|could not parse)\b.*\bjudge\b"),
        (
            FailureClass.EVAL_JUDGE_FAILED,
            r"(?i)\b(rate limit(ed| exceeded)?|too many requests|unauthorized|AuthenticationError)\b",
        ),
        (
            FailureClass.SAMPLE_ACCOUNTING_FAILED,
            r"\b(unknown_agent_error|failed_samples_policy|API returned null content|left truncated)\b",
        ),
        (FailureClass.UNKNOWN, r"^Traceback \(most recent call last\):|\bTraceback \(most recent call last\)"),
    )
)
SERVER_LOG = "server.log"
# A request that lm-eval repeated and then got is no finding; the accounts tell whether one was lost.
QUOTED_LINES_PER_LOG = 3
# What uvicorn says once a server got the signal to end, where another launcher served; what follows is no finding.
OTHER_END_LINE = re.compile(r"(\(APIServer pid=\d+\) )?INFO: +Shutting down")


def scan_log(name: str, text: str) -> list[dict[str, Any]]:
    """Suspect lines of a log up to where its server gets the signal to end: {class, file, line, text}.

    At most three per class; the last one gives the count of the rest.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    more: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = COLOURS.sub("", line)
        if line == END_LINE or OTHER_END_LINE.fullmatch(line):
            break
        failure_class = next((label for label, pattern in LOG_PATTERNS if pattern.search(line)), None)
        if failure_class is None:
            continue
        entries = found.setdefault(failure_class, [])
        if len(entries) < QUOTED_LINES_PER_LOG:
            entries.append({"class": str(failure_class), "file": name, "line": number, "text": line.strip()[:300]})
        else:
            more[failure_class] = more.get(failure_class, 0) + 1
    for failure_class, count in more.items():
        found[failure_class][-1]["text"] += f" (and {count} more such lines)"
    return [entry for entries in found.values() for entry in entries]


def scan_log_file(log: Path, name: str) -> list[dict[str, Any]]:
    """``scan_log`` of a file, under a name."""
    return scan_log(name, log.read_text(encoding="utf-8", errors="replace"))


def logs_of(folder: Path, metadata: Mapping[str, Any], suite: Mapping[str, Any] | None) -> list[Path]:
    """The server's and the tasks' logs of a run, not those of earlier runs or other stages that lie beside them."""
    accounting = metadata.get("accounting")
    names = [*mapping_or_empty(accounting), *(suite["tasks"] if suite else {})]
    shards = metadata.get("shards")
    parts = [entry.get("shard") for entry in shards if isinstance(entry, Mapping)] if isinstance(shards, list) else []
    folders = [folder / "shards" / str(part) / "logs" for part in parts if is_file_name(part)] or [folder / "logs"]
    files = dict.fromkeys([SERVER_LOG, *(f"{name}.log" for name in names if is_file_name(name))])
    return [log for place in folders for file in files if (log := place / file).is_file()]
