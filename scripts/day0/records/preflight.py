"""The data type of preflight.json: what was checked before any GPU hour, and what was found."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from day0.records.assessment import Assessment
from day0.records.recipe import Calibration
from day0.records.record import Record

Accelerator = Literal["cpu", "cuda"]


class ModelLocation(Record):
    """Where a model is: a local folder, or a repository of the hub at a commit."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None


class ModelRequest(ModelLocation):
    """Check that a source model can be read."""

    model: str
    trust_remote_code: bool = False


class RecipeRequest(Record):
    """Check a recipe for a model."""

    model: str
    recipe: str
    definition: dict[str, Any] = Field(description="the recipe in full, with the keys of a recipe file")
    calibration: Calibration
    accelerator: Accelerator
    location: ModelLocation = Field(ModelLocation(), description="the source, whose modules the recipe is held against")
    device: Literal["auto", "cpu", "cuda", "device_map"] = Field("auto", description="of the quantize stage")
    engine: str = Field("vllm", description="serving engine, with == and its version where that is known")


class CheckpointRequest(Record):
    """Check a checkpoint that was made elsewhere."""

    model: str
    candidate: str
    checkpoint: str = Field(description="its folder")


class SuiteRequest(Record):
    """Check the suite that a model is evaluated on."""

    model: str
    location: ModelLocation
    suite: str
    settings: dict[str, Any] = Field(description="the suite with every default filled in")
    asked: bool = Field(description="whether a run of this model on this suite is made here, not only imported")
    accelerator: Accelerator


PreflightRequest = ModelRequest | RecipeRequest | CheckpointRequest | SuiteRequest


class PreflightCheck(Record):
    """One thing that was looked at, with a sentence on what was found."""

    name: str
    passed: bool = Field(alias="pass")
    detail: str


class Preflight(Assessment):
    """preflight.json: whether the set-up of a model, a recipe or a suite allows to go on."""

    schema_name: ClassVar[str] = "preflight"

    checks: list[PreflightCheck]
    request: PreflightRequest = Field(description="what was checked, as the plan has it")
