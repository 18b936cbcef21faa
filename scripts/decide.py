"""Decide on a release from its assessments and write the verdict.

The evidence is a JSON object of names and paths, in the graph's order; the rule of decision is in
day0/decision/verdict.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from day0.base.artefacts import digest_of_file, read_json, write_json
from day0.base.cli import UnusableInput, json_argument, run_cli
from day0.decision.verdict import STAGES, Evidence, make_verdict
from day0.release.made_with import gather, stamp

NEEDED = ("name", "model", "recipe", "candidate", "suite", "policy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--release", required=True, help="JSON: name, model, recipe, candidate, suite, policy, external, warnings"
    )
    parser.add_argument("--evidence", required=True, help='JSON: {"validation": PATH, ...}')
    parser.add_argument(
        "--baseline-run",
        nargs=2,
        metavar=("FILE", "SHA256"),
        help="run.json of the baseline where the evidence ends before it; left out where it is another by now",
    )
    parser.add_argument("--mlflow", type=Path, help="mlflow.json: the run that the evidence was logged as")
    parser.add_argument("--output", type=Path, required=True, help="verdict.json to write")
    arguments = parser.parse_args()

    release = json_argument("--release", arguments.release)
    paths = json_argument("--evidence", arguments.evidence)
    missing = [key for key in NEEDED if key not in release]
    if missing:
        raise UnusableInput(f"--release: it has no {', '.join(missing)}; expected {', '.join(NEEDED)}")
    unknown = sorted(paths.keys() - set(STAGES))
    if unknown:
        raise UnusableInput(f"--evidence: unknown: {', '.join(unknown)}; expected some of {', '.join(STAGES)}")
    if not all(isinstance(path, str) for path in paths.values()):
        raise UnusableInput(f"--evidence: expected a path for each name, found {paths}")
    if arguments.baseline_run and "baseline_run" not in paths:
        path, digest = arguments.baseline_run
        if Path(path).is_file() and digest_of_file(path) == digest:
            paths["baseline_run"] = path
    contents = {name: read_json(path) for name, path in paths.items()}
    evidence = {name: Evidence(path, digest_of_file(path), contents[name]) for name, path in paths.items()}
    verdict = make_verdict(release, evidence)
    verdict |= gather(paths) | stamp()
    if arguments.mlflow:
        logged = read_json(arguments.mlflow)
        verdict["mlflow"] = {key: value for key, value in logged.items() if key != "schema_version"}
    write_json(arguments.output, verdict)
    print(f"{release['model']} {release['name']}: {verdict['decision']}: {verdict['detail']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
