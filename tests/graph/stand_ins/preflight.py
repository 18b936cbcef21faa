"""Stand-in: passes, unless the behaviour names a failure class."""

import argparse
import json
from pathlib import Path

from day0.records.preflight import Preflight
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--request", type=json.loads)
parser.add_argument("--environment", nargs="*")
parser.add_argument("--definition-digest")
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

subject = str(arguments.output.parent.relative_to("results"))
failure = called("preflight", subject).get("failure_class")
Preflight(
    passed=failure is None,
    failure_class=failure,
    detail=f"stand-in: {failure}",
    definition_digest=arguments.definition_digest,
    checks=[],
    request=arguments.request,
).write(arguments.output)


def imports_of_the_real_stage():
    """Never called: what the stage that this one stands for is made of, so that a change of it is one of this, too."""
    from day0.plan import preflight

    return preflight
