"""What follows from a failure class: its severity, the decision and the next action, as one table.

The table names every class once, the most severe first. A class that it does not name ends in ANOMALOUS; nothing but a
comparison within its limits is ACCEPT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from day0.records.failure_class import Decision, FailureClass

COMPARISON_STAGE, VALIDATION_STAGE = "comparison", "validation"
RECIPE_STAGE = "preflight_recipe"
SEARCH_STAGE = "search"  # where a search chose the recipe: how it ended
BASELINE_STAGE = "baseline"  # a stage of this name, or one that starts with it, assessed the baseline


class Triage(NamedTuple):
    """A decision and the sentence that says what the engineer should do next."""

    decision: Decision
    next_action: str


@dataclass(frozen=True)
class Consequence:
    """What follows from a failure class.

    Attributes:
        decision: on the release.
        next_action: for the engineer.
        of_recipe: the next action where the preflight of the recipe found it, before anything was quantized.
        of_validation: the next action where the validation of the checkpoint found it.
        of_baseline: the next action where the baseline has it.
        lasting: the class that the verdict names in its place.
    """

    decision: Decision
    next_action: str
    of_recipe: str | None = None
    of_validation: str | None = None
    of_baseline: str | None = None
    lasting: FailureClass | None = None


CONSEQUENCES: dict[FailureClass, Consequence] = {
    FailureClass.USER_CONFIG_ERROR: Consequence(
        Decision.ANOMALOUS, "Correct the setting or input that the detail names, then rerun."
    ),
    FailureClass.MODEL_UNSUPPORTED: Consequence(
        Decision.INFEASIBLE,
        "Fix the recipe's patterns so that they match the model's layers, or add support for the model, then rerun.",
        of_recipe="Choose another recipe, or correct this one by what the detail names, then rerun; nothing was "
        "quantized.",
    ),
    FailureClass.QUANT_COVERAGE_FAILURE: Consequence(
        Decision.INFEASIBLE,
        "Fix the recipe's wildcards so that the layers named in the validation are quantized (or kept), then rerun.",
    ),
    FailureClass.DEPLOYMENT_HEALTH_FAILED: Consequence(
        Decision.INFEASIBLE,
        "Serve the checkpoint alone with the server command of results.yml, correct its flags or the recipe, then "
        "rerun.",
        # Preflight and validation judge by the engine's rules before anything is served.
        of_recipe="Choose a recipe that the engine's rule in the detail allows, or another version of the engine, then "
        "rerun; nothing was quantized.",
        of_validation="Choose a format, or patterns, that the engine's rule in the validation allows, or another "
        "version of the engine, then rerun; nothing was served.",
        of_baseline="Serve the unquantized model alone with the server command of results.yml, correct its flags, then "
        "rerun; the candidate was not judged.",
    ),
    FailureClass.SYSTEMIC: Consequence(
        Decision.ANOMALOUS,
        "Repair the machine or the environment that the detail names, then rerun; the model was not judged.",
    ),
    FailureClass.INFRA_TRANSIENT: Consequence(
        Decision.ANOMALOUS,
        "Rerun when the cluster is well. A run that recorded its own end is not made again by itself: give `snakemake "
        "--force RUN/results.yml` first, RUN being its folder in the evidence, or evaluate an imported run again.",
        # By the time of the verdict the graph has retried the job, or there is no job to retry (an imported run, or one
        # that recorded its own end).
        lasting=FailureClass.SYSTEMIC,
    ),
    FailureClass.EVAL_JUDGE_FAILED: Consequence(
        Decision.ANOMALOUS,
        "Wait until the judge endpoint answers again (see the client's log), ask again by `snakemake --force "
        "RUN/results.yml` (RUN is the run's folder in the evidence), then rerun.",
    ),
    FailureClass.SAMPLE_ACCOUNTING_FAILED: Consequence(
        Decision.ANOMALOUS,
        "Look at the dropped, empty or unmatched samples in the run's samples and logs and correct the cause; where "
        "that changes no file, ask again by `snakemake --force RUN/results.yml` (RUN is its folder in the evidence). "
        "Rerun.",
    ),
    FailureClass.EXTERNAL_BASELINE_MISMATCH: Consequence(
        Decision.ANOMALOUS,
        "Correct the baseline's set-up (prompts, sampling, context length) until it meets its published score, rerun "
        "it.",
    ),
    FailureClass.NOT_COMPARABLE: Consequence(
        Decision.ANOMALOUS,
        "Rerun with matched settings, and no cache or server that answers for both: what differs between the two runs, "
        "or is too much alike, is named above.",
    ),
    FailureClass.ANSWERS_MALFORMED: Consequence(
        Decision.ANOMALOUS,
        "Read the answers that only the candidate left malformed. Cut ones: raise the task's largest answer length and "
        "the context, on both sides. Empty ones, loops and control tokens: compare the candidate's "
        "generation_config.json, chat template and stop tokens with the source's. Then rerun; answers that stay so are "
        "the checkpoint's own, so keep more layers in high precision.",
    ),
    FailureClass.SEARCH_SPACE_INFEASIBLE: Consequence(
        Decision.INFEASIBLE,
        "Give the search a space with formats that the engine takes for this model; the detail names what each "
        "candidate was refused for. Then rerun.",
    ),
    FailureClass.TOKEN_GROWTH: Consequence(
        Decision.REGRESSION,
        "Do not publish: the answers cost more tokens than the policy allows. Compare the candidate's "
        "generation_config.json and chat template with the source's, or keep more layers in high precision, then "
        "rerun; raise max_token_growth only where the cost is acceptable.",
    ),
    FailureClass.TOO_SLOW: Consequence(
        Decision.REGRESSION,
        "Do not publish: the candidate is not as fast as the policy asks, though its scores may hold. Choose a format "
        "for which the engine has faster kernels on this hardware, or lower min_speedup, then rerun.",
    ),
    FailureClass.SEARCH_EXHAUSTED: Consequence(
        Decision.REGRESSION,
        "Do not publish: every recipe of the space loses too much. Add recipes with more layers in high precision or "
        "wider formats near the one that the detail names, then rerun; nothing is evaluated twice.",
    ),
    FailureClass.SEARCH_BUDGET_SPENT: Consequence(
        Decision.ANOMALOUS,
        "Raise the part of the search's budget that the detail names, then rerun: the search goes on from what it has.",
    ),
    FailureClass.INSUFFICIENT_EVIDENCE: Consequence(
        Decision.ANOMALOUS,
        "Ask more samples: the detail says which tasks are undecided, and how many samples they need. Nothing shows "
        "that the candidate is worse.",
    ),
    FailureClass.UNKNOWN: Consequence(
        Decision.ANOMALOUS, "Read the evidence named here; correct what it shows, then rerun. Do not publish."
    ),
}

_SEVERITY = {failure_class: place for place, failure_class in enumerate(CONSEQUENCES)}

PUBLISH = Triage(Decision.ACCEPT, "Publish the release bundle.")
REGRESSED = Triage(
    Decision.REGRESSION,
    "Do not publish. Keep more layers in high precision, calibrate with more or closer data, or choose a wider format, "
    "then rerun; the tasks that regressed are listed with their drops.",
)


def severity(failure_class: FailureClass) -> int:
    """Rank of a class, 0 for the most severe; as the key of a sort it puts the most severe first."""
    return _SEVERITY[failure_class]


def lasting(failure_class: FailureClass) -> FailureClass:
    """The class that a verdict names: a transient failure that is still there at the verdict is systemic."""
    return CONSEQUENCES[failure_class].lasting or failure_class


def decide(failure_class: object, stage: str, within_limits: object = False) -> Triage:
    """Decision and next action for what an assessment found.

    Args:
        failure_class: class of the assessment that decides, or None where it found no failure.
        stage: which assessment decides: "quantize", "validation", "baseline", "candidate", "comparison", or the name
            of a rule; names that start with "baseline" are about the baseline.
        within_limits: only read for the comparison without a failure class: every blocking task is within its limit.

    Returns:
        (decision, next_action). An unknown class, or None from any stage but the comparison, is ANOMALOUS.
    """
    if failure_class is None and stage == COMPARISON_STAGE:
        return PUBLISH if within_limits is True else REGRESSED
    found = CONSEQUENCES[FailureClass.of(failure_class)]
    if found.decision is Decision.INFEASIBLE and str(stage).startswith(BASELINE_STAGE):
        # What makes a candidate infeasible says, of a baseline, nothing about the candidate.
        return Triage(Decision.ANOMALOUS, found.of_baseline or found.next_action)
    if stage == RECIPE_STAGE:
        return Triage(found.decision, found.of_recipe or found.next_action)
    if stage == VALIDATION_STAGE:
        return Triage(found.decision, found.of_validation or found.next_action)
    return Triage(found.decision, found.next_action)
