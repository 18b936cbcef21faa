"""Sign off an accepted bundle: say who answers for its publication.

The bundle is checked first. sign_off.json beside it names the person, the time, and the digests of SHA256SUMS and of
the verdict, so that it holds for this very bundle and no later one. Where the configuration says
``publish: {sign_off: required}``, nothing else is published. It is no cryptographic signature: who may write to the
results may sign.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from day0.base.artefacts import digest_of_file, read_json
from day0.base.cli import EXIT_FAILED_CHECK, UnusableInput, run_cli
from day0.records.failure_class import Decision
from day0.records.sign_off import SIGN_OFF, SignOff
from day0.records.verdict import Verdict
from verify_release import SUMS, verify


def read_accepted(release: Path) -> Verdict:
    """The verdict of a release that has a bundle.

    Raises:
        UnusableInput: it is not accepted, has no bundle, or has one of another verdict.
    """
    path, bundle = release / "verdict.json", release / "release"
    verdict = read_json(path)
    if verdict.get("decision") != Decision.ACCEPT:
        raise UnusableInput(
            f"{path}: only an accepted release is signed off; the decision is {verdict.get('decision')!r}"
        )
    bundled = bundle / "evidence" / "verdict.json"
    if not bundled.is_file():
        raise UnusableInput(f"{bundle}: found no bundle; expected one that snakemake release has made")
    if digest_of_file(bundled) != digest_of_file(path):
        raise UnusableInput(f"{bundle}: is of another verdict than {path}; run snakemake release, which makes it anew")
    return Verdict.parse(verdict, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path, help="folder of the release, results/MODEL/RELEASE")
    parser.add_argument("--by", required=True, metavar="NAME", help="the person who answers for it")
    parser.add_argument("--comment", help="what was looked at, or on what condition")
    arguments = parser.parse_args()

    by = arguments.by.strip()
    if not by:
        raise UnusableInput("--by: found nothing; expected the name of a person")
    verdict, bundle = read_accepted(arguments.release), arguments.release / "release"
    problems, digests = verify(bundle)
    if problems:
        print(f"error: not signed off: {bundle}: {'; '.join(problems)}")
        return EXIT_FAILED_CHECK
    signed = SignOff(
        model=verdict.model,
        release=verdict.release,
        signed_by=by,
        signed=datetime.now(UTC).isoformat(timespec="seconds"),
        comment=arguments.comment,
        sums_sha256=digests[SUMS],
        verdict_sha256=digest_of_file(arguments.release / "verdict.json"),
    )
    path = arguments.release / SIGN_OFF
    signed.write(path)
    print(f"{verdict.model} {verdict.release}: {verdict.decision}: {verdict.detail}")
    print(f"{path}: signed off by {by}; SHA256SUMS {signed.sums_sha256}")
    return 0


if __name__ == "__main__":
    run_cli(main)
