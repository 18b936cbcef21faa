"""The data type of a gate's token, *.ok: that an assessment passed."""

from __future__ import annotations

from typing import ClassVar

from day0.records.record import Artefact, Sha256


class Token(Artefact):
    """What lies downstream of a gate has this file as an input."""

    schema_name: ClassVar[str] = "token"

    assessment: str
    sha256: Sha256
