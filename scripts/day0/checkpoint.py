"""What a quantized checkpoint must hold to, as pure functions over a summary of it; and how that summary is read.

Reading takes safetensors headers, the values of scalar scales and the small JSON files; no weights, unless all block
scales are asked for. Every check is a small function from :class:`CheckpointSummary` to :class:`Check`, or to None
where the summary lacks what it looks at. What follows from a finding is not found a second time: a broken shard is
judged by nothing else, a layer with wrong tensors by neither coverage nor shape.
"""

from __future__ import annotations

import fnmatch
import gc
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from day0.artefacts import UnusableInput, files_below, read_json
from day0.checkpoint_formats import (
    FORMATS,
    FULL_PRECISION,
    MIXED,
    Form,
    expected_bytes,
    kind_of_quantizer,
    logical_shapes,
    problem_of,
)
from day0.engine import (
    ALGORITHM_OF_PRESET,
    DEFAULT_NVFP4_GROUP,
    DIVISOR_OF_INPUTS,
    FUSED_GROUPS,
    MINIMUM_CAPABILITY,
    NVFP4_ALGORITHMS,
)
from day0.recipes import KV_CACHE_NONE
from day0.safetensors_headers import (
    BITS,
    INDEX_FILE,
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

SIZE_TOLERANCE = 0.02
_PART = re.compile(
    r"(?P<module>.+?)(?:\.|_)(?P<part>weight_scale_inv|weight_scale_2|weight_scale|input_scale|pre_quant_scale|svdquant_lora_[ab])"
)
_PART_NAMES = frozenset(
    ("weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "pre_quant_scale", "svdquant_lora_a")
) | {"svdquant_lora_b"}
_KV_PART = re.compile(r".+\.(?:[kv]_scale|[kv]_bias|[kv]_zero_point)")
_NOT_LINEAR = re.compile(
    r"(embed|wte$|wpe$|norm|ln_|router|(^|[._])gate$|shared_expert_gate$|conv|position|relative_attention|rotary|codebook)",
    re.I,
)
_EXPERT_NUMBER = re.compile(r"experts[.]\d")
_NUMBER = re.compile(r"(?<=[.])\d+(?=[.]|$)")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# The first that matches a module's name is its family.
FAMILIES = (
    ("vision", re.compile(r"(^|[._])(visual|vision|image|multi_modal_projector|mm_projector|vit)", re.I)),
    ("MTP", re.compile(r"(^|[.])(mtp|nextn)[._]|eh_proj", re.I)),
    ("lm_head", re.compile(r"(^|[.])(lm_head|output_layer)$")),
    ("embeddings", re.compile(r"(embed|wte$|wpe$)")),
    ("router", re.compile(r"(router|[.]gate$|shared_expert_gate$)")),
    ("experts", re.compile(r"experts?([.]|$)")),
    ("attention", re.compile(r"(attn|attention)")),
    ("MLP", re.compile(r"(mlp|feed_forward|ffn|[.]fc\d)")),
)
# Families that a pattern must name to mean them: a wide one such as *mlp* meets them by accident.
_NAMED = {
    "vision": re.compile(r"vis|image|projector|vit", re.I),
    "router": re.compile(r"router|gate[.*]|gate$", re.I),
}
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


class Layer(NamedTuple):
    """A weight matrix of the checkpoint; matrices that are alike share one object.

    ``precision`` is what its tensors say, ``declared`` the algorithm that the checkpoint declares for it (None: full
    precision or undeclared), ``intended`` what the recipe's patterns make of it: a kind of :data:`FORMATS`, True
    (quantized, they do not say how), False, or None where they cannot tell. ``problem`` is what is wrong with its
    tensors taken alone. ``elements`` are those of the weight before, ``bytes`` what it takes with its scales,
    ``expected`` what it should take; ``inputs`` its in-features (0: cannot be told); ``group`` the values per scale
    (0: not in groups).
    """

    precision: str
    declared: str | None = None
    is_excluded: bool = False
    is_linear: bool = True
    intended: bool | str | None = None
    problem: str | None = None
    family: str = "other"
    elements: int = 0
    bytes: int = 0
    expected: float | None = None
    inputs: int = 0
    group: int = 0

    @property
    def is_quantized(self) -> bool:
        return self.precision not in FULL_PRECISION

    @property
    def is_unwanted(self) -> bool:
        """Whether it is quantized though the recipe leaves it alone: then how it is quantized is no finding."""
        return self.intended is False and self.is_quantized


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
    kv_problems: dict[str, list[str]] | None = None
    has_patterns: bool = False
    expected_output_bytes: float | None = None
    pickles: list[str] | None = None
    engine: str | None = None
    engine_group: int = DEFAULT_NVFP4_GROUP
    blocks: dict[str, str] | None = None
    bytes_read: int | None = None

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
    if summary.pickles:
        detail = f"{_first(summary.pickles)}: a pickle runs code when it is loaded; remove it"
        return Check("integrity", False, detail, offenders=summary.pickles)
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


def check_format(summary: CheckpointSummary) -> Check | None:
    """Each layer's tensors are those of the algorithm that the checkpoint declares for it."""
    if not summary.quantized or summary.layers is None:
        return None
    found: dict[str, list[str]] = {}
    for name, layer in summary.layers.items():
        if layer.problem is not None and not layer.is_unwanted:
            found.setdefault(layer.problem, []).append(name)
    found |= summary.kv_problems or {}
    if not found:
        return Check("format", True, f"{summary.quantized} layers hold what their declared algorithms leave behind")
    return _grouped("format", found)


def check_coverage(summary: CheckpointSummary) -> Check | None:
    """Each layer is what the recipe's patterns intend."""
    if not summary.quantized:
        return None
    if summary.layers is None:
        return _check_coverage_by_counts(summary)
    found: dict[str, list[str]] = {}
    for name, layer in summary.layers.items():
        reason = _coverage_mismatch(layer)
        if reason is not None:
            found.setdefault(reason, []).append(name)
    families = coverage_by_family(summary.layers)
    if found:
        return _grouped("coverage", found, families)
    intended = sum(bool(layer.intended) and layer.is_linear for layer in summary.layers.values())
    told = f"all {intended} layers that the recipe's patterns name are quantized" if intended else "no patterns told"
    covered = ", ".join(f"{name} {entry['quantized']} of {entry['layers']}" for name, entry in families.items())
    return Check("coverage", True, f"{told}; {covered}", numbers={"families": families})


def _coverage_mismatch(layer: Layer) -> str | None:
    if layer.is_unwanted:
        return f"are not meant by the recipe's patterns yet hold {layer.precision}"
    if layer.problem is not None or not layer.intended:
        return None
    if not layer.is_quantized:
        return f"are quantized by the recipe's patterns yet hold {layer.precision}" if layer.is_linear else None
    form = FORMATS.get(layer.precision)
    if isinstance(layer.intended, str) and form is not None and form.kind != layer.intended:
        return f"are quantized to {layer.intended} by the recipe's patterns yet hold {layer.precision}"
    return None


def coverage_by_family(layers: Mapping[str, Layer]) -> dict[str, dict[str, Any]]:
    """For each family: its matrices, those quantized and intended, its bits per weight and how far it is covered."""
    found: dict[str, dict[str, Any]] = {}
    for kind, count in Counter(layers.values()).items():
        entry = found.setdefault(
            kind.family, {"layers": 0, "quantized": 0, "intended": 0, "coverage": None, "elements": 0, "bytes": 0}
        )
        entry["layers"] += count
        entry["quantized"] += count * kind.is_quantized
        entry["intended"] += count * (bool(kind.intended) and kind.is_linear)
        entry["elements"] += count * kind.elements
        entry["bytes"] += count * kind.bytes
    for entry in found.values():
        elements, size = entry.pop("elements"), entry.pop("bytes")
        entry["bits_per_weight"] = size * 8 / elements if elements else None
        wanted = entry["intended"] or entry["layers"]
        entry["coverage"] = "none" if not entry["quantized"] else "whole" if entry["quantized"] >= wanted else "partial"
    order = [name for name, _ in FAMILIES] + ["other"]
    return {name: found[name] for name in sorted(found, key=order.index)}


def _grouped(name: str, found: Mapping[str, list[str]], families: Mapping[str, Any] | None = None) -> Check:
    """A failed check of layers: for each reason its families, its patterns with their layers, and the first names."""
    details = []
    for reason, names in found.items():
        kinds = Counter(family_of(module) for module in names)
        told = ", ".join(f"{count} {family}" for family, count in kinds.items())
        details.append(f"{len(names)} layers {reason} ({told}; {_patterns_of(names)}): {_first(sorted(names))}")
    offenders = sorted({module for names in found.values() for module in names})
    numbers: dict[str, Any] = {"mismatches": len(offenders)}
    if families is not None:
        numbers["families"] = families
    return Check(name, False, "; ".join(details), offenders=offenders, numbers=numbers)


def _patterns_of(names: Iterable[str]) -> str:
    groups: dict[str, list[int]] = {}
    for name in names:
        numbers = _NUMBER.findall(name)
        groups.setdefault(_NUMBER.sub("*", name), []).append(int(numbers[0]) if numbers else -1)
    return _first([f"{pattern}{_ranges(layers)}" for pattern, layers in groups.items()])


def _ranges(layers: Sequence[int]) -> str:
    """Numbers as " in layers 0-3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(set(layers) - {-1}):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return f" in layer{'s' if len(set(layers)) > 1 else ''} {text}" if runs else ""


def _check_coverage_by_counts(summary: CheckpointSummary) -> Check:
    wanted = ALGORITHM_OF_PRESET.get(summary.recipe.lower())
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
    expected = summary.expected_output_bytes
    if not expected or not summary.quantized:
        return Check("size", True, sentence, numbers=numbers)
    numbers |= {"expected_bytes": round(expected), "tolerance": SIZE_TOLERANCE}
    off = summary.output_bytes / expected - 1
    sentence += f"; {off:+.2%} against the {expected:,.0f} that these formats take (tolerance {SIZE_TOLERANCE:.0%})"
    return Check("size", abs(off) <= SIZE_TOLERANCE, sentence, numbers=numbers)


def check_vision(summary: CheckpointSummary) -> Check | None:
    """Nothing under the vision tower or projector is quantized; where patterns tell, coverage holds it against them."""
    if summary.layers is None or summary.has_patterns:
        return None
    vision = {name: layer for name, layer in summary.layers.items() if layer.family == "vision"}
    found = [name for name, layer in vision.items() if layer.is_quantized]
    if found:
        return _grouped("vision", {"of the vision part are quantized, and no recipe says so": found})
    return Check("vision", True, f"none of {len(vision)} layers of a vision part is quantized") if vision else None


def check_engine(summary: CheckpointSummary) -> Check | None:
    """The engine takes these algorithms, in-features, group sizes and fused groups, by the table of day0/engine.py."""
    if summary.engine is None or summary.layers is None or not summary.quantized:
        return None
    found: dict[str, list[str]] = {}
    for name, layer in summary.layers.items():
        if not layer.is_quantized or layer.problem is not None:
            continue
        divisor = DIVISOR_OF_INPUTS.get(layer.precision)
        if layer.precision not in MINIMUM_CAPABILITY:
            found.setdefault(f"are {layer.precision}, which {summary.engine} does not load", []).append(name)
        elif divisor and layer.inputs % divisor:
            reason = f"have {layer.inputs} in-features, which {layer.precision} needs to divide by {divisor}"
            found.setdefault(reason, []).append(name)
        elif layer.precision in NVFP4_ALGORITHMS and layer.group != summary.engine_group:
            reason = f"have groups of {layer.group}, which {summary.engine} reads as groups of {summary.engine_group}"
            found.setdefault(reason, []).append(name)
    for reason, names in _uneven_groups(summary.layers).items():
        found.setdefault(reason, []).extend(names)
    if found:
        return _grouped("engine", found)
    return Check("engine", True, f"{summary.engine} takes these algorithms, widths and fused groups")


def _uneven_groups(layers: Mapping[str, Layer]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    leaders = {group[0]: group for group in FUSED_GROUPS}
    for name, layer in layers.items():
        parent, dot, leaf = name.rpartition(".")
        group = leaders.get(leaf)
        if group is None:
            continue
        others = [layers.get(f"{parent}{dot}{other}") for other in group[1:]]
        if any(other is not None and other is not layer and other.precision != layer.precision for other in others):
            members = {
                member: layers[f"{parent}{dot}{member}"] for member in group if f"{parent}{dot}{member}" in layers
            }
            if any(member.problem for member in members.values()):
                continue
            held = ", ".join(f"{member} {one.precision}" for member, one in members.items())
            found.setdefault(f"are fused by the engine yet differ: {held}", []).extend(
                f"{parent}{dot}{m}" for m in members
            )
    return found


def check_blocks(summary: CheckpointSummary) -> Check | None:
    """No block scale and no FP8 weight is NaN or negative where it must not be, no tensor is all zero."""
    if summary.blocks is None:
        return None
    numbers = {"bytes_read": summary.bytes_read}
    if summary.blocks:
        shown = _first([f"{name} {what}" for name, what in summary.blocks.items()])
        return Check(
            "blocks",
            False,
            f"{len(summary.blocks)} tensors: {shown}",
            offenders=sorted(summary.blocks),
            numbers=numbers,
        )
    return Check("blocks", True, f"{summary.bytes_read:,} bytes of scales and weights hold no NaN", numbers=numbers)


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
    check_format,
    check_coverage,
    check_inventory,
    check_scales,
    check_blocks,
    check_size,
    check_metadata,
    check_vision,
    check_engine,
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
    done = _without_consequences([check for check in checks if check is not None])
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
        **({"families": coverage_by_family(summary.layers)} if summary.layers else {}),
        **({"layer_map": layer_map(summary.layers)} if summary.layers else {}),
        "metadata_diffs": summary.metadata_diffs,
        "offenders": sorted({name for check in failed for name in check.offenders}),
    }
    return _writable(assessment)


def _without_consequences(checks: list[Check]) -> list[Check]:
    """A size that is off is a finding of its own only where no layer and no tensor is at fault."""
    failed = {check.name for check in checks if not check.passed}
    return [
        replace(check, passed=True, detail=f"{check.detail}; explained by {', '.join(sorted(failed - {'size'}))}")
        if check.name == "size" and not check.passed and check.numbers["size_ratio"] < 1 and failed - {"size"}
        else check
        for check in checks
    ]


def layer_map(layers: Mapping[str, Layer]) -> list[dict[str, Any]]:
    """Precision by kind of module and layer, for a picture: runs of layers that hold the same, experts taken together.

    Returns:
        for each kind ``{"module", "family", "runs": [[first layer, last layer, precision, matrices], ...]}``; the layer
        of a module outside the stack is null.
    """
    cells: dict[tuple[str, str], dict[int, Counter]] = {}
    for name, layer in layers.items():
        if ".experts." in name:
            head, _, tail = name.partition(".experts.")
            number, _, leaf = tail.partition(".")
            name = f"{head}.experts.*.{leaf}" if number.isdigit() else name
        found = _NUMBER.search(name)
        kind = f"{name[: found.start()]}*{name[found.end() :]}" if found else name
        place = int(found[0]) if found else -1
        held = layer.precision if layer.problem is None else f"{layer.precision}, broken"
        cells.setdefault((kind, layer.family), {}).setdefault(place, Counter())[held] += 1
    rows = []
    for (kind, family), places in cells.items():
        runs: list[list[Any]] = []
        for place in sorted(places):
            held = " + ".join(sorted(places[place]))
            count = sum(places[place].values())
            if runs and place >= 0 and runs[-1][1] == place - 1 and runs[-1][2] == held:
                runs[-1][1], runs[-1][3] = place, runs[-1][3] + count
            else:
                runs.append([None if place < 0 else place, None if place < 0 else place, held, count])
        rows.append({"module": kind, "family": family, "runs": runs})
    order = [name for name, _ in FAMILIES] + ["other"]
    return sorted(rows, key=lambda row: (order.index(row["family"]), row["module"]))


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


def family_of(module: str) -> str:
    """Family of a module by its name, the first of :data:`FAMILIES` that matches."""
    return next((family for family, pattern in FAMILIES if pattern.search(module)), "other")


def algorithm_of(weight: Form, parts: tuple[tuple[str, Form], ...]) -> str:
    """The first algorithm whose tensors look like these, else the weight's dtype."""
    if weight[0] in FULL_PRECISION:
        return weight[0]
    return next(
        (
            name
            for name, form in FORMATS.items()
            for group in dict.fromkeys((form.group, 16, 32, 64, 128) if form.layout == "group" else (None,))
            if problem_of(name, group, weight, parts) is None
        ),
        weight[0],
    )


@dataclass(frozen=True)
class Declaration:
    """What a checkpoint declares: one algorithm for all but ``excluded``, or with ``layers`` one for each of these."""

    algorithm: str | None
    kv_cache: str | None
    excluded: tuple[str, ...]
    layers: dict[str, str] | None
    groups: Mapping[str, Any] | None = None
    group_size: int | None = None

    def of(self, module: str) -> tuple[str | None, bool]:
        """Algorithm declared for a module, in upper case, and whether it is explicitly excluded.

        What is declared for a module holds for all below it, as for the experts of a layer.
        """
        if self.layers is not None:
            name = self._entry_of(module)
            return (self.layers[name], False) if name is not None else (None, False)
        if any(_matches(module, pattern) for pattern in self.excluded):
            return None, True
        return self.algorithm, False

    def group_of(self, module: str) -> int | None:
        """Declared group size of a module."""
        if self.layers is None:
            return self.group_size
        size = (self.groups or {}).get(self._entry_of(module) or "")
        return size if type(size) is int and size > 0 else None

    def _entry_of(self, module: str) -> str | None:
        for spelled in (module, module.replace(".block_sparse_moe.", ".mlp.")):
            name = spelled
            while name:
                if name in self.layers:
                    return name
                name = name.rpartition(".")[0]
        return None

    @property
    def names_experts(self) -> bool:
        """Whether it tells one expert of a layer from another."""
        return any(_EXPERT_NUMBER.search(name) for name in (self.layers or self.excluded))


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatch.fnmatchcase(module, pattern)


def _declaration(algorithm: Any, kv_cache: Any, excluded: Any, layers: Any, group_size: Any = None) -> Declaration:
    by_layer = groups = None
    if isinstance(layers, dict) and layers:
        by_layer = {
            name: str(entry.get("quant_algo")).upper() if isinstance(entry, dict) else str(entry).upper()
            for name, entry in layers.items()
        }
        groups = {name: entry.get("group_size") for name, entry in layers.items() if isinstance(entry, dict)}
    if isinstance(kv_cache, dict):
        kv_cache = "FP8" if (kv_cache.get("num_bits"), kv_cache.get("type")) == (8, "float") else str(kv_cache)
    patterns = tuple(sorted(map(str, excluded))) if isinstance(excluded, list) else ()
    size = group_size if type(group_size) is int and group_size > 0 else None
    name = str(algorithm).upper() if algorithm else None
    return Declaration(name, str(kv_cache).upper() if kv_cache else None, patterns, by_layer, groups, size)


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
            quantization.get("group_size"),
        )
    if isinstance(in_config, dict):
        second = _declaration(
            in_config.get("quant_algo"),
            in_config.get("kv_cache_scheme"),
            in_config.get("ignore"),
            in_config.get("quantized_layers"),
            _group_of(in_config.get("config_groups")),
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
    if first.layers and second.layers and first.layers != second.layers:
        names = first.layers.keys() | second.layers.keys()
        differing = sorted(name for name in names if first.layers.get(name) != second.layers.get(name))
        conflicts = [text for text in conflicts if " layers " not in text]
        conflicts.append(f"quantized_layers of hf_quant_config.json and config.json differ in {_first(differing)}")
    return first, conflicts


def _group_of(groups: Any) -> Any:
    """Group size of config_groups, where it has a single one."""
    sizes = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and type(weights.get("group_size")) is int:
            sizes.add(weights["group_size"])
    return sizes.pop() if len(sizes) == 1 else None


def unknown_algorithms(declaration: Declaration) -> list[str]:
    """Declared algorithms that no table knows."""
    names = set(declaration.layers.values()) if declaration.layers is not None else {declaration.algorithm or "NONE"}
    return sorted(names - FORMATS.keys() - FULL_PRECISION - {MIXED})


def intended_by(quant_cfg: Iterable[Any], module: str) -> bool | None:
    """Whether a recipe's patterns quantize a linear module's weight. ModelOpt applies them in order, the last one wins.

    A fused expert's quantizer has another name than its module in the checkpoint; None where the two disagree.
    """
    found = intention_of(quant_cfg, module)
    return found if found is None else bool(found)


def intention_of(quant_cfg: Iterable[Any], module: str) -> bool | str | None:
    """As :func:`intended_by`, with the number format (:attr:`Format.kind`) in place of True where it is set."""
    names = {f"{module}.weight_quantizer"}
    expert = re.fullmatch(r"(.+\.experts)\.(?:\d+|\*)\.(\w+)", module)
    if expert:
        fused = "gate_up_proj" if expert[2] in ("gate_proj", "up_proj", "w1", "w3") else "down_proj"
        names.add(f"{expert[1]}.{fused}_weight_quantizer")
    elif ".experts." in module:
        names = {f"{module}_weight_quantizer"}
    entries = [entry for entry in quant_cfg if isinstance(entry, dict)]
    answers = [_setting_of(entries, name) for name in names]
    named = _NAMED.get(family_of(module))
    if named is not None and not any(is_enabled and named.search(pattern) for is_enabled, _, pattern in answers):
        answers = [(False, None, "")]
    if all(is_enabled for is_enabled, _, _ in answers):
        kinds = {kind for _, kind, _ in answers}
        return (kinds.pop() if len(kinds) == 1 else None) or True
    return None if any(is_enabled for is_enabled, _, _ in answers) else False


def _setting_of(entries: Iterable[Mapping[str, Any]], quantizer: str) -> tuple[bool, str | None, str]:
    """Whether a quantizer is enabled, its number format, and the pattern that decided."""
    enabled, kind, decided = True, None, ""
    for entry in entries:
        applies = entry.get("parent_class") in (None, "nn.Linear")
        if applies and fnmatch.fnmatchcase(quantizer, str(entry.get("quantizer_name", ""))):
            settings = entry.get("cfg")
            enabled, decided = entry.get("enable", True) is not False, str(entry.get("quantizer_name", ""))
            if isinstance(settings, dict) and settings.get("enable") is False:
                enabled = False
            kind = kind_of_quantizer(settings) or kind
    return enabled, kind, decided


def split_tensors(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, str], dict[str, list[tuple[str, Form]]], dict[str, str]]:
    """Sort names into weight matrices {module: tensor}, their parts {module: [(part, form)]}, and KV-cache scales."""
    weights: dict[str, str] = {}
    parts: dict[str, list[tuple[str, Form]]] = {}
    kv: dict[str, str] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight":
            if len(tensor.shape) in (2, 3):
                weights[module] = name
        elif leaf in _PART_NAMES:
            parts.setdefault(module, []).append((leaf, (tensor.dtype, tensor.shape)))
        elif leaf[:2] in ("k_", "v_") and _KV_PART.fullmatch(name):
            kv[name] = module
        elif ".experts." in name or "_scale" in leaf:
            if match := _PART.fullmatch(name):
                parts.setdefault(match["module"], []).append((match["part"], (tensor.dtype, tensor.shape)))
            elif len(tensor.shape) == 3:
                weights[name] = name
    return weights, parts, kv


class _Reader:
    """Makes the layers of a checkpoint; what depends on a name's pattern or on dtypes and shapes is worked out once."""

    def __init__(
        self, declaration: Declaration | None, patterns: Sequence[Any] | None, layer_count: int | None
    ) -> None:
        self.declaration, self.patterns, self.layer_count = declaration, patterns, layer_count
        self.tells_experts = declaration is not None and declaration.names_experts
        self.intends_experts = any(_EXPERT_NUMBER.search(str(entry)) for entry in patterns or ())
        self.excluded = None
        if declaration is not None and declaration.layers is None:
            exact = {pattern for pattern in declaration.excluded if not re.search(r"[*?[]", pattern)}
            globs = [fnmatch.translate(pattern) for pattern in declaration.excluded if pattern not in exact]
            self.excluded = exact, re.compile("|".join(globs)) if globs else None
        self.by_name: dict[str, tuple] = {}
        self.declared: dict[str, tuple] = {}
        self.layers: dict[tuple, Layer] = {}

    def layer(self, module: str, weight: Tensor, parts: tuple[tuple[str, Form], ...]) -> Layer:
        key = module
        if ".experts." in module:
            head, _, tail = module.partition(".experts.")
            number, _, leaf = tail.partition(".")
            key = f"{head}.experts.*.{leaf}" if number.isdigit() else module
        name = module if self.intends_experts else key
        about = self.by_name.get(name) or self._about(name)
        name = module if self.tells_experts else key
        declared = self.declared.get(name) or self._declared_for(name)
        known = (about, declared, weight.dtype, weight.shape, parts)
        layer = self.layers.get(known)
        if layer is None:
            layer = self.layers[known] = self._layer(about, declared, (weight.dtype, weight.shape), parts)
        return layer

    def _about(self, name: str) -> tuple:
        """Whether it is linear, what is intended, its family."""
        is_linear = _NOT_LINEAR.search(name) is None
        intended = intention_of(self.patterns, name) if self.patterns is not None else None
        number = _NUMBER.search(name)
        family = family_of(name)
        if self.layer_count and family not in ("vision", "lm_head") and number and int(number[0]) >= self.layer_count:
            family = "MTP" if re.search(r"layers[.]\d", name) else family
        self.by_name[name] = is_linear, intended, family
        return self.by_name[name]

    def _declared_for(self, name: str) -> tuple:
        """Algorithm, group size, whether excluded."""
        found: tuple = (None, None, False)
        if self.excluded is not None and self._is_excluded(name):
            found = (None, None, True)
        elif self.declaration is not None:
            algorithm = self.declaration.algorithm if self.excluded is not None else self.declaration.of(name)[0]
            found = (None if algorithm in FULL_PRECISION else algorithm, self.declaration.group_of(name), False)
        self.declared[name] = found
        return found

    def _is_excluded(self, name: str) -> bool:
        exact, globs = self.excluded
        upper = name
        while upper:
            if upper in exact:
                return True
            upper = upper.rpartition(".")[0]
        return globs is not None and globs.match(name) is not None

    def _layer(self, about: tuple, declared: tuple, weight: Form, parts: tuple[tuple[str, Form], ...]) -> Layer:
        is_linear, intended, family = about
        algorithm, group, is_excluded = declared
        parts = tuple(sorted(parts))
        is_plain = weight[0] in FULL_PRECISION
        held, problem = algorithm_of(weight, parts), None
        stray = ", ".join(name for name, _ in parts if name != "pre_quant_scale")
        if is_plain and stray:
            told = "are declared excluded, " if is_excluded else ""
            problem = f"{told}hold {weight[0]} yet have {stray}"
        elif is_plain:
            if algorithm is not None and is_linear:
                problem = f"are declared {algorithm} yet hold {weight[0]}"
        elif algorithm is None:
            problem = f"are {'declared excluded' if is_excluded else 'not declared'} yet quantized ({held})"
        elif algorithm in FORMATS:
            problem = problem_of(algorithm, group, weight, parts)
        precision = algorithm if problem is None and algorithm in FORMATS and not is_plain else held
        form = FORMATS.get(precision)
        shape = logical_shapes(precision, weight[1])[0]
        size = _form_bytes(weight) + sum(_form_bytes(part) for _, part in parts)
        expected = None
        if form is not None and not is_plain:
            expected = expected_bytes(precision, group, weight[1])
            expected += sum(_form_bytes(part) for name, part in parts if name in form.optional)
        inputs = shape[-1] if len(shape) == 2 else shape[1] if len(shape) == 3 else 0
        elements = math.prod(shape)
        values = (group or form.group) if form is not None and form.layout == "group" else 0
        facts = (precision, algorithm, is_excluded, is_linear, intended, problem, family, elements, size, expected)
        return Layer(*facts, inputs, values)


def _form_bytes(form: Form) -> int:
    return math.prod(form[1]) * BITS[form[0]] // 8


def read_layers(
    tensors: Mapping[str, Tensor],
    declaration: Declaration | None,
    quant_cfg: Sequence[Any] | None,
    layer_count: int | None = None,
) -> tuple[dict[str, Layer], list[str]]:
    """Every weight matrix as a :class:`Layer`, and the modules whose scales belong to no weight."""
    weights, parts, _ = split_tensors(tensors)
    reader = _Reader(declaration, quant_cfg, layer_count)
    layers = {
        module: reader.layer(module, tensors[name], tuple(parts.pop(module, ()))) for module, name in weights.items()
    }
    _check_smoothing(layers, tensors)
    return layers, list(parts)


def _check_smoothing(layers: dict[str, Layer], tensors: Mapping[str, Tensor]) -> None:
    """A smoothing vector is folded into the norm of all modules of a kind, or of none: mark those that lack theirs."""
    smoothed = [name for name in tensors if name.endswith(".pre_quant_scale")]
    if not smoothed:
        return
    kinds = {_NUMBER.sub("*", name.removesuffix(".pre_quant_scale")) for name in smoothed}
    for module, layer in layers.items():
        form = FORMATS.get(layer.precision)
        if form is None or "pre_quant_scale" not in form.optional or layer.problem is not None:
            continue
        if f"{module}.pre_quant_scale" not in tensors and _NUMBER.sub("*", module) in kinds:
            reason = f"hold {layer.precision} without the pre_quant_scale that others of their kind have"
            layers[module] = layer._replace(problem=reason)


def kv_problems_of(tensors: Mapping[str, Tensor], declaration: Declaration | None) -> dict[str, list[str]]:
    """What is wrong with the scales of the KV cache: by reason, the tensors' names."""
    found = [name for name in tensors if name.endswith((".k_scale", ".v_scale"))]
    if not found:
        return {}
    if declaration is None or not declaration.kv_cache:
        return {"are scales of a KV cache that is not declared": found}
    wrong = [name for name in found if tensors[name].elements != 1]
    kinds = {_NUMBER.sub("*", name) for name in found}
    held = set(found)
    missing = []
    for name in tensors:
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            module = name.removesuffix(".weight")
            scale = f"{module}.{module.rpartition('.')[2][0]}_scale"
            if _NUMBER.sub("*", scale) in kinds and scale not in held:
                missing.append(scale)
    biases = {name for name in tensors if name.endswith((".k_bias", ".v_bias"))}
    if biases:
        wanted = (f"{name.removesuffix('_scale')}_bias" for name in found)
        missing += [name for name in wanted if name not in biases]
    problems = {
        "are KV-cache scales with more than one value": wrong,
        "are missing of the KV cache's scales and biases": missing,
    }
    return {reason: names for reason, names in problems.items() if names}


def compare_inventory(
    source: Mapping[str, Tensor], output: Mapping[str, Tensor], is_tied: bool, layers: Mapping[str, Layer] | None = None
) -> tuple[list[str], list[str], list[str]]:
    """Names of the source's tensors that are missing, of new tensors that are no scales, and of misshapen ones.

    The shape of a layer with a problem of its own is not judged.
    """
    layers = layers or {}

    def is_part(name: str) -> bool:
        return bool(_PART.fullmatch(name) or _KV_PART.fullmatch(name) or _BUFFERS.search(name))

    def is_tied_head(name: str) -> bool:
        return is_tied and name.endswith("lm_head.weight")

    lost = [name for name in source if name not in output]
    new = [name for name in output if name not in source and name.rpartition(".")[2] not in _PART_NAMES]
    converted = _converted(source, output, [*lost, *new])

    def is_converted(name: str) -> bool:
        return ".experts." in name and _experts_of(name) in converted

    missing = [n for n in lost if not (is_part(n) or is_tied_head(n) or is_converted(n))]
    unknown = [n for n in new if not (is_part(n) or is_tied_head(n) or is_converted(n))]
    misshapen = []
    for name, before in source.items():
        after = output.get(name)
        if after is None or after.shape == before.shape:
            continue
        layer = layers.get(name.removesuffix(".weight")) or layers.get(name)
        if layer is not None and layer.problem is not None:
            continue
        if layer is None or before.shape not in logical_shapes(layer.precision, after.shape):
            misshapen.append(name)
    return sorted(missing), sorted(unknown), sorted(misshapen)


def _converted(source: Mapping[str, Tensor], output: Mapping[str, Tensor], changed: Iterable[str]) -> set[str]:
    """Layers whose experts are fused on one side and apart on the other, as many of them on both."""
    found = set()
    for place in {_experts_of(name) for name in changed if ".experts." in name}:
        sides = []
        for side in (source, output):
            names = [n for n in side if n.startswith(f"{place}.experts.") and not _PART.fullmatch(n)]
            fused = {side[n].shape[0] for n in names if _is_fused(n) and len(side[n].shape) == 3}
            apart = {n.removeprefix(f"{place}.experts.").partition(".")[0] for n in names if not _is_fused(n)}
            sides.append((bool(fused), max(fused, default=len(apart))))
        if sides[0][0] != sides[1][0] and sides[0][1] == sides[1][1] > 0:
            found.add(place)
    return found


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
    unreadable: list[str] = []
    names = {path.name for path in source.iterdir() if path.is_file() and _TOKENIZER_FILES.fullmatch(path.name)}
    for name in sorted(names):
        before, after = source / name, output / name
        if name.startswith("chat_template"):
            continue
        if not after.is_file():
            is_redundant = name in _REDUNDANT_FILES and (output / "tokenizer.json").is_file()
            diffs.append({"field": name, "source": "present", "output": "missing", "expected": is_redundant})
        elif before.read_bytes() != after.read_bytes():
            try:
                diffs += _compare_side_file(name, before, after)
            except UnusableInput as error:
                diffs.append({"field": name, "source": None, "output": str(error), "expected": False})
                unreadable.append(name)
    if unreadable:
        return diffs
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


def assess_checkpoint(
    checkpoint: Path,
    source: Path,
    record: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    deep: bool = False,
    engine: str | None = None,
) -> dict[str, Any]:
    """Read and judge a checkpoint; see :func:`read_summary` and :func:`evaluate_checkpoint`.

    Raises:
        UnusableInput: the source or a JSON file cannot be read.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # hundreds of thousands of small objects, none in a cycle: collections only cost time
    try:
        asked = (record or {}).get("recipe")
        name = recipe or (asked.get("name") if isinstance(asked, dict) else None)
        return evaluate_checkpoint(read_summary(checkpoint, source, str(name or "unknown"), record, deep, engine))
    finally:
        if was_enabled:
            gc.enable()


def read_summary(
    checkpoint: Path,
    source: Path,
    recipe: str,
    record: Mapping[str, Any] | None = None,
    deep: bool = False,
    engine: str | None = None,
) -> CheckpointSummary:
    """Read a checkpoint and its source: headers, scalar scales and JSON files.

    Args:
        checkpoint: folder of the checkpoint.
        source: folder of the source model.
        recipe: name of the recipe.
        record: the quantize stage's record; with its resolved patterns the intended coverage is checked too.
        deep: read all block scales and FP8 weights.
        engine: serving engine that must take it.

    Raises:
        UnusableInput: the source or a JSON file cannot be read. A broken checkpoint is no error but a finding.
    """
    before = read_tensors(source)
    source_bytes = payload_bytes(before)
    parameters = sum(t.elements for name, t in before.items() if not _is_part(name))
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
        after = read_tensors(checkpoint, alone=True)
        config = read_json(checkpoint / "config.json")
    except UnusableInput as error:
        return CheckpointSummary(**facts, broken=str(error))
    unreadable, hf_quant_config = None, None
    if (checkpoint / "hf_quant_config.json").is_file():
        try:
            hf_quant_config = read_json(checkpoint / "hf_quant_config.json")
        except UnusableInput as error:
            unreadable = str(error)
    declaration, conflicts = read_declarations(config, hf_quant_config)
    conflicts = [unreadable] if unreadable else conflicts
    if declaration is not None and (strange := unknown_algorithms(declaration)):
        conflicts.append(f"{', '.join(strange)} is no algorithm that ModelOpt exports")
    kv_problems = kv_problems_of(after, declaration)
    groundless = _groundless(declaration, after)
    if groundless and not conflicts:
        kv_problems["are declared in quantized_layers and do not exist"] = groundless
    wanted = (record or {}).get("kv_cache")
    if wanted not in (None, KV_CACHE_NONE) and (declaration is None or not declaration.kv_cache) and not kv_problems:
        conflicts.append(f"the recipe quantizes the KV cache to {wanted}; the checkpoint declares no KV-cache format")
    patterns = _patterns(record)
    text_config = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    layer_count = text_config.get("num_hidden_layers")
    layer_count = layer_count if type(layer_count) is int else None
    layers, orphans = read_layers(after, declaration, patterns, layer_count)
    if conflicts and hf_quant_config is not None:
        # Where the two places contradict each other, that is the finding: layers need to fit only one of them.
        other, _ = read_declarations(config, None)
        if other is not None:
            again, _ = read_layers(after, other, patterns, layer_count)
            layers = min(layers, again, key=lambda found: sum(layer.problem is not None for layer in found.values()))
            kv_problems = kv_problems and kv_problems_of(after, other)
    is_tied = config.get("tie_word_embeddings", True) is not False
    missing, unknown, misshapen = compare_inventory(before, after, is_tied, layers)
    lost_modules = {name.removesuffix(".weight") for name in missing}
    strays = [
        f"{module}.{part}" for module in orphans if module not in lost_modules for part in _own_parts(after, module)
    ]
    return CheckpointSummary(
        **facts
        | {
            "output_bytes": payload_bytes(after),
            "layer_precision_counts": dict(Counter(layer.precision for layer in layers.values())),
            "metadata_diffs": compare_metadata(source, checkpoint),
        },
        layers=layers,
        declaration=declaration.algorithm if declaration is not None else None,
        conflicts=conflicts,
        missing=missing,
        unknown=sorted({*unknown, *strays}),
        misshapen=misshapen,
        scales=read_scalars({name: tensor for name, tensor in after.items() if _is_scale(name)}),
        kv_problems=kv_problems,
        has_patterns=patterns is not None,
        expected_output_bytes=_expected_output(before, after, layers),
        pickles=[name for name in files_below(checkpoint) if name.endswith(_PICKLES)],
        engine=engine,
        engine_group=_group_that_the_engine_reads(config, declaration),
        **(_read_blocks(after) if deep else {}),
    )


def _group_that_the_engine_reads(config: Mapping[str, Any], declaration: Declaration | None) -> int:
    """Group size of NVFP4 as vLLM finds it: at the top of quantization_config, in its first such layer, or 16."""
    top = config.get("quantization_config")
    size = top.get("group_size") if isinstance(top, dict) else None
    if type(size) is int and size > 0:
        return size
    for module, algorithm in ((declaration.layers if declaration is not None else None) or {}).items():
        if algorithm in NVFP4_ALGORITHMS:
            return declaration.group_of(module) or DEFAULT_NVFP4_GROUP
    return DEFAULT_NVFP4_GROUP


def _groundless(declaration: Declaration | None, tensors: Mapping[str, Tensor]) -> list[str]:
    """Modules of quantized_layers below which there is no tensor."""
    if declaration is None or declaration.layers is None:
        return []
    left = set(declaration.layers)
    for tensor in tensors:
        for name in (tensor, tensor.replace(".block_sparse_moe.", ".mlp.")):
            while name and left:
                left.discard(name)
                name = name.rpartition(".")[0]
    return sorted(left)


def _read_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    from day0.checkpoint_payload import read_blocks

    problems, count = read_blocks(tensors)
    return {"blocks": problems, "bytes_read": count}


def _is_part(name: str) -> bool:
    """Whether a name is one of a weight's scales; names that end as most do are told without the pattern."""
    return not name.endswith((".weight", ".bias")) and _PART.fullmatch(name) is not None


def _is_scale(name: str) -> bool:
    return name.endswith(("_scale", "_scale_2", "_scale_inv")) and not name.endswith("pre_quant_scale")


def _own_parts(tensors: Mapping[str, Tensor], module: str) -> list[str]:
    return [part for part in sorted(_PART_NAMES) if f"{module}.{part}" in tensors]


def _expected_output(
    source: Mapping[str, Tensor], output: Mapping[str, Tensor], layers: Mapping[str, Layer]
) -> float | None:
    """Bytes of a checkpoint whose quantized layers take what their formats take, and all else what it took before."""
    expected = 0.0
    for name, tensor in output.items():
        module, _, leaf = name.rpartition(".")
        if leaf in _PART_NAMES:
            continue
        layer = layers.get(module) if leaf == "weight" else layers.get(name)
        if layer is not None and layer.expected is not None:
            expected += layer.expected
        elif leaf[-6:] not in ("_scale", "cale_2"):
            expected += source[name].bytes if name in source else tensor.bytes
    return expected


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
