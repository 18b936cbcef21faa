"""Stand-in: a page over all decisions, their table, and a figure."""

import argparse
from pathlib import Path

from day0.base.artefacts import read_json

parser = argparse.ArgumentParser()
parser.add_argument("verdicts", type=Path, nargs="+")
parser.add_argument("--others")
parser.add_argument("--output", type=Path)
parser.add_argument("--table", type=Path)
parser.add_argument("--figures", type=Path)
arguments = parser.parse_args()

decisions = [read_json(path)["decision"] for path in arguments.verdicts]
arguments.output.write_text("".join(f"<p>{decision}</p>\n" for decision in decisions))
arguments.table.write_text("\n".join(["decision", *decisions]) + "\n")
arguments.figures.mkdir(exist_ok=True)
(arguments.figures / "all.svg").write_text("<svg/>\n")
