"""The checks of a checkpoint, each a small function from :class:`CheckpointSummary` to :class:`Check`.

A check returns None where the summary lacks what it looks at. What follows from a finding is not found a second time: a
broken shard is judged by nothing else, a layer with wrong tensors by neither coverage nor shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy

from day0.checkpoint.configs import Change
from day0.checkpoint.coverage import coverage_by_family
from day0.checkpoint.diagnosis import ALMOST_ALL
from day0.checkpoint.formats import FORMATS, FULL_PRECISION, MIXED
from day0.checkpoint.fused_scales import check_fused_scales, leaders_where
from day0.checkpoint.intentions import Intention
from day0.checkpoint.names import NUMBER, first_of
from day0.checkpoint.size import SOURCE_BITS
from day0.checkpoint.summary import CheckpointSummary, Layer, Layers, distinct, modules_where
from day0.checkpoint.unquantized import TRAINED
from day0.checkpoint.vllm_rules import (
    ALGORITHM_OF_PRESET,
    DIVISOR_OF_INPUTS,
    ENGINE_VERSION,
    MINIMUM_CAPABILITY,
    MINIMUM_CAPABILITY_OF_OTHER_TOOLS,
    NVFP4_ALGORITHMS,
    RULES,
    UNQUANTIZED_PREFIXES,
    fused_with,
)
from day0.recipe.modules import family_of
from day0.records.failure_class import FailureClass
from day0.records.validation import FamilyCoverage, ValueErrors
from day0.source.tensors import Scalars

SIZE_TOLERANCE = 0.02
# What a check found in figures, under the names of ValidationCheck's fields.
Numbers = dict[str, int | float | str | dict[str, FamilyCoverage] | dict[str, ValueErrors] | None]


@dataclass(frozen=True)
class Check:
    """The outcome of one check; ``offenders`` are names of layers, tensors or files, all of them."""

    name: str
    passed: bool
    detail: str
    failure_class: FailureClass = FailureClass.QUANT_COVERAGE_FAILURE
    offenders: list[str] = field(default_factory=list)
    numbers: Numbers = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """The fields of :class:`day0.records.validation.ValidationCheck`."""
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


def check_recipe(summary: CheckpointSummary) -> Check | None:
    """The recipe that a summary given by hand names is known, so that its coverage and size can be."""
    if summary.recipe_problem is None:
        return None
    return Check("recipe", False, summary.recipe_problem, FailureClass.USER_CONFIG_ERROR)


def check_sensitivity(summary: CheckpointSummary) -> Check | None:
    """A recipe that goes by the model's measured sensitivity was worked out by the one that is there."""
    if summary.sensitivity_problem is None:
        return None
    return Check("sensitivity", False, summary.sensitivity_problem, FailureClass.USER_CONFIG_ERROR)


def check_integrity(summary: CheckpointSummary) -> Check | None:
    """Every shard opens, its header is valid, and index and shards name the same tensors."""
    if summary.layers is None and summary.broken is None:
        return None
    if summary.broken is not None:
        return Check("integrity", False, summary.broken)
    if summary.pickles:
        detail = f"{first_of(summary.pickles)}: a pickle runs code when it is loaded; remove it"
        return Check("integrity", False, detail, offenders=summary.pickles)
    if summary.links:
        detail = f"{first_of(summary.links)}: a link out of the folder is no part of it; put the file in its place"
        return Check("integrity", False, detail, offenders=summary.links)
    detail = "every shard's header is sound"
    if summary.unindexed:
        detail += f"; the index lacks {len(summary.unindexed)} scales, which engines read with their files all the same"
        detail += f": {first_of(summary.unindexed, 3)}"
    return Check("integrity", True, detail)


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
            FailureClass.MODEL_UNSUPPORTED,
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
    if summary.is_declared_alone:
        detail = f"hf_quant_config.json alone declares {summary.declaration}, and {RULES['alone']}; newer exports "
        return Check("declaration", True, f"{detail}declare it in config.json too")
    if summary.is_of_another_tool:
        return Check("declaration", True, f"config.json declares {summary.declaration}")
    return Check("declaration", True, f"config.json and hf_quant_config.json both declare {summary.declaration}")


