"""Judge a run of a suite: status, accounting, scores, and what the logs say.

Reads a run folder (results.yml, samples/, logs/), a results.yml or a summary in JSON, and prints the assessment as
JSON. By hand the exit status is the verdict: 0 pass, 1 failed check, 2 unusable input; with --assess a failed check
is a finding like any other, recorded in --output with exit 0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, run_cli
from day0.decision.assess_run import assess_run
from day0.records.failure_class import FailureClass
from day0.suite.suites import read_suite


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="run folder, results.yml or summary (JSON)")
    parser.add_argument("--suite", type=Path, help="the suite's file: scales, tiers and the samples that it declares")
    parser.add_argument("--definition-digest", help="digest of what defined the run; recorded as it is")
    parser.add_argument("--output", type=Path, help="file to write the assessment to")
    parser.add_argument("--assess", action="store_true", help="exit 0 also for a failed check")
    arguments = parser.parse_args()

    assessment = assess_run(arguments.run, read_suite(arguments.suite) if arguments.suite else None, arguments.suite)
    assessment.definition_digest = arguments.definition_digest
    print(json.dumps(assessment.as_plain(), indent=2, ensure_ascii=False))
    if arguments.output:
        assessment.write(arguments.output)
    return EXIT_PASS if assessment.passed or arguments.assess else EXIT_FAILED_CHECK


if __name__ == "__main__":
    run_cli(main, unusable_as=FailureClass.USER_CONFIG_ERROR)
