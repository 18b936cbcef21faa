"""Bundle an accepted checkpoint for publication: the model folder, a model card, evidence, provenance, SHA256SUMS.

Refuses unless the verdict is ACCEPT, every file is still the one that the verdict was made from, and the runs give that
verdict when they are judged, compared and decided on once more: one that was edited by hand never gets here. The
checkpoint is cloned or hard-linked, read-only then, where the file system allows it, else copied; never moved. The
folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import gate_compare
from day0.base.artefacts import digest_of_file, write_json, write_text
from day0.base.cli import EXIT_FAILED_CHECK, UnusableInput, json_argument, run_cli
from day0.decision.assess_run import assess_run
from day0.decision.verdict import ReleaseRequest, make_verdict
from day0.records.card import CardSettings
from day0.records.comparison import Comparison
from day0.records.provenance import Statement
from day0.records.run import RunAssessment
from day0.records.validation import Validation
from day0.release.bundle import CARD, RUNS, AcceptedRelease
from day0.release.damage import write_states
from day0.release.judged_again import decided, differences
from day0.release.model_card import render_model_card
from day0.release.provenance import make_statement
from day0.suite.suites import read_suite
from decide import read_evidence, read_release
from verify_release import verify

PROVENANCE, SAMPLES, SUMS = "provenance.json", "evidence/samples.json", "SHA256SUMS"
BROKEN = "error: no bundle, the chain of evidence is broken: {}; rerun from the changed stage"


FICLONE = 0x40049409  # of linux/fs.h


def clone(source: Path, target: Path) -> bool:
    """Copy a file by sharing its blocks until one of the two is written; False where the file system cannot."""
    try:
        with source.open("rb") as original, target.open("xb") as copy:
            fcntl.ioctl(copy, FICLONE, original.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        return False
    shutil.copystat(source, target)
    return True


def share_or_copy(source: Path, target: Path) -> None:
    """Bring a file of the checkpoint into the bundle: its blocks, a second name, or a copy, as the file system can.

    What has two names is made read-only, since a write through either would change both; not where the checkpoint's
    file is a link, as of one that was made elsewhere: the file is another's then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if clone(source, target):
        return
    try:
        # The file itself, where the source is a link to it: the hub's cache holds nothing but links.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
    else:
        if not source.is_symlink():
            target.chmod(target.stat().st_mode & ~0o222)


def judge_again(release: AcceptedRelease, request: ReleaseRequest, suite: Path) -> list[str]:
    """Judge both runs again, compare them and decide; returns where the files of the release say something else.

    Raises:
        UnusableInput: a file of the runs cannot be read.
    """
    found = []
    definition = read_suite(suite)
    for run in RUNS:
        path = release.evidence[run]
        made = assess_run(path.parent, definition, suite).as_plain()
        recorded = RunAssessment.read(path).as_plain()
        found += differences(path, recorded | {"definition_digest": None}, made)
    comparison = release.evidence["comparison"]
    compared = gate_compare.compare_files(
        release.evidence["baseline_run"],
        release.evidence["candidate_run"],
        request.policy.as_plain(),
        release.source,
        [entry.model_dump(mode="json") for entry in request.external],
    )
    found += differences(comparison, Comparison.read(comparison).as_plain(), compared.as_plain())
    evidence = read_evidence({name: entry.path for name, entry in release.verdict.evidence.items()})
    made = make_verdict(request, evidence)
    return found + differences(release.evidence["verdict"], decided(release.verdict), decided(made))


def fill(folder: Path, release: AcceptedRelease, card: CardSettings) -> dict[str, str]:
    """Bring together all files but the provenance and the sums; returns their digests."""
    quantization, source = release.quantization, release.source
    for name in quantization.files:
        share_or_copy(release.checkpoint / name, folder / name)
    for name in release.legal_files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(source.path) / name, folder / name)
    evidence = {f"evidence/{name}{path.suffix}": path for name, path in release.evidence.items()}
    for name, path in evidence.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(path, folder / name)
    report = next(name for name, path in evidence.items() if path == release.evidence["report"])
    write_text(folder / report, without_questions((folder / report).read_text(encoding="utf-8")))
    write_json(folder / SAMPLES, release.samples)
    validation = Validation.read(release.evidence["validation"])
    (folder / CARD).unlink(missing_ok=True)  # a link to the checkpoint's own card, which must stay as it is
    metadata = release.metadata("candidate_run")
    text = render_model_card(release.verdict, quantization, source, validation, metadata, release.checkpoint, card)
    write_text(folder / CARD, text)
    made = [CARD, SAMPLES, *release.legal_files, *evidence]
    digests = {name: entry.sha256 for name, entry in quantization.files.items()}
    return digests | {name: digest_of_file(folder / name) for name in made}


