"""Read a quantized checkpoint, and decide whether it is what its recipe promises.

Reading takes safetensors headers, the values of scalar scales and the small JSON files; no weights, unless all block
scales are asked for. The modules layers, declaration, inventory and metadata say what there is, intentions what the
recipe asks for, checks whether the one is the other.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from day0.base.artefacts import digest_of_file, files_below, read_json
from day0.base.cli import UnusableInput
from day0.checkpoint.blocks import BlockScan
from day0.checkpoint.checks import CHECKS, Check, check_stage
from day0.checkpoint.contents import compare_contents
from day0.checkpoint.coverage import coverage_by_family, layer_map
from day0.checkpoint.declaration import (
    Declaration,
    groundless_entries,
    group_that_the_engine_reads,
    read_declarations,
    unknown_algorithms,
)
from day0.checkpoint.engine_check import read_with_engine
from day0.checkpoint.engine_reading import (
    Misread,
    dotted_exclusions,
    is_declared_alone,
    leaves_activations,
    misread_by_table,
    problem_of_dots,
    problem_of_groups,
    problems_of_place,
)
from day0.checkpoint.intentions import Patterns, differences, kv_format_of
from day0.checkpoint.inventory import compare_inventory
from day0.checkpoint.layers import SortedTensors, kv_problems_of, mark_kept, read_layers, sort_tensors
from day0.checkpoint.metadata import compare_metadata
from day0.checkpoint.methods import is_of_another_tool, read_method, standard_names
from day0.checkpoint.names import PART_NAMES_OF_OTHER_TOOLS, first_of, is_scale, own_parts
from day0.checkpoint.size import SOURCE_BITS, expected_sizes, ratio_bounds
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.summary import CheckpointSummary, Layers, distinct, parse_summary
from day0.checkpoint.vllm_rules import ENGINE
from day0.records.failure_class import FailureClass
from day0.records.quantization import ModelOptConfiguration, Quantization
from day0.records.recipe import KV_CACHE_NONE
from day0.records.validation import Validation
from day0.source.safetensors_headers import Tensor, payload_bytes, read_headers, read_scalars, read_tensors
from day0.source.tensors import Tensors, rows_named

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def assess_checkpoint(
    checkpoint: Path,
    source: Path,
    record: Quantization | None = None,
    recipe: str | None = None,
    deep: bool = False,
    engine: str | None = None,
    configuration: ModelOptConfiguration | None = None,
    seed: int = 0,
    engine_python: Path | None = None,
    sensitivity: Path | None = None,
) -> Validation:
    """Read and judge a checkpoint; see :func:`read_summary` and :func:`evaluate_checkpoint`.

    Args:
        sensitivity: sensitivity.json that the record's recipe must have been worked out by, where it needs one.

    Raises:
        UnusableInput: the source or a JSON file cannot be read.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # hundreds of thousands of small objects, none in a cycle: collections only cost time
    try:
        name = recipe or (record.recipe.name if record is not None else "unknown")
        summary = read_summary(checkpoint, source, name, record, deep, engine, configuration, seed, engine_python)
        return evaluate_checkpoint(replace(summary, sensitivity_problem=_sensitivity_problem(record, sensitivity)))
    finally:
        if was_enabled:
            gc.enable()


def _sensitivity_problem(record: Quantization | None, sensitivity: Path | None) -> str | None:
    """How a record differs from the sensitivity that it must have been made by."""
    if record is None or sensitivity is None:
        return None
    found, expected = digest_of_file(sensitivity), record.sensitivity_sha256
    if found == expected:
        return None
    known = f"one of digest {expected[:12]}" if expected else "none that it names"
    return (
        f"the recipe was worked out by another sensitivity: {sensitivity} has digest {found[:12]}, quantization.json "
        f"was made by {known}; restore that file, or quantize anew"
    )


