"""Stand-in: scores as the behaviour says, about 0.9 by default; what it answers is written by the stage's own code."""

import argparse
import json
from pathlib import Path

from day0.base.artefacts import read_json
from day0.evaluation.run_folder import write_run
from day0.records.failure_class import FailureClass
from day0.records.part import Part
from day0.records.results import RunIdentity, ServerFacts, Timing
from day0.records.speed import Speed
from day0.suite.suites import read_suite
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--record", type=Path)
parser.add_argument("--suite", type=Path)
parser.add_argument("--serving", type=json.loads)
parser.add_argument("--serve-python")
parser.add_argument("--harness-python", nargs="+")
parser.add_argument("--allow-generated-code", action="store_true")
parser.add_argument("--model")
parser.add_argument("--candidate")
parser.add_argument("--baseline-results", type=Path)
parser.add_argument("--early-stopping", type=Path)
parser.add_argument("--walltime-minutes", type=int)
parser.add_argument("--shard")
parser.add_argument("--speed", type=json.loads)
parser.add_argument("--output-dir", type=Path)
arguments = parser.parse_args()

behaviour = called("evaluate", " ".join(filter(None, [arguments.candidate, arguments.shard])))
record, suite = read_json(arguments.record), read_suite(arguments.suite)
failure = behaviour.get("failure_class")
tasks = [arguments.shard] if arguments.shard in suite["tasks"] else list(suite["tasks"])
first, count = 0, 1
if arguments.shard and arguments.shard not in tasks:
    number, _, total = arguments.shard.partition("-of-")
    first, count = int(number) - 1, int(total)


def outcome_of(task):
    """What a harness would have answered: the first so many documents right."""
    documents = min(suite["tasks"][task]["samples"], suite["tasks"][task]["limit"] or suite["tasks"][task]["samples"])
    correct = round(behaviour.get("scores", {}).get(task, 0.9 + 0.01 * list(suite["tasks"]).index(task)) * documents)
    samples = [
        {
            "id": str(number),
            "repeat": 0,
            "prompt_digest": f"prompt {number}",
            "target_digest": f"target {number}",
            "document_digest": f"document {number}",
            "answer": str(number),
            "score": float(number < correct),
            "finish_reason": "stop",
            "generated": True,
        }
        for number in range(documents)[first::count]
    ]
    return {
        "status": "COMPLETED",
        "documents": documents,
        "values": [sum(sample["score"] for sample in samples) / len(samples)],
        "samples": samples,
        "requests": {"asked": len(samples), "answered": len(samples)},
        "harness_version": "0",
    }


identity = RunIdentity(
    model=arguments.model,
    candidate=arguments.candidate,
    suite=arguments.suite.stem,
    checkpoint_digest=record.get("checkpoint_digest") or record["digest"],
)
server = ServerFacts(
    engine="stand-in",
    engine_version="0",
    served="",
    image=None,
    device_name=None,
    gpu=None,
    chat_template_digest=None,
    max_model_len=128,
    options_digest="0" * 64,
    command="",
    emulation=behaviour.get("emulation"),
)


def speed_of(load):
    """What the load has shown: about 100 output tokens per second, or the behaviour's."""
    if failed := behaviour.get("speed_failed"):
        found = {"status": "FAILED", "detail": failed, "client": None}
    else:
        tokens = load["requests"] * load["output_tokens"]
        rates = [behaviour.get("tokens_per_second", 100.0) + number / 100 for number in range(load["repeats"])]
        latency = {"mean": 1.0, "median": 1.0, "p99": 1.0}
        repeats = [
            {
                "seconds": tokens / rate,
                "requests": load["requests"],
                "input_tokens": load["requests"] * load["input_tokens"],
                "output_tokens": tokens,
                "requests_per_second": rate / load["output_tokens"],
                "output_tokens_per_second": rate,
                "time_to_first_token_ms": latency,
                "time_per_output_token_ms": latency,
            }
            for rate in rates
        ]
        found = {"status": "MEASURED", "detail": "stand-in", "client": "stand-in", "repeats": repeats}
    return Speed(identity=identity, load=load, seed=1234, server=server, gpus=0, nodes=1, **found)


part = Part(
    identity=identity,
    shard=arguments.shard,
    tasks=tasks,
    failure=(FailureClass(failure), f"stand-in: {failure}") if failure else None,
    outcomes={} if failure else {task: outcome_of(task) for task in tasks},
    server=server,
    canary=None,
    incidents=[],
    timing=Timing(server_start_seconds=None, canary_seconds=None, tasks={}, total_seconds=None),
    attempts=[],
    versions={},
    endpoint_url="",
    speed=speed_of(arguments.speed) if arguments.speed else None,
)
if arguments.shard:
    part.write(arguments.output_dir / "part.json")
else:
    write_run(arguments.output_dir, suite, [part], "stand-in")
