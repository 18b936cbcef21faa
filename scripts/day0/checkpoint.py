"""What a quantized checkpoint must hold to, as pure functions over a summary of it; and how that summary is read.

Reading takes safetensors headers, the values of scalar scales and the small JSON files, no weights. Every check is a
small function from :class:`CheckpointSummary` to :class:`Check`, or to None where the summary lacks what it looks at.
The tensors that each algorithm leaves behind are those of ModelOpt 0.47's exporter.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from day0.artefacts import UnusableInput, files_below, read_json
from day0.recipes import KV_CACHE_NONE
from day0.safetensors_headers import (
    INDEX_FILE,
    BrokenSafetensors,
    Tensor,
    payload_bytes,
    read_scalars,
    read_tensors,
)

WEIGHTS_DECLARATION = (INDEX_FILE, "hf_quant_config.json", "config.json")
_WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".pkl",
    ".index.json",
)
_NOT_CARRIED = ("README.md", *WEIGHTS_DECLARATION)

FULL_PRECISION = {"BF16", "F16", "FP16", "F32", "FP32", "F64", "BFLOAT16", "FLOAT16", "FLOAT32", "NONE"}
MIXED = "MIXED_PRECISION"
# What a layer's tensors look like -> the declared algorithms, in upper case, that export exactly this.
STRUCTURES = {
    "FP8": {"FP8"},
    "FP8 without input_scale": {"FP8_PB_WO", "FP8_PB_REAL"},  # a weight of a single block has a scalar scale, too
    "FP8_PER_CHANNEL_PER_TOKEN": {"FP8_PER_CHANNEL_PER_TOKEN"},
    "FP8_PB_WO": {"FP8_PB_WO", "FP8_PB_REAL"},
    "MXFP8": {"MXFP8"},
    "NVFP4": {"NVFP4", "NVFP4_AWQ"},
    "NVFP4 32": {"NVFP4", "W4A8_NVFP4_FP8"},
    "NVFP4 AWQ": {"NVFP4_AWQ"},
    "NVFP4 SVD": {"NVFP4_SVD"},
    "W4A16_NVFP4": {"W4A16_NVFP4"},
    "MXFP4": {"MXFP4", "W4A8_MXFP4_FP8"},
    "INT4": {"W4A16_AWQ"},
    "INT4 W4A8": {"W4A8_AWQ"},
    "INT8": {"W8A16", "W8A8_SQ_PER_CHANNEL"},
}
# Presets whose every quantized layer has one algorithm: what a summary without tensors is held against.
PRESET_ALGORITHMS = {
    "fp8": "FP8",
    "fp8_per_channel_per_token": "FP8_PER_CHANNEL_PER_TOKEN",
    "fp8_2d_blockwise_weight_only": "FP8_PB_WO",
    "nvfp4": "NVFP4",
    "nvfp4_mlp_only": "NVFP4",
    "w4a16_nvfp4": "W4A16_NVFP4",
    "mxfp8": "MXFP8",
    "int4_awq": "W4A16_AWQ",
}

_PART = re.compile(
    r"(?P<module>.+?)(?:\.|_)(?P<part>weight_scale_inv|weight_scale_2|weight_scale|input_scale|pre_quant_scale|svdquant_lora_[ab])"
)
_KV_PART = re.compile(r".+\.(?:[kv]_scale|[kv]_bias|[kv]_zero_point)")
_NOT_LINEAR = re.compile(
    r"(embed|wte$|wpe$|norm|ln_|router|(^|[._])gate$|shared_expert_gate$|conv|position|relative_attention|rotary|codebook)",
    re.I,
)
_BUFFERS = re.compile(r"(rotary_emb\.inv_freq|masked_bias|attn\.bias|position_ids)$")

_LARGEST = 2**63
COUNT = Annotated[int, Field(ge=0, lt=_LARGEST, strict=True)]
BYTES = Annotated[int, Field(gt=0, lt=_LARGEST, strict=True)]


class _GivenSummary(BaseModel):
    """A summary as given by hand."""

    model_config = ConfigDict(extra="ignore")

    source_bytes: BYTES
    output_bytes: BYTES
    recipe: Annotated[str, Field(min_length=1, strict=True)]
    layer_precision_counts: Annotated[dict[str, COUNT], Field(min_length=1)]
    metadata_diffs: list[dict[str, Any] | str]
    parameters: BYTES | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight matrix of the checkpoint.

    ``precision`` is what its tensors say, ``declared`` the algorithm that the checkpoint declares for it (None: full
    precision or undeclared), ``intended`` whether the recipe's patterns quantize it (None: they cannot tell),
    ``problem`` what is wrong with its tensors taken alone.
    """

    precision: str
    declared: str | None = None
    is_excluded: bool = False
    is_linear: bool = True
    intended: bool | None = None
    problem: str | None = None

    @property
    def is_quantized(self) -> bool:
        return self.precision not in FULL_PRECISION


