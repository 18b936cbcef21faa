"""Mistakes of --configfile and --config, which Snakemake 9 reads before the Snakefile, said with their place.

By itself it names neither the file nor the line of what does not parse, and ends in a traceback where a file is missing
or a setting has no name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import snakemake.cli
import snakemake.settings.types
from snakemake_interface_common.exceptions import WorkflowError

SCRIPTS = Path(__file__).resolve().parents[3]
parse_settings: Callable = snakemake.cli.parse_config
load_file: Callable = snakemake.settings.types.load_configfile


def mistake_in(file: Path) -> str | None:
    """What is wrong with a file, by the project's own reader, which is imported where something is wrong alone."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    from day0.base.artefacts import read_yaml
    from day0.base.cli import UnusableInput

    try:
        read_yaml(file)
    except UnusableInput as error:
        return str(error)
    return None


def _load_file(file: Path) -> dict[str, Any]:
    try:
        return load_file(file)
    except (WorkflowError, OSError, ValueError, RecursionError) as error:
        sys.exit(f"error: --configfile {mistake_in(file) or f'{file}: {error}'}")


def _parse_settings(entries: list[str] | None) -> dict[str, Any]:
    for entry in entries or []:
        try:
            parse_settings([entry])
        except ValueError:
            sys.exit(
                f"error: --config: found {entry!r}; expected NAME=VALUE, whose name begins with a letter and has two "
                "characters at least, such as verify=full; a mapping as 'mlflow={tracking_uri: ADDRESS}'"
            )
    return parse_settings(entries)


def install() -> None:
    """Have Snakemake read them so."""
    snakemake.settings.types.load_configfile = _load_file
    snakemake.cli.parse_config = _parse_settings
