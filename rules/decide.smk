rule compare_runs:
    """Compare the candidate's run with the baseline's, task by task and sample by sample."""
    input:
        unpack(get_comparison_input),
        script=get_script("gate_compare.py"),
    output:
        comparison="results/{model}/{release}/comparison.json",
    log:
        "results/{model}/{release}/logs/compare_runs.log",
    benchmark:
        "results/{model}/{release}/benchmarks/compare_runs.tsv"
    params:
        policy=lambda wildcards: get_text(get_release(wildcards).policy),
    message:
        "Comparing {wildcards.release} with the baseline"
    shell:
        "python scripts/gate_compare.py --baseline $(dirname {input.baseline}) --candidate $(dirname {input.candidate})"
        " --policy {params.policy:q} --assess --output {output.comparison} > {log} 2>&1"


rule decide_release:
    """Decide: ACCEPT, REGRESSION, ANOMALOUS or INFEASIBLE, with the evidence and the next action."""
    input:
        unpack(get_verdict_evidence),
        script=get_script("decide.py"),
    output:
        verdict="results/{model}/{release}/verdict.json",
    log:
        "results/{model}/{release}/logs/decide_release.log",
    benchmark:
        "results/{model}/{release}/benchmarks/decide_release.tsv"
    params:
        release=lambda wildcards: get_text(get_release_request(wildcards)),
        evidence=lambda wildcards, input: get_text({k: v for k, v in input.items() if k != "script"}),
    message:
        "Deciding on {wildcards.release} of {wildcards.model}"
    shell:
        "python scripts/decide.py --release {params.release:q} --evidence {params.evidence:q}"
        " --output {output.verdict} 2>&1 | tee {log}"


rule render_report:
    """Render the decision and its evidence as a page that stands alone."""
    input:
        verdict="results/{model}/{release}/verdict.json",
        script=get_script("report.py"),
        template="scripts/templates/report.html.jinja",
    output:
        page=report(
            "results/{model}/{release}/report.html",
            caption="../docs/report.rst",
            category="Decisions",
            labels={"model": "{model}", "release": "{release}"},
        ),
    log:
        "results/{model}/{release}/logs/render_report.log",
    benchmark:
        "results/{model}/{release}/benchmarks/render_report.tsv"
    message:
        "Rendering the report of {wildcards.release}"
    shell:
        "python scripts/report.py --verdict {input.verdict} --output {output.page} > {log} 2>&1"
