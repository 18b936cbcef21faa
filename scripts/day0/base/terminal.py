"""Lines of progress for whoever watches a stage."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TextIO


def say(text: str) -> None:
    """A line of progress on the terminal."""
    tell(f"[{time.strftime('%H:%M:%S')}] {text}", sys.stdout)


def tell(text: str, stream: TextIO) -> None:
    """A line for whoever still reads: what a signal ends may have lost its reader, and must clean up none the less."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=stream, flush=True)
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