def check_format(summary: CheckpointSummary) -> Check | None:
    """Each layer's tensors are those of the algorithm that the checkpoint declares for it."""
    if not summary.quantized or summary.layers is None:
        return None
    found = _by_reason(summary.layers, lambda layer: None if layer.is_unwanted else layer.problem)
    found |= summary.kv_problems or {}
    if not found:
        return Check("format", True, f"{summary.quantized} layers hold what their declared algorithms leave behind")
    return _grouped("format", found)


def check_coverage(summary: CheckpointSummary) -> Check | None:
    """Each layer is what the recipe's patterns intend."""
    if summary.layers is None:
        return _check_coverage_by_counts(summary) if summary.quantized or any((summary.faults or {}).values()) else None
    if not summary.quantized:
        return None
    found = _by_reason(summary.layers, _coverage_mismatch)
    families = coverage_by_family(summary.layers)
    if found:
        return _grouped("coverage", found, families)
    intended = sum(family.intended for family in families.values())
    outcome = (
        f"all {intended} layers that the recipe's patterns name are quantized" if intended else "no patterns given"
    )
    covered = ", ".join(f"{name} {family.quantized} of {family.layers}" for name, family in families.items())
    outcome = f"{outcome} ({summary.remark_on_patterns})" if summary.remark_on_patterns else outcome
    return Check("coverage", True, f"{outcome}; {covered}", numbers={"families": families})


def _by_reason(layers: Layers, reason_of: Callable[[Layer], str | None]) -> dict[str, list[str]]:
    """Names of the layers that a reason is given for, by reason; layers that are alike are asked once."""
    reasons = {id(layer): reason for layer, _ in distinct(layers) if (reason := reason_of(layer)) is not None}
    found: dict[str, list[str]] = {}
    for name in modules_where(layers, lambda layer: id(layer) in reasons) if reasons else ():
        found.setdefault(reasons[id(layers[name])], []).append(name)
    return found


def _coverage_mismatch(layer: Layer) -> str | None:
    if layer.is_unwanted:
        return f"are not meant by the recipe's patterns yet hold {layer.precision}"
    if layer.problem is not None or not layer.intended:
        return None
    if not layer.is_quantized:
        return f"are quantized by the recipe's patterns yet hold {layer.precision}" if layer.is_linear else None
    form = FORMATS.get(layer.precision)
    if not isinstance(layer.intended, Intention) or form is None:
        return None
    kind, group, algorithm = layer.intended
    wanted = algorithm if algorithm is not None and _plain(algorithm) != _plain(layer.precision) else None
    if kind is not None and form.kind != kind:
        wanted = algorithm or kind
    if wanted is None and group is not None and form.layout == "group" and layer.group != group:
        wanted, held = f"groups of {group}", f"groups of {layer.group}"
    else:
        held = layer.precision
    return f"are quantized to {wanted} by the recipe's patterns yet hold {held}" if wanted is not None else None


def _plain(algorithm: str) -> str:
    """An algorithm without what calibration may or may not add to it: a layer that needs no smoothing has none."""
    return algorithm.removesuffix("_AWQ").removesuffix("_SVD") if algorithm.startswith("NVFP4") else algorithm


