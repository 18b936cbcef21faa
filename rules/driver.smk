# How this project's graph is run: the Slurm executor, refused jobs, crashes; see scripts/driver.
import atexit
from importlib.util import find_spec

from driver import (
    checkpoints as done_checkpoints,
    clock,
    crashes,
    locks,
    needrun,
    plan_page,
    plans,
    refusals,
    remembered,
    scheduling,
)


def get_release_names(wildcards):
    """Names of the releases that wait for a job with these wildcards."""
    model, candidate = plans.subject_of(wildcards)
    searches = [s.name for s in PLAN.searches if (s.model, s.name) == (model, candidate)]
    return searches + [
        r.name
        for r in PLAN.releases
        if model in ("", r.model)
        and candidate in ("", BASELINE, r.name, r.candidate)
        and wildcards.get("suite") in (None, r.suite)
    ]


def get_verdicts_on(wildcards):
    """Verdicts of the listed releases that a preflight is evidence of; of a search through each of its candidates."""
    names = set(get_release_names(wildcards))
    return [
        Path(f"results/{target.model}/{target.name}/verdict.json")
        for target in PLAN.targets
        if names & {one.name for one in (target.releases() if isinstance(target, PlannedSearch) else [target])}
    ]


RELEASES = crashes.Releases(
    verdicts=tuple(map(Path, get_releases("results/{model}/{release}/verdict.json"))),
    request_of=get_crash_request,
    verdicts_on=get_verdicts_on,
    name_of_rule=workflow.modifier.modify_rulename,
)


def get_calibration_tokens(model, candidate):
    """Tokens that a candidate is calibrated on, or a model where its sensitivity is measured."""
    try:
        settings = PLAN.calibration(model, candidate) if candidate else PLAN.sensitivity_calibration(model)
    except KeyError:
        return 0
    calibration = Calibration(**settings)
    return (calibration.samples or 0) * (calibration.sequence_length or 0)


def get_cpu_samples(model, candidate):
    """Texts that a candidate is calibrated on by default on a CPU; None where the configuration gives their number."""
    settings = PLAN.calibration(model, candidate)
    return settings["samples"] if settings["dataset"] and PLAN.has_cpu_samples(model, candidate) else None


KNOWN = plan_page.Known(
    releases=len(PLAN.targets),
    is_cpu=VARIANT == "cpu",
    weights_of=get_weights_bytes,
    samples_of=lambda suite: planned_samples(PLAN.suites[suite]),
    context_of=lambda suite: PLAN.suites[suite].context_length,
    calibration_tokens=get_calibration_tokens,
    cpu_samples_of=get_cpu_samples,
    gpus_of=lambda stage, wildcards: get_gpu(stage)(SimpleNamespace(**wildcards)),
    name_of_rule=workflow.modifier.modify_rulename,
)


def begin():
    """What a run that writes does first; a dry run changes nothing."""
    crashes.warn_of_disk()
    clock.bring_back(clock.made_by_the_graph())


needrun.install()
done_checkpoints.install()
refusals.install()
locks.install(begin)
scheduling.install()
plans.install()
remembered.install()
plan_page.install(KNOWN)

if workflow.is_main_process:
    if not IS_MODULE and not find_spec("snakemake_logger_plugin_day0"):
        print(
            "note: this Snakemake lacks the plugin for its terminal and prints everything; run `make setup`",
            file=sys.stderr,
        )

# The executor plugins are loaded by the time that a Snakefile is read; a job within Slurm has no use for this one.
if "snakemake_executor_plugin_slurm" in sys.modules and workflow.is_main_process:
    from driver.slurm import install

    install(PLAN.config.cluster.model_dump(), get_release_names)

# At the end, since digests of evaluations are asked for only once the graph is built.
atexit.register(save_memory)


onstart:
    plan_page.say(workflow.dag, KNOWN)


onsuccess:
    crashes.end_well(workflow, RELEASES)


onerror:
    crashes.end_with_failures(workflow, RELEASES)


# Snakemake runs the handlers of the main workflow alone. Those of one that uses this as a module take their place.
if IS_MODULE:
    workflow._onsuccess = lambda log: crashes.end_well(workflow, RELEASES)
    workflow._onerror = lambda log: crashes.end_with_failures(workflow, RELEASES)
