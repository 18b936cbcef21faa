# What the rules of environments.smk look up.
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
    return get_environment(stage) if name.endswith(".image") else get_own(f"envs/{name}.lock")


def get_harness_environments(suite):
    """Markers of the environments of a suite's harnesses."""
    return [get_environment(HARNESSES[name].environment) for name in get_harnesses(suite)]


@functools.cache
def get_engine():
    """The serving engine with the version that its environment is locked to, as gate_ptq.py takes it."""
    version = locked_version(PROJECT / f"envs/serve.{VARIANT}.lock")
    return f"{ENGINE}=={version}" if version else ENGINE