def _grouped(name: str, found: Mapping[str, list[str]], families: dict[str, FamilyCoverage] | None = None) -> Check:
    """A failed check of layers: for each reason its families, its patterns with their layers, and the first names."""
    details = []
    for reason, names in found.items():
        kinds = Counter(family_of(module) for module in names)
        by_family = ", ".join(f"{count} {family}" for family, count in kinds.items())
        details.append(f"{len(names)} layers {reason} ({by_family}; {_patterns_of(names)}): {first_of(sorted(names))}")
    offenders = sorted({module for names in found.values() for module in names})
    numbers: Numbers = {"mismatches": len(offenders)}
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
    details = [f"{count} layers are counted as {what}" for what, count in (summary.faults or {}).items() if count]
    if wrong:
        details.append(
            f"recipe {summary.recipe} quantizes to {wanted}; found {_counts(summary.layer_precision_counts)}"
        )
    if details:
        return Check("coverage", False, "; ".join(details), offenders=wrong)
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
    """Every scalar scale is finite and above 0, plausible, and equal to those that an engine fuses with it."""
    if summary.scales is None:
        return None
    scales = Scalars.of(summary.scales)
    wrong = scales.where(~(numpy.isfinite(scales.column) & (scales.column > 0)))
    numbers: Numbers = {"scalars": len(summary.scales)}
    if wrong:
        shown = first_of([f"{name} = {value}" for name, value in wrong.items()])
        return Check(
            "scales",
            False,
            f"{len(wrong)} scales are not finite and above 0: {shown}",
            offenders=sorted(wrong),
            numbers=numbers,
        )
    fused = check_fused_scales(summary.layers or {}, summary.scales)
    if fused.problems:
        shown = first_of([f"{name} {what}" for name, what in fused.problems.items()])
        detail = f"{len(fused.problems)} scales are not as an engine needs them: {shown}"
        return Check("scales", False, detail, offenders=sorted(fused.problems), numbers=numbers)
    detail = f"{len(summary.scales)} scalar scales are finite and above 0"
    return Check("scales", True, "; ".join([detail, *fused.remarks]), numbers=numbers)


def check_size(summary: CheckpointSummary) -> Check | None:
    """The checkpoint's payload is smaller than the source's, and as large as its recipe makes it.

    Of a source that is quantized itself only the latter counts: NVFP4 takes more bits than MXFP4, BF16 more than FP8.
    """
    if summary.broken is not None:
        return None
    ratio = summary.output_bytes / summary.source_bytes
    numbers: Numbers = {
        "source_bytes": summary.source_bytes,
        "output_bytes": summary.output_bytes,
        "size_ratio": ratio,
    }
    sentence = f"{summary.output_bytes:,} bytes of weights from {summary.source_bytes:,}, a ratio of {ratio:.3f}"
    expected = summary.expected_output_bytes
    if summary.source_formats and expected and summary.quantized:
        sentence += f"; the source is {summary.source_formats} itself, so only the size that the recipe gives counts"
    elif ratio >= 1:
        return Check("size", False, f"{sentence}; expected below 1", numbers=numbers)
    if expected is None and summary.ratio_bounds is not None and summary.quantized:
        least, largest = summary.ratio_bounds
        numbers |= {"least_ratio": least, "largest_ratio": largest, "tolerance": SIZE_TOLERANCE}
        bits = summary.source_bytes * 8 / summary.parameters if summary.parameters else SOURCE_BITS
        sentence += f"; recipe {summary.recipe} gives a model of {bits:g} bits per weight {least:.3f} to {largest:.3f}"
        sentence += f" (tolerance {SIZE_TOLERANCE:.0%})"
        is_within = least * (1 - SIZE_TOLERANCE) <= ratio <= largest * (1 + SIZE_TOLERANCE)
        return Check("size", is_within, sentence, numbers=numbers)
    if not expected or not summary.quantized:
        return Check("size", True, sentence, numbers=numbers)
    off = summary.output_bytes / expected - 1
    numbers |= {"expected_bytes": expected, "expected_ratio": expected / summary.source_bytes}
    numbers["tolerance"] = SIZE_TOLERANCE
    basis = "the recipe and the source's shapes give" if summary.has_patterns else "these formats take"
    if summary.parameters:
        bits, wanted = (size * 8 / summary.parameters for size in (summary.output_bytes, expected))
        numbers |= {"bits_per_weight": bits, "expected_bits_per_weight": wanted}
        sentence += f", {bits:.3f} bits per weight"
    sentence += f"; {off:+.2%} against the {expected:,} bytes that {basis} (tolerance {SIZE_TOLERANCE:.0%})"
    wrong = _families_off(summary)
    if wrong and abs(off) <= SIZE_TOLERANCE:
        sentence += f"; {', '.join(wrong)}"
    return Check("size", abs(off) <= SIZE_TOLERANCE and not wrong, sentence, numbers=numbers)


