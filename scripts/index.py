"""Render one page over all releases: their decisions in a table, and size against accuracy for each model.

Writes index.html, which stands alone, the same table as decisions.csv, and the figures as files of their own. Releases
that were decided earlier and are not among the given ones are listed apart.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
from pathlib import Path

from day0.base.artefacts import write_text
from day0.base.cli import UnusableInput, run_cli
from day0.release.overview_page import COLUMNS, Decided, count_decisions, index_figures, index_rows
from day0.release.release_page import TONES
from day0.release.verdicts import read_verdict
from report import render, write_figures


def find_decided(path: Path, folder: Path, configured: bool) -> Decided:
    """A verdict with its page and bundle, where those are not older than it."""
    verdict, decided = read_verdict(path), path.stat().st_mtime

    def address(name: str) -> str | None:
        file = path.parent / name
        return os.path.relpath(file, folder) if file.is_file() and file.stat().st_mtime >= decided else None

    return Decided(verdict, address("report.html"), address("release/README.md"), configured)


def as_csv(rows: list[dict]) -> str:
    """The rows as CSV, one line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", nargs="+", type=Path, help="verdict.json files of the configured releases")
    parser.add_argument("--others", type=Path, help="folder of results: list what else was decided in it")
    parser.add_argument("--output", type=Path, required=True, help="HTML page to write")
    parser.add_argument("--table", type=Path, help="CSV file to write")
    parser.add_argument("--figures", type=Path, help="folder to write the figures to, MODEL.SUITE.svg each")
    arguments = parser.parse_args()

    folder = arguments.output.parent
    releases = [find_decided(path, folder, configured=True) for path in arguments.verdicts]
    known = {path.resolve() for path in arguments.verdicts}
    for path in sorted(arguments.others.glob("*/*/verdict.json")) if arguments.others else []:
        if path.resolve() not in known:
            try:
                releases.append(find_decided(path, folder, configured=False))
            except UnusableInput as error:
                print(f"left out: {error}")
    rows = index_rows(releases)
    figures = index_figures(rows)
    counts = count_decisions([row for row in rows if row["configured"]])
    captions = {f"{row['model']}.{row['suite']}": f"{row['model']}, suite {row['suite']}" for row in rows}
    content = {"rows": rows, "figures": figures, "captions": captions, "counts": counts, "tones": TONES}
    if arguments.figures:
        write_figures(arguments.figures, figures)
    if arguments.table:
        write_text(arguments.table, as_csv(rows))
    write_text(arguments.output, render("index.html.jinja", content))
    print(f"{arguments.output}: {', '.join(f'{count} {name}' for name, count in counts if count)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
