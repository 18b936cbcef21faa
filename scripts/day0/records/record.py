"""How every artefact is typed, read and written: one class per artefact, nothing read or written beside it.

An artefact is a subclass of :class:`Artefact` in a module of this package; its JSON Schema in config/schemas is made
from it. Reading refuses what the type does not allow, with the file, the field, what was found and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from day0.base.artefacts import read_json, write_json
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
StrictNumber = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # neither true nor "1" is one
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

AGAIN = "remove the file and run the same command again, which makes it anew"


class Record(BaseModel):
    """A part of an artefact: every key is known, and those without a default must be there."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        defer_build=True,  # a script imports many types and reads few
    )

    def as_plain(self) -> dict[str, Any]:
        """The content as JSON holds it, keys in the order of the fields."""
        return self.model_dump(mode="json")


class Artefact(Record):
    """A JSON file of the graph."""

    schema_name: ClassVar[str]  # of config/schemas/NAME.schema.json
    schema_version: Literal[1] = 1

    @classmethod
    def parse(cls, content: Mapping[str, Any], path: str | os.PathLike) -> Self:
        """The artefact from the content of its file.

        Raises:
            UnusableInput: it is of another version, or its content is not what the type says; all mistakes are named.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [f"{path}: {sentence}" for sentence in mistakes_of(error, cls)]
            raise UnusableInput("\n".join([*lines, f"expected {cls.schema_name}, version 1; {AGAIN}"])) from None

    @classmethod
    def read(cls, path: str | os.PathLike) -> Self:
        """Read the artefact's file.

        Raises:
            UnusableInput: the file is missing, no JSON, of another version, or not what the type says.
        """
        return cls.parse(read_json(path, finite=True), path)

    def write(self, path: str | os.PathLike) -> None:
        """Write the artefact's file, whole or not at all."""
        write_json(path, self.as_plain())
