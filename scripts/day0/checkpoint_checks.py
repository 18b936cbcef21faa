"""The checks of a checkpoint: each a small function from :class:`CheckpointSummary` to :class:`Check`.

A check returns None where the summary lacks what it looks at. What follows from a finding is not found a second time: a
broken shard is judged by nothing else, a layer with wrong tensors by neither coverage nor shape.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from day0.checkpoint_coverage import coverage_by_family
from day0.checkpoint_formats import FORMATS, FULL_PRECISION
from day0.checkpoint_names import NUMBER, family_of, first_of
from day0.checkpoint_summary import CheckpointSummary, Layer
from day0.engine import ALGORITHM_OF_PRESET, DIVISOR_OF_INPUTS, FUSED_GROUPS, MINIMUM_CAPABILITY, NVFP4_ALGORITHMS

SIZE_TOLERANCE = 0.02


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
        detail = f"{first_of(summary.pickles)}: a pickle runs code when it is loaded; remove it"
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


def _grouped(name: str, found: Mapping[str, list[str]], families: Mapping[str, Any] | None = None) -> Check:
    """A failed check of layers: for each reason its families, its patterns with their layers, and the first names."""
    details = []
    for reason, names in found.items():
        kinds = Counter(family_of(module) for module in names)
        told = ", ".join(f"{count} {family}" for family, count in kinds.items())
        details.append(f"{len(names)} layers {reason} ({told}; {_patterns_of(names)}): {first_of(sorted(names))}")
    offenders = sorted({module for names in found.values() for module in names})
    numbers: dict[str, Any] = {"mismatches": len(offenders)}
    if families is not None:
        numbers["families"] = families
    return Check(name, False, "; ".join(details), offenders=offenders, numbers=numbers)


def _patterns_of(names: Iterable[str]) -> str:
    groups: dict[str, list[int]] = {}
    for name in names:
        numbers = NUMBER.findall(name)
        groups.setdefault(NUMBER.sub("*", name), []).append(int(numbers[0]) if numbers else -1)
    return first_of([f"{pattern}{_ranges(layers)}" for pattern, layers in groups.items()])


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
    details = [f"{len(names)} {what}: {first_of(names)}" for what, names in problems.items() if names]
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
        shown = first_of([f"{name} = {value}" for name, value in wrong.items()])
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
        shown = first_of([f"{name} {what}" for name, what in summary.blocks.items()])
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
        shown = first_of([_diff_sentence(diff) for diff in wrong])
        return Check(
            "metadata",
            False,
            f"{len(wrong)} unexpected changes: {shown}",
            offenders=[str(diff["field"]) for diff in wrong],
        )
    return Check("metadata", True, f"{len(summary.metadata_diffs)} changes, all expected")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _diff_sentence(diff: Mapping[str, Any]) -> str:
    return f"{diff['field']} was {diff.get('source')!r:.60}, is {diff.get('output')!r:.60}"


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
