"""Speed of a bundle's sums and of verify_release.py's, as a ratio to openssl's run in parallel over the same files.

The reference is ``xargs -P CORES -n 1 openssl dgst -sha256``, largest file first; ``sha256sum`` may take several times
as long. Shapes: many shards, a few large ones of unequal
size, and one file, which is one stream for either. The files hold random bytes and lie in the page cache. Rounds
alternate between the three; the ratio is that of the best rounds, the median of the rounds' ratios stands beside it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

MIB = 1 << 20
SHAPES = {
    "many shards": [32 * MIB] * 32,
    "few large": [512 * MIB, 256 * MIB, 256 * MIB],
    "one file": [512 * MIB],
}
REQUIRED = 0.8


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def openssl(folder: Path) -> dict[str, str]:
    """The reference: one process of openssl for each file, as many at a time as there are cores."""
    files = sorted(filter(Path.is_file, folder.rglob("*")), key=lambda path: -path.stat().st_size)
    names = [path.relative_to(folder).as_posix() for path in files]
    cores = len(os.sched_getaffinity(0))
    command = ["xargs", "-P", str(cores), "-n", "1", "openssl", "dgst", "-sha256", "-r"]
    done = subprocess.run(command, input="\n".join(names), cwd=folder, capture_output=True, text=True, check=True)
    return {name.lstrip("*"): digest for digest, name in (line.split() for line in done.stdout.splitlines())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to make the files")
    arguments = parser.parse_args()

    from day0.base.artefacts import inventory, write_json
    from verify_release import hash_files

    worst = float("inf")
    for shape, sizes in SHAPES.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            for number, size in enumerate(sizes):
                with open(folder / f"shard-{number:03}", "wb") as stream:
                    for _ in range(size // (4 * MIB)):
                        stream.write(os.urandom(4 * MIB))
            # A file of this size is read only where a record of the bundle says that it has it.
            recorded = {path.name: {"bytes": path.stat().st_size} for path in folder.iterdir()}
            write_json(folder / "evidence" / "quantization.json", {"files": recorded})
            expected = openssl(folder)
            assert {name: entry["sha256"] for name, entry in inventory(folder).items()} == expected
            assert hash_files(folder, [], {}) == expected
            works = {
                "openssl": lambda folder=folder: openssl(folder),
                "bundle": lambda folder=folder: inventory(folder),
                "verify_release": lambda folder=folder: hash_files(folder, [], {}),
            }
            times = {name: [] for name in works}
            for _ in range(arguments.rounds):
                for name, work in works.items():
                    times[name].append(seconds(work))
            for name in ("bundle", "verify_release"):
                ratio = min(times["openssl"]) / min(times[name])
                rounds = [a / b for a, b in zip(times["openssl"], times[name], strict=True)]
                worst = min(worst, ratio)
                print(
                    f"{shape}, {sum(sizes) / 1e9:.2f} GB in {len(sizes)}: openssl {min(times['openssl']):.2f} s, "
                    f"{name} {min(times[name]):.2f} s ({sum(sizes) / 1e9 / min(times[name]):.2f} GB/s): {ratio:.0%} of "
                    f"its speed (median of the rounds {statistics.median(rounds):.0%})",
                    flush=True,
                )
    print(f"lowest: {worst:.0%}; required {REQUIRED:.0%}")
    return 0 if worst >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
