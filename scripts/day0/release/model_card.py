"""The model card of a bundle, README.md, with the front matter that the hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.records.card import CardSettings
from day0.records.quantization import Quantization
from day0.records.recipe import UNKNOWN
from day0.records.source import HubLocation, Source
from day0.records.validation import Validation
from day0.records.verdict import Verdict

TEMPLATE = Path(__file__).parents[2] / "templates" / "model_card.md.jinja"
FORMAT = re.compile(r"(?:MX|NV)?(?:FP|INT)\d+")
SAMPLING = ("temperature", "top_p", "top_k", "max_gen_toks", "max_new_tokens")
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


class Library(NamedTuple):
    """What reads a checkpoint besides vLLM: the name that the hub shows, and what transformers needs or does wrong."""

    name: str | None
    remark: str


_NEEDS = "`transformers` reads it where the package `{}` is installed; that was not evaluated."
# By quant_method of config.json, as transformers 5.19.0 knows them (quantizers/auto.py:78, and :296 for those that it
# does not); NVIDIA's own cards name Model Optimizer as the library of its checkpoints.
LIBRARIES = {
    "modelopt": Library(
        "Model Optimizer",
        "Not with `transformers`: it skips this quantization with a warning, and takes the codes for weights.",
    ),
    "compressed-tensors": Library("transformers", _NEEDS.format("compressed-tensors")),
    "auto-round": Library("transformers", _NEEDS.format("auto-round")),
    "gptq": Library("transformers", _NEEDS.format("gptqmodel")),
    "awq": Library("transformers", _NEEDS.format("gptqmodel")),
    "fp8": Library("transformers", "`transformers` reads it on a GPU; that was not evaluated."),
    "mxfp4": Library("transformers", "`transformers` reads it on a GPU; that was not evaluated."),
}
UNKNOWN_LIBRARY = Library(None, "Whether `transformers` reads it is not known.")
# Parts of a configuration that only models have which take more than text, with the hub's tag for such models.
PIPELINE_TAGS = (("vision_config", "image-text-to-text"), ("audio_config", "audio-text-to-text"))
# What would make of a text, which may be that of another tool's run, a line, a row, a link or HTML of its own.
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
_MARKUP = str.maketrans({"<": "&lt;", "|": r"\|", "`": "'", "[": r"\["})
LOCAL_LOADERS = frozenset({"json", "csv", "text", "parquet", "arrow"})


def plain(value: Any) -> Any:
    """A value with all texts in it as Markdown shows them: one line each, without markup."""
    if isinstance(value, str):
        return _BREAKS.sub(" ", value).translate(_MARKUP)
    if isinstance(value, Mapping):
        return {plain(key): plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def library_of(checkpoint: Path) -> Library:
    """What reads a checkpoint, by the method that its configuration declares."""
    config = read_json(checkpoint / "config.json") if (checkpoint / "config.json").is_file() else {}
    method = mapping_or_empty(config.get("quantization_config")).get("quant_method")
    if method is None and (checkpoint / "hf_quant_config.json").is_file():
        method = "modelopt"
    return LIBRARIES.get(str(method), UNKNOWN_LIBRARY)


def pipeline_tag(source: Source) -> str:
    """The hub's tag for what the model does: as the source's card has it, else by its configuration."""
    found = (tag for key, tag in PIPELINE_TAGS if source.config.get(key))
    return source.card.pipeline_tag or next(found, "text-generation")


def base_model(source: Source, card: CardSettings) -> str | None:
    """The repository of the hub that the source is, or came from."""
    return source.location.hub if isinstance(source.location, HubLocation) else card.base_model


def licence_of(source: Source, card: CardSettings) -> dict[str, Any]:
    """Identifier, name and link of the licence: the configuration's in place of the source's."""
    chosen = card if card.license else source.card
    return {key: getattr(chosen, key) for key in ("license", "license_name", "license_link")}


def tags_of(quantization: Quantization, validation: Validation, card: CardSettings) -> list[str]:
    """Tags for formats, tools and engine, and those of the configuration."""
    formats = {match[0].lower() for name in validation.layer_precision_counts if (match := FORMAT.search(name))}
    tools = ["modelopt" if name == MODELOPT else name for name in quantization.versions if name in MAKERS]
    return ["quantized", *tools, *sorted(formats), "vllm", *card.tags]


def front_matter(
    verdict: Verdict,
    source: Source,
    quantization: Quantization,
    validation: Validation,
    library: Library,
    protocol: Mapping[str, Mapping[str, Any]],
    card: CardSettings,
) -> str:
    """The metadata that the hub reads from a model card, with every score as an entry of its model-index.

    Args:
        protocol: by task, how it was asked, see :func:`protocol_of`.
    """
    task_type, base = pipeline_tag(source), base_model(source, card)
    scores = []
    for task, entry in verdict.tasks.items():
        if entry.candidate is None:
            continue
        asked = protocol.get(task) or {}
        datasets = [one for one in asked.get("datasets") or [] if one["path"] not in LOCAL_LOADERS]
        only = datasets[0] if len(datasets) == 1 else {}
        few = asked.get("num_fewshot")
        scores.append(
            EvalResult(
                task_type=task_type,
                dataset_type=only.get("path") or task,
                dataset_name=task,
                dataset_config=only.get("name"),
                dataset_split=only.get("split"),
                dataset_args=None if few is None else {"num_few_shot": few},
                metric_type=entry.metric or "score",
                metric_name=entry.metric or "score",
                metric_value=entry.candidate,
            )
        )
    data = ModelCardData(
        model_name=f"{verdict.model}-{verdict.release}",
        base_model=base,
        base_model_relation="quantized" if base else None,
        quantized_by=card.quantized_by,
        language=source.card.languages or None,
        library_name=library.name,
        pipeline_tag=task_type,
        tags=tags_of(quantization, validation, card),
        eval_results=scores,
        **licence_of(source, card),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def protocol_of(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How each task was asked, by the metadata of the candidate's results.yml."""
    datasets = mapping_or_empty(metadata.get("datasets"))
    return {
        name: {
            "harness": entry.get("harness"),
            "task": entry.get("task"),
            "datasets": datasets.get(name) or [],
            "num_fewshot": entry.get("num_fewshot"),
            "repeats": entry.get("repeats"),
            "sampling": {key: (entry.get("sampling") or {}).get(key) for key in SAMPLING},
            "chat": entry.get("apply_chat_template"),
        }
        for name, entry in mapping_or_empty(metadata.get("fingerprint")).items()
    }


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
    verdict: Verdict,
    quantization: Quantization,
    source: Source,
    validation: Validation,
    metadata: Mapping[str, Any],
    checkpoint: Path,
    card: CardSettings,
) -> str:
    """The README.md of the bundle.

    Args:
        metadata: of the candidate's results.yml.
        checkpoint: its folder.
        card: settings of the configuration; its template, if any, in place of the project's own.

    Raises:
        UnusableInput: the template cannot be read or filled in.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["number"] = lambda number, sign="": "" if number is None else f"{number:{sign}.4f}"
    location, server = source.location, mapping_or_empty(metadata.get("server"))
    library, protocol = library_of(checkpoint), protocol_of(metadata)
    template = Path(card.template) if card.template else TEMPLATE
    content = dict(
        model=verdict.model,
        recipe=None if verdict.recipe == UNKNOWN else verdict.recipe,
        is_imported=quantization.recipe.kind == "imported",
        suite=verdict.suite,
        criterion=verdict.criterion,
        decision=verdict.decision,
        size_ratio=verdict.size_ratio,
        tasks={name: {key: getattr(task, key) for key in CARD_COLUMNS} for name, task in verdict.tasks.items()},
        protocol=protocol,
        bits_per_weight=verdict.bits_per_weight,
        baseline_precision=verdict.baseline_precision,
        evidence_sentence=verdict.evidence_sentence,
        tokens=verdict.tokens and verdict.tokens.sentence,
        speed=verdict.speed and verdict.speed.sentence,
        warnings=[entry.sentence for entry in verdict.warnings],
        external=verdict.external and verdict.external.status,
        hub=base_model(source, card),
        revision=location.revision if isinstance(location, HubLocation) else None,
        **licence_of(source, card),
        is_own_licence=card.license is not None,
        quantized_by=card.quantized_by,
        parameters=source.parameters,
        made_by=makers(quantization),
        kv_cache=quantization.kv_cache,
        calibration=quantization.calibration,
        layer_precision_counts=validation.layer_precision_counts,
        engine_version=server.get("engine_version"),
        emulation=server.get("emulation"),
        serving=serving_arguments(str(server.get("command") or "")),
    )
    content = plain(content) | {"library": library._asdict(), "license_text": card.license_text}
    try:
        text = environment.from_string(template.read_text(encoding="utf-8")).render(content)
    except (OSError, UnicodeDecodeError, jinja2.TemplateError, TypeError, ValueError) as error:
        raise UnusableInput(
            f"{template}: cannot be rendered as a model card: {error}; compare it with {TEMPLATE.name}, which uses "
            f"every name that there is: {', '.join(sorted(content))}"
        ) from error
    return front_matter(verdict, source, quantization, validation, library, protocol, card) + text
