"""The judgement of runs: assessment, comparison, verdict."""
