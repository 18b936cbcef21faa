"""The data type of provenance.json: an in-toto statement with a SLSA provenance predicate.

Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://slsa.dev/spec/v1.0/provenance. Its own types name its version, so that it has no ``schema_version``.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic.alias_generators import to_camel

from day0.records.policy import Policy
from day0.records.recipe import Calibration
from day0.records.record import Record
from day0.records.source import FolderLocation, HubLocation

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:day0:release:v1"


class _Camel(Record):
    """A part whose keys are written as the format has them."""

    model_config = ConfigDict(alias_generator=to_camel)


class Descriptor(_Camel):
    """A file, a repository or another thing, with its digest where it has one."""

    name: str
    uri: str | None = None
    digest: dict[str, str] | None = Field(None, description="algorithm to hexadecimal digits")
    content: str | None = Field(None, description="base64")
    media_type: str | None = None
    annotations: dict[str, str] | None = None

    @model_serializer(mode="wrap")
    def _without_absent_keys(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class ReleaseParameters(Record):
    """What was asked for."""

    model: str
    release: str
    recipe: str
    suite: str
    policy: Policy


class ExternalParameters(_Camel):
    """What the user of the graph set."""

    release: ReleaseParameters
    source: HubLocation | FolderLocation
    calibration: Calibration | None


class InternalParameters(_Camel):
    """What the graph set."""

    commands: dict[str, str]
    seed: int | None
    device: str | None
    versions: dict[str, str]


class BuildDefinition(_Camel):
    """From what, and how, the bundle was made."""

    build_type: Literal["urn:day0:release:v1"] = BUILD_TYPE
    external_parameters: ExternalParameters
    internal_parameters: InternalParameters
    resolved_dependencies: list[Descriptor]


class Builder(_Camel):
    """Who ran the graph."""

    id: str = Field(description="URI")


class BuildMetadata(_Camel):
    """When the graph ran; RFC 3339 in UTC."""

    invocation_id: str
    started_on: str
    finished_on: str


class RunDetails(_Camel):
    """This run of the graph."""

    builder: Builder
    metadata: BuildMetadata
    byproducts: list[Descriptor]


class Predicate(_Camel):
    """SLSA's provenance."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(_Camel):
    """provenance.json."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT_TYPE, alias="_type")
    subject: list[Descriptor]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = PREDICATE_TYPE
    predicate: Predicate
