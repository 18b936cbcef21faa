"""Evaluate a checkpoint: a real vLLM server, the suite's tasks asked by their harnesses, results with their accounts.

Starts vLLM's OpenAI server on the loopback interface (a port that the kernel chooses, a random key), lets one harness
process per task import and load while it starts, judges one generation (the canary), lets the tasks run side by side,
stops everything, and writes results.yml (NeMo Evaluator's schema, with status, accounting, fingerprints, timing and
the server's facts under ``metadata``), samples/TASK.jsonl and logs/. Baseline and candidate are evaluated alike. With
--speed the server is then put under a fixed load, and what that shows is written to speed.json.

A deterministic failure (a server that cannot load the checkpoint, a garbage canary, a task that crashes) is recorded
in results.yml, exit 0, and so is a candidate that was stopped early; what a retry may cure (a killed server or client)
exits 75 and leaves the answers so far in cache/, from where the next attempt goes on.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from day0.base.cli import EXIT_PASS, EXIT_TRANSIENT, run_cli
from day0.base.terminal import tell
from day0.evaluation.request import read_request
from day0.evaluation.stage import Evaluation
from day0.serving.processes import Transient, stop_by


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, required=True, help="source.json or quantization.json of the checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint's folder; default: where the record says")
    parser.add_argument("--suite", type=Path, required=True, help="suite file (YAML or JSON)")
    parser.add_argument("--serving", default="{}", help="serving settings: JSON text or a file")
    parser.add_argument("--serve-python", required=True, help="Python of the serving environment")
    parser.add_argument(
        "--harness-python", nargs="+", required=True, metavar="NAME=PYTHON", help="Python of each harness's environment"
    )
    parser.add_argument("--model", required=True, help="name of the model; the server serves it under this name")
    parser.add_argument("--candidate", required=True, help='"baseline" or the name of the recipe')
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python files of the checkpoint")
    parser.add_argument(
        "--baseline-results", type=Path, help="the baseline's results.yml, which the canary is compared with"
    )
    parser.add_argument(
        "--early-stopping", type=Path, help="early_stopping.json: look at the samples, and stop once they decide"
    )
    parser.add_argument("--walltime-minutes", type=float, help="stop in time, and keep the answers, before this")
    parser.add_argument("--shard", help="ask this share only: N-of-M (of the documents) or the name of a task")
    parser.add_argument("--allow-generated-code", action="store_true", help="run what the model wrote, on this machine")
    parser.add_argument("--speed", help="JSON: the load that the server's speed is measured under, into speed.json")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for results.yml, samples/ and logs/")
    arguments = parser.parse_args()

    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number: int, frame: Any) -> None:
        for end in ends:
            signal.signal(end, signal.SIG_IGN)  # a second signal must not cut the cleaning up short
        stop_by(number)

    for end in ends:
        signal.signal(end, stop)
    try:
        request = read_request(
            model=arguments.model,
            candidate=arguments.candidate,
            record=arguments.record,
            checkpoint=arguments.checkpoint,
            suite=arguments.suite,
            serving=arguments.serving,
            serve_python=arguments.serve_python,
            harness_pythons=arguments.harness_python,
            baseline_results=arguments.baseline_results,
            early_stopping=arguments.early_stopping,
            shard=arguments.shard,
            walltime_minutes=arguments.walltime_minutes,
            allow_generated_code=arguments.allow_generated_code,
            trust_remote_code=arguments.trust_remote_code,
            output=arguments.output_dir,
            speed=arguments.speed,
        )
        Evaluation(request).run()
    except Transient as error:
        tell(f"transient: {error}; a retry goes on from {arguments.output_dir}/cache", sys.stderr)
        return EXIT_TRANSIENT
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
