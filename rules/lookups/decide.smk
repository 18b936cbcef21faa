# What the rules of decide.smk look up.
from day0.base.artefacts import digest_of_file
from day0.plan.search import is_base


def get_comparison_input(wildcards):
    """Both runs of a release, and the tokens that they passed their gates."""
    try:
        release = get_release(wildcards)
    except IncompleteCheckpointException as error:
        # Which candidate it is shows once the search has ended; the names are kept, for the command has them.
        source = f"results/{wildcards.model}/source.json"
        return {"source": source, "baseline": error.targetfile, "candidate": error.targetfile}
    runs = {"baseline": BASELINE, "candidate": release.candidate}
    folders = {side: f"results/{release.model}/{candidate}/{release.suite}" for side, candidate in runs.items()}
    return {
        "source": f"results/{release.model}/source.json",
        **{side: f"{folder}/run.json" for side, folder in folders.items()},
        **{f"{side}_gate": ancient(f"{folder}/run.ok") for side, folder in folders.items()},
    }


def get_published_scores(wildcards):
    """Published scores of a release's model."""
    return get_text({"scores": PUBLISHED_SCORES[wildcards.model]})


def get_crash_request(wildcards):
    """What the verdict of a crash holds about its release; a search that has not ended has no recipe yet."""
    try:
        return get_release_request(wildcards)
    except IncompleteCheckpointException:
        return as_request(PLAN.search(wildcards.model, wildcards.release).without_winner())


def get_release_request(wildcards):
    """What a verdict holds about its release besides the evidence."""
    return as_request(get_release(wildcards))


def as_request(release):
    """A planned release as a verdict holds it."""
    return {
        "name": release.name,
        "model": release.model,
        "recipe": release.recipe.name,
        "candidate": release.candidate,
        "suite": release.suite,
        "policy": release.policy.as_plain(),
        "external": PUBLISHED_SCORES[release.model],
        "warnings": resolution_warnings(PLAN, release),
        "may_be_searched": PLAN.search(release.model, release.name) is None and is_base(release.recipe),
    }


def get_verdict_evidence(wildcards):
    """The assessments of a release in order, up to the first that failed; else the comparison."""
    release = get_release(wildcards)
    model, recipe, suite = release.model, release.candidate, release.suite
    evidence = {}
    if search := PLAN.search(wildcards.model, wildcards.release):
        evidence["search"] = get_search_path(search)
        if get_ended_search(search).winner is None:
            return evidence
    assessments = {
        "preflight_model": (checkpoints.check_preflight, {"subject": model}),
        "preflight_recipe": (checkpoints.check_preflight, {"subject": f"{model}/{recipe}"}),
        "preflight_suite": (checkpoints.check_preflight, {"subject": f"{model}/{BASELINE}/{suite}"}),
        "validation": (checkpoints.assess_checkpoint, {"model": model, "recipe": recipe}),
        "baseline_run": (checkpoints.assess_run, {"model": model, "candidate": BASELINE, "suite": suite}),
        "candidate_run": (checkpoints.assess_run, {"model": model, "candidate": recipe, "suite": suite}),
    }
    for name, (checkpoint, values) in assessments.items():
        evidence[name] = str(checkpoint.rule.expand_output(values)[0][0])
        if not assessment_passed(checkpoint, **values):
            return evidence
    return {**evidence, "comparison": f"results/{model}/{wildcards.release}/comparison.json"}


def get_existing_baseline(wildcards):
    """The baseline's run where one is there, so that an external mismatch leads also where the candidate failed early.

    Nothing is evaluated for that: it is an option of the decision, with its digest, and no input. Candidates of a search
    go without: a baseline that another of them needed later would decide again on one that failed before.
    """
    release = get_release(wildcards)
    if get_target(wildcards) is None:
        return []
    run = f"results/{release.model}/{BASELINE}/{release.suite}/run.json"
    recorded = read_assessment(run)
    is_current = recorded and recorded.definition_digest == get_definition(release.model, suite=release.suite)
    return ["--baseline-run", run, digest_of_file(run)] if is_current else []


def get_decision_input(wildcards):
    """What a decision is made from; where a release is logged with MLflow, the record of the run too.

    Candidates of a search are not logged: their runs would be of no release.
    """
    is_tracked = PLAN.config.mlflow is not None and get_target(wildcards) is not None
    tracking = {"tracking": [f"results/{wildcards.model}/{wildcards.release}/mlflow.json"]} if is_tracked else {}
    return {**get_verdict_evidence(wildcards), **tracking}


def get_sign_offs(wildcards):
    """Sign-offs that are there, so that the page over all releases is made anew after one, and nothing else is."""
    return [path for path in get_releases("results/{model}/{release}/sign_off.json") if Path(path).exists()]
