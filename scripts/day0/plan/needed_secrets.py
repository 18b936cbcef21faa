"""Which secrets of its caller's environment a run needs; its stages are given no others."""

from __future__ import annotations

import re
from collections.abc import Mapping

from day0.base.secret_texts import HUB_VARIABLES, PROXY_VARIABLES, secrets_in
from day0.plan.plan import Plan

# Where credentials of what installs environments are, of image runtimes, and of MLflow's stores of artefacts.
_INSTALLERS = ("PIP_", "UV_")
_RUNTIMES = ("APPTAINER_", "SINGULARITY_", "DOCKER_", "PODMAN_", "ENROOT_", "REGISTRY_")
_TRACKING = ("MLFLOW_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_")


def unneeded_secrets(plan: Plan, environment: Mapping[str, str]) -> list[str]:
    """Names of the variables that hold a secret which nothing that the plan configures needs, sorted.

    Args:
        environment: of the driver.
    """
    judges = [judge for suite in plan.suites.values() for judge in suite.judges.values()]
    needed = HUB_VARIABLES | PROXY_VARIABLES | {judge.url_variable for judge in judges}
    needed |= {judge.key_variable for judge in judges if judge.key_variable}
    needed |= {
        str(target.publish["token_variable"]) for target in plan.targets if target.publish and "hub" in target.publish
    }
    kinds: tuple[str, ...] = _INSTALLERS
    kinds += _RUNTIMES if plan.config.containers.serve or plan.config.containers.quantize else ()
    kinds += _TRACKING if plan.config.mlflow else ()
    return sorted(
        name
        for name in secrets_in(environment)
        # What is no name to a shell it cannot forget, and hands on to no one either.
        if name not in needed and not name.startswith(kinds) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)
    )
