"""What Slurm costs over local execution: seconds per job, and seconds from one job's end to the next one's start.

Starts the tests' private cluster (Slurm's daemons must be installed), and takes a chain of jobs that do nothing, and
one of jobs that sleep, through the project's profile and executor; the same chains run locally are the reference of
the session. A gap is read from Slurm's own records: the start of a job less the end of the one before. ``--plugin``
also measures the plugin without this project's executor, with the same settings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "slurm"), str(ROOT / "scripts")]

from slurm_cluster import Cluster, running_cluster  # noqa: E402

SNAKEFILE = """
import sys
sys.path.insert(0, {scripts!r})
if {ours}:
    from driver.slurm import install
    from day0.plan.config import Cluster
    install(Cluster(partition="cpu").model_dump(), lambda wildcards: ())

rule link:
    input: lambda wildcards: f"{{int(wildcards.n) - 1}}.txt" if int(wildcards.n) else []
    output: "{{n}}.txt"
    resources: mem_mb=700, runtime=5
    shell: "sleep {seconds}; touch {{output}}"
"""


def measure(cluster: Cluster | None, length: int, seconds: float, ours: bool) -> dict[str, float]:
    """Run a chain; seconds per job over what the jobs sleep, and on a cluster the gaps between its jobs."""
    with tempfile.TemporaryDirectory(prefix="chain-") as name:
        folder = Path(name)
        text = SNAKEFILE.format(scripts=str(ROOT / "scripts"), ours=ours, seconds=seconds)
        (folder / "Snakefile").write_text(text)
        environment = dict(cluster.environment if cluster else os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        how = ["--profile", str(ROOT / "profiles" / "slurm")] if cluster else ["--cores", "1"]
        command = [sys.executable, "-m", "snakemake", *how, "--", f"{length - 1}.txt"]
        began = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        took = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"the chain failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        found = {"seconds_per_job": round((took - seconds * length) / length, 2)}
        if cluster:
            lines = cluster.run("squeue", "-h", "--states=all", "-o", "%Z|%S|%e").splitlines()
            spans = sorted(
                tuple(map(datetime.fromisoformat, line.split("|")[1:]))
                for line in lines
                if line.startswith(f"{folder}|")
            )
            gaps = [(later[0] - earlier[1]).total_seconds() for earlier, later in itertools.pairwise(spans)]
            found |= {"gap_median_seconds": statistics.median(gaps), "gap_longest_seconds": max(gaps)}
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=5, help="jobs of a chain")
    parser.add_argument("--seconds", type=float, default=20, help="what each job of the second chain sleeps")
    parser.add_argument("--plugin", action="store_true", help="measure the plugin without this project's executor too")
    arguments = parser.parse_args()

    with running_cluster() as cluster:
        for seconds in (0, arguments.seconds):
            local = measure(None, arguments.length, seconds, ours=False)
            found = {
                "jobs_sleep_seconds": seconds,
                "local": local,
                "slurm": measure(cluster, arguments.length, seconds, True),
            }
            if arguments.plugin:
                found["plugin_alone"] = measure(cluster, arguments.length, seconds, ours=False)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
