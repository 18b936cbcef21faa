# What the rules of search.smk look up: what a search is asked, and how far it has come.
from types import SimpleNamespace

from snakemake.io import checkpoint_target

from day0.plan.search import announcement, planned_samples, search_hours
from day0.records.search import Rung, Search


def get_search(wildcards):
    """The search of a release's folder."""
    search = PLAN.search(wildcards.model, wildcards.release)
    if search is None:
        raise WorkflowError(f"{wildcards.release} of {wildcards.model} is no search")
    return search


def get_rung_path(search, rung):
    """Where a rung of a search lies."""
    return f"results/{search.model}/{search.name}/search/rung-{rung}.json"


def get_search_path(search):
    """Where the end of a search lies."""
    return f"results/{search.model}/{search.name}/search/search.json"


def get_search_definition(search):
    """Digest of what defines a search: a rung of another definition counts as unknown, or it would start jobs that are no longer wanted."""
    return PLAN.search_digest(search)


def read_decided(checkpoint, kind, search, **wildcards):
    """A rung or the end of a search, where it is decided and describes this search; else None."""
    try:
        path = checkpoint.get(model=search.model, release=search.name, **wildcards).output[0]
        record = kind.read(path)
    except (IncompleteCheckpointException, UnusableInput):
        return None
    return record if record.definition_digest == get_search_definition(search) else None


def get_ended_search(search):
    """How a search ended.

    Raises:
        IncompleteCheckpointException: it has not.
    """
    record = read_decided(checkpoints.conclude_search, Search, search)
    if record is None:
        raise IncompleteCheckpointException(checkpoints.conclude_search.rule, get_search_path(search))
    return record


def get_search_evidence(search, rungs):
    """The first so many rungs and the verdicts that they asked for, up to the first rung that is not decided.

    That one is marked as the checkpoint to wait for, and the one after it is shown, so that a plan shows what comes
    next. The mark also lets Snakemake follow the whole chain where another process builds the graph anew.
    """
    is_measured = any(PLAN.needs_sensitivity(search.model, candidate) for candidate in search.recipes)
    evidence = {
        "source": f"results/{search.model}/source.json",
        "sensitivity": [f"results/{search.model}/sensitivity.json"] if is_measured else [],
        "rungs": [],
        "verdicts": [],
        "undecided": [],
    }
    for rung in range(rungs):
        path = get_rung_path(search, rung)
        record = read_decided(checkpoints.propose_rung, Rung, search, rung=str(rung))
        if record is None:
            shown = range(rung, min(rung + 2, rungs))
            evidence["undecided"] = [checkpoint_target(get_rung_path(search, number)) for number in shown]
            break
        evidence["rungs"].append(path)
        if record.is_end:
            break
        asked = [search.asked_as(one.name, one.kind) for one in record.asked]
        evidence["verdicts"] += [f"results/{search.model}/{name}/verdict.json" for name in asked]
    return evidence


def get_rung_input(wildcards):
    """What a rung is chosen by: the source, for the costs, and what all rungs before it have shown."""
    return get_search_evidence(get_search(wildcards), int(wildcards.rung))


def get_conclusion_input(wildcards):
    """What the end of a search is made from: all rungs, and what they have shown."""
    search = get_search(wildcards)
    return get_search_evidence(search, search.budget.rungs)


def get_search_options(wildcards, input):
    """The evidence of a rung or of the end, as options of the command."""
    options = ["--source", str(input.source)]
    for name in ("sensitivity", "rungs", "verdicts"):
        paths = input.get(name) or []
        options += [f"--{name}", *map(str, [paths] if isinstance(paths, str) else paths)] if paths else []
    return options


def get_evaluations():
    """A path per candidate's run, for the target; of a search its end, which asks for those that it needs."""
    return [
        (
            get_search_path(target)
            if isinstance(target, PlannedSearch)
            else f"results/{target.model}/{target.candidate}/{target.suite}/run.json"
        )
        for target in PLAN.targets
    ]


def get_search_hours(search):
    """About how many GPU hours a search may take, and a full evaluation of all candidates; None where that is not known."""
    weights = get_weights_bytes(search.model)
    if VARIANT == "cpu" or not weights:
        return None

    def of(candidate, suite=None):
        names = SimpleNamespace(model=search.model, candidate=candidate, recipe=candidate)
        if suite is None:
            return formulas.quantize_gpu_hours(weights, get_gpu("quantize")(names))
        gpus = get_gpu("evaluate")(names) * get_server_nodes(names)
        return formulas.evaluate_gpu_hours(weights, gpus, planned_samples(PLAN.suites[suite]) or 0)

    return search_hours(search, of)


def announce_searches(workflow):
    """Say on standard error what a plan cannot show of its searches, and what they may cost; once for a plan or run."""
    if workflow.is_main_process:
        for search in PLAN.searches:
            samples = {name: planned_samples(suite) for name, suite in PLAN.suites.items()}
            for line in announcement(search, samples, get_search_hours(search)):
                print(line, file=sys.stderr)


announce_searches(workflow)
