# What the rules of tracking.smk look up.
def get_tracking():
    """The record of each release's logged decision, for the targets; none where nothing is logged."""
    return get_releases("results/{model}/{release}/mlflow.decision.json") if PLAN.config.mlflow else []
