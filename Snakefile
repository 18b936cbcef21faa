# A pretrained LLM in; out comes the decision whether its quantized checkpoint may be published, with the proof.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27.1")


configfile: "config/config.yaml"


report: "docs/workflow.rst"


# What is true of this cluster and not of a release; see config/site.example.yaml.
if Path("config/site.yaml").exists():

    configfile: "config/site.yaml"


include: "rules/common.smk"


rule release:
    """Target: take every release to its bundle; fails, with the decisions, unless all are ACCEPT."""
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        bundles=get_releases("results/{model}/{release}/release/SHA256SUMS"),
        index="results/index.html",
        tracking=get_tracking(),
    message:
        "Every release is accepted"
    shell:
        "python scripts/summarize.py {input.verdicts} --index {input.index}"


rule verdict:
    """Target: decide on every release; succeeds whatever the decisions are."""
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        reports=get_releases("results/{model}/{release}/report.html"),
        index="results/index.html",
        tracking=get_tracking(),
    message:
        "Every release is decided"
    shell:
        "python scripts/summarize.py {input.verdicts} --index {input.index}"


rule quantize:
    """Target: quantize every candidate."""
    input:
        get_releases("results/{model}/{recipe}/quantization.json"),


rule evaluate:
    """Target: evaluate every baseline and candidate."""
    input:
        get_releases("results/{model}/baseline/{suite}/run.json"),
        get_releases("results/{model}/{recipe}/{suite}/run.json"),


rule compare:
    """Target: compare every candidate with its baseline."""
    input:
        get_releases("results/{model}/{release}/comparison.json"),


rule report:
    """Target: render the report of every release, and the page over all."""
    input:
        get_releases("results/{model}/{release}/report.html"),
        "results/index.html",


rule publish:
    """Target: publish every accepted release whose configuration says where, or show what would be done."""
    input:
        unpack(get_publish_input),
    params:
        commands=get_publish_commands(),
    message:
        "Every release is published, or shown"
    shell:
        "{params.commands}"


rule environments:
    """Target: build the environments of all stages."""
    input:
        [get_environment(stage) for stage in STAGE_ENVIRONMENTS],


include: "rules/environments.smk"
include: "rules/demo.smk"
include: "rules/source.smk"
include: "rules/quantize.smk"
include: "rules/evaluate.smk"
include: "rules/decide.smk"
include: "rules/tracking.smk"
include: "rules/release.smk"


# On a cluster these run where snakemake was started: they take seconds and read records, not weights.
localrules:
    release,
    verdict,
    make_demo_data,
    gate_preflight,
    assess_checkpoint,
    gate_ptq,
    assess_run,
    gate_run,
    compare_runs,
    decide_release,
    render_report,
    gate_release,


# The interpreters of images start on compute nodes only.
if not PLAN.config.containers.images:

    localrules:
        check_preflight,


# And these, where compute nodes cannot reach what they fetch.
if not PLAN.config.cluster.jobs_have_internet:

    localrules:
        build_environment,


if needs_hub() and not PLAN.config.cluster.jobs_have_internet:

    localrules:
        describe_source,


onsuccess:
    redo_failed_preflights(workflow)
    require_finished(workflow)


onerror:
    redo_failed_preflights(workflow)
    record_crashes(workflow)
