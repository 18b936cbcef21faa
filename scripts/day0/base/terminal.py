"""Lines of progress on the terminal."""

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
    """Print a line, or nothing where the reader of the stream is gone: a stage that is stopped must still clean up."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=stream, flush=True)
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
