"""Print the decisions as a table: size, precision and scores of each release, and where report and bundle are."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from tabulate import tabulate

from day0.artefacts import read_json, run_cli

HEADERS = ["model", "release", "decision", "size ratio", "bits/weight", "task", "baseline", "candidate", "drop"]


def format_decisions(verdicts: Iterable[Path]) -> str:
    """The table, and below it a paragraph for each release: its files, or why it was refused and what to do next.

    Raises:
        UnusableInput: a verdict cannot be read.
    """
    rows: list[list[str]] = []
    notes: list[str] = []
    for path in verdicts:
        verdict = read_json(path)
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
        notes.append(_note(path, verdict))
    return "\n".join([tabulate(rows, headers=HEADERS, disable_numparse=True), "", *notes])


def _number(value: float | None, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""


def _note(path: Path, verdict: dict) -> str:
    name = f"{verdict['model']} {verdict['release']}"
    report, bundle = path.with_name("report.html"), path.with_name("release")
    lines = [f"{name}: {verdict['decision']}"]
    if verdict["decision"] == "ACCEPT":
        lines += [f"  bundle: {bundle}"] if bundle.is_dir() else []
    else:
        lines += [
            f"  {verdict['failure_class'] or verdict['stage']}: {verdict['detail']}",
            f"  next: {verdict['next_action']}",
        ]
    if report.is_file() and report.stat().st_mtime >= path.stat().st_mtime:
        lines.append(f"  report: {report}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", nargs="+", type=Path, help="verdict.json files")
    arguments = parser.parse_args()
    print("\n" + format_decisions(arguments.verdicts))
    return 0


if __name__ == "__main__":
    run_cli(main)
