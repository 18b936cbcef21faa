# A pretrained LLM in; out comes the decision whether its quantized checkpoint may be published, with the proof.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27.1")


# Of the folder where snakemake runs, else the project's own. As a module, the importing workflow gives the configuration.
configfile: "config/config.yaml" if Path("config/config.yaml").exists() else workflow.source_path("config/config.yaml")


report: "docs/workflow.rst"


# What is true of this cluster and not of a release; see config/site.example.yaml.
if Path("config/site.yaml").exists():

    configfile: "config/site.yaml"


include: "rules/common.smk"
include: "rules/environments.smk"
include: "rules/lookups/resources.smk"
include: "rules/demo.smk"
include: "rules/examples.smk"
include: "rules/preflight.smk"
include: "rules/source.smk"
include: "rules/quantize.smk"
include: "rules/evaluate.smk"
include: "rules/search.smk"
include: "rules/decide.smk"
include: "rules/tracking.smk"
include: "rules/release.smk"
include: "rules/driver.smk"


rule release:
    """Target: take every release to its bundle; fails, with the decisions, unless all are ACCEPT."""
    default_target: not IS_MODULE
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        bundles=get_releases("results/{model}/{release}/release/SHA256SUMS"),
        index="results/index.html",
        tracking=get_tracking(),
    retries: 0
    localrule: True
    params:
        verify=PLAN.config.verify,
    message:
        "Every release is accepted"
    shell:
        f"python {OWN_SCRIPTS}/summarize.py"
        " {input.verdicts:q} --index {input.index:q} --verify {params.verify:q} --bundles"


rule verdict:
    """Target: decide on every release; succeeds whatever the decisions are."""
    input:
        verdicts=get_releases("results/{model}/{release}/verdict.json"),
        reports=get_releases("results/{model}/{release}/report.html"),
        index="results/index.html",
        tracking=get_tracking(),
    retries: 0
    localrule: True
    params:
        verify=PLAN.config.verify,
    message:
        "Every release is decided"
    shell:
        f"python {OWN_SCRIPTS}/summarize.py" " {input.verdicts:q} --index {input.index:q} --verify {params.verify:q}"


rule quantize:
    """Target: quantize every candidate."""
    input:
        get_candidates("results/{model}/{recipe}/quantization.json"),


rule evaluate:
    """Target: evaluate every baseline and candidate; of a search those that it asks for."""
    input:
        get_releases("results/{model}/baseline/{suite}/run.json"),
        get_evaluations(),


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
