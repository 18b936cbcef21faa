"""A large plan in a page; Snakemake's inside is as it was read."""

import inspect
from types import SimpleNamespace

import pytest
import snakemake.api  # noqa: F401 the order in which Snakemake itself imports its modules, which form a circle
from snakemake.executors.dryrun import Executor
from snakemake.iocontainers import Wildcards

from driver import plans


def test_the_inside_of_snakemake_is_as_it_was_read():
    """A failure means: read the new version, and adapt scripts/driver/plans.py to it."""
    assert list(inspect.signature(plans.print_job).parameters) == ["self", "job"]
    assert list(inspect.signature(plans.shutdown).parameters) == ["self"]


@pytest.mark.parametrize(
    ("wildcards", "subject"),
    [
        ({"subject": "m"}, ("m", "")),
        ({"subject": "m/fp8"}, ("m", "fp8")),
        ({"subject": "m/baseline/demo"}, ("m", "baseline")),
        ({"model": "m"}, ("m", "")),
        ({"model": "m", "recipe": "fp8"}, ("m", "fp8")),
        ({"model": "m", "candidate": "fp8", "suite": "demo"}, ("m", "fp8")),
        ({"model": "m", "release": "fp8-long", "recipe": "fp8"}, ("m", "fp8-long")),
        ({}, ("", "")),
        ({"environment": "serve.cpu"}, ("", "")),
        (Wildcards(fromdict={"subject": "m/fp8"}), ("m", "fp8")),
        (Wildcards(fromdict={"model": "m", "candidate": "fp8", "suite": "demo"}), ("m", "fp8")),
        (Wildcards(fromdict={"environment": "serve.cpu"}), ("", "")),
    ],
)
def test_a_job_is_of_a_model_and_a_candidate(wildcards, subject):
    assert plans.subject_of(wildcards) == subject


def test_candidates_that_run_the_same_share_a_line():
    jobs = [("check_preflight", {"subject": "m"}), ("index", {})]
    jobs += [("check_preflight", {"subject": f"m/r{number}"}) for number in range(9)]
    jobs += [("quantize", {"model": "m", "recipe": f"r{number}"}) for number in range(8)]
    jobs += [("quantize", {"model": "n", "recipe": "r0"})]
    assert plans.summary(jobs) == [
        "  m:",
        "    check_preflight",
        "  all releases:",
        "    index",
        "  m r0, r1, r2, r3, r4 and 3 more:",
        "    check_preflight, quantize",
        "  m r8:",
        "    check_preflight",
        "  n r0:",
        "    quantize",
    ]


class Dag(list):
    """A graph of that many jobs."""


def plan(count, verbose=False, groups=0):
    """What a dry run prints of so many jobs: each job by itself, and the lines at the end."""
    printed, lines = [], []
    settings = SimpleNamespace(verbose=verbose)
    executor = SimpleNamespace(workflow=SimpleNamespace(dag=Dag(range(count)), output_settings=settings))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plans, "print_job", lambda executor, job: printed.append(job))
        patched.setattr(plans, "shutdown", lambda executor: lines.append("shut down"))
        patched.setattr(plans.logger, "info", lines.append)
        for number in range(count):
            job = SimpleNamespace(
                rule=SimpleNamespace(name="quantize"),
                wildcards_dict={"model": "m", "recipe": f"r{number}"},
                is_group=lambda number=number: number < groups,
            )
            plans._print_job(executor, job)
        plans._shutdown(executor)
    return printed, lines


@pytest.mark.parametrize(("count", "verbose"), [(plans.LARGE, False), (plans.LARGE + 1, True)])
def test_a_small_plan_and_a_verbose_one_print_each_job(count, verbose):
    printed, lines = plan(count, verbose)
    assert len(printed) == count and lines == ["shut down"]


def test_a_large_plan_is_printed_in_a_few_lines_and_a_group_by_itself():
    printed, (text, end) = plan(plans.LARGE + 1, groups=1)
    assert len(printed) == 1 and end == "shut down"
    assert text.splitlines() == [
        f"{plans.LARGE} jobs; each of them with --verbose. What runs for whom:",
        f"  m r1, r10, r100, r11, r12 and {plans.LARGE - 5} more:",
        "    quantize",
    ]


def test_install_replaces_what_every_dry_run_does(monkeypatch):
    for name in ("printjob", "shutdown"):
        monkeypatch.setattr(Executor, name, None)
    plans.install()
    assert (Executor.printjob, Executor.shutdown) == (plans._print_job, plans._shutdown)
