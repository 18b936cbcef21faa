"""What a large plan prints.

A dry run prints every job, 3,781 lines for 96 releases; above ``LARGE`` jobs it prints which rules each release runs
instead, releases that run the same in one line, unless ``--verbose`` asks for the whole list.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from snakemake.executors.dryrun import Executor
from snakemake.logging import logger

from day0.checkpoint.names import first_of

LARGE = 100  # jobs
NAMES = 5  # of releases in a line, before their number alone is said
WRAPPED = textwrap.TextWrapper(118, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)

print_job = Executor.printjob
shutdown = Executor.shutdown


def subject_of(wildcards: Any) -> tuple[str, str]:
    """The model that a job is of, and within it the candidate or release; empty where it is of none.

    Args:
        wildcards: a mapping, or Snakemake's Wildcards, of which ``in`` asks the values.
    """
    if subject := wildcards.get("subject"):
        model, _, rest = subject.partition("/")
        return model, rest.split("/")[0]
    names = filter(None, map(wildcards.get, ("release", "recipe", "candidate")))
    return wildcards.get("model") or "", next(names, "")


def summary(jobs: Iterable[tuple[str, Mapping[str, str]]]) -> list[str]:
    """Lines that say which rules run for whom, of rules with their wildcards in the order of the plan.

    Candidates of a model that run the same rules share a line: a plan of a thousand has a few.
    """
    run: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for rule, wildcards in jobs:
        run[subject_of(wildcards)][rule] = None
    alike: dict[tuple[str, bool, frozenset[str]], list[tuple[str, str]]] = defaultdict(list)
    for (model, name), names in run.items():
        alike[model, bool(name), frozenset(names)].append((model, name))
    lines = []
    for (model, _, _), subjects in alike.items():
        listed = sorted(name for _, name in subjects if name)
        title = " ".join(filter(None, [model, first_of(listed, NAMES)])) or "all releases"
        lines += [f"  {title}:", *WRAPPED.wrap(", ".join(run[subjects[0]]))]
    return lines


def _is_large(executor: Any) -> bool:
    return len(executor.workflow.dag) > LARGE and not executor.workflow.output_settings.verbose


def _print_job(executor: Any, job: Any) -> None:
    if not _is_large(executor) or job.is_group():
        print_job(executor, job)
        return
    executor.__dict__.setdefault("planned", []).append((job.rule.name, job.wildcards_dict))


def _shutdown(executor: Any) -> None:
    if planned := executor.__dict__.pop("planned", []):
        lines = summary(planned)
        logger.info("\n".join([f"{len(planned)} jobs; each of them with --verbose. What runs for whom:", *lines]))
    shutdown(executor)


def install() -> None:
    """Print a large plan in a page."""
    Executor.printjob = _print_job
    Executor.shutdown = _shutdown