def _families_off(summary: CheckpointSummary) -> list[str]:
    """Families whose bits per weight are not those expected, as sentences; of those that are quantized at all."""
    found: list[str] = []
    if summary.layers is None:
        return found
    for name, family in coverage_by_family(summary.layers, summary.expected_family_bytes or {}).items():
        bits, wanted = family.bits_per_weight, family.expected_bits_per_weight
        if family.quantized and bits and wanted and abs(bits / wanted - 1) > SIZE_TOLERANCE:
            found.append(f"{name} takes {bits:.3f} bits per weight where {wanted:.3f} are expected")
    return found


def check_vision(summary: CheckpointSummary) -> Check | None:
    """Nothing under the vision tower or projector is quantized; with patterns, the coverage check does this."""
    if summary.layers is None or summary.has_patterns:
        return None
    if not any(layer.family == "vision" for layer, _ in distinct(summary.layers)):
        return None
    found = modules_where(summary.layers, lambda layer: layer.family == "vision" and layer.is_quantized)
    if found:
        return _grouped("vision", {"of the vision part are quantized, and no recipe says so": found})
    count = sum(count for layer, count in distinct(summary.layers) if layer.family == "vision")
    return Check("vision", True, f"none of {count} layers of a vision part is quantized")


def check_engine(summary: CheckpointSummary) -> Check | None:
    """The engine takes these algorithms, in-features, group sizes and fused groups, and reads the declaration as meant.

    The table of vllm_rules.py says so; for another version than the table's, what it refuses is a warning. How the
    declaration is read says the engine itself where it was asked, and then its answer counts.
    """
    if summary.engine is None or summary.layers is None or not summary.quantized:
        return None
    name, _, version = summary.engine.partition("==")
    found = _by_reason(summary.layers, lambda layer: _refusal(layer, name, summary.engine_group))
    misread = summary.misread or {}
    by_table = [*_uneven_groups(summary.layers).items(), *_refused_by_name(summary, summary.layers).items()]
    for reason, names in [*by_table, *(() if summary.engine_answer else misread.items())]:
        found.setdefault(reason, []).extend(names)
    numbers: Numbers = {"engine": name, "version": version or ENGINE_VERSION, "version_of_table": ENGINE_VERSION}
    of_table = f"{name} {ENGINE_VERSION}"
    if summary.engine_answer and (misread or summary.is_refused):
        check = _grouped("engine", misread) if misread else Check("engine", False, "")
        detail = "; ".join(text for text in (summary.engine_answer, check.detail) if text)
        check = replace(check, detail=detail, failure_class=FailureClass.DEPLOYMENT_HEALTH_FAILED)
        return replace(check, numbers={**check.numbers, **numbers})
    if not found:
        detail = f"{of_table} takes these algorithms, widths and fused groups"
        detail = f"{detail}; {summary.engine_answer}" if summary.engine_answer else detail
        return Check("engine", True, detail, FailureClass.DEPLOYMENT_HEALTH_FAILED, numbers=numbers)
    check = replace(_grouped("engine", found), failure_class=FailureClass.DEPLOYMENT_HEALTH_FAILED)
    check = replace(check, numbers={**check.numbers, **numbers})
    if version and version != ENGINE_VERSION:
        detail = f"{name} {version} is configured; {of_table} would refuse this: {check.detail}"
        return replace(check, passed=True, detail=detail)
    return replace(check, detail=f"{of_table} does not take this checkpoint: {check.detail}")