@dataclass(frozen=True)
class CheckpointSummary:
    """Everything the checks look at. A summary given by hand has the first five fields only; the rest stays None."""

    source_bytes: int
    output_bytes: int
    recipe: str
    layer_precision_counts: dict[str, int]
    metadata_diffs: list[dict[str, Any]]
    parameters: int | None = None
    failed_before: tuple[str, str] | None = None
    broken: str | None = None
    layers: dict[str, Layer] | None = None
    declaration: str | None = None
    conflicts: list[str] | None = None
    missing: list[str] | None = None
    unknown: list[str] | None = None
    misshapen: list[str] | None = None
    scales: dict[str, float] | None = None

    @property
    def quantized(self) -> int:
        """Number of quantized layers."""
        return sum(n for name, n in self.layer_precision_counts.items() if name.upper() not in FULL_PRECISION)


@dataclass(frozen=True)
class Check:
    """The outcome of one check; ``offenders`` are names of layers, tensors or files, all of them."""

    name: str
    passed: bool
    detail: str
    failure_class: str = "QUANT_COVERAGE_FAILURE"
    offenders: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "pass": self.passed,
            "detail": self.detail,
            **self.numbers,
            "offenders": self.offenders,
        }


# ---- the checks


def check_stage(summary: CheckpointSummary) -> Check | None:
    """The quantize stage has not recorded a failure."""
    if summary.failed_before is None:
        return None
    failure_class, detail = summary.failed_before
    return Check("quantize", False, f"the quantize stage failed: {detail}", failure_class)


def check_integrity(summary: CheckpointSummary) -> Check | None:
    """Every shard opens, its header is valid, and index and shards name the same tensors."""
    if summary.layers is None and summary.broken is None:
        return None
    if summary.broken is not None:
        return Check("integrity", False, summary.broken)
    return Check("integrity", True, "every shard's header is sound")


def check_support(summary: CheckpointSummary) -> Check | None:
    """At least one layer is quantized."""
    if summary.broken is not None:
        return None
    total = sum(summary.layer_precision_counts.values())
    if summary.quantized == 0:
        return Check(
            "support",
            False,
            f"recipe {summary.recipe} quantized none of {total} layers: its patterns match nothing in this model",
            "MODEL_UNSUPPORTED",
            numbers={"quantized": 0, "layers": total},
        )
    return Check(
        "support",
        True,
        f"{summary.quantized} of {total} layers are quantized",
        numbers={"quantized": summary.quantized, "layers": total},
    )


def check_declaration(summary: CheckpointSummary) -> Check | None:
    """config.json and hf_quant_config.json declare the quantization, and declare the same."""
    if summary.conflicts is None or not summary.quantized:
        return None
    if summary.conflicts:
        return Check("declaration", False, "; ".join(summary.conflicts))
    return Check("declaration", True, f"config.json and hf_quant_config.json both declare {summary.declaration}")


def check_coverage(summary: CheckpointSummary) -> Check | None:
    """Each layer is what the checkpoint declares and what the recipe's patterns intend; each has all its scales."""
    if not summary.quantized:
        return None
    if summary.layers is None:
        return _check_coverage_by_counts(summary)
    found: dict[str, list[str]] = {}
    for name, layer in summary.layers.items():
        for reason in _layer_mismatches(layer):
            found.setdefault(reason, []).append(name)
    if not found:
        intended = sum(layer.intended is True for layer in summary.layers.values())
        told = f"; all {intended} layers that the recipe's patterns name are quantized" if intended else ""
        return Check("coverage", True, f"{summary.quantized} layers are what the checkpoint declares{told}")
    details = [f"{len(names)} layers {reason}: {_first(names)}" for reason, names in found.items()]
    offenders = sorted({name for names in found.values() for name in names})
    return Check("coverage", False, "; ".join(details), offenders=offenders, numbers={"mismatches": len(offenders)})


def _check_coverage_by_counts(summary: CheckpointSummary) -> Check:
    wanted = PRESET_ALGORITHMS.get(summary.recipe.lower())
    found = sorted(name for name in summary.layer_precision_counts if name.upper() not in FULL_PRECISION)
    wrong = [
        name for name in found if wanted is not None and name.upper() != wanted and summary.layer_precision_counts[name]
    ]
    if wrong:
        return Check(
            "coverage",
            False,
            f"recipe {summary.recipe} quantizes to {wanted}; found {_counts(summary.layer_precision_counts)}",
            offenders=wrong,
        )
    return Check("coverage", True, f"layers by precision: {_counts(summary.layer_precision_counts)}")