def read_summary(
    checkpoint: Path,
    source: Path,
    recipe: str,
    record: Quantization | None = None,
    deep: bool = False,
    engine: str | None = None,
    configuration: ModelOptConfiguration | None = None,
    seed: int = 0,
    engine_python: Path | None = None,
) -> CheckpointSummary:
    """Read a checkpoint and its source: headers, scalar scales and JSON files.

    Args:
        checkpoint: folder of the checkpoint.
        source: folder of the source model.
        recipe: name of the recipe.
        record: the quantize stage's record; its resolved patterns say what was intended.
        deep: read all block scales, and compare all values with the source's.
        engine: serving engine that must take it, ``vllm`` or ``vllm==VERSION``.
        configuration: the recipe's own, see :func:`day0.recipe.resolve.resolve_configuration`; it says what was
            intended where the record does not.
        seed: chooses what is compared with the source without ``deep``.
        engine_python: interpreter of the serve environment, whose engine is asked how it reads the checkpoint; None:
            the table of the engine's rules answers.

    Raises:
        UnusableInput: the source or a JSON file cannot be read. A broken checkpoint is no error but a finding.
    """
    with ThreadPoolExecutor(1) as other:  # most of the reading is numpy's, beside which Python goes on
        checkpoint_headers = other.submit(read_headers, checkpoint, alone=True)
        before = read_tensors(source)
    weights = SourceWeights(before)
    unread = CheckpointSummary(payload_bytes(before), 0, recipe, {}, [], weights.parameters or None)
    if not unread.source_bytes:
        raise UnusableInput(f"{source}: found no bytes of weights; expected the source model")
    if record is not None and record.status != "done":
        reason = record.detail or "no reason recorded"
        return replace(unread, failed_before=(record.failure_class or FailureClass.UNKNOWN, reason))
    try:
        after, unindexed = checkpoint_headers.result()
        config = read_json(checkpoint / "config.json")
    except UnusableInput as error:
        return replace(unread, broken=str(error))
    if is_of_another_tool(config):
        after = Tensors.of(standard_names(after))
        names = sort_tensors(after, PART_NAMES_OF_OTHER_TOOLS)
    else:
        names = sort_tensors(after)
    resolved, remark = _configuration(record, configuration)
    patterns = Patterns.of_configuration(resolved)
    found = _read_declared(checkpoint, config, after, names, patterns)
    declaration, layers, conflicts = found.declaration, found.layers, found.conflicts
    conflicts += [] if found.kv_problems else _kv_conflicts(record, resolved, declaration, after)
    is_tied = config.get("tie_word_embeddings", True) is not False
    kept, is_kept_taken = weights.kept(after), declaration is not None and declaration.keeps_source
    mark_kept(layers, {name: weights.quantized[name].storage for name in kept}, is_kept_taken)
    kept = kept if is_kept_taken else {}
    missing, unknown, misshapen = compare_inventory(weights, after, names, is_tied, layers, kept)
    lost_modules = {name.removesuffix(".weight") for name in missing}
    orphans = set(found.orphans) - lost_modules
    strays = [f"{module}.{part}" for module in orphans for part in own_parts(after, module)]
    scales = read_scalars(after, is_scale)
    families, others = expected_sizes(weights, after, names, layers, missing, kept)
    scan = BlockScan(after, before, scales) if deep else None
    is_imported = record is not None and record.recipe.checkpoint is not None
    is_foreign = patterns is None and (is_imported or is_of_another_tool(config))
    contents = compare_contents(layers, names, after, weights, scales, config, patterns, scan, seed, is_foreign)
    reading = read_with_engine(engine_python, checkpoint, layers) if engine_python is not None else None
    misread: Misread = {}
    if reading is not None:
        engine, misread = f"{ENGINE}=={reading.version}", reading.misread
    elif engine is not None:
        architectures = config.get("architectures")
        misread = misread_by_table(declaration, layers, architectures if isinstance(architectures, list) else ())
    files = files_below(checkpoint)
    return replace(
        unread,
        output_bytes=payload_bytes(after),
        layer_precision_counts=dict(_counts_by_precision(layers)),
        metadata_diffs=compare_metadata(source, checkpoint),
        layers=layers,
        declaration=declaration.algorithm if declaration is not None else None,
        conflicts=conflicts,
        missing=missing,
        unknown=sorted({*unknown, *strays}),
        misshapen=misshapen,
        scales=scales,
        kv_problems=found.kv_problems,
        has_patterns=patterns is not None,
        remark_on_patterns=remark,
        unindexed=unindexed,
        source_formats=weights.formats,
        expected_output_bytes=sum(families.values()) + others,
        expected_family_bytes=families,
        pickles=[name for name in files if name.endswith(_PICKLES)],
        links=_links_out_of(checkpoint, files, record.recipe.checkpoint if record is not None else None),
        engine=engine,
        misread=misread,
        engine_answer=reading.quote if reading is not None else None,
        is_refused=reading is not None and reading.is_refused,
        is_declared_alone=found.is_alone,
        is_tied=is_tied,
        is_mixed=declaration is not None and declaration.layers is not None,
        is_of_another_tool=is_of_another_tool(config),
        engine_group=group_that_the_engine_reads(config, declaration),
        contents=contents,
    )


