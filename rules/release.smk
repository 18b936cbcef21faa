# The bundle of an accepted release, and its publication.
include: "lookups/release.smk"


use rule gate_preflight as gate_release with:
    input:
        assessment="results/{model}/{release}/verdict.json",
    output:
        token="results/{model}/{release}/verdict.ok",
    log:
        "results/{model}/{release}/logs/gate_release.log",
    localrule: True  # not taken over by `use rule`


rule bundle_release:
    """Bundle an accepted checkpoint with its evidence, a model card and SHA256SUMS."""
    input:
        gate=ancient("results/{model}/{release}/verdict.ok"),
        verdict="results/{model}/{release}/verdict.json",
        report="results/{model}/{release}/report.html",
        template=get_card_template,
        materials=get_materials,
    output:
        sums="results/{model}/{release}/release/SHA256SUMS",
    log:
        "results/{model}/{release}/logs/bundle_release.log",
    benchmark:
        "results/{model}/{release}/benchmarks/bundle_release.tsv"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=get_reading_runtime,
    params:
        code=get_code("bundle.py"),
        folder=lambda wildcards: f"results/{wildcards.model}/{get_release(wildcards).candidate}",
        builder=PLAN.config.builder,
        card=lambda wildcards: get_text(get_release(wildcards).card.as_plain()),
        release=lambda wildcards: get_text(get_release_request(wildcards)),
        suite=lambda wildcards: get_suite_file(get_release(wildcards).suite),
    message:
        "Bundling {wildcards.release} of {wildcards.model}"
    shell:
        f"python {OWN_SCRIPTS}/bundle.py"
        " --verdict {input.verdict:q} --report {input.report:q} "
        " --checkpoint {params.folder:q}/checkpoint --record {params.folder:q}/quantization.json"
        " --source-record results/{wildcards.model:q}/source.json --materials {input.materials:q}"
        " --release {params.release:q} --suite {params.suite:q}"
        " --builder {params.builder:q} --card {params.card:q}"
        " --output results/{wildcards.model:q}/{wildcards.release:q}/release 2>&1 | tee {log:q} > /dev/null"


rule publish_release:
    """Upload an accepted bundle to a repository of the model hub, or copy it to a folder."""
    input:
        sums="results/{model}/{release}/release/SHA256SUMS",
    output:
        record="results/{model}/{release}/published.json",
    log:
        "results/{model}/{release}/logs/publish_release.log",
    benchmark:
        "results/{model}/{release}/benchmarks/publish_release.tsv"
    localrule: True
    resources:
        mem_mb=2000,
        runtime=480,
    params:
        code=get_code("publish.py"),
        destination=lambda wildcards: get_text(get_target(wildcards).publish),
        verify=PLAN.config.verify,
    message:
        "Publishing {wildcards.release} of {wildcards.model}"
    shell:
        f"python {OWN_SCRIPTS}/publish.py"
        " --bundle results/{wildcards.model:q}/{wildcards.release:q}/release --destination {params.destination:q}"
        " --verify {params.verify:q} --output {output.record:q} 2>&1 | tee {log:q} > /dev/null"