def _layer_mismatches(layer: Layer) -> Iterable[str]:
    if layer.problem is not None:
        yield layer.problem
    elif layer.is_quantized and layer.declared is None:
        yield f"are {'declared excluded' if layer.is_excluded else 'not declared'} yet quantized ({layer.precision})"
    elif layer.declared is not None and layer.precision != layer.declared and (layer.is_quantized or layer.is_linear):
        yield f"are declared {layer.declared} yet hold {layer.precision}"
    if layer.intended is True and not layer.is_quantized:
        yield f"are quantized by the recipe's patterns yet hold {layer.precision}"
    elif layer.intended is False and layer.is_quantized:
        yield f"are left alone by the recipe's patterns yet hold {layer.precision}"


def check_inventory(summary: CheckpointSummary) -> Check | None:
    """Every tensor of the source is there with its logical shape, and nothing is added but scales."""
    if summary.missing is None:
        return None
    problems = {
        "tensors of the source are missing": summary.missing,
        "tensors are neither in the source nor scales of a weight": summary.unknown or [],
        "tensors have another shape than in the source": summary.misshapen or [],
    }
    details = [f"{len(names)} {what}: {_first(names)}" for what, names in problems.items() if names]
    if details:
        return Check("inventory", False, "; ".join(details), offenders=sorted(set().union(*problems.values())))
    return Check("inventory", True, "every tensor of the source is there")


def check_scales(summary: CheckpointSummary) -> Check | None:
    """Every scalar scale is finite and above 0."""
    if summary.scales is None:
        return None
    wrong = {name: value for name, value in summary.scales.items() if not (math.isfinite(value) and value > 0)}
    numbers = {"scalars": len(summary.scales)}
    if wrong:
        shown = _first([f"{name} = {value}" for name, value in wrong.items()])
        return Check(
            "scales",
            False,
            f"{len(wrong)} scales are not finite and above 0: {shown}",
            offenders=sorted(wrong),
            numbers=numbers,
        )
    return Check("scales", True, f"{len(summary.scales)} scalar scales are finite and above 0", numbers=numbers)


def check_size(summary: CheckpointSummary) -> Check | None:
    """The checkpoint's payload is smaller than the source's."""
    if summary.broken is not None:
        return None
    ratio = summary.output_bytes / summary.source_bytes
    numbers = {"source_bytes": summary.source_bytes, "output_bytes": summary.output_bytes, "size_ratio": ratio}
    sentence = f"{summary.output_bytes:,} bytes of weights from {summary.source_bytes:,}, a ratio of {ratio:.3f}"
    if ratio >= 1:
        return Check("size", False, f"{sentence}; expected below 1", numbers=numbers)
    return Check("size", True, sentence, numbers=numbers)


def check_metadata(summary: CheckpointSummary) -> Check | None:
    """Config, generation config, tokenizer and chat template changed in nothing that quantizing should leave alone."""
    wrong = [diff for diff in summary.metadata_diffs if diff.get("expected") is not True]
    if wrong:
        shown = _first([_diff_sentence(diff) for diff in wrong])
        return Check(
            "metadata",
            False,
            f"{len(wrong)} unexpected changes: {shown}",
            offenders=[str(diff["field"]) for diff in wrong],
        )
    return Check("metadata", True, f"{len(summary.metadata_diffs)} changes, all expected")


CHECKS: Sequence[Callable[[CheckpointSummary], Check | None]] = (
    check_stage,
    check_integrity,
    check_support,
    check_declaration,
    check_coverage,
    check_inventory,
    check_scales,
    check_size,
    check_metadata,
)


