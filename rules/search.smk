# The search for a recipe: rungs that say which candidates are asked next, and its end. The candidates themselves are
# ordinary releases, which the other rules quantize, evaluate and decide on.
include: "lookups/search.smk"


checkpoint propose_rung:
    """Choose the candidates that are asked next, by what was found so far."""
    input:
        unpack(get_rung_input),
    output:
        rung="results/{model}/{release}/search/rung-{rung}.json",
    log:
        "results/{model}/{release}/search/logs/rung-{rung}.log",
    benchmark:
        "results/{model}/{release}/search/benchmarks/rung-{rung}.tsv"
    wildcard_constraints:
        rung="[0-9]+",
    localrule: True
    params:
        code=get_code("search.py"),
        search=lambda wildcards: get_text(PLAN.search_request(get_search(wildcards)).as_plain()),
        evidence=get_search_options,
    message:
        "Choosing the candidates of rung {wildcards.rung} of {wildcards.release}"
    shell:
        f"python {OWN_SCRIPTS}/search.py"
        " --search {params.search:q} {params.evidence:q} --rung {wildcards.rung:q}"
        " --output {output.rung:q} > {log:q} 2>&1"


checkpoint conclude_search:
    """End a search: its winner, or why there is none, and what every candidate costs and keeps."""
    input:
        unpack(get_conclusion_input),
    output:
        record="results/{model}/{release}/search/search.json",
        table="results/{model}/{release}/search/portfolio.csv",
        figure="results/{model}/{release}/search/pareto.svg",
    log:
        "results/{model}/{release}/search/logs/conclude.log",
    benchmark:
        "results/{model}/{release}/search/benchmarks/conclude.tsv"
    localrule: True
    params:
        code=get_code("search.py", "portfolio.py"),
        search=lambda wildcards: get_text(PLAN.search_request(get_search(wildcards)).as_plain()),
        evidence=get_search_options,
    message:
        "Ending the search {wildcards.release}"
    shell:
        f"{{{{ python {OWN_SCRIPTS}/search.py"
        " --search {params.search:q} {params.evidence:q} --output {output.record:q}"
        f" && python {OWN_SCRIPTS}/portfolio.py"
        " --search {output.record:q} --table {output.table:q} --figure {output.figure:q}; }}"
        " > {log:q} 2>&1"
