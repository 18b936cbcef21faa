"""What every command line shares: its exit statuses, and how it refuses input that cannot be used."""

from __future__ import annotations

import errno
import gc
import json
import sys
from collections.abc import Callable
from typing import Any

from day0.base.parsing import Unparsable, parse_json

EXIT_PASS, EXIT_FAILED_CHECK, EXIT_UNUSABLE_INPUT = 0, 1, 2
EXIT_TRANSIENT = 75  # EX_TEMPFAIL
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

gc.set_threshold(100_000)  # imports and records are no garbage; by 700, the default, it is looked for in each import


class UnusableInput(Exception):
    """Input that a user can correct; its message names the file, what was found, what was expected and what to do."""


def run_cli(main: Callable[[], int | None], unusable_as: str | None = None) -> None:
    """Run a command line's ``main`` and exit with its status; 2 for unusable input, 75 for a full disk, each said.

    Args:
        unusable_as: failure class of unusable input, for one that prints its assessment as JSON: then a failed one.
    """
    try:
        status = main()
    except UnusableInput as error:
        message = str(error).encode("utf-8", "backslashreplace").decode()
        if unusable_as is not None:
            print(json.dumps({"pass": False, "failure_class": unusable_as, "detail": message}, indent=2))
        print(f"error: {message}", file=sys.stderr)
        status = EXIT_UNUSABLE_INPUT
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        place = error.filename2 or error.filename or "the output"
        advice = "free some space there, or make it writable, and run the same command again"
        print(f"error: {place}: {error.strerror}; {advice}", file=sys.stderr)
        status = EXIT_TRANSIENT
    sys.exit(status or EXIT_PASS)


def json_argument(option: str, text: str) -> dict[str, Any]:
    """Parse a JSON object given on the command line.

    Raises:
        UnusableInput: it is no JSON or no object.
    """
    try:
        content = parse_json(text)
    except Unparsable as error:
        raise UnusableInput(f"{option}: expected a JSON object, found {text[:300]!r}: {error}") from error
    if not isinstance(content, dict):
        raise UnusableInput(f"{option}: expected a JSON object, found {text[:300]!r}")
    return content