def evaluate_checkpoint(summary: Mapping[str, Any] | CheckpointSummary) -> dict[str, Any]:
    """Decide whether a checkpoint is what its recipe promises.

    Args:
        summary: what :func:`read_summary` found, or a mapping with ``source_bytes``, ``output_bytes``, ``recipe``,
            ``layer_precision_counts`` and ``metadata_diffs``.

    Returns:
        ``pass``, ``failure_class`` (that of the first failed check), ``detail`` (a sentence for each failed check),
        ``checks``, sizes, ``bits_per_weight``, ``layer_precision_counts``, ``metadata_diffs`` and ``offenders``.

    Raises:
        UnusableInput: the mapping is no summary.
    """
    if not isinstance(summary, CheckpointSummary):
        summary = parse_summary(summary)
    applicable = (check_stage,) if summary.failed_before is not None else CHECKS
    checks = [check(summary) for check in applicable]
    done = [check for check in checks if check is not None]
    failed = [check for check in done if not check.passed]
    ratio = summary.output_bytes / summary.source_bytes if summary.source_bytes and summary.output_bytes else None
    bits = summary.output_bytes * 8 / summary.parameters if summary.parameters and summary.output_bytes else None
    assessment = {
        "pass": not failed,
        "failure_class": failed[0].failure_class if failed else None,
        "detail": "; ".join(check.detail for check in failed or done),
        "recipe": summary.recipe,
        "checks": [check.as_dict() for check in done],
        "source_bytes": summary.source_bytes,
        "output_bytes": summary.output_bytes,
        "size_ratio": ratio,
        "bits_per_weight": bits,
        "layer_precision_counts": dict(sorted(summary.layer_precision_counts.items())),
        "metadata_diffs": summary.metadata_diffs,
        "offenders": sorted({name for check in failed for name in check.offenders}),
    }
    return _writable(assessment)


