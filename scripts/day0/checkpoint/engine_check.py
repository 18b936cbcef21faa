"""Ask the installed vLLM how it reads a checkpoint's declaration, and compare its answer with the tensors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from day0.base.cli import UnusableInput
from day0.checkpoint.engine_reading import Misread
from day0.checkpoint.summary import Layer
from day0.checkpoint.vllm_rules import ALIASES

READER = Path(__file__).resolve().parents[2] / "read_as_vllm.py"
LONGEST_SECONDS = 600  # importing vLLM takes 20 s of CPU time, more on a shared machine


class _Answer(BaseModel):
    """What scripts/read_as_vllm.py prints."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    version: str | None = None
    method: str | None = None
    reader: str | None = None
    kv_cache: str | None = None
    error: str | None = None
    remarks: list[str]
    modules: dict[str, str | None]
    refused: dict[str, str]

    @property
    def was_asked(self) -> bool:
        """Whether vLLM came as far as to say by which method it reads the checkpoint."""
        return "method" in self.model_fields_set


class EngineReading(NamedTuple):
    """How vLLM reads a checkpoint: its version, its answer as a sentence, and the layers that it misreads.

    ``is_refused``: it does not take the checkpoint at all, and the answer says why.
    """

    version: str
    quote: str
    misread: Misread
    is_refused: bool = False


def read_with_engine(python: Path, checkpoint: Path, layers: Mapping[str, Layer]) -> EngineReading:
    """Ask vLLM about each module of a checkpoint, the experts of a layer together, and compare it with the tensors.

    Args:
        python: interpreter of the serve environment.
        checkpoint: folder of the checkpoint.
        layers: its weight matrices by module, see :func:`day0.checkpoint.layers.read_layers`.

    Raises:
        UnusableInput: that interpreter does not run the reader.
    """
    asked = {name: layer for name, layer in layers.items() if _is_asked(name, layer)}
    try:
        done = subprocess.run(
            [str(python), str(READER), "--checkpoint", str(checkpoint.resolve())],
            input=json.dumps(list(asked)),
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )
        answer = _Answer.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnusableInput(f"--engine-check: {python}: {error}; expected the python of a serve environment") from None
    except ValidationError:
        said = done.stderr.strip()[-500:] or "it printed no answer"
        raise UnusableInput(
            f"--engine-check: {python} does not run {READER.name}: {said}; expected the python of a serve environment"
        ) from None
    return compare_answer(answer, asked)


def _is_asked(name: str, layer: Layer) -> bool:
    if ".experts." in name and ".experts.0." not in name and name.partition(".experts.")[2][:1].isdigit():
        return False
    return layer.is_linear or layer.family == "router"


def compare_answer(answer: _Answer, layers: Mapping[str, Layer]) -> EngineReading:
    """Compare what vLLM makes of each layer with what its tensors hold."""
    version = answer.version or "unknown"
    by = f"vLLM {version}"
    if answer.error is not None:
        return EngineReading(version, f"{by} itself refuses it: {answer.error}", {}, is_refused=True)
    if not answer.was_asked:
        return EngineReading(version, f"{by}: {'; '.join(answer.remarks)}", {})
    quantized = [name for name, layer in layers.items() if layer.is_quantized]
    if answer.method is None:
        reason = f"are quantized, yet {by} finds no quantization in config.json and loads them as plain weights"
        return EngineReading(version, f"{by} finds no quantization", {reason: quantized} if quantized else {})
    found: Misread = {}
    for name, words in answer.refused.items():
        found.setdefault(f"are refused by {by}: {words}", []).append(name)
    for name, algorithm in answer.modules.items():
        difference = _difference(layers[name], algorithm, f"{by} ({answer.reader})")
        if difference is not None:
            found.setdefault(difference, []).append(name)
    cache = f", KV cache {answer.kv_cache}" if answer.kv_cache else ""
    counts = f": {_counts(answer.modules.values())}" if answer.modules else ""
    quote = f"{by} itself reads it as {answer.method} by {answer.reader}{cache}{counts}"
    return EngineReading(version, "; ".join([quote, *answer.remarks]), found)


def _difference(layer: Layer, algorithm: str | None, by: str) -> str | None:
    if layer.problem is not None or layer.family == "embeddings":
        return None
    if algorithm is None:
        return f"hold {layer.precision}, which {by} loads as plain weights" if layer.is_quantized else None
    if not layer.is_quantized:
        return f"hold {layer.precision}, which {by} reads as {algorithm}"
    name = algorithm.upper()
    return (
        None
        if ALIASES.get(name, name) in (layer.precision, layer.declared)
        else f"hold {layer.precision}, which {by} reads as {algorithm}"
    )


def _counts(algorithms: Iterable[str | None]) -> str:
    found: dict[str, int] = {}
    for one in algorithms:
        found[one or "plain"] = found.get(one or "plain", 0) + 1
    return ", ".join(f"{count} modules {name}" for name, count in sorted(found.items()))
