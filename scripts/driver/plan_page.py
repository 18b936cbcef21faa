"""The plan in a page before any job: what runs and is kept, what it asks, and about what it takes.

Times are those of the same jobs in earlier runs, by the benchmark files in results/, else of the same rule for the same
model, else guesses by the model's size; the page says which. Printed at the end of a dry run, and at the start of a run
by the Snakefile's ``onstart``. Of Snakemake 9.27.1 it reads ``dag.needrun_jobs()``, ``dag.jobs``, ``job.benchmark`` and
``DAG.print_reasons``, which only a dry run calls, last.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.dag import DAG
from snakemake.logging import logger

from day0.base.numbers import float_or_none
from day0.checkpoint.names import first_of
from day0.cluster import resources
from day0.release.effort import benchmark_row
from driver.plans import subject_of

EVALUATIONS, QUANTIZATIONS = ("evaluate_run", "evaluate_shard"), ("quantize_candidate", "measure_sensitivity")
SHORT_SECONDS = 3.0  # of a job that reads no weights
# Of a CPU with two cores, as a model of 135 million parameters took: a guess of the order, and said to be one.
CPU_START_SECONDS, CPU_SECONDS_PER_SAMPLE_AND_BYTE, CPU_OPERATIONS_PER_SECOND = 60.0, 1.1e-9, 5e10
MODELS = 4  # named, before their number alone is said

print_reasons = DAG.print_reasons


@dataclass(frozen=True)
class Known:
    """What the configuration sets for the jobs.

    Attributes:
        releases: how many are asked for.
        is_cpu: whether the stages run on CPUs.
        weights_of: from a model to the bytes of its weights; 0 where they are not known yet.
        samples_of: from a suite to how many answers it asks, repeats counted; None where that is not known.
        context_of: from a suite to its longest prompt and answer in tokens.
        calibration_tokens: from model and candidate to how many tokens are calibrated on.
        cpu_samples_of: from model and candidate to the texts that are calibrated on by default on a CPU; None where
            the configuration gives their number.
        gpus_of: from stage and wildcards to the GPUs of a job.
        name_of_rule: how the graph names a rule.
    """

    releases: int
    is_cpu: bool
    weights_of: Callable[[str], int]
    samples_of: Callable[[str], int | None]
    context_of: Callable[[str], int]
    calibration_tokens: Callable[[str, str], int]
    cpu_samples_of: Callable[[str, str], int | None]
    gpus_of: Callable[[str, Any], int]
    name_of_rule: Callable[[str], str] = str


@dataclass(frozen=True)
class PlannedJob:
    """A job of the plan."""

    rule: str
    wildcards: Mapping[str, str]
    benchmark: str | None


def read_seconds(benchmark: str | Path | None) -> float | None:
    """Wall time of a job by its benchmark file; None where there is none that can be read."""
    try:
        return float_or_none(benchmark_row(Path(benchmark or "").read_text(encoding="utf-8")).get("s"))
    except (OSError, UnicodeDecodeError):
        return None


def page(jobs: Iterable[PlannedJob], kept: Iterable[PlannedJob], known: Known) -> tuple[list[str], dict[str, float]]:
    """Lines of the plan, and what a job of each rule is expected to take in seconds; nothing without a heavy stage.

    Args:
        jobs: those that are to run.
        kept: those of the same graph whose results are kept.
    """
    jobs, kept = list(jobs), list(kept)
    heavy = {known.name_of_rule(rule): rule for rule in (*EVALUATIONS, *QUANTIZATIONS)}
    if not any(job.rule in heavy for job in jobs):
        return [], {}
    own = {known.name_of_rule(rule) for rule in EVALUATIONS}
    taken = [read_seconds(job.benchmark) for job in jobs]
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    for job, seconds in zip([*jobs, *kept], [*taken, *(read_seconds(job.benchmark) for job in kept)], strict=True):
        if seconds is not None:
            measured[job.rule, subject_of(job.wildcards)[0] if job.rule in heavy else ""].append(seconds)
    seconds_of: dict[str, list[float]] = defaultdict(list)
    hours: dict[str, float] = defaultdict(float)
    guessed: set[str] = set()
    answers = tokens = disk = 0
    unknown: set[str] = set()
    on_cpu_samples: dict[int, list[str]] = defaultdict(list)
    # The shards of a run share its questions.
    shards = Counter(_run_of(job) for job in jobs if "shard" in job.wildcards)
    for job, seconds in zip(jobs, taken, strict=True):
        model = subject_of(job.wildcards)[0]
        share = 1 / shards[_run_of(job)] if "shard" in job.wildcards else 1.0
        samples = 0
        if job.rule in own:
            suite = job.wildcards["suite"]
            if (count := known.samples_of(suite)) is None:
                unknown.add(f"samples of suite {suite}")
            samples = round((count or 0) * share)
            answers += samples
            tokens += samples * known.context_of(suite)
        elif job.rule == known.name_of_rule("quantize_candidate"):
            disk += known.weights_of(model)
            recipe = job.wildcards["recipe"]
            if count := known.cpu_samples_of(model, recipe):
                on_cpu_samples[count].append(f"{model} {recipe}")
        if job.rule in heavy and not known.weights_of(model):
            unknown.add(f"size of {model}")
        if seconds is None and (found := measured.get((job.rule, model if job.rule in heavy else ""))):
            seconds = statistics.fmean(found)
        gpus = 0 if known.is_cpu or job.rule not in heavy else known.gpus_of(_stage(heavy[job.rule]), job.wildcards)
        if seconds is None:
            seconds = _guess(job, heavy.get(job.rule), samples, gpus, known)
            guessed |= {model} if job.rule in heavy else set()
        seconds_of[job.rule].append(seconds)
        hours[model] += (seconds if known.is_cpu else seconds * gpus) / 3600
    means = {rule: statistics.fmean(times) for rule, times in seconds_of.items()}
    lines = _lines(jobs, kept, known, heavy, hours, guessed, answers, tokens, disk, unknown)
    for count, candidates in on_cpu_samples.items():
        lines.append(
            f"  calibrates {first_of(candidates, MODELS)} on {count} texts, the default on a CPU; "
            "calibration.samples gives a number that is the same on every machine"
        )
    return lines, means


def _run_of(job: PlannedJob) -> tuple[str | None, ...]:
    return tuple(map(job.wildcards.get, ("model", "candidate", "suite")))


def _stage(rule: str) -> str:
    return "evaluate" if rule in EVALUATIONS else "quantize"


def _guess(job: PlannedJob, rule: str | None, samples: int, gpus: int, known: Known) -> float:
    """Seconds of a job of which nothing was measured."""
    if rule is None:
        return SHORT_SECONDS
    model, candidate = subject_of(job.wildcards)
    weights = known.weights_of(model)
    if not known.is_cpu:
        if rule in EVALUATIONS:
            return resources.evaluate_gpu_hours(weights, gpus, samples) * 3600 / max(gpus, 1)
        return resources.quantize_gpu_hours(weights, max(gpus, 1)) * 3600 / max(gpus, 1)
    if rule in EVALUATIONS:
        return CPU_START_SECONDS + samples * weights * CPU_SECONDS_PER_SAMPLE_AND_BYTE
    # A multiplication and an addition for each parameter, of two bytes, and token.
    return CPU_START_SECONDS + known.calibration_tokens(model, candidate) * weights / CPU_OPERATIONS_PER_SECOND


def _lines(
    jobs: list[PlannedJob],
    kept: list[PlannedJob],
    known: Known,
    heavy: Mapping[str, str],
    hours: Mapping[str, float],
    guessed: set[str],
    answers: int,
    tokens: int,
    disk: int,
    unknown: set[str],
) -> list[str]:
    run, keep = (Counter(_stage(heavy[job.rule]) for job in some if job.rule in heavy) for some in (jobs, kept))
    stages = ", ".join(
        f"{run[stage]} to {stage}" + (f" ({keep[stage]} kept)" if keep[stage] else "")
        for stage in ("quantize", "evaluate")
        if run[stage] or keep[stage]
    )
    lines = [f"plan: {known.releases} {'release' if known.releases == 1 else 'releases'}, {len(jobs)} jobs; {stages}"]
    if answers:
        lines.append(f"  asks {answers:,} answers, at most {tokens:,} tokens with their prompts")
    if disk:
        lines.append(f"  writes at most {_bytes(disk)} of checkpoints; bundles share their files where they can")
    largest = sorted(filter(None, hours), key=lambda model: -hours[model])[:MODELS]
    by_model = ", ".join(
        f"{model} ({_size(known.weights_of(model))}) {_amount(hours[model], known.is_cpu)}" for model in largest
    )
    basis = "guessed by the models' sizes" if guessed else "by earlier runs of the same stages"
    if guessed and len(guessed) < len(hours) - ("" in hours):
        basis += f" for {', '.join(sorted(guessed)[:MODELS])}, else by earlier runs"
    lines.append(f"  takes about {_amount(sum(hours.values()), known.is_cpu)} in all, an estimate {basis}: {by_model}")
    if unknown:
        lines.append(f"  not counted, since not known yet: {', '.join(sorted(unknown))}")
    return lines


def _size(weights: int) -> str:
    return _bytes(weights) if weights else "size not known yet"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _amount(hours: float, is_cpu: bool) -> str:
    if not is_cpu:
        return f"{hours:.2g} GPU hours"
    return f"{max(1, round(hours * 60))} minutes on CPU" if hours < 3 else f"{hours:.3g} hours on CPU"


def planned(dag: Any) -> tuple[list[PlannedJob], list[PlannedJob]]:
    """The jobs of a graph: those to run, and those whose results are kept."""
    to_run = set(dag.needrun_jobs(exclude_finished=False))  # a dry run has finished them all by its end

    def of(job: Any) -> PlannedJob:
        return PlannedJob(job.rule.name, job.wildcards_dict, str(job.benchmark) if job.benchmark else None)

    return [of(job) for job in to_run], [of(job) for job in dag.jobs if job not in to_run]


def say(dag: Any, known: Known) -> None:
    """Print the page, and let the terminal know what jobs are expected to take."""
    lines, seconds_by_rule = page(*planned(dag), known)
    if lines:
        logger.info("\n".join(lines), extra={"on_terminal": True, "seconds_by_rule": seconds_by_rule})


def install(known: Known) -> None:
    """Print the page at the end of a dry run."""

    def print_all(dag: Any) -> None:
        print_reasons(dag)
        say(dag, known)

    DAG.print_reasons = print_all
