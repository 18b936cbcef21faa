"""The score of a run, as NeMo Evaluator asks for it."""

import json
from pathlib import Path

from nemo_evaluator.api.api_dataclasses import EvaluationResult, MetricResult, Score, ScoreStats, TaskResult


def parse_output(output_dir):
    """The mean of what the judge said of each sample."""
    lines = (Path(output_dir) / "nemo-evaluator-per-sample-outputs" / "addition.jsonl").read_text().splitlines()
    scores = [json.loads(line)["score"] for line in lines]
    score = Score(value=sum(scores) / len(scores), stats=ScoreStats(count=len(scores)))
    return EvaluationResult(tasks={"addition": TaskResult(metrics={"judge": MetricResult(scores={"correct": score})})})
