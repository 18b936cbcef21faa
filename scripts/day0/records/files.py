"""The files of a folder, as the records of the source model and of the checkpoint list them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from day0.base.artefacts import digest_of_inventory, inventory
from day0.records.record import Count, Record, Sha256

LEGAL = r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY)[\w-]*(\.(txt|md|rst|pdf))?"
LEGAL_FILES = re.compile(LEGAL, re.IGNORECASE)
# What travels with a model besides weights: configurations, tokenizers, templates, preprocessors, licences; no scripts,
# archives or pickles, whatever they are called.
CARRIED = re.compile(
    r".*\.(json|jinja|model|tiktoken|vocab|bpe)|[\w.-]*(vocab|merges)[\w.-]*\.txt|" + LEGAL, re.IGNORECASE
)
# How programs, archives and pickles begin.
DISGUISED = re.compile(rb"\x7fELF|MZ[\x00-\xff]\x00|#!/|PK\x03\x04|\x1f\x8b|\x80[\x02-\x05][\x00-\xff]")
CODE = ".py"
_SECRETS = re.compile(
    r"(^|[._-])(secrets?|credentials?|passw(or)?ds?|private|service[._-]?account|api[._-]?keys?|access[._-]?keys?"
    r"|id_(rsa|dsa|ecdsa|ed25519)|netrc|htpasswd)([._-]|$)|^((hf[._-]?)?token|auth|keys?)(\.|$)",
    re.IGNORECASE,
)


def why_left_behind(name: str, is_code_trusted: bool) -> str | None:
    """Why a file of a model folder, by its relative name, does not go into a checkpoint; None where it does."""
    base = name.rpartition("/")[2]
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if base.endswith(CODE):
        return None if is_code_trusted else "code, which trust_remote_code does not allow"
    if _SECRETS.search(base):
        return "named like a secret"
    return None if CARRIED.fullmatch(base) else "no kind of file that a model needs"


class FileEntry(Record):
    """A file: its size and digest."""

    bytes: Count
    sha256: Sha256


Files = dict[str, FileEntry]  # by path relative to the folder


def list_files(folder: Path, names: Iterable[str] | None = None) -> Files:
    """Sizes and digests of the files of a folder, all below it or those named; see :func:`inventory`."""
    return {name: FileEntry.model_validate(entry) for name, entry in inventory(folder, names).items()}


def digest_of_files(files: Files) -> str:
    """One digest for a folder, see :func:`digest_of_inventory`."""
    return digest_of_inventory({name: {"sha256": entry.sha256} for name, entry in files.items()})