def _writable(value: Any) -> Any:
    """The same as JSON in UTF-8 can hold it: what was read may name things with lone surrogates, or hold a NaN."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {_writable(str(key)): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value


def parse_summary(content: Any) -> CheckpointSummary:
    """A summary from JSON-able values.

    Raises:
        UnusableInput: it is none; the message names the fields.
    """
    try:
        given = _GivenSummary.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        sentences = [
            f"{'.'.join(map(str, m['loc'])) or 'it'}: found {m['input']!r:.80}; {m['msg']}" for m in mistakes[:5]
        ]
        raise UnusableInput(
            "expected a summary with source_bytes, output_bytes, recipe, layer_precision_counts and metadata_diffs; "
            + "; ".join(sentences)
        ) from None
    diffs = [
        diff if isinstance(diff, dict) else {"field": diff, "source": None, "output": None, "expected": False}
        for diff in given.metadata_diffs
    ]
    diffs = [{"field": "?", **diff, "expected": diff.get("expected", _is_expected(diff)) is True} for diff in diffs]
    return CheckpointSummary(**{**given.model_dump(), "metadata_diffs": diffs})


def _first(names: Sequence[str], count: int = 10) -> str:
    shown = ", ".join(list(names)[:count])
    return f"{shown} and {len(names) - count} more" if len(names) > count else shown


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _diff_sentence(diff: Mapping[str, Any]) -> str:
    return f"{diff['field']} was {diff.get('source')!r:.60}, is {diff.get('output')!r:.60}"


# ---- what the tensors say


def structure_of(weight: Tensor, parts: Mapping[str, Tensor]) -> tuple[str, str | None]:
    """What a weight and its scales look like, a key of :data:`STRUCTURES` or a dtype; and what is wrong with them."""
    scale = parts.get("weight_scale", parts.get("weight_scale_inv"))
    if weight.dtype in FULL_PRECISION:
        stray = sorted(parts.keys() - {"pre_quant_scale"})
        return weight.dtype, f"hold {weight.dtype} yet have {', '.join(stray)}" if stray else None
    if scale is None:
        return weight.dtype, f"hold {weight.dtype} without a weight_scale"
    if weight.dtype == "F8_E4M3":
        return _structure_of_fp8(weight, scale, parts)
    if weight.dtype == "U8" and scale.dtype == "F8_E4M3":
        return _structure_of_nvfp4(weight, scale, parts)
    if weight.dtype == "U8" and scale.dtype == "U8":
        return "MXFP4", None
    if weight.dtype == "U8" and scale.dtype in FULL_PRECISION:
        return ("INT4 W4A8" if "weight_scale_2" in parts or "input_scale" in parts else "INT4"), None
    if weight.dtype == "I8":
        return "INT8", None
    return weight.dtype, f"hold {weight.dtype} with a weight_scale of {scale.dtype}, which no known algorithm does"


def _structure_of_fp8(weight: Tensor, scale: Tensor, parts: Mapping[str, Tensor]) -> tuple[str, str | None]:
    if scale.dtype in ("U8", "F8_E8M0"):
        return "MXFP8", None
    if scale.elements == 1 and len(scale.shape) < 2:
        return ("FP8" if "input_scale" in parts else "FP8 without input_scale"), None
    if len(scale.shape) == 1 or (
        len(scale.shape) == 2 and len(weight.shape) == 3 and scale.shape[0] == weight.shape[0]
    ):
        return "FP8_PER_CHANNEL_PER_TOKEN", None
    return "FP8_PB_WO", None


def _structure_of_nvfp4(weight: Tensor, scale: Tensor, parts: Mapping[str, Tensor]) -> tuple[str, str | None]:
    problem = None if "weight_scale_2" in parts else "hold NVFP4 without a weight_scale_2"
    if any(part.startswith("svdquant") for part in parts):
        return "NVFP4 SVD", problem
    if "input_scale" not in parts:
        return "W4A16_NVFP4", problem
    if "pre_quant_scale" in parts:
        return "NVFP4 AWQ", problem
    group = weight.elements * 2 // max(scale.elements, 1)
    return ("NVFP4 32" if group == 32 else "NVFP4"), problem


@dataclass(frozen=True)
class Declaration:
    """What a checkpoint declares: one algorithm for all but ``excluded``, or with ``layers`` one for each of these."""

    algorithm: str | None
    kv_cache: str | None
    excluded: tuple[str, ...]
    layers: dict[str, str] | None

    def of(self, module: str) -> tuple[str | None, bool]:
        """Algorithm declared for a module, in upper case, and whether it is explicitly excluded."""
        if self.layers is not None:
            for name in (module, module.rpartition(".")[0]):
                if name in self.layers:
                    return self.layers[name], False
            return None, False
        if any(_matches(module, pattern) for pattern in self.excluded):
            return None, True
        return self.algorithm, False


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatch.fnmatchcase(module, pattern)


def _declaration(algorithm: Any, kv_cache: Any, excluded: Any, layers: Any) -> Declaration:
    by_layer = None
    if isinstance(layers, dict) and layers:
        by_layer = {
            name: str(entry.get("quant_algo")).upper() if isinstance(entry, dict) else str(entry).upper()
            for name, entry in layers.items()
        }
    if isinstance(kv_cache, dict):
        kv_cache = "FP8" if (kv_cache.get("num_bits"), kv_cache.get("type")) == (8, "float") else str(kv_cache)
    patterns = tuple(sorted(map(str, excluded))) if isinstance(excluded, list) else ()
    return Declaration(str(algorithm).upper() if algorithm else None, kv_cache, patterns, by_layer)


def read_declarations(
    config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Declaration | None, list[str]]:
    """The declaration of a checkpoint, and where its two places contradict each other, as sentences."""
    in_config = config.get("quantization_config")
    quantization = (hf_quant_config or {}).get("quantization")
    first = second = None
    if isinstance(quantization, dict):
        first = _declaration(
            quantization.get("quant_algo"),
            quantization.get("kv_cache_quant_algo"),
            quantization.get("exclude_modules"),
            quantization.get("quantized_layers"),
        )
    if isinstance(in_config, dict):
        second = _declaration(
            in_config.get("quant_algo"),
            in_config.get("kv_cache_scheme"),
            in_config.get("ignore"),
            in_config.get("quantized_layers"),
        )
    if first is None or second is None:
        absent = (
            "hf_quant_config.json has no 'quantization'"
            if first is None
            else "config.json has no 'quantization_config'"
        )
        conflicts = (
            [f"{absent}; the engine would load packed weights as plain ones"]
            if first or second
            else ["nothing is declared"]
        )
        return first or second, conflicts
    conflicts = [
        f"hf_quant_config.json says {name} {getattr(first, name)!r:.120}, config.json {getattr(second, name)!r:.120}"
        for name in ("algorithm", "kv_cache", "excluded", "layers")
        if getattr(first, name) != getattr(second, name)
    ]
    return first, conflicts


def intended_by(quant_cfg: Iterable[Any], module: str) -> bool | None:
    """Whether a recipe's patterns quantize a linear module's weight. ModelOpt applies them in order, the last one wins.

    A fused expert's quantizer has another name than its module in the checkpoint; None where the two disagree.
    """
    names = {f"{module}.weight_quantizer"}
    expert = re.fullmatch(r"(.+\.experts)\.\d+\.(\w+)", module)
    if expert:
        fused = "gate_up_proj" if expert[2] in ("gate_proj", "up_proj", "w1", "w3") else "down_proj"
        names.add(f"{expert[1]}.{fused}_weight_quantizer")
    elif ".experts." in module:
        names = {f"{module}_weight_quantizer"}
    entries = [entry for entry in quant_cfg if isinstance(entry, dict)]
    answers = {_is_enabled(entries, name) for name in names}
    return answers.pop() if len(answers) == 1 else None


def _is_enabled(entries: Iterable[Mapping[str, Any]], quantizer: str) -> bool:
    enabled = True
    for entry in entries:
        applies = entry.get("parent_class") in (None, "nn.Linear")
        if applies and fnmatch.fnmatchcase(quantizer, str(entry.get("quantizer_name", ""))):
            settings = entry.get("cfg")
            enabled = entry.get("enable", True) is not False
            if isinstance(settings, dict) and settings.get("enable") is False:
                enabled = False
    return enabled


def split_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], dict[str, dict[str, str]], list[str]]:
    """Sort names into weight matrices {module: tensor}, their parts {module: {part: tensor}}, and KV-cache scales."""
    weights: dict[str, str] = {}
    parts: dict[str, dict[str, str]] = {}
    kv = []
    for name, tensor in tensors.items():
        if _KV_PART.fullmatch(name):
            kv.append(name)
        elif match := _PART.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"]] = name
        elif name.endswith(".weight") and len(tensor.shape) in (2, 3):
            weights[name.removesuffix(".weight")] = name
        elif ".experts." in name and len(tensor.shape) == 3:
            weights[name] = name
    return weights, parts, kv


def read_layers(
    tensors: Mapping[str, Tensor], declaration: Declaration | None, quant_cfg: Sequence[Any] | None
) -> tuple[dict[str, Layer], list[str]]:
    """Every weight matrix as a :class:`Layer`, and the scales that belong to no weight."""
    weights, parts, _ = split_tensors(tensors)
    layers = {}
    for module, name in weights.items():
        own = {part: tensors[tensor] for part, tensor in parts.pop(module, {}).items()}
        structure, problem = structure_of(tensors[name], own)
        declared, is_excluded = declaration.of(module) if declaration is not None else (None, False)
        is_linear = _NOT_LINEAR.search(module) is None
        choices = STRUCTURES.get(structure, {structure})
        precision = declared if declared is not None and declared in choices else structure
        intended = intended_by(quant_cfg, module) if quant_cfg is not None and is_linear else None
        layers[module] = Layer(precision, declared, is_excluded, is_linear, intended, problem)
    return layers, [tensor for own in parts.values() for tensor in own.values()]


def compare_inventory(
    source: Mapping[str, Tensor], output: Mapping[str, Tensor], is_tied: bool
) -> tuple[list[str], list[str], list[str]]:
    """Names of the source's tensors that are missing, of new tensors that are no scales, and of misshapen ones."""

    def is_part(name: str) -> bool:
        return bool(_PART.fullmatch(name) or _KV_PART.fullmatch(name) or _BUFFERS.search(name))

    def is_tied_head(name: str) -> bool:
        return is_tied and name.endswith("lm_head.weight")

    fused = {_experts_of(name) for name in source if ".experts." in name} & {
        _experts_of(n) for n in output if ".experts." in n
    }
    is_refused = {_is_fused(n) for n in source if ".experts." in n} != {
        _is_fused(n) for n in output if ".experts." in n
    }

    def is_converted(name: str) -> bool:
        return is_refused and ".experts." in name and _experts_of(name) in fused

    missing = [n for n in source if n not in output and not is_part(n) and not is_tied_head(n) and not is_converted(n)]
    unknown = [n for n in output if n not in source and not is_part(n) and not is_tied_head(n) and not is_converted(n)]
    misshapen = []
    for name in source.keys() & output.keys():
        before, after = source[name], output[name]
        is_packed = after.dtype == "U8" and before.dtype in FULL_PRECISION
        if after.elements * (2 if is_packed else 1) != before.elements or (
            not is_packed and after.shape != before.shape
        ):
            misshapen.append(name)
    return sorted(missing), sorted(unknown), sorted(misshapen)


