"""Refuse to go on unless an assessment passed.

Reads an assessment or a verdict, writes the token that everything downstream has as an input, and exits 1 with the
reason, writing nothing, where the assessment failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from day0.base.artefacts import digest_of_file
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, run_cli
from day0.records.assessment import AnyAssessment
from day0.records.failure_class import FailureClass
from day0.records.token import Token


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assessment", type=Path, required=True, help="preflight, validation, run or verdict (JSON)")
    parser.add_argument("--token", type=Path, required=True, help="token to write where it passed")
    arguments = parser.parse_args()

    assessment = AnyAssessment.read(arguments.assessment)
    if not assessment.passed:
        verdict = assessment.decision or assessment.failure_class or FailureClass.UNKNOWN
        print(f"{arguments.assessment}: {verdict}: {assessment.detail or 'it gives no reason'}", file=sys.stderr)
        if assessment.next_action:
            print(f"next: {assessment.next_action}", file=sys.stderr)
        return EXIT_FAILED_CHECK
    Token(assessment=arguments.assessment.name, sha256=digest_of_file(arguments.assessment)).write(arguments.token)
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
