"""Put the shards of a run together: one results.yml and one samples/ as if a single server had answered.

Each shard's evaluate job left a part.json. The shards must be of one checkpoint and suite, served alike, and together
hold every task; a task whose score is not the mean of its samples cannot be put together and is a configuration error.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from day0.base.cli import UnusableInput, run_cli
from day0.evaluation.run_folder import write_run
from day0.records.part import Part
from day0.suite.suites import read_suite


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", type=Path, help="part.json of every shard")
    parser.add_argument("--suite", type=Path, required=True, help="suite file")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for results.yml and samples/")
    arguments = parser.parse_args()

    suite = read_suite(arguments.suite)
    parts = [Part.read(path) for path in arguments.parts]
    if len({part.shard for part in parts}) < len(parts):
        raise UnusableInput(f"a shard is given twice among {', '.join(map(str, arguments.parts))}; give each once")
    identities = {str(part.identity): path for part, path in zip(parts, arguments.parts, strict=True)}
    if len(identities) > 1:
        found = "; ".join(f"{path} is of {identity}" for identity, path in identities.items())
        raise UnusableInput(f"the shards are not of one run: {found}; rerun them")
    missing = suite["tasks"].keys() - {task for part in parts for task in part.tasks}
    if missing:
        raise UnusableInput(f"no shard holds {', '.join(sorted(missing))}; expected every task of {arguments.suite}")
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    metadata = write_run(arguments.output_dir, suite, parts, command)["metadata"]
    print(f"{len(parts)} shards: {metadata['status']}: {metadata['detail']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