def _experts_of(name: str) -> str:
    return name.partition(".experts.")[0]


def _is_fused(name: str) -> bool:
    return re.search(r"\.experts\.\d+\.", name) is None


# ---- metadata

_UNINTERESTING = {"transformers_version", "_name_or_path", "_from_model_config"}
_EXPECTED_CONFIG = _UNINTERESTING | {"quantization_config", "sparse_attention_config", "use_cache"}
_MUST_STAY = {
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "hidden_act",
    "rms_norm_eps",
    "auto_map",
}
_TOKENIZER_KEYS = {
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "model_max_length",
    "tokenizer_class",
}
_TOKENIZER_FILES = re.compile(
    r"(tokenizer.*\.(json|model)|vocab.*|merges\.txt|spiece\.model|.*\.tiktoken|(pre|video_pre)?processor_config\.json|"
    r"generation_config\.json|special_tokens_map\.json|added_tokens\.json|chat_template.*|image_processor_config\.json)"
)
_REDUNDANT_FILES = ("special_tokens_map.json", "added_tokens.json")


def side_files(folder: str | Path, trust_remote_code: bool) -> list[str]:
    """Relative names of a source's files that go into its checkpoint as they are.

    These are all but the weights, their declarations, the model card and, unless trusted, Python code.
    """
    return [
        name
        for name in files_below(folder)
        if not any(part.startswith(".") for part in Path(name).parts)
        and name not in _NOT_CARRIED
        and not name.endswith(_WEIGHT_SUFFIXES)
        and (trust_remote_code or not name.endswith(".py"))
    ]


