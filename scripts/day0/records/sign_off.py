"""The data type of sign_off.json: who answers for the publication of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from day0.records.record import Artefact, Sha256

SIGN_OFF = "sign_off.json"


class SignOff(Artefact):
    """A person's word for one bundle, which is known by the digest of its SHA256SUMS."""

    schema_name: ClassVar[str] = "sign_off"

    model: str
    release: str
    signed_by: str = Field(min_length=1, description="a person, as the organisation names people")
    signed: str = Field(description="time in UTC, ISO 8601")
    comment: str | None = None
    sums_sha256: Sha256 = Field(description="of the bundle's SHA256SUMS, which names every file of it")
    verdict_sha256: Sha256 = Field(description="of verdict.json")


def find_sign_off(bundle: Path, sums_sha256: str) -> SignOff | None:
    """The sign-off of this very bundle, from sign_off.json beside its folder; None where there is none, or of another.

    Raises:
        UnusableInput: the file is not what its type says.
    """
    path = bundle.parent / SIGN_OFF
    signed = SignOff.read(path) if path.is_file() else None
    return signed if signed is not None and signed.sums_sha256 == sums_sha256 else None
