"""Read verdicts for the pages and tables, which also show those of earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.records.verdict import Verdict

NEEDED = ("release", "model", "recipe", "suite", "decision", "detail", "next_action")
DEFAULTS = {"failure_class": None, "stage": None, "created": None, "git_commit": None}


def read_verdict(path: Path) -> dict[str, Any]:
    """Read verdict.json; one of another version may lack keys and have others.

    Raises:
        UnusableInput: it lacks what no page can do without, or a key is of another type than ``Verdict`` has.
    """
    verdict = read_json(path)
    missing = [key for key in NEEDED if key not in verdict]
    if missing:
        raise UnusableInput(f"{path}: expected a verdict with {', '.join(NEEDED)}; found no {', '.join(missing)}")
    try:
        Verdict.model_validate(verdict)
    except ValidationError as error:
        wrong = [e for e in error.errors(include_url=False) if e["type"] not in ("missing", "extra_forbidden")]
        if wrong:
            text = "; ".join(f"{'.'.join(map(str, e['loc']))}: found {e['input']!r:.60}, {e['msg']}" for e in wrong)
            raise UnusableInput(
                f"{path}: expected a verdict as config/schemas/verdict.schema.json has it; {text}"
            ) from None
    return DEFAULTS | verdict