def merged_config(source: Mapping[str, Any], exported: Mapping[str, Any]) -> dict[str, Any]:
    """The source's config.json with what the export says about quantization, instead of all the export rewrote."""
    kept = {key: value for key, value in source.items() if key != "quantization_config"}
    added = {key: exported[key] for key in ("quantization_config", "sparse_attention_config") if key in exported}
    return {**kept, **added}


def _is_expected(diff: Mapping[str, Any] | str) -> bool:
    """Whether a change that does not say so itself is one that quantizing brings along."""
    name = (
        str(diff.get("field", "") if isinstance(diff, Mapping) else diff).rpartition(".")[2].rpartition(":")[2].strip()
    )
    return name in _EXPECTED_CONFIG


def _normal_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with one spelling for what transformers 4 and 5 spell differently, null values left out."""
    normal = {key: value for key, value in config.items() if value is not None and key not in ("torch_dtype", "dtype")}
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype is not None:
        normal["dtype"] = str(dtype).removeprefix("torch.")
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(normal.get(key), dict):
            rope |= normal.pop(key)
    if "rope_theta" in normal:
        rope.setdefault("rope_theta", normal.pop("rope_theta"))
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    rope.setdefault("rope_type", "default")
    if rope.keys() - {"rope_type"}:
        normal["rope"] = rope
    return normal


def compare_configs(
    source: Mapping[str, Any], output: Mapping[str, Any], place: str = "config.json"
) -> list[dict[str, Any]]:
    """Changes from one config.json to another.

    A value that only one side spells out is taken for the other's default, unless the field decides what is computed.
    """
    before, after = _normal_config(source), _normal_config(output)
    diffs = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and key.endswith("_config") and key != "quantization_config":
            diffs += compare_configs(old, new, f"{place}: {key}")
            continue
        expected = key in _EXPECTED_CONFIG
        if not expected and (old is None or new is None):
            is_default = key in ("num_key_value_heads", "head_dim", "tie_word_embeddings", "rope") and old is None
            is_default = is_default or (key == "tie_word_embeddings" and old is True)
            expected = key not in _MUST_STAY or is_default
        diffs.append({"field": f"{place}: {key}", "source": old, "output": new, "expected": expected})
    return diffs


def compare_generation_configs(source: Mapping[str, Any], output: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Changes of generation_config.json; the exporter sets do_sample where top_k or top_p are set."""
    diffs = []
    for key in sorted((source.keys() | output.keys()) - _UNINTERESTING):
        old, new = source.get(key), output.get(key)
        if old != new:
            expected = key == "do_sample" and new is True and ("top_k" in source or "top_p" in source)
            diffs.append(
                {"field": f"generation_config.json: {key}", "source": old, "output": new, "expected": expected}
            )
    return diffs


def effective_chat_template(folder: Path) -> Any:
    """The chat template that transformers would use: chat_template.jinja, chat_template.json, tokenizer_config.json."""
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (template := read_json(folder / name).get("chat_template")) is not None:
            if isinstance(template, list):
                named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
                return named.get("default", named) if len(named) == 1 else named
            return template
    return None


def compare_metadata(source: Path, output: Path) -> list[dict[str, Any]]:
    """Changes beside the weights: config, generation config, tokenizer and processor files, chat template.

    Raises:
        UnusableInput: a JSON file of either side cannot be read.
    """
    diffs = compare_configs(read_json(source / "config.json"), read_json(output / "config.json"))
    names = {path.name for path in source.iterdir() if path.is_file() and _TOKENIZER_FILES.fullmatch(path.name)}
    for name in sorted(names):
        before, after = source / name, output / name
        if name.startswith("chat_template"):
            continue
        if not after.is_file():
            is_redundant = name in _REDUNDANT_FILES and (output / "tokenizer.json").is_file()
            diffs.append({"field": name, "source": "present", "output": "missing", "expected": is_redundant})
        elif before.read_bytes() != after.read_bytes():
            diffs += _compare_side_file(name, before, after)
    old, new = effective_chat_template(source), effective_chat_template(output)
    if old != new:
        diffs.append(
            {"field": "chat template", "source": _shortened(old), "output": _shortened(new), "expected": False}
        )
    return diffs


