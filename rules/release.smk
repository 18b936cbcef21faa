# The bundle of an accepted release, and its publication.

import shlex


def get_materials(wildcards):
    """What a release was made by, besides its model and the scripts: suite, calibration data, locks of its stages."""
    release = get_release(wildcards)
    stages = ["quantize", "serve", *(HARNESSES[name].environment for name in get_harnesses(release.suite))]
    return [
        # Its meaning is the evaluations' parameter: what changes it makes the evidence anew, and so the bundle.
        ancient(f"config/suites/{release.suite}.yaml"),
        *PLAN.suites[release.suite].data_files,
        *get_calibration_files(release.model, release.recipe.path_name),
        *map(get_environment_definition, stages),
    ]


def get_published(dry_run):
    """The releases that the target publish takes along, by whether it only shows what it would do."""
    return [r for r in PLAN.releases if r.publish and r.publish["dry_run"] == dry_run]


def get_publish_input(wildcards):
    """Bundles whose publication is shown, and records of those that are published."""
    shown, done = get_published(dry_run=True), get_published(dry_run=False)
    if not shown + done:
        sys.exit(
            "error: no release says where it is to be published; give 'publish' in the configuration or in a release, "
            "with 'hub' (a repository id) or 'folder'; nothing was started"
        )
    return {
        "bundles": [f"results/{r.model}/{r.name}/release/SHA256SUMS" for r in shown],
        "published": [f"results/{r.model}/{r.name}/published.json" for r in done],
    }


def get_publish_commands():
    """Commands of the target publish: what would be done, and what was."""
    shown = [
        f"python scripts/publish.py --dry-run --bundle results/{r.model}/{r.name}/release"
        f" --destination {shlex.quote(get_text(r.publish))}"
        for r in get_published(dry_run=True)
    ]
    done = [
        f"python scripts/publish.py --show results/{r.model}/{r.name}/published.json"
        for r in get_published(dry_run=False)
    ]
    return " && ".join(shown + done)


use rule gate_preflight as gate_release with:
    input:
        assessment="results/{model}/{release}/verdict.json",
    output:
        token="results/{model}/{release}/verdict.ok",
    log:
        "results/{model}/{release}/logs/gate_release.log",


rule bundle_release:
    """Bundle an accepted checkpoint with its evidence, a model card and SHA256SUMS."""
    input:
        gate=ancient("results/{model}/{release}/verdict.ok"),
        verdict="results/{model}/{release}/verdict.json",
        report="results/{model}/{release}/report.html",
        template="scripts/templates/model_card.md.jinja",
        materials=get_materials,
    output:
        sums="results/{model}/{release}/release/SHA256SUMS",
    log:
        "results/{model}/{release}/logs/bundle_release.log",
    benchmark:
        "results/{model}/{release}/benchmarks/bundle_release.tsv"
    resources:
        mem_mb=2000,
        runtime=get_reading_runtime,
    params:
        code=get_code("bundle.py"),
        folder=lambda wildcards: f"results/{wildcards.model}/{get_release(wildcards).recipe.path_name}",
        builder=PLAN.config.builder,
    message:
        "Bundling {wildcards.release} of {wildcards.model}"
    shell:
        "python scripts/bundle.py --verdict {input.verdict} --report {input.report} "
        " --checkpoint {params.folder}/checkpoint --record {params.folder}/quantization.json"
        " --source-record results/{wildcards.model}/source.json --materials {input.materials}"
        " --builder {params.builder:q} --output $(dirname {output.sums}) 2>&1 | tee {log}"


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
        destination=lambda wildcards: get_text(get_release(wildcards).publish),
    message:
        "Publishing {wildcards.release} of {wildcards.model}"
    shell:
        "python scripts/publish.py --bundle $(dirname {input.sums}) --destination {params.destination:q}"
        " --output {output.record} 2>&1 | tee {log}"
