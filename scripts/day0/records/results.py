"""The data type of what results.yml holds under ``metadata``: how a run was made, and whether it is complete.

The rest of results.yml is NeMo Evaluator's schema, which takes further keys there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from day0.records.attempts import EvaluationAttempt
from day0.records.early_stopping import EarlyStop
from day0.records.failure_class import FailureClass
from day0.records.record import Artefact, Count, Number, Record, Sha256

RunStatus = Literal["COMPLETED", "STOPPED_EARLY", "FAILED"]


class RunIdentity(Record):
    """Which run something belongs to."""

    model: str
    candidate: str
    suite: str
    checkpoint_digest: str


class Accounting(Record):
    """Counts of samples (documents times repeats) and of requests; null where a harness does not know."""

    expected: Count | None = Field(description="what the suite declares")
    asked: Count | None
    answered: Count | None
    scored: Count | None
    empty: Count | None = Field(description="answers without text")
    cut: Count | None = Field(description="answers that ended at the largest length")
    unparsed: Count | None = Field(description="answers in which the task's filter found nothing to score")
    failed: Count | None = Field(description="samples that were given up")
    http_failures: Count | None = Field(None, description="attempts of requests without a usable answer")
    retried: Count | None = Field(None, description="requests that were repeated")


class Timing(Record):
    """Seconds of the parts of an evaluation; null: the part was not reached."""

    server_start_seconds: Number | None
    canary_seconds: Number | None
    tasks: dict[str, Number | None]
    total_seconds: Number | None
    speed_seconds: Number | None = Field(None, description="of the speed measurement, where one was asked for")
    stop_seconds: Number | None = None


class Canary(Record):
    """The first answers of the server."""

    prompt: str
    answer: str
    passages: list[dict[str, str]]
    perplexity: Number | None = Field(description="over the tokens of all passages; null: the suite has none")
    baseline_perplexity: Number | None


class Incident(Record):
    """Something that the server went through while the tasks ran."""

    time: str
    what: str


class ServerFacts(Record):
    """What served the run; what the server never said is left out."""

    engine: str
    engine_version: str
    served: str = Field(description="folder of the checkpoint, as the server was given it")
    image: str | None = Field(description="identity of the container image")
    device_name: str | None
    gpu: str | None
    chat_template_digest: str | None
    max_model_len: Count
    options_digest: Sha256 = Field(description="of extra arguments and environment")
    command: str
    model_id: str | None = None
    quantization: str | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    device: str | None = None
    attention_backend: str | None = None
    kernels: list[str] | None = None
    emulated: bool | None = None
    emulation: str | None = Field(None, description="what an emulated or weight-only kernel means for the scores")
    engine_starts: Count | None = None


class Dataset(Record):
    """Data that a task's questions come from."""

    path: str = Field(description="repository of the hub, or the loader of local files, as json")
    name: str | None = Field(None, description="configuration of the data set")
    split: str | None = None


class ShardMetadata(Record):
    """One shard of a run."""

    shard: str
    timing: Timing
    canary: Canary | None
    attempts: list[EvaluationAttempt]


class RunMetadata(Artefact):
    """``metadata`` of results.yml; what only one kind of run has (made here, imported) is left out in the other."""

    schema_name: ClassVar[str] = "results_metadata"

    status: RunStatus
    failure_class: FailureClass | None
    detail: str
    model: str
    candidate: str
    suite: str
    checkpoint_digest: str | None = Field(description="of what was served; null: an imported run does not state it")
    suite_digest: Sha256 | None = None
    accounting: dict[str, Accounting]
    requests: dict[str, dict[str, Any] | None] = Field({}, description="counts by task")
    fingerprint: dict[str, dict[str, Any]] = Field({}, description="by task, what must be alike in two runs")
    datasets: dict[str, list[Dataset]] = Field({}, description="by task, where its harness reports them")
    timing: Timing | None = None
    canary: Canary | None = None
    server: ServerFacts | dict[str, Any] | None = Field(None, description="empty: no server was started")
    incidents: list[Incident] = Field([], description="what the server went through")
    attempts: list[EvaluationAttempt] = Field([], description="of the evaluation")
    shards: list[ShardMetadata] = Field([], description="empty where the run is not split")
    versions: dict[str, dict[str, str]] = Field({}, description="packages of each environment")
    early_stop: EarlyStop | None = Field(None, description="of a run whose status is STOPPED_EARLY")
    speed_digest: Sha256 | None = Field(None, description="of speed.json beside results.yml; null: none was asked for")
    imported: dict[str, Any] | None = Field(None, description="where an imported run is from, and what it lacks")

    def as_metadata(self) -> dict[str, Any]:
        """The content for results.yml: what was given, in the order of the fields."""
        return self.model_dump(mode="json", exclude_unset=True) | {"schema_version": self.schema_version}


def read_metadata(content: Mapping[str, Any], path: str | os.PathLike) -> dict[str, Any]:
    """``metadata`` from the content of a results.yml; of a file that another tool wrote, whatever mapping is there.

    Raises:
        UnusableInput: this project wrote it, but it is of another version or not what its type says.
    """
    metadata = content.get("metadata")
    if not isinstance(metadata, Mapping):
        return {}
    if "schema_version" not in metadata:
        return dict(metadata)
    return RunMetadata.parse(metadata, f"{path}, metadata").as_metadata()
