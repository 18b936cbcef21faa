"""Stand-in: scores as the behaviour says, 0.9 by default."""

import argparse
import json
from pathlib import Path

from day0.artefacts import read_json, read_yaml, write_yaml
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--record", type=Path)
parser.add_argument("--suite", type=Path)
parser.add_argument("--serving", type=json.loads)
parser.add_argument("--serve-python")
parser.add_argument("--harness-python", nargs="+")
parser.add_argument("--model")
parser.add_argument("--candidate")
parser.add_argument("--output-dir", type=Path)
arguments = parser.parse_args()

behaviour = called("evaluate", arguments.candidate)
record, suite = read_json(arguments.record), read_yaml(arguments.suite)
tasks, accounting, failure = {}, {}, behaviour.get("failure_class")
(arguments.output_dir / "samples").mkdir(parents=True, exist_ok=True)
for task, settings in suite["tasks"].items():
    samples = settings["samples"]
    correct = round(behaviour.get("scores", {}).get(task, 0.9) * samples)
    metric = settings["metric"].removesuffix(",none").replace(",", "__")
    stats = {"count": samples, "mean": correct / samples, "stderr": 0.01}
    tasks[task] = {"metrics": {metric: {"scores": {metric: {"value": correct / samples, "stats": stats}}}}}
    lines = [
        {
            "id": i,
            "repeat": 0,
            "prompt_digest": str(i),
            "target_digest": str(i),
            "answer": "1",
            "score": float(i < correct),
        }
        for i in range(samples)
    ]
    (arguments.output_dir / "samples" / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    accounting[task] = dict.fromkeys(("expected", "asked", "answered", "scored"), samples)
    accounting[task] |= dict.fromkeys(("empty", "cut", "unparsed", "failed"), 0)
write_yaml(
    arguments.output_dir / "results.yml",
    {
        "command": "stand-in",
        "config": {},
        "results": {"groups": {}, "tasks": {} if failure else tasks},
        "target": {},
        "metadata": {
            "schema_version": 1,
            "status": "FAILED" if failure else "COMPLETED",
            "failure_class": failure,
            "detail": f"stand-in: {failure}" if failure else "",
            "model": arguments.model,
            "candidate": arguments.candidate,
            "suite": arguments.suite.stem,
            "checkpoint_digest": record.get("checkpoint_digest") or record["digest"],
            "accounting": {} if failure else accounting,
            "fingerprint": {task: {"task_hash": "1"} for task in tasks},
        },
    },
)
