# The virtual environments and container images of the stages.
include: "lookups/environments.smk"


rule build_environment:
    """Build the virtual environment of a stage from its lock file."""
    input:
        lock=get_own("envs/{environment}.lock"),
    output:
        marker=".envs/{environment}.json",
    log:
        "results/logs/environments/{environment}.log",
    benchmark:
        "results/benchmarks/environments/{environment}.tsv"
    localrule: not PLAN.config.cluster.jobs_have_internet
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=get_code("build_environment.py"),
    message:
        "Building the {wildcards.environment} environment"
    shell:
        f"python {OWN_SCRIPTS}/build_environment.py" " --lock {input.lock:q} --output {output.marker:q} > {log:q} 2>&1"


rule wrap_image:
    """Wrap a stage's container image as its environment."""
    input:
        image=lambda wildcards: getattr(PLAN.config.containers, wildcards.stage).image,
    output:
        marker=".envs/{stage}.image.json",
    log:
        "results/logs/environments/{stage}.image.log",
    benchmark:
        "results/benchmarks/environments/{stage}.image.tsv"
    wildcard_constraints:
        stage="quantize|serve",
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=get_code("wrap_image.py"),
        runtime=PLAN.config.containers.runtime,
        mounts=[*PLAN.config.containers.mounts, *([] if IS_IN_PLACE else [str(PROJECT)])],
        python=lambda wildcards: getattr(PLAN.config.containers, wildcards.stage).python,
    message:
        "Wrapping the image of {wildcards.stage}"
    shell:
        f"python {OWN_SCRIPTS}/wrap_image.py"
        " --runtime {params.runtime:q} --image {input.image:q} --python {params.python:q}"
        " --mount {params.mounts:q} --output {output.marker:q} > {log:q} 2>&1"
