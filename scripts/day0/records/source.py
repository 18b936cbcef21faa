"""The data type of source.json: the source model as it was found."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from day0.records.files import Files
from day0.records.record import Artefact, Count, Record, Sha256


class HubLocation(Record):
    """A repository of the hub at a commit."""

    hub: str
    revision: str


class FolderLocation(Record):
    """A local folder."""

    path: str


class SourceCard(Record):
    """What the front matter of the source's model card says; null or empty where it says nothing."""

    license: str | list[str] | None = Field(None, description="identifiers as the hub has them; other: see its name")
    license_name: str | None = None
    license_link: str | None = None
    languages: list[str] = Field([])
    pipeline_tag: str | None = None


class Source(Artefact):
    """source.json: the source model, its files and what they hold."""

    schema_name: ClassVar[str] = "source"

    model: str = Field(description="the model's name in the configuration")
    location: HubLocation | FolderLocation = Field(description="where the configuration says that the model is")
    path: str = Field(description="folder that was described; of a hub model, in the hub's cache")
    files: Files = Field(description="by name; weights in other formats than safetensors are left out")
    digest: Sha256 = Field(description="over names and digests of all files")
    payload_bytes: Count = Field(description="bytes of all tensors")
    parameters: Count = Field(description="elements of all tensors")
    dtypes: dict[str, Count] = Field(description="elements by safetensors data type")
    config: dict[str, Any] = Field(description="the model's config.json")
    trust_remote_code: bool = Field(description="whether the model's own Python code may run")
    card: SourceCard = Field(SourceCard.model_construct(), description="of the source's README.md")
