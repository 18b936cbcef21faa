"""A checkpoint's declaration as vLLM reads it, by the table of vllm_rules.py; engine_check.py asks vLLM itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from day0.base.numbers import mapping_or_empty
from day0.checkpoint.declaration import Declaration
from day0.checkpoint.names import first_of
from day0.checkpoint.summary import Layers, first_experts_where, modules_where
from day0.checkpoint.vllm_rules import (
    ALGORITHMS_ALONE,
    ENGINE_VERSION,
    FIELDS_ALONE,
    FUSED_NAMES,
    ROUTER_IS_QUANTIZED,
    RULES,
)

_BY = f"vLLM {ENGINE_VERSION}"
Misread = dict[str, list[str]]  # what is read otherwise than meant, as the end of a sentence about layers: their names


def is_declared_alone(config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None) -> bool:
    """Whether only hf_quant_config.json declares the quantization, as ModelOpt wrote it before 0.31."""
    alone = not isinstance(config.get("quantization_config"), dict)
    return alone and isinstance((hf_quant_config or {}).get("quantization"), dict)


def problems_of_place(config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None) -> list[str]:
    """Why vLLM would not find ModelOpt's declaration, or would read it by another method, as sentences."""
    in_config = config.get("quantization_config")
    if is_declared_alone(config, hf_quant_config):
        return _problems_alone(hf_quant_config or {})
    if not isinstance(in_config, dict) or "moe_quant_algo" in in_config:
        return []
    if "quant_algo" not in in_config and hf_quant_config is None:
        return []
    method = in_config.get("quant_method")
    if isinstance(method, str) and method.lower().startswith("modelopt"):
        return []
    if not method:
        rule = RULES["method"].format(method=None)
        return [f"quantization_config of config.json has no quant_method; expected modelopt. {_BY}: {rule}"]
    return [
        f"quant_method of config.json is {method!r:.60}, by whose rules {_BY} reads the tensors, which are ModelOpt's; "
        "expected modelopt"
    ]


def _problems_alone(hf_quant_config: Mapping[str, Any]) -> list[str]:
    quantization = mapping_or_empty(hf_quant_config.get("quantization"))
    producer = mapping_or_empty(hf_quant_config.get("producer")).get("name")
    algorithm = str(quantization.get("quant_algo")).upper()
    problems = []
    if producer != "modelopt":
        problems.append(f"the name of its producer is {producer!r:.60}, expected 'modelopt'")
    if algorithm not in ALGORITHMS_ALONE:
        problems.append(f"its quant_algo is {algorithm:.60}, expected one of {', '.join(ALGORITHMS_ALONE)}")
    lacking = [name for name in FIELDS_ALONE.get(algorithm, ()) if name not in quantization]
    if lacking:
        problems.append(f"it lacks {', '.join(lacking)}: {RULES['fields']}")
    if not problems:
        return []
    return [
        "config.json has no 'quantization_config', and with hf_quant_config.json alone vLLM would load packed weights "
        f"as plain ones: {'; '.join(problems)}. {_BY}: {RULES['alone']}"
    ]


def leaves_activations(config: Mapping[str, Any]) -> bool:
    """Whether config_groups quantize the weights only, so that vLLM serves NVFP4 as W4A16_NVFP4."""
    groups = mapping_or_empty(mapping_or_empty(config.get("quantization_config")).get("config_groups"))
    return bool(groups) and all(
        isinstance(group, Mapping) and group.get("input_activations") is None for group in groups.values()
    )


def problem_of_groups(holders: Sequence[str]) -> str:
    """The sentence about W4A4 tensors that config_groups declare as weight-only; ``holders``: of an input_scale."""
    return (
        "config_groups of config.json give no input_activations, yet the tensors are W4A4: "
        f"{len(holders)} layers hold an input_scale: {first_of(holders, 3)}; write what the recipe quantizes, as the "
        f"exporter does. {_BY}: {RULES['weights only']}"
    )


def dotted_exclusions(declaration: Declaration | None, weight_of: Callable[[str], str | None]) -> list[str]:
    """Entries of the exclusions that end with a dot and so name no module, though without the dot they would."""
    if declaration is None or declaration.layers is not None:
        return []
    return [entry for entry in declaration.excluded if entry.endswith(".") and weight_of(entry.rstrip("."))]


def problem_of_dots(entries: Sequence[str]) -> str:
    """The sentence about exclusions that end with a dot."""
    shown = first_of(entries, 3)
    return (
        f"{len(entries)} exclusions end with a dot and exclude nothing: {shown}; remove the dot. {_BY}: {RULES['dot']}"
    )


def misread_by_table(declaration: Declaration | None, layers: Layers, architectures: Iterable[Any]) -> Misread:
    """Layers that vLLM takes for something else than their tensors are, though ModelOpt declares it rightly."""
    if declaration is None or declaration.targets:
        return {}
    found = {**_routers(layers, architectures), **_excluded_by_part(declaration, layers)}
    for entry, alias in declaration.aliases.items():
        if "experts" not in entry:
            reason = f"are declared {alias}, which vLLM takes for experts only: {RULES['alias']}"
            found.setdefault(reason, []).append(entry or "quant_algo")
    return found


def _routers(layers: Layers, architectures: Iterable[Any]) -> Misread:
    place = next((ROUTER_IS_QUANTIZED[name] for name in map(str, architectures) if name in ROUTER_IS_QUANTIZED), None)
    if place is None:
        return {}
    suspects = modules_where(layers, lambda one: one.family == "router" and one.declared and not one.is_quantized)
    names = [name for name in suspects if name.endswith(".gate")]
    rule = RULES["router"].format(place=place)
    return {f"are not excluded, so that vLLM reads plain routers as quantized: {rule}": names} if names else {}


def _excluded_by_part(declaration: Declaration, layers: Layers) -> Misread:
    """Quantized layers in whose name in vLLM an exclusion stands that is not meant for them."""
    entries = [entry for entry in declaration.excluded if entry and not set(entry) & set("*?[")]
    asked: dict[str, list[str]] = {}
    # the experts of a layer are one module in vLLM
    for name in first_experts_where(layers, lambda one: one.is_quantized and not one.is_excluded) if entries else ():
        if ".experts." not in name or ".experts.0." in name:
            asked.setdefault(_name_in_vllm(name), []).append(name)
    found: Misread = {}
    for spelled, names in asked.items():
        entry = next((one for one in entries if one in spelled), None)
        if entry is not None:
            reason = (
                f"are quantized, yet vLLM loads them as plain weights by the exclusion {entry!r}: {RULES['excluded']}"
            )
            found.setdefault(reason, []).extend(names)
    return found


def _name_in_vllm(module: str) -> str:
    head, experts, _ = module.partition(".experts.")
    if experts:
        return f"{head}.experts"
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{FUSED_NAMES[leaf]}" if leaf in FUSED_NAMES else module
