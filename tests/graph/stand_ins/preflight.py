"""Stand-in: passes, unless the behaviour names a failure class."""

import argparse
import json
from pathlib import Path

from day0.base.artefacts import write_json
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--request", type=json.loads)
parser.add_argument("--environment", nargs="*")
parser.add_argument("--definition-digest")
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

subject = str(arguments.output.parent.relative_to("results"))
failure = called("preflight", subject).get("failure_class")
write_json(
    arguments.output,
    {
        "pass": failure is None,
        "failure_class": failure,
        "detail": f"stand-in: {failure}",
        "checks": [],
        "definition_digest": arguments.definition_digest,
    },
)
