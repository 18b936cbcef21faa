"""What a plan says of its decisions before any job runs: limits that a suite cannot resolve, published scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from day0.artefacts import UnusableInput, read_yaml
from day0.config import Plan, PlannedRelease
from day0.external import ExternalScores, parse_external_scores
from day0.policy import read_policy
from day0.resolution import planning_warning


def resolution_warnings(plan: Plan, release: PlannedRelease) -> list[dict[str, str]]:
    """{task, sentence} of each blocking task whose declared samples cannot resolve its limit."""
    tasks = plan.suites[release.suite].tasks
    scales = {task: settings.scale.model_dump() for task, settings in tasks.items()}
    policy, _ = read_policy({**release.policy, "scales": scales})
    warnings = []
    for task, settings in tasks.items():
        counts = [count for count in (settings.samples, settings.limit) if count is not None]
        if not counts or not policy.blocks(task):
            continue
        scale = policy.scales[task]
        # A relative limit is largest, and easiest to resolve, at the largest score.
        limit = policy.limit(task, max(abs(scale.minimum), abs(scale.maximum)), scale)
        rate = policy.expected_disagreement_rate
        sentence = planning_warning(min(counts), limit, scale.width, rate, settings.repeats)
        if sentence:
            warnings.append({"task": task, "sentence": f"{task}: {sentence}."})
    return warnings


def read_published_scores(plan: Plan, root: Path = Path()) -> dict[str, list[dict[str, Any]]]:
    """Published scores of each model of the plan, by its name or its hub repository.

    Raises:
        UnusableInput: the file is not there or holds mistakes; all of them are in the message.
    """
    name = plan.config.external_scores
    if name is None:
        return {model: [] for model in plan.config.models}
    try:
        content = read_yaml(root / name)
    except UnusableInput as error:
        raise UnusableInput(f"external_scores: {error}; give another file, or null for none") from error
    published: ExternalScores = parse_external_scores(content, name)
    return {model: published.of_model(model, settings.hub) for model, settings in plan.config.models.items()}
