# The source model: fetched where it is on the hub, described by its files and digests.
include: "lookups/source.smk"


rule describe_source:
    """Fetch the source model where it is on the hub, and record its files, digests and configuration."""
    input:
        files=lambda wildcards: get_model_files(wildcards.model),
        gate=ancient("results/{model}/preflight.ok"),
    output:
        record="results/{model}/source.json",
    log:
        "results/{model}/logs/describe_source.log",
    benchmark:
        "results/{model}/benchmarks/describe_source.tsv"
    localrule: needs_hub() and not PLAN.config.cluster.jobs_have_internet
    threads: 2
    resources:
        mem_mb=2000,
        runtime=get_reading_runtime,
    params:
        code=get_code("describe_source.py"),
        model=lambda wildcards: get_text(get_preflight_request(wildcards.model)),
    message:
        "Describing the source model {wildcards.model}"
    shell:
        f"python {OWN_SCRIPTS}/describe_source.py"
        " --model {params.model:q} --output {output.record:q} 2>&1 | tee {log:q} > /dev/null"