def _compare_side_file(name: str, before: Path, after: Path) -> list[dict[str, Any]]:
    if not name.endswith(".json"):
        return [{"field": name, "source": "other bytes", "output": "other bytes", "expected": False}]
    old, new = read_json(before), read_json(after)
    if name == "generation_config.json":
        return compare_generation_configs(old, new)
    diffs = []
    for key in sorted((old.keys() | new.keys()) - {"chat_template"}):
        if old.get(key) != new.get(key):
            expected = name == "tokenizer_config.json" and key not in _TOKENIZER_KEYS
            diffs.append(
                {
                    "field": f"{name}: {key}",
                    "source": _shortened(old.get(key)),
                    "output": _shortened(new.get(key)),
                    "expected": expected,
                }
            )
    return diffs


def _shortened(value: Any, length: int = 200) -> Any:
    text = value if isinstance(value, str) else None if value is None else repr(value)
    return text if text is None or len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


# ---- reading


def read_summary(
    checkpoint: Path, source: Path, recipe: str, record: Mapping[str, Any] | None = None
) -> CheckpointSummary:
    """Read a checkpoint and its source: headers, scalar scales and JSON files.

    Args:
        checkpoint: folder of the checkpoint.
        source: folder of the source model.
        recipe: name of the recipe.
        record: the quantize stage's record; with its resolved patterns the intended coverage is checked too.

    Raises:
        UnusableInput: the source or a JSON file cannot be read. A broken checkpoint is no error but a finding.
    """
    before = read_tensors(source)
    source_bytes = payload_bytes(before)
    parameters = sum(t.elements for name, t in before.items() if not _PART.fullmatch(name))
    facts: dict[str, Any] = {
        "source_bytes": source_bytes,
        "output_bytes": 0,
        "recipe": recipe,
        "layer_precision_counts": {},
        "metadata_diffs": [],
        "parameters": parameters or None,
    }
    if record is not None and record.get("status") != "done":
        failure_class = record.get("failure_class") if isinstance(record.get("failure_class"), str) else "UNKNOWN"
        return CheckpointSummary(
            **facts, failed_before=(failure_class or "UNKNOWN", str(record.get("detail") or "no reason recorded"))
        )
    try:
        after = read_tensors(checkpoint)
    except BrokenSafetensors as error:
        return CheckpointSummary(**facts, broken=str(error))

    try:
        config = read_json(checkpoint / "config.json")
        has_file = (checkpoint / "hf_quant_config.json").is_file()
        hf_quant_config = read_json(checkpoint / "hf_quant_config.json") if has_file else None
    except UnusableInput as error:
        return CheckpointSummary(**facts, broken=str(error))
    declaration, conflicts = read_declarations(config, hf_quant_config)
    wanted = (record or {}).get("kv_cache")
    if wanted not in (None, KV_CACHE_NONE) and (declaration is None or not declaration.kv_cache):
        conflicts.append(f"the recipe quantizes the KV cache to {wanted}; the checkpoint declares no KV-cache format")
    layers, orphans = read_layers(after, declaration, _patterns(record))
    is_tied = config.get("tie_word_embeddings", True) is not False
    missing, unknown, misshapen = compare_inventory(before, after, is_tied)
    scale_names = {
        n
        for n in after
        if ((m := _PART.fullmatch(n)) and m["part"] != "pre_quant_scale") or n.endswith((".k_scale", ".v_scale"))
    }
    facts |= {
        "output_bytes": payload_bytes(after),
        "layer_precision_counts": dict(Counter(layer.precision for layer in layers.values())),
        "metadata_diffs": compare_metadata(source, checkpoint),
    }
    return CheckpointSummary(
        **facts,
        layers=layers,
        declaration=declaration.algorithm if declaration is not None else None,
        conflicts=conflicts,
        missing=missing,
        unknown=sorted({*unknown, *orphans}),
        misshapen=misshapen,
        scales=read_scalars({name: after[name] for name in sorted(scale_names)}),
    )


def _patterns(record: Mapping[str, Any] | None) -> list[Any] | None:
    """The recipe's resolved patterns; None without a record, and where a search decided instead of the patterns."""
    recipe = record.get("recipe") if record is not None else None
    resolved = recipe.get("quant_cfg") if isinstance(recipe, dict) else None
    if not isinstance(resolved, dict) or resolved.get("auto_quantize") is not None:
        return None
    quantize = resolved.get("quantize")
    patterns = quantize.get("quant_cfg") if isinstance(quantize, dict) else None
    return patterns if isinstance(patterns, list) else None


def summary_as_dict(summary: CheckpointSummary) -> dict[str, Any]:
    """The part of a summary that another run can be given by hand (``--summary``)."""
    names = ("source_bytes", "output_bytes", "recipe", "layer_precision_counts", "metadata_diffs", "parameters")
    return {name: asdict(summary)[name] for name in names}
