"""The data types of speed: the load that a server is put under, speed.json of one side, and both sides compared."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from day0.records.record import Artefact, Count, Number, Record, Sha256
from day0.records.results import RunIdentity, ServerFacts

Requests = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SPEED = "speed.json"  # in the folder of a run
LEAST_REPEATS = 3  # of fewer, a spread says next to nothing


class Load(Record):
    """A fixed load: so many requests of one length each, so many of them in flight, the whole of it several times."""

    requests: Requests = Field(128, description="of each repeat")
    input_tokens: Requests = Field(1024, description="of each prompt, which is drawn at random")
    output_tokens: Annotated[int, Field(ge=2, le=1_000_000, strict=True)] = Field(
        128, description="of each answer, whatever the model would say"
    )
    concurrency: Requests = Field(16, description="requests in flight at a time")
    warmup: Annotated[int, Field(ge=0, le=1_000_000, strict=True)] = Field(
        16, description="requests before the first repeat, which are not counted"
    )
    repeats: Annotated[int, Field(ge=LEAST_REPEATS, le=100, strict=True)] = Field(
        5, description="times that it is measured; their spread gives the interval of the ratio"
    )

    @model_validator(mode="after")
    def _reaches_its_concurrency(self) -> Self:
        if self.concurrency > self.requests:
            raise ValueError(
                f"concurrency: found {self.concurrency}, more than the {self.requests} requests, so that as many are "
                "never in flight; give more requests or a smaller concurrency"
            )
        return self

    @property
    def context_length(self) -> int:
        """Tokens of a prompt and its answer together."""
        return self.input_tokens + self.output_tokens


class Latency(Record):
    """Milliseconds, over the requests of a repeat."""

    mean: Positive
    median: Positive
    p99: Positive


class SpeedRepeat(Record):
    """What one repeat measured."""

    seconds: Positive
    requests: Count = Field(description="that were answered whole")
    input_tokens: Count
    output_tokens: Count
    requests_per_second: Positive
    output_tokens_per_second: Positive
    time_to_first_token_ms: Latency
    time_per_output_token_ms: Latency = Field(description="without the first token")


class MemoryAtRest(Record):
    """Memory of a server that holds its model and is asked nothing; null: not known."""

    host_bytes: Count | None = Field(
        description="of its processes on the stage's node, pages that several share counted once (PSS)"
    )
    gpu_bytes: Count | None = Field(
        description="that its processes hold on the node's GPUs; the engine reserves most of it for its KV cache"
    )
    weights_bytes_of_a_gpu: Count | None = Field(description="as the engine says; the largest of the GPUs")
    kv_cache_tokens: Count | None = Field(description="that fit beside the weights, as the engine says")


class Speed(Artefact):
    """speed.json: what a fixed load on one side's server has shown, or why it was not measured."""

    schema_name: ClassVar[str] = "speed"

    status: Literal["MEASURED", "FAILED", "NOT_MEASURED"] = Field(
        description="FAILED: the client or a request failed, and no number counts; NOT_MEASURED: it did not come to it"
    )
    detail: str
    identity: RunIdentity
    load: Load
    seed: int = Field(description="of the first repeat's prompts; each further one takes the next")
    client: str | None = Field(description="that put the load on, with its version")
    server: ServerFacts | None = Field(description="null: no server was started")
    gpus: Count = Field(description="of the server; 0 on a CPU")
    nodes: Count
    memory: MemoryAtRest | None = None
    repeats: list[SpeedRepeat] = Field([], description="empty unless MEASURED")

    @model_validator(mode="after")
    def _counts_whole_repeats_only(self) -> Self:
        wanted = self.load.repeats if self.status == "MEASURED" else 0
        if len(self.repeats) != wanted:
            raise ValueError(f"repeats: found {len(self.repeats)}; a status of {self.status} has {wanted}")
        for number, repeat in enumerate(self.repeats):
            counts = (repeat.requests, repeat.output_tokens)
            whole = (self.load.requests, self.load.requests * self.load.output_tokens)
            if counts != whole:
                raise ValueError(
                    f"repeats[{number}]: found {counts[0]} requests with {counts[1]} tokens; the load has {whole[0]} "
                    f"with {whole[1]}"
                )
        if self.status == "MEASURED" and (self.server is None or self.client is None):
            raise ValueError("server, client: found null; what was measured had both")
        return self


class SpeedMeasure(Record):
    """One measure of both sides: the mean over the repeats, the smallest and the largest of them, and the ratio."""

    baseline: list[Number] = Field(description="of each repeat")
    candidate: list[Number] = Field(description="of each repeat")
    ratio: Number = Field(description="candidate's geometric mean over the baseline's")
    interval: Annotated[list[Number], Field(min_length=2, max_length=2)] = Field(
        description="of the ratio, by the spread of the repeats, two-sided 95 %"
    )


class SpeedComparison(Record):
    """Both sides' speed; the measures are null where they cannot be held against each other."""

    sentence: str
    is_native: bool = Field(
        description="the ratio is that of the format's own arithmetic, and above 1 a speedup; false where a kernel was "
        "emulated or quantized the weights only, or there is no ratio"
    )
    emulation: str | None = Field(None, description="what was emulated or quantized the weights only, on either side")
    differences: list[str] = Field([], description="why the sides cannot be held against each other")
    load: Load | None = None
    output_tokens_per_second: SpeedMeasure | None = None
    time_to_first_token_ms: SpeedMeasure | None = None
    time_per_output_token_ms: SpeedMeasure | None = None
    least_ratio: Number | None = Field(None, description="one-sided 95 % lower bound of the ratio of throughputs")
    largest_ratio: Number | None = Field(None, description="one-sided 95 % upper bound of it")
    baseline_memory: MemoryAtRest | None = None
    candidate_memory: MemoryAtRest | None = None
    baseline_sha256: Sha256 | None = Field(None, description="of its speed.json; null: the run has none")
    candidate_sha256: Sha256 | None = Field(None, description="of its speed.json; null: the run has none")
