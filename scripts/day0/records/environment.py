"""The data types of the markers of the stages' environments, .envs/NAME.json; each lies beside its environment."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from day0.records.record import Artefact, Sha256


class Environment(Artefact):
    """The marker of an environment that was built from a lock file; it is the same for two builds of the same lock."""

    schema_name: ClassVar[str] = "environment"

    lock_sha256: Sha256
    python: str = Field(description="version of the interpreter")


class ImageEnvironment(Artefact):
    """The marker of an environment whose interpreter is that of a container image."""

    schema_name: ClassVar[str] = "image_environment"

    image: str = Field(description="absolute path of the squashfs or .sif file")
    image_sha256: Sha256
    runtime: Literal["pyxis", "enroot", "apptainer"]
    python: str = Field(description="interpreter within the image")
    mounts: list[str] = Field(description="further folders that are mounted, HOST or HOST:INSIDE")
