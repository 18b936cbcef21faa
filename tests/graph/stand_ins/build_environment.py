"""Stand-in: an environment that is the driver's."""

import argparse
from pathlib import Path

from day0.base.artefacts import digest_of_file
from day0.records.environment import Environment
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--lock", type=Path)
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

called("environment", arguments.output.stem)
python = arguments.output.with_suffix("") / "bin" / "python"
python.parent.mkdir(parents=True, exist_ok=True)
python.unlink(missing_ok=True)
python.write_text('#!/bin/sh\nexec python "$@"\n')
python.chmod(0o755)
Environment(lock_sha256=digest_of_file(arguments.lock), python="3.11").write(arguments.output)
