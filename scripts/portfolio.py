"""Write what every candidate of a search costs and keeps: a table, and the picture of cost against accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path

from day0.base.artefacts import write_text
from day0.base.cli import UnusableInput, run_cli
from day0.records.search import Search
from day0.release.figures import search_chart
from day0.release.search_page import portfolio_table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=Path, required=True, help="search.json: how the search ended")
    parser.add_argument("--table", type=Path, required=True, help="portfolio.csv to write")
    parser.add_argument("--figure", type=Path, required=True, help="pareto.svg to write")
    arguments = parser.parse_args()

    search = Search.read(arguments.search)
    svg = search_chart(search)
    if svg is None:
        raise UnusableInput(f"{arguments.search}: candidates: found none; expected those of the search's space")
    write_text(arguments.table, portfolio_table(search))
    write_text(arguments.figure, f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')
    print(f"{len(search.candidates)} candidates, {len(search.not_tried)} of them not tried")
    return 0


if __name__ == "__main__":
    run_cli(main)
