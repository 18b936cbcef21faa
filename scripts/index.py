"""Render one page over all releases: their decisions in a table, and size against accuracy for each model.

Writes index.html, which stands alone, the same table as decisions.csv, and the figures as files of their own. Releases
that were decided earlier and are not among the given ones are listed apart.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import Markup

from day0.base.artefacts import digest_of_file, read_yaml, write_text
from day0.base.cli import UnusableInput, run_cli
from day0.records.history import read_history
from day0.records.sign_off import SIGN_OFF, find_sign_off
from day0.release.effort import asked_of
from day0.release.overview_page import (
    COLUMNS,
    CONFIGURED,
    EARLIER,
    OF_A_SEARCH,
    Decided,
    archive_folder,
    count_decisions,
    index_figures,
    index_rows,
    side_by_side,
    whole_cost,
)
from day0.release.release_page import cost_sentence, history_rows, hours
from report import TEMPLATES, ReleaseFiles, render, write_figures


def find_decided(path: Path, folder: Path, kind: str, read_results: Callable[[Path], dict[str, Any]]) -> Decided:
    """A verdict with what lies beside it: page and bundle, where those are not older, costs, history, sign-off.

    Args:
        path: verdict.json.
        folder: of the index, which addresses are relative to.
        kind: why it is listed; see Decided.
        read_results: see ReleaseFiles.
    """
    files = ReleaseFiles(path, read_results=read_results)
    decided = path.stat().st_mtime

    def address(name: str) -> str | None:
        file = path.parent / name
        return os.path.relpath(file, folder) if file.is_file() and file.stat().st_mtime >= decided else None

    bundle = address("release/README.md")
    sums = path.parent / "release" / "SHA256SUMS"
    signed = find_sign_off(sums.parent, digest_of_file(sums)) if bundle and sums.is_file() else None
    entries = [entry.as_plain() for entry in read_history(path)]
    return Decided(
        files.verdict,
        address("report.html"),
        bundle,
        kind,
        files.efforts([]),
        {side: asked_of(metadata) for side, metadata in files.metadata.items()},
        history_rows(entries, files.verdict, digest_of_file(path)),
        signed,
        signed is None and (path.parent / SIGN_OFF).is_file(),
        archive_folder(path.parent / "report.html") if kind == CONFIGURED else None,
    )


def find_others(folder: Path, known: set[Path], searches: set[Path]) -> Iterator[tuple[Path, str]]:
    """Verdicts of a folder of results that are not among the known ones, and why they are listed."""
    prefixes = tuple(f"{search.resolve()}." for search in searches)
    for path in sorted(folder.glob("*/*/verdict.json")):
        if path.resolve() not in known:
            is_candidate = str(path.parent.resolve()).startswith(prefixes) if prefixes else False
            yield path, OF_A_SEARCH if is_candidate else EARLIER


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
    read_results = functools.cache(read_yaml)  # many releases have one baseline
    releases = [find_decided(path, folder, CONFIGURED, read_results) for path in arguments.verdicts]
    known = {path.resolve() for path in arguments.verdicts}
    searches = {path.parent for path in arguments.verdicts if (path.parent / "search" / "search.json").is_file()}
    for path, kind in find_others(arguments.others, known, searches) if arguments.others else ():
        try:
            releases.append(find_decided(path, folder, kind, read_results))
        except UnusableInput as error:
            print(f"left out: {error}")
    rows = index_rows(releases)
    figures = index_figures(rows)
    counts = count_decisions([row for row in rows if row["kind"] == CONFIGURED])
    script = (TEMPLATES / "index.js").read_text(encoding="utf-8")
    content = {
        "rows": rows,
        "figures": figures,
        "captions": {f"{row['model']}.{row['suite']}": f"{row['model']}, suite {row['suite']}" for row in rows},
        "counts": counts,
        "all_counts": count_decisions(rows),
        "tables": side_by_side(rows),
        "models": sorted({row["model"] for row in rows}),
        "suites": sorted({row["suite"] for row in rows}),
        "cost": cost_sentence(whole_cost(releases)),
        "hours": hours,
        # The browser runs this script alone, whatever else might have come into the page.
        "script": Markup(script),
        "script_digest": b64encode(sha256(script.encode()).digest()).decode(),
    }
    if arguments.figures:
        write_figures(arguments.figures, figures)
    if arguments.table:
        write_text(arguments.table, as_csv(rows))
    write_text(arguments.output, render("index.html.jinja", content))
    print(f"{arguments.output}: {', '.join(f'{count} {name}' for name, count in counts if count)}")
    return 0


if __name__ == "__main__":
    run_cli(main)
