"""Stand-in: data files of one line."""

import argparse
from pathlib import Path

from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--output-dir", type=Path)
arguments = parser.parse_args()

called("data", "demo")
arguments.output_dir.mkdir(parents=True, exist_ok=True)
for name in ("addition", "reversal", "sorting", "calibration"):
    (arguments.output_dir / f"{name}.jsonl").write_text('{"text": "1"}\n')
