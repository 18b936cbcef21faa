# From two assessed runs to the verdict, and the pages that show it.
from day0.base.artefacts import digest_of_file


def get_comparison_input(wildcards):
    """Both runs of a release, and the tokens that they passed their gates."""
    release = get_release(wildcards)
    runs = {"baseline": BASELINE, "candidate": release.recipe.path_name}
    folders = {side: f"results/{release.model}/{candidate}/{release.suite}" for side, candidate in runs.items()}
    return {
        "source": f"results/{release.model}/source.json",
        **{side: f"{folder}/run.json" for side, folder in folders.items()},
        **{f"{side}_gate": ancient(f"{folder}/run.ok") for side, folder in folders.items()},
    }


def get_published_scores(wildcards):
    """Published scores of a release's model."""
    return get_text({"scores": PUBLISHED_SCORES[wildcards.model]})


def get_release_request(wildcards):
    """What a verdict holds about its release besides the evidence."""
    release = get_release(wildcards)
    return {
        "name": release.name,
        "model": release.model,
        "recipe": release.recipe.name,
        "candidate": release.recipe.path_name,
        "suite": release.suite,
        "policy": release.policy.as_plain(),
        "external": PUBLISHED_SCORES[release.model],
        "warnings": resolution_warnings(PLAN, release),
    }


def get_verdict_evidence(wildcards):
    """The assessments of a release in order, up to the first that failed; else the comparison."""
    release = get_release(wildcards)
    model, recipe, suite = release.model, release.recipe.path_name, release.suite
    assessments = {
        "preflight_model": (checkpoints.check_preflight, {"subject": model}),
        "preflight_recipe": (checkpoints.check_preflight, {"subject": f"{model}/{recipe}"}),
        "preflight_suite": (checkpoints.check_preflight, {"subject": f"{model}/{BASELINE}/{suite}"}),
        "validation": (checkpoints.assess_checkpoint, {"model": model, "recipe": recipe}),
        "baseline_run": (checkpoints.assess_run, {"model": model, "candidate": BASELINE, "suite": suite}),
        "candidate_run": (checkpoints.assess_run, {"model": model, "candidate": recipe, "suite": suite}),
    }
    evidence = {}
    for name, (checkpoint, values) in assessments.items():
        evidence[name] = str(checkpoint.rule.expand_output(values)[0][0])
        if not assessment_passed(checkpoint, **values):
            return evidence
    return {**evidence, "comparison": f"results/{model}/{wildcards.release}/comparison.json"}


def get_baseline_at_hand(wildcards):
    """The baseline's run where one is there, so that an external mismatch leads also where the candidate failed early.

    Nothing is evaluated for that: it is an option of the decision, with its digest, and no input.
    """
    release = get_release(wildcards)
    run = f"results/{release.model}/{BASELINE}/{release.suite}/run.json"
    recorded = read_assessment(run)
    is_current = recorded and recorded.definition_digest == get_definition(release.model, suite=release.suite)
    return ["--baseline-run", run, digest_of_file(run)] if is_current else []


def get_decision_input(wildcards):
    """What a decision is made from; where releases are logged with MLflow, the record of the run too."""
    tracking = f"results/{wildcards.model}/{wildcards.release}/mlflow.json"
    return {**get_verdict_evidence(wildcards), **({"tracking": tracking} if PLAN.config.mlflow else {})}


rule compare_runs:
    """Compare the candidate's run with the baseline's, task by task and sample by sample."""
    input:
        unpack(get_comparison_input),
    output:
        comparison="results/{model}/{release}/comparison.json",
    log:
        "results/{model}/{release}/logs/compare_runs.log",
    benchmark:
        "results/{model}/{release}/benchmarks/compare_runs.tsv"
    localrule: True
    params:
        code=get_code("gate_compare.py"),
        policy=lambda wildcards: get_text(get_release(wildcards).policy.as_plain()),
        external=get_published_scores,
    message:
        "Comparing {wildcards.release} with the baseline"
    shell:
        "python scripts/gate_compare.py --baseline $(dirname {input.baseline}) --candidate $(dirname {input.candidate})"
        " --policy {params.policy:q} --source-record {input.source} --external {params.external:q} --assess --output {output.comparison} > {log} 2>&1"


rule decide_release:
    """Decide: ACCEPT, REGRESSION, ANOMALOUS or INFEASIBLE, with the evidence and the next action."""
    input:
        unpack(get_decision_input),
    output:
        verdict="results/{model}/{release}/verdict.json",
    log:
        "results/{model}/{release}/logs/decide_release.log",
    benchmark:
        "results/{model}/{release}/benchmarks/decide_release.tsv"
    localrule: True
    params:
        code=get_code("decide.py"),
        release=lambda wildcards: get_text(get_release_request(wildcards)),
        evidence=lambda wildcards, input: get_text({k: v for k, v in input.items() if k != "tracking"}),
        baseline=get_baseline_at_hand,
        tracking="--mlflow results/{model}/{release}/mlflow.json" if PLAN.config.mlflow else "",
    message:
        "Deciding on {wildcards.release} of {wildcards.model}"
    shell:
        "python scripts/decide.py --release {params.release:q} --evidence {params.evidence:q} {params.baseline}"
        " {params.tracking} --output {output.verdict} 2>&1 | tee {log}"


rule render_report:
    """Render the decision and its evidence as a page that stands alone, and its figures."""
    input:
        verdict="results/{model}/{release}/verdict.json",
        templates=["scripts/templates/report.html.jinja", "scripts/templates/style.css"],
    output:
        page=report(
            "results/{model}/{release}/report.html",
            caption="../docs/report.rst",
            category="Releases",
            subcategory="{model}",
            labels={"release": "{release}", "part": "report"},
        ),
        figures=report(
            directory("results/{model}/{release}/figures"),
            patterns=["{name}.svg"],
            caption="../docs/figure.rst",
            category="Releases",
            subcategory="{model}",
            labels={"release": "{release}", "part": "{name}"},
        ),
    log:
        "results/{model}/{release}/logs/render_report.log",
    benchmark:
        "results/{model}/{release}/benchmarks/render_report.tsv"
    localrule: True
    params:
        code=get_code("report.py"),
    message:
        "Rendering the report of {wildcards.release}"
    shell:
        "python scripts/report.py --verdict {input.verdict} --output {output.page} --figures {output.figures}"
        " > {log} 2>&1"


rule render_index:
    """Render one page over all releases: a table, and size against accuracy."""
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        reports=get_releases("results/{model}/{release}/report.html"),
        templates=["scripts/templates/index.html.jinja", "scripts/templates/style.css"],
    output:
        page=report("results/index.html", caption="../docs/index.rst", category="Overview", labels={"part": "index"}),
        table=report(
            "results/decisions.csv", caption="../docs/index.rst", category="Overview", labels={"part": "table"}
        ),
        figures=report(
            directory("results/figures"),
            patterns=["{name}.svg"],
            caption="../docs/pareto.rst",
            category="Overview",
            labels={"part": "size and accuracy, {name}"},
        ),
    log:
        "results/logs/render_index.log",
    benchmark:
        "results/benchmarks/render_index.tsv"
    localrule: True
    params:
        code=get_code("index.py"),
    message:
        "Rendering the page over all releases"
    shell:
        "python scripts/index.py {input.verdicts} --others results --output {output.page} --table {output.table}"
        " --figures {output.figures} > {log} 2>&1"
