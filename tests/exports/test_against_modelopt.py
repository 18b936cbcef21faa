"""What stands in for ModelOpt does what ModelOpt does: rounding to NVFP4 on a CPU, and choosing formats."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_rounding_and_choices_are_those_of_modelopt(quantize):
    command = [str(quantize), str(Path(__file__).parent / "compare_with_modelopt.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.search(r"(\d+) tensors are rounded alike; (\d+) of 10 choices", done.stdout)
    assert int(found[1]) == 144 and int(found[2]) == 10, done.stdout
