# From two assessed runs to the verdict, and the pages that show it.
include: "lookups/decide.smk"


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
        f"python {OWN_SCRIPTS}/gate_compare.py"
        " --baseline {input.baseline:q} --candidate {input.candidate:q}"
        " --policy {params.policy:q} --source-record {input.source:q} --external {params.external:q} --assess --output {output.comparison:q} > {log:q} 2>&1"


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
        baseline=get_existing_baseline,
        # Advice goes by it and no decision, so that measuring it later decides nothing again.
        sensitivity="results/{model}/sensitivity.json",
        tracking=lambda wildcards, input: [f"--mlflow={record}" for record in input.get("tracking", [])],
    message:
        "Deciding on {wildcards.release} of {wildcards.model}"
    shell:
        f"python {OWN_SCRIPTS}/decide.py"
        " --release {params.release:q} --evidence {params.evidence:q} {params.baseline:q}"
        " --sensitivity {params.sensitivity:q} {params.tracking:q} --output {output.verdict:q} 2>&1 | tee {log:q} > /dev/null"


rule render_report:
    """Render the decision and its evidence as a page that stands alone, and its figures."""
    input:
        verdict="results/{model}/{release}/verdict.json",
        templates=[get_own("scripts/templates/report.html.jinja"), get_own("scripts/templates/style.css")],
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
        f"python {OWN_SCRIPTS}/report.py"
        " --verdict {input.verdict:q} --output {output.page:q} --figures {output.figures:q}"
        " > {log:q} 2>&1"


rule render_index:
    """Render one page over all releases: a table, and size against accuracy."""
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        reports=get_releases("results/{model}/{release}/report.html"),
        templates=[get_own(f"scripts/templates/{name}") for name in ("index.html.jinja", "index.js", "style.css")],
        signed=get_sign_offs,
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
        f"python {OWN_SCRIPTS}/index.py"
        " {input.verdicts:q} --others results --output {output.page:q} --table {output.table:q}"
        " --figures {output.figures:q} > {log:q} 2>&1"
