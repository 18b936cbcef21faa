"""Where an environment is built: its folder and its marker, FOLDER/NAME and FOLDER/NAME.json."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from day0.base.cli import UnusableInput


def check_places(environment: Path, marker: Path) -> None:
    """Refuse to build where something lies that is no environment of this project's.

    Raises:
        UnusableInput: there is a link, which may lead to somebody else's environment, or a file; or no folder can be
            made.
    """
    expected = "expected nothing, or a folder made here; remove it or rename it, then run the same command again"
    for place in (environment, marker):
        if place.is_symlink():
            raise UnusableInput(f"{place}: found a link to {os.readlink(place)}; {expected}")
    if environment.exists() and not environment.is_dir():
        raise UnusableInput(f"{environment}: found a file; {expected}")
    if marker.exists() and not marker.is_file():
        raise UnusableInput(f"{marker}: found a folder; expected a file; remove it, then run the same command again")
    try:
        environment.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=environment.parent):
            pass
    except OSError as error:
        raise UnusableInput(
            f"{environment.parent}: {error.strerror}; expected a folder that can be written to"
        ) from None