def _links_out_of(folder: Path, files: Iterable[str], imported: str | None) -> list[str]:
    """Those of the files below a folder that are links to a place outside of it.

    The hub's cache keeps a snapshot's files as links to its own folder of blobs, which count as inside; so does the
    folder that a checkpoint was imported from.
    """
    root = folder.resolve()
    roots = [root, *([Path(imported).resolve()] if imported is not None else [])]
    inside = [*roots, *(one.parent.parent / "blobs" for one in roots if one.parent.name == "snapshots")]
    links = (name for name in files if (root / name).is_symlink() or (root / name).parent != root)
    return [name for name in links if not any((root / name).resolve().is_relative_to(allowed) for allowed in inside)]


def _configuration(
    record: Quantization | None, configuration: ModelOptConfiguration | None
) -> tuple[ModelOptConfiguration | None, str | None]:
    """The recipe's configuration: the record's, else the one given; and a remark where it needs one."""
    recorded = record.recipe.quant_cfg if record is not None else None
    if recorded is None:
        return configuration, "worked out from the recipe" if configuration is not None else None
    first, second = Patterns.of_configuration(recorded), Patterns.of_configuration(configuration)
    found = differences(first, second) if first is not None and second is not None else []
    if not found:
        return recorded, None
    return recorded, f"the record's patterns, which are not those of the recipe by the catalogue: {first_of(found, 3)}"


class _Declared(NamedTuple):
    """What a checkpoint declares, and its layers compared with that."""

    declaration: Declaration | None
    conflicts: list[str]
    layers: Layers
    orphans: list[str]
    kv_problems: dict[str, list[str]]
    is_alone: bool


def _read_declared(
    checkpoint: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    names: SortedTensors,
    patterns: Patterns | None,
) -> _Declared:
    unreadable, hf_quant_config = None, None
    if (checkpoint / "hf_quant_config.json").is_file():
        try:
            hf_quant_config = read_json(checkpoint / "hf_quant_config.json")
        except UnusableInput as error:
            unreadable = str(error)
    of_another_tool = read_method(config, hf_quant_config)
    declaration, conflicts = of_another_tool or _read_modelopts(config, hf_quant_config, names)
    conflicts = [unreadable] if unreadable else conflicts
    if declaration is not None and (strange := unknown_algorithms(declaration)):
        conflicts.append(f"{', '.join(strange)} is no algorithm that ModelOpt exports")
    kv_problems = kv_problems_of(tensors, declaration)
    groundless = groundless_entries(declaration, tensors)
    if groundless and not conflicts:
        kv_problems["are declared in quantized_layers and do not exist"] = groundless
    text_config = config.get("text_config")
    layer_count = (text_config if isinstance(text_config, dict) else config).get("num_hidden_layers")
    layer_count = layer_count if type(layer_count) is int else None
    layers, orphans = read_layers(names, declaration, patterns, layer_count)
    if conflicts and hf_quant_config is not None:
        # Where the two places contradict each other, that is the finding: layers need to fit only one of them.
        other, _ = read_declarations(config, None)
        if other is not None:
            again, _ = read_layers(names, other, patterns, layer_count)
            layers = min(layers, again, key=lambda found: len(found.rows_where(lambda layer: layer.problem)))
            kv_problems = kv_problems and kv_problems_of(tensors, other)
    return _Declared(declaration, conflicts, layers, orphans, kv_problems, is_declared_alone(config, hf_quant_config))


def _read_modelopts(
    config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None, names: SortedTensors
) -> tuple[Declaration | None, list[str]]:
    """What ModelOpt declares, as the engine reads it, and what is wrong with it as sentences."""
    declaration, conflicts = read_declarations(config, hf_quant_config)
    conflicts += problems_of_place(config, hf_quant_config)
    if declaration is not None and declaration.algorithm == "NVFP4" and leaves_activations(config):
        holders = names.holders("input_scale")
        if holders:
            conflicts.append(problem_of_groups(holders))
        else:
            declaration = replace(declaration, algorithm="W4A16_NVFP4")
    if dotted := dotted_exclusions(declaration, names.weight_of):
        conflicts.append(problem_of_dots(dotted))
    return declaration, conflicts