def without_questions(page: str) -> str:
    """A report without the texts of questions and their answers, which many data sets ask not to be published."""
    return re.sub(r"<!--questions-->.*?<!--/questions-->", "", page, flags=re.DOTALL)


def describe(
    release: AcceptedRelease, sums: dict[str, str], materials: Sequence[Path], builder: str, output: Path
) -> Statement:
    """The provenance of a bundle of these files."""
    samples = release.samples
    return make_statement(
        subjects=sums,
        verdict=release.verdict,
        record=release.quantization,
        source=release.source,
        materials={path.as_posix(): digest_of_file(path) for path in materials},
        byproducts={f"{side}/samples/{n}": e["sha256"] for side, files in samples.items() for n, e in files.items()},
        commands={"release": f"snakemake {output}/{SUMS}", **release.commands()},
        builder=builder,
        started=timestamp(min(path.stat().st_mtime for path in release.evidence.values())),
        finished=timestamp(datetime.now(UTC).timestamp()),
    )


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdict", type=Path, required=True, help="verdict.json")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the accepted checkpoint")
    parser.add_argument("--record", type=Path, required=True, help="its quantization.json")
    parser.add_argument("--source-record", type=Path, required=True, help="source.json")
    parser.add_argument("--release", required=True, help="JSON: the release as decide.py was given it")
    parser.add_argument("--suite", type=Path, required=True, help="its suite's file")
    parser.add_argument("--report", type=Path, required=True, help="report.html")
    parser.add_argument("--materials", type=Path, nargs="*", default=[], help="suite, data and lock files")
    parser.add_argument("--builder", default="urn:day0:builder", help="URI of who runs the workflow")
    parser.add_argument("--card", default="{}", help="JSON: what the configuration says about the model card")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    card = CardSettings.model_validate(json_argument("--card", arguments.card))

    release = AcceptedRelease.read(
        arguments.verdict, arguments.record, arguments.source_record, arguments.report, arguments.checkpoint
    )
    changes = release.find_changes()
    changes = changes or judge_again(release, read_release(arguments.release), arguments.suite)
    if changes:
        print(BROKEN.format("; ".join(changes)))
        return EXIT_FAILED_CHECK
    unfinished = arguments.output.with_name(f".{arguments.output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    sums = fill(unfinished, release, card)
    unlistable = [name for name in sums if "\n" in name or "\\" in name]
    if unlistable:
        raise UnusableInput(f"{arguments.checkpoint}: {SUMS} cannot name {unlistable}; rename these files")
    statement = describe(release, sums, arguments.materials, arguments.builder, arguments.output)
    text = json.dumps(statement.as_plain(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(unfinished / PROVENANCE, text + "\n")
    sums[PROVENANCE] = digest_of_file(unfinished / PROVENANCE)
    write_text(unfinished / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    problems, digests = verify(unfinished)
    weights = {name: digest for name, digest in digests.items() if name != CARD}
    if changes := release.changes_of(weights):
        shutil.rmtree(unfinished)
        print(BROKEN.format("; ".join(changes)))
        return EXIT_FAILED_CHECK
    if problems:
        print(f"error: no bundle, it would not hold: {'; '.join(problems)}; rerun from the stage that these name")
        return EXIT_FAILED_CHECK
    shutil.rmtree(arguments.output, ignore_errors=True)
    unfinished.rename(arguments.output)
    write_states(arguments.output, digests)
    print(f"{arguments.output}: {len(sums) + 1} files")
    return 0


if __name__ == "__main__":
    run_cli(main)
