"""Print the decisions as a table: size, precision and scores of each release, and where report and bundle are.

Exit status 1 where a file of an accepted release is no longer what was decided on or bundled (day0/release/damage.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

from tabulate import tabulate

from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, run_cli
from day0.records.failure_class import Decision
from day0.records.publication import Publication
from day0.release.damage import find_damage
from day0.release.verdicts import read_verdict

HEADERS = ["model", "release", "decision", "size ratio", "bits/weight", "task", "baseline", "candidate", "drop"]


def format_decisions(verdicts: Iterable[Path], damage: Mapping[Path, list[str]] | None = None) -> str:
    """The table, and below it a paragraph for each release: its files, or why it was refused and what to do next.

    Args:
        damage: by verdict, what of the release is no longer as it was.

    Raises:
        UnusableInput: a verdict cannot be read.
    """
    rows: list[list[str]] = []
    notes: list[str] = []
    for path in verdicts:
        verdict = read_verdict(path)
        ratio, bits = verdict.get("size_ratio"), verdict.get("bits_per_weight")
        head = [verdict["model"], verdict["release"], verdict["decision"], _number(ratio), _number(bits, 2)]
        tasks = verdict.get("tasks") or {}
        for number, (task, entry) in enumerate(tasks.items()):
            scores = [_number(entry.get(key), 4) for key in ("baseline", "candidate")]
            drop = entry.get("drop")
            lead = head if number == 0 else [""] * len(head)
            rows.append([*lead, task, *scores, "" if drop is None else f"{drop:+.4f}"])
        if not tasks:
            rows.append([*head, "", "", "", ""])
        notes.append(
            "\n".join([_note(path, verdict), *(f"  DAMAGED: {what}" for what in (damage or {}).get(path, []))])
        )
    return "\n".join([tabulate(rows, headers=HEADERS, disable_numparse=True), "", *notes])


def _number(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""


def _is_current(made: Path, verdict: Path) -> bool:
    return made.is_file() and made.stat().st_mtime >= verdict.stat().st_mtime


def _note(path: Path, verdict: dict) -> str:
    name = f"{verdict['model']} {verdict['release']}"
    report, bundle = path.with_name("report.html"), path.with_name("release")
    lines = [f"{name}: {verdict['decision']}"]
    if verdict["decision"] == Decision.ACCEPT:
        lines += [f"  bundle: {bundle}"] if bundle.is_dir() else []
    else:
        lines += [
            f"  {verdict['failure_class'] or verdict['stage']}: {verdict['detail']}",
            f"  next: {verdict['next_action']}",
        ]
    if _is_current(report, path):
        lines.append(f"  report: {report}")
    published, tracking = path.with_name("published.json"), verdict.get("mlflow") or {}
    if verdict["decision"] == Decision.ACCEPT and _is_current(published, path):
        lines.append(f"  published: {Publication.read(published).url}")
    if tracking.get("status") == "failed":
        lines.append(f"  not logged with MLflow: {tracking.get('detail')}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", nargs="+", type=Path, help="verdict.json files")
    parser.add_argument("--index", type=Path, help="the page over all releases, to be named last")
    parser.add_argument("--bundles", action="store_true", help="every accepted release must have its bundle")
    parser.add_argument(
        "--verify", choices=("quick", "full"), default="quick", help="full: hash every file of a bundle"
    )
    arguments = parser.parse_args()
    damage = {path: find_damage(path, arguments.verify == "full", arguments.bundles) for path in arguments.verdicts}
    print("\n" + format_decisions(arguments.verdicts, damage))
    if arguments.index:
        print(f"all releases: {arguments.index}")
    if found := sum(map(len, damage.values())):
        print(f"error: {found} files are no longer what was decided on or bundled; they are named above as DAMAGED")
        return EXIT_FAILED_CHECK
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