def _kv_conflicts(
    record: Quantization | None,
    configuration: ModelOptConfiguration | None,
    declaration: Declaration | None,
    tensors: Mapping[str, Tensor],
) -> list[str]:
    """Whether the KV cache is declared as the recipe has it, and its scales are there where they were measured."""
    (wanted, is_measured), declared = kv_format_of(configuration), declaration.kv_cache if declaration else None
    name = record.kv_cache if record is not None else None
    asked = name if name not in (None, KV_CACHE_NONE) else wanted
    if not declared:
        conflict = f"the recipe quantizes the KV cache to {asked}; the checkpoint declares no KV-cache format"
        return [conflict] if asked else []
    if wanted is False and not asked:
        return [f"the recipe leaves the KV cache alone; the checkpoint declares {declared}"]
    if isinstance(wanted, str) and not declared.startswith(wanted):
        return [f"the recipe quantizes the KV cache to {wanted}; the checkpoint declares {declared}"]
    if is_measured and not rows_named(tensors, lambda name: name.endswith((".k_scale", ".v_scale"))):
        return [f"the recipe measures the scales of the KV cache ({wanted}); the checkpoint holds none"]
    return []


def _counts_by_precision(layers: Layers) -> Counter[str]:
    counts: Counter[str] = Counter()
    for layer, count in distinct(layers):
        counts[layer.precision] += count
    return counts


def evaluate_checkpoint(
    summary: Mapping[str, Any] | CheckpointSummary,
    configuration: ModelOptConfiguration | None = None,
    recipe_problem: str | None = None,
) -> Validation:
    """Decide whether a checkpoint is what its recipe promises.

    Args:
        summary: what :func:`read_summary` found, or a mapping with ``source_bytes``, ``output_bytes``, ``recipe``,
            ``layer_precision_counts`` and ``metadata_diffs``; what the counts may hold is in docs/checkpoint.md.
        configuration: of the recipe that such a mapping names, where it is known; it bounds the size.
        recipe_problem: why the recipe that such a mapping names is not known, which fails the checkpoint.

    Returns:
        the assessment without the digests of what was assessed; its failure class is that of the first failed check,
        its detail has a sentence for each failed check.

    Raises:
        UnusableInput: the mapping is no summary.
    """
    if not isinstance(summary, CheckpointSummary):
        summary = parse_summary(summary)
        source_bits = summary.source_bytes * 8 / summary.parameters if summary.parameters else SOURCE_BITS
        bounds = ratio_bounds(Patterns.of_configuration(configuration), source_bits)
        summary = replace(summary, ratio_bounds=bounds, recipe_problem=recipe_problem)
    applicable = (check_stage,) if summary.failed_before is not None else CHECKS
    checks = [check(summary) for check in applicable]
    done = _without_consequences([check for check in checks if check is not None], summary)
    failed = [check for check in done if not check.passed]
    ratio = summary.output_bytes / summary.source_bytes if summary.source_bytes and summary.output_bytes else None
    bits = summary.output_bytes * 8 / summary.parameters if summary.parameters and summary.output_bytes else None
    held = summary.layers if summary.layers is not None else Layers.of({})
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
        "families": coverage_by_family(held, summary.expected_family_bytes),
        "layer_map": [row._asdict() for row in layer_map(held)],
        "metadata_diffs": summary.metadata_diffs,
        "offenders": sorted({name for check in failed for name in check.offenders}),
    }
    return Validation.model_validate(_writable(assessment))


def _without_consequences(checks: list[Check], summary: CheckpointSummary) -> list[Check]:
    """Let a size below the source's pass where another failed check explains why it is not as expected."""
    failed = {check.name for check in checks if not check.passed}
    is_smaller = summary.output_bytes < summary.source_bytes
    return [
        replace(check, passed=True, detail=f"{check.detail}; explained by {', '.join(sorted(failed - {'size'}))}")
        if check.name == "size" and not check.passed and is_smaller and failed - {"size"}
        else check
        for check in checks
    ]


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
