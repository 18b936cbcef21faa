"""The evaluation harnesses, and the protocol that each of them speaks with the evaluate stage.

A harness is one script in an environment of its own, run as one process per task:

- Standard input: a line of JSON, the job (what to ask: ``Evaluation.job`` in scripts/evaluate.py), and once the server
  answers a second line ``{"base_url": ...}``. Further lines, ``{"concurrency": ...}``, give it a larger share of the
  prompts in flight when another task is done; it may leave them unread. The key of the server comes as OPENAI_API_KEY.
- Standard output: a line of JSON per event: ``loaded`` (documents), ``progress`` (done, total), ``done``, and where
  the job's ``reports_samples`` is true and the harness can, ``samples`` (id, repeat, score each): what was scored since
  the last such event, a question with all its repeats at once, questions in one random order that the suite's seed and
  the questions' ids decide, none left out. Standard error is the log.
- A line ``{"stop": true}`` on standard input ends the asking; the outcome's ``status`` is then STOPPED, and its
  ``samples`` are those that were reported. A harness that reports samples must take it; another is ended by a signal.
- The job's ``output`` file: the outcome. ``status`` (COMPLETED, STOPPED or FAILED), ``error``, ``error_kind``
  (requests: some were never answered; refused: the key; rate limit; judge; disk: answers could not be stored;
  configuration: a user's mistake; task: anything else), ``documents`` (of the task, before any limit), ``values``
  (the task's score, one per repeat), ``samples`` (a mapping per document and repeat: id, repeat, prompt_digest,
  target_digest, document_digest, answer, score, finish_reason, tokens, unparsed, generated, failed, and of repeat 0
  prompt and target as people read them; what a harness does not know is null), ``requests`` (counts: asked, answered,
  from_store, failed, retried, attempts by their result), and for the fingerprint ``version``, ``generation``,
  ``endpoint``, ``adds_bos`` and ``harness_version``.
- A harness that has no samples says ``has_samples: false``, and in their place ``counted`` (how many the framework says
  it scored, or null), ``finish_reasons`` (counts of its requests) and ``score_statistics`` (of the score).
- The job's ``cache`` file or folder belongs to just this job; what is left there by a killed process, or by a finished
  run that asked less, is taken up again.

One more harness is one more script and one more line here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from day0.base.artefacts import read_yaml
from day0.base.cli import UnusableInput
from day0.base.parsing import DATE


def _lm_eval_problems(task: Mapping[str, Any]) -> list[str]:
    problems = []
    if not re.fullmatch(r"[^,]+,[^,]+", task["metric"]):
        problems.append(
            f"metric: found {task['metric']!r}; lm-eval's scores are named 'metric,filter', such as 'exact_match,none'"
        )
    problems += [f"{role}: lm-eval asks none; remove it" for role in ("judge", "simulator") if task[role] is not None]
    if task["parameters"]:
        problems.append("parameters: only nemo-evaluator's frameworks take them; remove them")
    return problems


def _nemo_evaluator_problems(task: Mapping[str, Any]) -> list[str]:
    problems = []
    if not re.fullmatch(r"([^.]+\.)?[^.]+", task["task"]):
        problems.append(f"task: found {task['task']!r}; expected TASK or FRAMEWORK.TASK")
    if task["offset"]:
        problems.append("offset: NeMo Evaluator asks the first documents of a task; remove it, or take lm-eval")
    if re.search(r"^\.|\.$|^,|,$", task["metric"]):
        problems.append(f"metric: found {task['metric']!r}; expected 'metric.score', such as 'pass@1.judge_correct'")
    return problems


class Harness(NamedTuple):
    """A harness.

    Its script in scripts/, its environment in envs/, the distribution whose version counts, a function that says what
    of a task it cannot do, as sentences, and whether it reports samples while it asks.
    """

    script: str
    environment: str
    distribution: str
    problems_of: Callable[[Mapping[str, Any]], list[str]]
    reports_samples: bool


HARNESSES = {
    "lm-eval": Harness("harness_lm_eval.py", "lm-eval", "lm-eval", _lm_eval_problems, True),
    "nemo-evaluator": Harness(
        "harness_nemo_evaluator.py", "nemo-evaluator", "nemo-evaluator", _nemo_evaluator_problems, False
    ),
}


def harnesses_of(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the harnesses that tasks need, sorted, each once."""
    return sorted({task["harness"] for task in tasks})


def read_task_file(path: Path) -> dict[str, Any]:
    """The content of one of lm-eval's task files; a function that they name becomes null.

    Raises:
        UnusableInput: it is no YAML mapping.
    """
    try:
        return read_yaml(path, tagged=lambda tag, value: value if tag == DATE else None)
    except UnusableInput as error:
        raise UnusableInput(f"{error}; expected one of lm-eval's task files") from error


def own_task_files(include_path: str | None, root: Path) -> dict[Path, dict[str, Any]]:
    """The contents of a suite's own task files that can be read, by their paths.

    Args:
        include_path: of the suite; None: it has none.
        root: the folder that it is relative to.
    """
    found = {}
    for path in sorted((root / include_path).rglob("*.yaml")) if include_path else []:
        with contextlib.suppress(UnusableInput):
            found[path] = read_task_file(path)
    return found


def lm_eval_scores(task: Mapping[str, Any]) -> set[str]:
    """Scores that a task file gives, 'metric,filter'; empty where the file does not say (it includes another)."""
    metrics, filters = task.get("metric_list"), task.get("filter_list") or [{"name": "none"}]
    if not isinstance(metrics, list) or not isinstance(filters, list) or "include" in task:
        return set()
    names = [entry.get("metric") for entry in metrics if isinstance(entry, Mapping)]
    if not all(isinstance(name, str) for name in names):
        return set()  # a function names its scores itself
    return {f"{name},{entry.get('name')}" for name in names for entry in filters if isinstance(entry, Mapping)}
