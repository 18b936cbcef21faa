"""Stand-in: a page that says what was decided, and a figure."""

import argparse
from pathlib import Path

from day0.base.artefacts import read_json

parser = argparse.ArgumentParser()
parser.add_argument("--verdict", type=Path)
parser.add_argument("--output", type=Path)
parser.add_argument("--figures", type=Path)
arguments = parser.parse_args()

verdict = read_json(arguments.verdict)
arguments.output.write_text(f"<p>{verdict['decision']}: {verdict['detail']}</p>\n")
if arguments.figures:
    arguments.figures.mkdir(exist_ok=True)
    (arguments.figures / "drops.svg").write_text("<svg/>\n")
