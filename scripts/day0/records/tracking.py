"""The data type of mlflow.json and mlflow.decision.json: how a release was logged with MLflow."""

from __future__ import annotations

from typing import ClassVar, Literal

from day0.records.failure_class import Decision
from day0.records.record import Artefact


class Tracking(Artefact):
    """The run of MLflow that a release was logged as, or why it could not be."""

    schema_name: ClassVar[str] = "tracking"

    tracking_uri: str | None
    experiment: str | None
    run_id: str | None
    experiment_id: str | None = None
    status: Literal["logged", "failed"]
    detail: str
    decision: Decision | None = None
