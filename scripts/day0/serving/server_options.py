"""What the arguments of a configuration mean to vLLM's server: they are read as its own parser reads them.

That parser takes an option in many spellings: abbreviated, with underscores, with ``=``, as parts of a mapping
(``--option.key value``). envs/server_options.json lists its options; argparse, on which it is built, does the reading.
"""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from day0.base.artefacts import read_json

TABLE = Path(__file__).resolve().parents[3] / "envs" / "server_options.json"
_KEY = re.compile(r"--[^.=]*")


class Given(NamedTuple):
    """An option that was given: its first name, its value, and the argument as it was spelt."""

    option: str
    value: Any
    spelt: str


class NotRead(ValueError):
    """The engine's parser would refuse the arguments; the message says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NotRead(message)


class _Note(argparse.Action):
    """Notes the option instead of storing its value."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.given.append(Given(self.option_strings[0], values, self._spelt(namespace.words, option_string or "")))

    def _spelt(self, words: Mapping[str, str], option_string: str) -> str:
        """The argument as it was given: an abbreviation comes here written out."""
        for word, given in words.items():
            key = word.partition("=")[0]
            if key.startswith("-") and any(
                name.startswith(key) or key.startswith(name) for name in self.option_strings
            ):
                return given
        return option_string


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(add_help=False)
    for option in read_json(TABLE)["options"]:
        parser.add_argument(*option["names"], nargs=option["nargs"], action=_Note, dest="_")
    return parser


@functools.cache
def choices_of(option: str) -> tuple[str, ...]:
    """The values that an option takes; empty where the table lists none."""
    found = [entry for entry in read_json(TABLE)["options"] if option in entry["names"]]
    return tuple(found[0].get("choices", ())) if found else ()


def read_arguments(arguments: Sequence[str]) -> list[Given]:
    """The options that arguments give, whichever way they are spelt; what this vLLM does not know is left out.

    Raises:
        NotRead: an abbreviation could be several options, a value is missing, or one belongs to no option.
    """
    words = []
    if "--" in arguments:
        raise NotRead("'--' ends the options, and what follows belongs to none")
    for word in arguments:
        # As FlexibleArgumentParser.parse_args does: vllm/utils/argparse_utils.py.
        if word.startswith("--"):
            key, equals, value = word.partition("=")
            key = _KEY.sub(lambda match: match[0].replace("_", "-"), key, count=1).partition(".")[0]
            words.append(f"{key}{equals}{value}")
        elif word.startswith("-O"):
            words.append(
                f"--optimization-level={word[2:].removeprefix('=')}" if word != "-O" else "--optimization-level"
            )
        else:
            words.append(word)
    namespace = argparse.Namespace(given=[], words=dict(zip(words, arguments, strict=True)))
    _, rest = _parser().parse_known_args(words, namespace)
    if rest and not any(word.startswith("-") for word in rest):
        raise NotRead(f"{rest[0]!r} belongs to no option")
    return namespace.given
