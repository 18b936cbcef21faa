# The virtual environments and container images of the stages.

from day0.checkpoint.vllm_rules import ENGINE, locked_version

STAGE_ENVIRONMENTS = (
    "quantize",
    "serve",
    *(harness.environment for harness in HARNESSES.values()),
    *(["mlflow"] if PLAN.config.mlflow else []),
)


def get_environment_name(stage):
    """Environment of a stage: its image where it has one; a harness's, and that of the tracking, is one for both variants."""
    if getattr(PLAN.config.containers, stage, None):
        return f"{stage}.image"
    single = {"mlflow", *(harness.environment for harness in HARNESSES.values())}
    return stage if stage in single else f"{stage}.{VARIANT}"


def get_environment(stage):
    """Marker of a stage's environment, for a rule's input."""
    return f".envs/{get_environment_name(stage)}.json"


def get_python(stage):
    """Interpreter of a stage's environment."""
    return f".envs/{get_environment_name(stage)}/bin/python"


def get_environment_definition(stage):
    """The lock of a stage's environment, or the marker with the digest of its image."""
    name = get_environment_name(stage)
    return get_environment(stage) if name.endswith(".image") else f"envs/{name}.lock"


def get_harness_environments(suite):
    """Markers of the environments of a suite's harnesses."""
    return [get_environment(HARNESSES[name].environment) for name in get_harnesses(suite)]


def get_engine():
    """The serving engine with the version that its environment is locked to, as gate_ptq.py takes it."""
    version = locked_version(Path(f"envs/serve.{VARIANT}.lock"))
    return f"{ENGINE}=={version}" if version else ENGINE


rule build_environment:
    """Build the virtual environment of a stage from its lock file."""
    input:
        lock="envs/{environment}.lock",
    output:
        marker=".envs/{environment}.json",
    log:
        "results/logs/environments/{environment}.log",
    benchmark:
        "results/benchmarks/environments/{environment}.tsv"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=get_code("build_environment.py"),
    message:
        "Building the {wildcards.environment} environment (progress in {log})"
    shell:
        "python scripts/build_environment.py --lock {input.lock} --output {output.marker} > {log} 2>&1"


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
        mounts=PLAN.config.containers.mounts,
        python=lambda wildcards: getattr(PLAN.config.containers, wildcards.stage).python,
    message:
        "Wrapping the image of {wildcards.stage}"
    shell:
        "python scripts/wrap_image.py --runtime {params.runtime} --image {input.image:q} --python {params.python:q}"
        " --mount {params.mounts:q} --output {output.marker} > {log} 2>&1"


if not PLAN.config.cluster.jobs_have_internet:

    localrules:
        build_environment,
