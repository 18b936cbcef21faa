"""What the evaluate stage costs over the bare minimum, on the demo suite: ratios of whole runs of the same session.

- stage: scripts/evaluate.py, from its start to results.yml.
- bare: the same server started alone, then the stage's own requests, recorded before, sent again by a client that only
  sends bytes and reads bytes, with as many prompts in flight.
- cli: vLLM's server as it comes, then the ``lm-eval`` command line, one task after the other.

Prints seconds of each round, the ratios stage/bare (at most 1.25 is the aim) and cli/stage, and the rate of requests
while tasks are asked over that of the bare client (at least 0.9). Needs the built environments, the embedded model and
a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from day0.serving.processes import Children  # noqa: E402
from day0.serving.server import Server, server_command, server_environment  # noqa: E402
from day0.suite.suites import read_suite  # noqa: E402

SERVE, HARNESS = ".envs/serve.cpu/bin/python", ".envs/lm-eval/bin/python"
MODEL, RECORD, SUITE = "results/demo/model", "results/tiny-llama/source.json", Path("config/suites/demo.yaml")
KEY = "bench"


def run_stage(folder: Path, python: str = SERVE, **environment: str) -> tuple[float, dict]:
    """Seconds of a whole run, and the metadata of its results."""
    command = [sys.executable, "scripts/evaluate.py", "--record", RECORD, "--suite", str(SUITE), "--output-dir", folder]
    command += ["--serve-python", python, "--harness-python", f"lm-eval={HARNESS}"]
    command += ["--model", "tiny-llama", "--candidate", "baseline"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    seconds = time.perf_counter() - start
    return seconds, yaml.load((folder / "results.yml").read_text(), yaml.CSafeLoader)["metadata"]


class BareServer:
    """The stage's server, alone."""

    def __init__(self, folder: Path, suite: dict, plain: bool = False) -> None:
        command = server_command(SERVE, MODEL, "tiny-llama", suite, {}, on_cpu=not plain)
        environment = server_environment(os.environ, {}, not plain, KEY)
        if plain:
            environment |= {"VLLM_CPU_KVCACHE_SPACE": "1"}
        self.children = Children()
        self.server = Server(self.children, command, environment, folder / "server.log")

    def __enter__(self) -> Server:
        self.server.wait(600)
        return self.server

    def __exit__(self, *_: object) -> None:
        self.children.stop_all()


async def send(url: str, bodies: list[tuple[str, bytes, int]], in_flight: int) -> None:
    """Send all, as many prompts in flight as given; nothing is parsed."""
    room = asyncio.Semaphore(max(1, in_flight // max(prompts for _, _, prompts in bodies)))
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def one(path: str, body: bytes) -> None:
            async with room, session.post(url + path, data=body) as response:
                assert response.status == 200
                await response.read()

        await asyncio.gather(*(one(path, body) for path, body, _ in bodies))


def record(folder: Path, suite: dict) -> list[tuple[str, bytes, int]]:
    """The stage's requests: path, body and number of prompts."""
    with BareServer(folder, suite) as server:
        backend = {"port": server.port, "key": KEY, "log": str(server.log), "python": SERVE}
        wrapper = folder / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/evaluation/proxy.py"} "$@"\n')
        wrapper.chmod(0o755)
        bodies = folder / "bodies.jsonl"
        run_stage(folder / "recorded", str(wrapper), BACKEND=json.dumps(backend), BODIES=str(bodies))
    lines = map(json.loads, bodies.read_text().splitlines())
    return [(path, json.dumps(content).encode(), len(content["prompt"])) for path, content in lines]


def run_cli(folder: Path, suite: dict) -> float:
    """Seconds of the default server and lm-eval's command line."""
    start = time.perf_counter()
    with BareServer(folder, suite, plain=True) as server:
        for name, task in suite["tasks"].items():
            arguments = f"model=tiny-llama,base_url={server.base_url}/v1/completions,tokenizer={MODEL},num_concurrent=4"
            command = [HARNESS, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", task["task"]]
            command += ["--model_args", f"{arguments},tokenized_requests=True,max_length=64", "--batch_size", "16"]
            command += ["--include_path", suite["include_path"], "--output_path", str(folder / name), "--log_samples"]
            environment = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1"}
            subprocess.run(command, check=True, env=environment, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cli", action="store_true", help="compare with lm-eval's command line, too")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    suite = read_suite(SUITE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bodies = record(folder, suite)
        prompts = sum(count for _, _, count in bodies)
        print(f"{len(bodies)} requests of {prompts} prompts, {suite['concurrency']} in flight", flush=True)
        ratios, rates = [], []
        for number in range(arguments.rounds):
            start = time.perf_counter()
            with BareServer(folder, suite) as server:
                ready = time.perf_counter()
                asyncio.run(send(server.base_url, bodies, suite["concurrency"]))
                bare, sending = time.perf_counter() - start, time.perf_counter() - ready
            stage, metadata = run_stage(folder / f"stage-{number}")
            asking = max(metadata["timing"]["tasks"].values())
            ratios.append(stage / bare)
            rates.append(sending / asking)
            print(
                f"stage {stage:.1f} s (server {metadata['timing']['server_start_seconds']:.1f}, asking {asking:.1f}); "
                f"bare {bare:.1f} s (server {ready - start:.1f}, asking {sending:.1f}); ratio {ratios[-1]:.2f}; "
                f"rate {prompts / asking:.0f} over {prompts / sending:.0f} prompts/s: {rates[-1]:.2f}",
                flush=True,
            )
        if arguments.cli:
            cli = run_cli(folder, suite)
            print(f"default server and lm-eval CLI {cli:.1f} s: {cli / stage:.2f} times the stage's")
        print(f"median: stage/bare {statistics.median(ratios):.2f}, rate {statistics.median(rates):.2f}")


if __name__ == "__main__":
    main()
