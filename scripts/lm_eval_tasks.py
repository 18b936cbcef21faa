"""List the scores that tasks of lm-eval give, as a suite's `metric` takes them: METRIC,FILTER.

Runs in lm-eval's environment: `.envs/lm-eval/bin/python scripts/lm_eval_tasks.py gsm8k`. No data is fetched. Exit
status 1 where a task is not known, with names that are near.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from typing import Any

UNKNOWN = "not known without its data: a group of tasks, or one with code of its own"


def scores_of(task: dict[str, Any]) -> list[str]:
    """The scores of a task's configuration; empty where it does not say: a class, or metrics that are functions."""
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    metrics = [entry.get("metric") for entry in task.get("metric_list") or []]
    if "class" in task or not all(isinstance(name, str) for name in metrics):
        return []
    metrics = metrics or DEFAULT_METRIC_REGISTRY.get(task.get("output_type", "generate_until"), [])
    filters = [entry.get("name") for entry in task.get("filter_list") or [{"name": "none"}]]
    return sorted(f"{metric},{name}" for metric in metrics for name in filters)


def describe(names: list[str], include_path: str | None) -> dict[str, dict[str, Any]]:
    """By task its scores, none where they are not known, as of a group; or {problem} where the task is not known."""
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_path=include_path).task_index
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in index:
            found[name] = {"scores": scores_of(index[name].cfg or {}) if index[name].kind.name == "TASK" else []}
        else:
            near = difflib.get_close_matches(name, index, n=3)
            found[name] = {"problem": "lm-eval has no such task" + (f"; near are {', '.join(near)}" if near else "")}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK", help="lm-eval's name of a task")
    parser.add_argument("--include-path", help="folder of task files of one's own")
    parser.add_argument("--json", action="store_true", help="print {TASK: {scores} or {problem}}, and exit 0")
    arguments = parser.parse_args()

    found = describe(arguments.tasks, arguments.include_path)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for name, entry in found.items():
        scores = "  ".join(entry.get("scores", [])) or UNKNOWN
        print(f"{name}: {entry.get('problem') or scores}")
    return 1 if any("problem" in entry for entry in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
