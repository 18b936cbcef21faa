"""Whether a quantized checkpoint is what its recipe promises: read it, then judge what was read.

Reading takes safetensors headers, the values of scalar scales and the small JSON files; no weights, unless all block
scales are asked for. The parts: checkpoint_layers, _declaration, _inventory and _metadata say what there is,
quantizer_patterns what was intended, checkpoint_checks whether that is sound.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from day0.artefacts import UnusableInput, files_below, read_json
from day0.checkpoint_checks import CHECKS, Check, check_stage
from day0.checkpoint_coverage import coverage_by_family, layer_map
from day0.checkpoint_declaration import (
    groundless_entries,
    group_that_the_engine_reads,
    read_declarations,
    unknown_algorithms,
)
from day0.checkpoint_inventory import compare_inventory
from day0.checkpoint_layers import kv_problems_of, read_layers
from day0.checkpoint_metadata import compare_metadata
from day0.checkpoint_names import PART_NAMES, is_part, is_scale, own_parts
from day0.checkpoint_summary import CheckpointSummary, Layer, parse_summary
from day0.quantizer_patterns import patterns_of
from day0.recipes import KV_CACHE_NONE
from day0.safetensors_headers import Tensor, payload_bytes, read_scalars, read_tensors

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


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
    parameters = sum(t.elements for name, t in before.items() if not is_part(name))
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
    groundless = groundless_entries(declaration, after)
    if groundless and not conflicts:
        kv_problems["are declared in quantized_layers and do not exist"] = groundless
    wanted = (record or {}).get("kv_cache")
    if wanted not in (None, KV_CACHE_NONE) and (declaration is None or not declaration.kv_cache) and not kv_problems:
        conflicts.append(f"the recipe quantizes the KV cache to {wanted}; the checkpoint declares no KV-cache format")
    patterns = patterns_of(record)
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
        f"{module}.{part}" for module in orphans if module not in lost_modules for part in own_parts(after, module)
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
        scales=read_scalars({name: tensor for name, tensor in after.items() if is_scale(name)}),
        kv_problems=kv_problems,
        has_patterns=patterns is not None,
        expected_output_bytes=_expected_output(before, after, layers),
        pickles=[name for name in files_below(checkpoint) if name.endswith(_PICKLES)],
        engine=engine,
        engine_group=group_that_the_engine_reads(config, declaration),
        **(_read_blocks(after) if deep else {}),
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


def _read_blocks(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    from day0.checkpoint_payload import read_blocks

    problems, count = read_blocks(tensors)
    return {"blocks": problems, "bytes_read": count}


def _expected_output(
    source: Mapping[str, Tensor], output: Mapping[str, Tensor], layers: Mapping[str, Layer]
) -> float | None:
    """Bytes of a checkpoint whose quantized layers take what their formats take, and all else what it took before."""
    expected = 0.0
    for name, tensor in output.items():
        module, _, leaf = name.rpartition(".")
        if leaf in PART_NAMES:
            continue
        layer = layers.get(module) if leaf == "weight" else layers.get(name)
        if layer is not None and layer.expected is not None:
            expected += layer.expected
        elif leaf[-6:] not in ("_scale", "cale_2"):
            expected += source[name].bytes if name in source else tensor.bytes
    return expected
