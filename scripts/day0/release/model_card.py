"""The model card of a bundle, README.md, with the front matter that the hub reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from day0.records.quantization import Quantization
from day0.records.recipe import UNKNOWN
from day0.records.source import HubLocation, Source
from day0.records.validation import Validation
from day0.records.verdict import Verdict

CARD_COLUMNS = ("tier", "metric", "baseline", "candidate", "drop", "limit", "paired", "tokens")
# Flags of the evaluation's server that change what the model answers or needs, with the value that is vLLM's own.
SERVING_FLAGS = {
    "--max-model-len": None,
    "--dtype": "auto",
    "--kv-cache-dtype": "auto",
    "--tensor-parallel-size": "1",
    "--pipeline-parallel-size": "1",
}
MODELOPT = "nvidia-modelopt"
# Names of the tools that quantize, by the names that a record has their versions under.
MAKERS = {
    MODELOPT: "ModelOpt",
    "compressed-tensors": "compressed-tensors",
    "auto-round": "AutoRound",
    "gptqmodel": "GPTQModel",
}


def front_matter(verdict: Verdict, source: Source, made_by: Iterable[str]) -> str:
    """The metadata that the hub reads from a model card, with every score as an entry of its model-index.

    ``made_by``: tags for the tools that quantized the model.
    """
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type=entry.metric or "score",
            metric_name=entry.metric or "score",
            metric_value=entry.candidate,
        )
        for task, entry in verdict.tasks.items()
        if entry.candidate is not None
    ]
    hub = source.location.hub if isinstance(source.location, HubLocation) else None
    data = ModelCardData(
        model_name=f"{verdict.model}-{verdict.release}",
        base_model=hub,
        base_model_relation="quantized" if hub else None,
        license=source.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["quantized", *made_by, "vllm", *([] if verdict.recipe == UNKNOWN else [verdict.recipe.lower()])],
        eval_results=scores,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def makers(quantization: Quantization) -> str:
    """The tools that quantized the model, with their versions, as text; "" where none is known."""
    found = [f"{MAKERS[name]} {version}" for name, version in quantization.versions.items() if name in MAKERS]
    return ", ".join(found)


def serving_arguments(command: str) -> list[str]:
    """Arguments of the evaluation's server that a user needs too."""
    words = command.split()
    kept = [
        f"{flag} {value}" for flag, value in pairwise(words) if flag in SERVING_FLAGS and value != SERVING_FLAGS[flag]
    ]
    return kept + ["--trust-remote-code"] * ("--trust-remote-code" in words)


def render_model_card(
    template: Path,
    verdict: Verdict,
    quantization: Quantization,
    source: Source,
    validation: Validation,
    server: Mapping[str, Any],
) -> str:
    """The README.md of the bundle.

    Args:
        template: model_card.md.jinja.
        server: what the candidate's results.yml records about its server.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["number"] = lambda number, sign="": "" if number is None else f"{number:{sign}.4f}"
    location = source.location
    text = environment.from_string(template.read_text(encoding="utf-8")).render(
        model=verdict.model,
        recipe=None if verdict.recipe == UNKNOWN else verdict.recipe,
        is_imported=quantization.recipe.kind == "imported",
        suite=verdict.suite,
        criterion=verdict.criterion,
        decision=verdict.decision,
        size_ratio=verdict.size_ratio,
        tasks={name: {key: getattr(task, key) for key in CARD_COLUMNS} for name, task in verdict.tasks.items()},
        bits_per_weight=verdict.bits_per_weight,
        baseline_precision=verdict.baseline_precision,
        evidence_sentence=verdict.evidence_sentence,
        tokens=verdict.tokens and verdict.tokens.sentence,
        warnings=[entry.sentence for entry in verdict.warnings],
        external=verdict.external and verdict.external.status,
        hub=location.hub if isinstance(location, HubLocation) else None,
        revision=location.revision if isinstance(location, HubLocation) else None,
        license=source.license,
        parameters=source.parameters,
        made_by=makers(quantization),
        kv_cache=quantization.kv_cache,
        calibration=quantization.calibration,
        layer_precision_counts=validation.layer_precision_counts,
        engine_version=server.get("engine_version"),
        emulation=server.get("emulation"),
        serving=serving_arguments(str(server.get("command") or "")),
    )
    tags = ["modelopt" if name == MODELOPT else name for name in quantization.versions if name in MAKERS]
    return front_matter(verdict, source, tags) + text
