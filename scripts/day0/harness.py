"""The evaluation harnesses, and the protocol that each of them speaks with the evaluate stage.

A harness is one script in an environment of its own, run as one process per task:

- Standard input: a line of JSON, the job (what to ask: ``Evaluation.job`` in scripts/evaluate.py), and once the server
  answers a second line ``{"base_url": ...}``. The key of the server comes as OPENAI_API_KEY.
- Standard output: a line of JSON per event: ``loaded`` (documents), ``progress`` (done, total), ``done``.
  Standard error is the log.
- The job's ``output`` file: the outcome. ``status`` (COMPLETED or FAILED), ``error``, ``error_kind`` (requests: some
  were never answered; configuration: a user's mistake; judge; task: anything else), ``documents`` (of the task, before
  any limit), ``values`` (the task's score, one per repeat), ``samples`` (a mapping per document and repeat: id, repeat,
  prompt_digest, target_digest, document_digest, answer, score, finish_reason, tokens, unparsed, generated; what a
  harness cannot tell is null), ``requests`` (counts), and for the fingerprint ``version``, ``task_hash``,
  ``generation``, ``endpoint``, ``chat_template_digest``, ``adds_bos`` and ``harness_version``.
- The job's ``cache`` file or folder belongs to just this job; what is left there by a killed process is taken up again.

One more harness is one more script and one more line here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Harness(NamedTuple):
    """A harness: its script in scripts/, its environment in envs/ and the distribution whose version counts."""

    script: str
    environment: str
    distribution: str


HARNESSES = {
    "lm-eval": Harness("harness_lm_eval.py", "lm-eval", "lm-eval"),
}


def harnesses_of(tasks: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of the harnesses that tasks need, sorted, each once."""
    return sorted({task["harness"] for task in tasks})
