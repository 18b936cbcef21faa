"""The data type of published.json: where a bundle was published."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from day0.records.record import Artefact, Count, Sha256


class Publication(Artefact):
    """The place of a bundle: a repository of the hub at a commit, or a folder."""

    schema_name: ClassVar[str] = "published"

    hub: str | None = Field(None, description="repository id, organisation/name")
    branch: str | None = None
    commit: str | None = None
    folder: str | None = None
    url: str
    uploaded: list[str] = Field(description="files that were sent")
    deleted: list[str] = Field(description="files of an earlier release that were removed")
    bundle: str
    sums_sha256: Sha256 = Field(description="of the bundle's SHA256SUMS")
    files: Count
    published: str = Field(description="time in UTC, ISO 8601")
    signed_by: str | None = Field(None, description="who signed the bundle off; null: nobody was asked to")
    signed: str | None = Field(None, description="time in UTC, ISO 8601")
