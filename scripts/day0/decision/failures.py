"""From a failure class and the stage that found it to a decision and what to do next: the whole table, as data.

Every path that this table does not name ends in ANOMALOUS; nothing but a comparison within its limits is ACCEPT.
"""

from __future__ import annotations

from typing import NamedTuple

ACCEPT, REGRESSION, ANOMALOUS, INFEASIBLE = "ACCEPT", "REGRESSION", "ANOMALOUS", "INFEASIBLE"
DECISIONS = (ACCEPT, REGRESSION, ANOMALOUS, INFEASIBLE)

COMPARISON_STAGE, VALIDATION_STAGE = "comparison", "validation"
BASELINE_STAGE = "baseline"  # a stage of this name, or one that starts with it, assessed the baseline


class Triage(NamedTuple):
    """A decision and the sentence that tells the engineer what to do next."""

    decision: str
    next_action: str


TABLE: dict[str, Triage] = {
    "MODEL_UNSUPPORTED": Triage(
        INFEASIBLE,
        "Fix the recipe's patterns so that they match the model's layers, or add support for the model, then rerun.",
    ),
    "QUANT_COVERAGE_FAILURE": Triage(
        INFEASIBLE,
        "Fix the recipe's wildcards so that the layers named in the validation are quantized (or kept), then rerun.",
    ),
    "DEPLOYMENT_HEALTH_FAILED": Triage(
        INFEASIBLE,
        "Serve the checkpoint alone with the server command of results.yml, mend its flags or the recipe, then rerun.",
    ),
    "SAMPLE_ACCOUNTING_FAILED": Triage(
        ANOMALOUS,
        "Look at the dropped, empty or unmatched samples in the run's samples and logs and mend the cause; where that "
        "changes no file, ask again by `snakemake --force RUN/results.yml` (RUN is its folder in the evidence). Rerun.",
    ),
    "EVAL_JUDGE_FAILED": Triage(
        ANOMALOUS,
        "Wait until the judge endpoint answers again (see the client's log), ask again by `snakemake --force "
        "RUN/results.yml` (RUN is the run's folder in the evidence), then rerun.",
    ),
    "EXTERNAL_BASELINE_MISMATCH": Triage(
        ANOMALOUS,
        "Mend the baseline's set-up (prompts, sampling, context length) until it meets its published score, rerun it.",
    ),
    "NOT_COMPARABLE": Triage(
        ANOMALOUS,
        "Rerun with matched settings: the fields that differ between the two runs are named above.",
    ),
    "INSUFFICIENT_EVIDENCE": Triage(
        ANOMALOUS,
        "Ask more samples (the detail says how many each task needs), or release by the criterion 'point', then rerun.",
    ),
    "INFRA_TRANSIENT": Triage(
        ANOMALOUS,
        "Rerun when the cluster is well. A run that recorded its own end is not made again by itself: give `snakemake "
        "--force RUN/results.yml` first, RUN being its folder in the evidence, or evaluate an imported run again.",
    ),
    "SYSTEMIC": Triage(
        ANOMALOUS,
        "Mend the machine or the environment that the detail names, then rerun; the model was not judged.",
    ),
    "USER_CONFIG_ERROR": Triage(ANOMALOUS, "Correct the setting or input that the detail names, then rerun."),
    "UNKNOWN": Triage(
        ANOMALOUS,
        "Read the evidence named here; correct what it shows, then rerun. Do not publish.",
    ),
}

# A transient failure that reaches the verdict is one no more: the graph has tried the job again, or there is no job to
# try (a run that was imported, or that recorded its own end).
LASTING = {"INFRA_TRANSIENT": "SYSTEMIC"}

# Of a baseline nothing follows for the candidate: what makes a candidate infeasible makes the release anomalous.
BASELINE_ACTIONS: dict[str, str] = {
    "DEPLOYMENT_HEALTH_FAILED": (
        "Serve the unquantized model alone with the server command of results.yml, mend its flags, then rerun; "
        "the candidate was not judged."
    ),
}

# What the validation says of the engine it says before anything was served.
VALIDATION_ACTIONS: dict[str, str] = {
    "DEPLOYMENT_HEALTH_FAILED": (
        "Choose a format, or patterns, that the engine's rule in the validation allows, or another version of the "
        "engine, then rerun; nothing was served."
    ),
}

PUBLISH = Triage(ACCEPT, "Publish the release bundle.")
REGRESSED = Triage(
    REGRESSION,
    "Do not publish. Keep more layers in high precision, calibrate with more or closer data, or choose a wider format, "
    "then rerun; the tasks that regressed are listed with their drops.",
)


def decide(failure_class: str | None, stage: str, within_limits: bool = False) -> Triage:
    """Decision and next action for what an assessment found.

    Args:
        failure_class: class of the assessment that decides, or None where it found no failure.
        stage: which assessment decides: "quantize", "validation", "baseline", "candidate", "comparison", or the name
            of a rule; names that start with "baseline" are about the baseline.
        within_limits: only read for the comparison without a failure class: every blocking task is within its limit.

    Returns:
        (decision, next_action). An unknown class, or None from any stage but the comparison, is ANOMALOUS.
    """
    if failure_class is None:
        if stage == COMPARISON_STAGE:
            return PUBLISH if within_limits is True else REGRESSED
        return TABLE["UNKNOWN"]
    found = TABLE.get(failure_class, TABLE["UNKNOWN"]) if isinstance(failure_class, str) else TABLE["UNKNOWN"]
    if str(stage).startswith(BASELINE_STAGE) and found.decision == INFEASIBLE:
        return Triage(ANOMALOUS, BASELINE_ACTIONS.get(failure_class, found.next_action))
    if stage == VALIDATION_STAGE and found.decision == INFEASIBLE:
        return found._replace(next_action=VALIDATION_ACTIONS.get(failure_class, found.next_action))
    return found