def _refusal(layer: Layer, engine: str, group: int) -> str | None:
    """Why the engine does not load a layer, with its own rule."""
    if not layer.is_quantized or layer.problem is not None:
        return None
    divisor = DIVISOR_OF_INPUTS.get(layer.precision)
    if layer.precision in MINIMUM_CAPABILITY_OF_OTHER_TOOLS:
        if layer.inputs > layer.group > 0 and layer.inputs % layer.group:
            rule = RULES["whole groups"]
            return f"have {layer.inputs} in-features, which groups of {layer.group} do not divide: {rule}"
        return None
    if layer.precision not in MINIMUM_CAPABILITY:
        rule = RULES["algorithm"].format(algorithms=[*MINIMUM_CAPABILITY, MIXED])
        return f"are {layer.precision}, which {engine} does not load: {rule}"
    if divisor and layer.inputs % divisor:
        rule = RULES[layer.precision]
        return f"have {layer.inputs} in-features, which {layer.precision} needs to divide by {divisor}: {rule}"
    if layer.precision in NVFP4_ALGORITHMS and layer.group != group:
        return f"have groups of {layer.group}, which {engine} reads as groups of {group}: {RULES['group']}"
    return None


def _refused_by_name(summary: CheckpointSummary, layers: Layers) -> dict[str, list[str]]:
    """Quantized layers that the engine does not load as they are, because of their names or their scale's."""
    vision = f"are quantized, yet the engine loads them as plain weights: {RULES['vision']}"
    tied = f"are quantized, yet the engine serves the embeddings in their place: {RULES['tied']}"
    found: dict[str, list[str]] = {}
    suspects = ("vision", "lm_head", "FP8_PB_WO")
    for name in modules_where(
        layers, lambda one: one.is_quantized and (one.family in suspects or one.precision in suspects)
    ):
        layer = layers[name]
        is_modelopt = not summary.is_mixed and layer.precision not in MINIMUM_CAPABILITY_OF_OTHER_TOOLS
        if layer.family == "vision" and layer.is_quantized and is_modelopt:
            if any(prefix in name for prefix in UNQUANTIZED_PREFIXES):
                found.setdefault(vision, []).append(name)
        elif layer.family == "lm_head" and layer.is_quantized and summary.is_tied:
            found.setdefault(tied, []).append(name)
        if layer.precision == "FP8_PB_WO" and layer.problem is None:
            is_expert = ".experts." in name
            wanted = "weight_scale_inv" if is_expert else "weight_scale"
            if layer.scale not in ("", wanted) and (summary.is_mixed or not is_expert):
                reason = f"have their scales as {layer.scale}, which the engine looks for as {wanted}"
                found.setdefault(f"{reason}: {RULES['block scale']}", []).append(name)
    return found


def _uneven_groups(layers: Layers) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    if len({layer.precision for layer, _ in distinct(layers) if layer.is_linear and layer.family != "lm_head"}) == 1:
        return found
    for name in leaders_where(layers, lambda one, other: one.precision != other.precision):
        layer = layers[name]
        others = [other for other in fused_with(name) if other in layers]
        if any(layers[other] is not layer and layers[other].precision != layer.precision for other in others):
            members = {member: layers[member] for member in (name, *others)}
            if any(member.problem for member in members.values()):
                continue
            held = ", ".join(f"{member.rpartition('.')[2]} {one.precision}" for member, one in members.items())
            found.setdefault(f"are fused by the engine yet differ: {held}: {RULES['fused']}", []).extend(members)
    return found


def check_blocks(summary: CheckpointSummary) -> Check | None:
    """No block scale and no FP8 weight is NaN or negative where it must not be, none is zero but as in the source."""
    blocks = summary.contents.blocks if summary.contents is not None else None
    if blocks is None:
        return None
    numbers: Numbers = {"bytes_read": blocks.bytes_read}
    if blocks.problems:
        shown = first_of([f"{name} {what}" for name, what in blocks.problems.items()])
        return Check(
            "blocks",
            False,
            f"{len(blocks.problems)} tensors: {shown}",
            offenders=sorted(blocks.problems),
            numbers=numbers,
        )
    return Check(
        "blocks",
        True,
        f"{blocks.bytes_read:,} bytes of scales and weights hold no NaN and no lost blocks",
        numbers=numbers,
    )


