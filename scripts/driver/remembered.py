"""What is the same for all jobs is asked once: Snakemake 9.27.1 works it out for each job anew.

The signature of an input function is read for each job, and which rules make a file for each job that takes
it. A dry run works out the resources of every job to give back what none has taken; with thousands of candidates these
three are a third of a plan. ``DAG.update_conda_envs`` works out the parameters of every job to learn its conda
environment: it is left out where no rule has one. Whether a file is in remote storage is asked a hundred times for each
job, most of them of plain strings. pandas is imported to learn whether a parameter is one of its tables, which none can
be where nothing has imported it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from snakemake import common, rules
from snakemake.dag import DAG
from snakemake.io import _IOFile, is_flagged
from snakemake.output_index import OutputIndex
from snakemake.persistence import PersistenceBase
from snakemake.scheduling.job_scheduler import JobScheduler

update_conda_envs = DAG.update_conda_envs
match_producers = OutputIndex.match_producers
free_resources = JobScheduler._free_resources


def _match_producers(index: Any, file: str) -> set[Any]:
    known = index.__dict__.setdefault("known_producers", {})
    if file not in known:
        known[file] = match_producers(index, file)
    return known[file]


def _free_resources(scheduler: Any, job: Any) -> None:
    if not scheduler.dryrun:
        free_resources(scheduler, job)


def _update_conda_envs(dag: Any) -> None:
    if any(rule.conda_env for rule in dag.workflow.rules):
        update_conda_envs(dag)


def _is_storage(file: Any) -> bool:
    return type(file._file) is not str and is_flagged(file._file, "storage_object")


def _serialize_param(persistence: Any) -> Callable[[Any], Any]:
    has_tables = "pandas" in sys.modules
    return persistence._serialize_param_pandas if has_tables else persistence._serialize_param_builtin


def install() -> None:
    """Let Snakemake remember."""
    _IOFile.is_storage = property(_is_storage)
    PersistenceBase._serialize_param = property(_serialize_param)
    # Both modules look the function up by their own name for it.
    common.get_function_params = rules.get_function_params = functools.lru_cache(maxsize=4096)(
        common.get_function_params
    )
    OutputIndex.match_producers = _match_producers
    JobScheduler._free_resources = _free_resources
    DAG.update_conda_envs = _update_conda_envs