def check_values(summary: CheckpointSummary) -> Check | None:
    """Every quantized matrix that was read is the source's, as near as its format can hold it."""
    found = summary.contents
    if found is None or not summary.quantized:
        return None
    errors = {name: ValueErrors(**each._asdict()) for name, each in found.errors.items()}
    numbers: Numbers = {"compared": found.compared, "matrices": found.matrices, "errors": errors}
    numbers |= {"bytes_read": found.bytes_read} if found.seed is None else {"seed": found.seed}
    left_out = "".join(
        f"; {len(names)} {reason} and were not compared: {first_of(names, 3)}"
        for reason, names in found.not_compared.items()
    )
    if not found.off:
        shown = ", ".join(f"{name} {each.median or 0:.3f} (limit {each.limit:g})" for name, each in errors.items())
        some = "" if found.seed is None else f", some rows of each, chosen by seed {found.seed}"
        detail = f"{found.compared} of {found.matrices} quantized matrices{some} are the source's"
        detail += f"; median error {shown}" if shown else ""
        return Check("values", True, f"{detail}{left_out}", numbers=numbers)
    if len(found.unrelated) >= max(2, ALMOST_ALL * found.compared):
        detail = f"{len(found.unrelated)} of {found.compared} matrices have nothing to do with the source's: "
        detail += "the checkpoint was made from another source model"
        return Check("values", False, f"{detail}{left_out}", offenders=sorted(found.off), numbers=numbers)
    shown = first_of([f"{module} {what}" for module, what in found.off.items()], 8)
    detail = f"{len(found.off)} of {found.compared} quantized matrices are not the source's: {shown}{left_out}"
    return Check("values", False, detail, offenders=sorted(found.off), numbers=numbers)


def check_unquantized(summary: CheckpointSummary) -> Check | None:
    """What the recipe leaves alone is what it was in the source, or the stated cast of it."""
    found = summary.contents
    if found is None or not summary.quantized:
        return None
    numbers: Numbers = {"compared": found.kept_compared, "tensors": found.kept}
    if found.changed:
        shown = first_of([f"{name} {what}" for name, what in found.changed.items()], 8)
        detail = f"{len(found.changed)} tensors that the recipe leaves alone are not the source's: {shown}"
        return Check("unquantized", False, detail, offenders=sorted(found.changed), numbers=numbers)
    detail = f"{found.kept_compared} of {found.kept} tensors that are not quantized are the source's"
    detail += "".join(
        f"; {len(names)} were cast from {types}: {first_of(names, 3)}" for types, names in found.cast.items()
    )
    if found.trained:
        detail += (
            f"; {len(found.trained)} of these differ by up to {TRAINED:.0%} of their largest value, as after further "
        )
        detail += f"training: {first_of(found.trained, 3)}"
    return Check("unquantized", True, detail, numbers=numbers)


def check_metadata(summary: CheckpointSummary) -> Check | None:
    """Config, generation config, tokenizer and chat template changed in nothing that quantizing should leave alone."""
    wrong = [diff for diff in summary.metadata_diffs if not diff["expected"]]
    if wrong:
        shown = first_of([_diff_sentence(diff) for diff in wrong])
        return Check(
            "metadata",
            False,
            f"{len(wrong)} unexpected changes: {shown}",
            offenders=[diff["field"] for diff in wrong],
        )
    return Check("metadata", True, f"{len(summary.metadata_diffs)} changes, all expected")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _diff_sentence(diff: Change) -> str:
    return f"{diff['field']} was {diff['source']!r:.60}, is {diff['output']!r:.60}"


CHECKS: Sequence[Callable[[CheckpointSummary], Check | None]] = (
    check_stage,
    check_recipe,
    check_sensitivity,
    check_integrity,
    check_support,
    check_declaration,
    check_format,
    check_coverage,
    check_inventory,
    check_scales,
    check_blocks,
    check_values,
    check_unquantized,
    check_size,
    check_metadata,
    check_vision,
    check_engine,
)
