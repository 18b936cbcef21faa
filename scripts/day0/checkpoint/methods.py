"""Declarations of other tools than ModelOpt: compressed-tensors (llm-compressor), AutoRound, GPTQ and AWQ.

Each says in ``quantization_config`` of config.json which modules are quantized and how. What it says becomes a key of
:data:`day0.checkpoint.formats.FORMATS` by the rules that vLLM goes by: CompressedTensorsConfig
(compressed_tensors/compressed_tensors.py: _get_scheme_from_parts, get_scheme_dict), INCConfig (inc/inc.py,
inc/config_parser.py), AutoGPTQConfig (auto_gptq.py) and AutoAWQConfig (auto_awq.py).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from day0.base.numbers import mapping_or_empty
from day0.checkpoint.declaration import Declaration, Target, kv_format
from day0.checkpoint.formats import AWQ, GPTQ, compressed, int_format
from day0.checkpoint.vllm_rules import ENGINE_VERSION, PLACES
from day0.source.safetensors_headers import Tensor

# Names of tensors of these tools by the names that they have here, of each module that has the first of a list.
_RENAMED = (
    {"weight_packed": "weight"},
    {"qweight": "weight", "qzeros": "weight_zero_point", "scales": "weight_scale", "g_idx": "weight_g_idx"},
)
WHOLE_ROW = 1 << 30
_VLLM = f"vLLM {ENGINE_VERSION}"
# Modules that a class of layers does not reach: vLLM's lm_head and embeddings are of classes of their own.
_NO_LINEAR = re.compile(r"(^|[.])(lm_head|output_layer)$|embed")


@dataclass(frozen=True)
class TargetedDeclaration(Declaration):
    """A declaration by patterns of modules, of which the first that matches decides; names stand before classes."""

    @functools.cached_property
    def _excluded_names(self) -> frozenset[str]:
        return frozenset(self.excluded)

    @functools.cached_property
    def _excluded_patterns(self) -> re.Pattern[str] | None:
        texts = [f"(?:{pattern[3:]})" for pattern in self.excluded if pattern.startswith("re:")]
        return re.compile("|".join(texts)) if texts else None

    def of(self, module: str) -> tuple[str | None, bool]:
        """Algorithm declared for a module, and whether it is explicitly excluded."""
        patterns = self._excluded_patterns
        if module in self._excluded_names or (patterns is not None and patterns.match(module)):
            return None, True
        target = self._target_of(module)
        return (target.algorithm, False) if target is not None else (None, False)

    def group_of(self, module: str) -> int | None:
        """Declared group size of a module."""
        target = self._target_of(module)
        return target.group if target is not None else None

    def _target_of(self, module: str) -> Target | None:
        for target in self.targets:
            if target.pattern.startswith("re:"):
                if re.match(target.pattern[3:], module):
                    return target
            elif target.pattern == module:
                return target
        classes = [target for target in self.targets if "." not in target.pattern and target.pattern[:3] != "re:"]
        return classes[0] if classes and not _NO_LINEAR.search(module) else None

    @property
    def names_experts(self) -> bool:
        """Whether it may declare one expert of a layer differently from another."""
        patterns = [*self.excluded, *(target.pattern for target in self.targets)]
        return any(re.search(r"experts[.]\d|^re:.*expert", pattern) for pattern in patterns)


def standard_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that a matrix and its parts have here, such as ``X.weight`` for ``X.qweight``."""
    found = dict(tensors)
    for names in _RENAMED:
        first = next(iter(names))
        for module in [name.removesuffix(f".{first}") for name in tensors if name.endswith(f".{first}")]:
            for old, new in names.items():
                if f"{module}.{old}" in found and f"{module}.{new}" not in found:
                    found[f"{module}.{new}"] = found.pop(f"{module}.{old}")
    return found


def is_of_another_tool(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's config.json declares the quantization of one of these tools."""
    return _method(config) in _READERS


def _method(config: Mapping[str, Any]) -> str | None:
    method = mapping_or_empty(config.get("quantization_config")).get("quant_method")
    return method.lower() if isinstance(method, str) else None


def read_method(
    config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Declaration | None, list[str]] | None:
    """What another tool than ModelOpt declares, and what is wrong with it as sentences; None: none does.

    Args:
        config: the checkpoint's config.json.
        hf_quant_config: ModelOpt's own declaration, where there is one.
    """
    declared, method = mapping_or_empty(config.get("quantization_config")), _method(config)
    reader = _READERS.get(method or "")
    if reader is None:
        if method is None or method.startswith("modelopt") or declared.get("quant_algo") or hf_quant_config:
            return None
        known = ", ".join(["modelopt", *_READERS])
        return None, [f"config.json: quant_method: found {method!r}; this gate reads {known}"]
    conflicts = []
    if hf_quant_config is not None:
        conflicts.append(f"hf_quant_config.json is ModelOpt's; config.json declares quant_method {method!r}")
    try:
        declaration = reader(declared)
        for pattern in (*declaration.excluded, *(target.pattern for target in declaration.targets)):
            re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
    except (re.error, _Unreadable, AttributeError, KeyError, TypeError, ValueError) as error:
        return None, [f"config.json: quantization_config of {method}: {error!s:.500}", *conflicts]
    return declaration, conflicts


class _Unreadable(Exception):
    """A declaration that vLLM refuses, or that says something that no row of the table has."""


def _declaration(
    targets: Iterable[Target], excluded: Iterable[str], kv_cache: Any = None, follows_tensors: bool = False
) -> TargetedDeclaration:
    kept = tuple(targets)
    names = list(dict.fromkeys(target.algorithm for target in kept if target.algorithm))
    return TargetedDeclaration(
        algorithm=" and ".join(names) or None,
        kv_cache=kv_format(kv_cache),
        excluded=tuple(sorted(map(str, excluded))),
        layers=None,
        follows_tensors=follows_tensors,
        targets=kept,
    )


def _compressed_tensors(declared: Mapping[str, Any]) -> TargetedDeclaration:
    groups = declared.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise _Unreadable(f"config_groups: found {groups!r:.80}; expected groups with targets and weights")
    if mapping_or_empty(declared.get("sparsity_config")).get("targets"):
        raise _Unreadable(f"sparsity_config: {_VLLM} takes no sparse weights ({PLACES['sparse']})")
    targets = []
    for name, group in groups.items():
        patterns = [str(target) for target in group["targets"]]
        if len(patterns) == 1 and patterns[0].endswith("Attention"):
            continue  # the KV cache's, which vLLM leaves out here (CompressedTensorsConfig.from_config)
        weights, style = mapping_or_empty(group.get("weights")), group.get("format") or declared.get("format")
        inputs = group.get("input_activations")
        algorithm = _algorithm_of_scheme(weights, mapping_or_empty(inputs) or None, style)
        if algorithm is None:
            shown = {key: weights.get(key) for key in ("num_bits", "type", "strategy", "group_size", "symmetric")}
            raise _Unreadable(
                f"{name}: format {style!r} with weights {shown} and "
                f"{'input_activations' if inputs else 'no input_activations'} is no scheme that {_VLLM} has "
                f"({PLACES['scheme']}) and this gate knows"
            )
        size = weights.get("group_size")
        size = size if type(size) is int and size > 0 else None
        targets += [Target(pattern, algorithm, size) for pattern in patterns]
    return _declaration(targets, declared.get("ignore") or [], declared.get("kv_cache_scheme"))


def _algorithm_of_scheme(weights: Mapping[str, Any], inputs: Mapping[str, Any] | None, style: str | None) -> str | None:
    """The row of a scheme, in the order in which vLLM looks for its own; None: it has none.

    Args:
        weights, inputs: QuantizationArgs of compressed-tensors; None: the inputs are not quantized.
        style: the format of the tensors, such as float-quantized.
    """
    bits, kind, strategy = weights.get("num_bits"), weights.get("type", "int"), weights.get("strategy")
    size, symmetric = weights.get("group_size"), weights.get("symmetric", True)
    if weights.get("actorder") in ("group", "dynamic"):
        raise _Unreadable(f"actorder: {_VLLM} takes static or weight ordering only ({PLACES['ordering']})")
    if kind == "float" and bits == 4 and strategy == "tensor_group" and size == 16 and symmetric:
        if inputs is None:
            return compressed("NVFP4A16")
        is_same = (inputs.get("num_bits"), inputs.get("type"), inputs.get("group_size")) == (4, "float", 16)
        return compressed("NVFP4") if is_same else None
    if kind == "float" and strategy == "group" and size == 32 and symmetric:
        if bits == 4:
            return compressed("MXFP4")
        return compressed("MXFP8") if bits == 8 and weights.get("scale_dtype") == "torch.uint8" else None
    if style == "pack-quantized" and kind == "int" and strategy in ("channel", "group"):
        return int_format(bits, strategy, symmetric, inputs)
    if style in ("float-quantized", "naive-quantized") and kind == "float" and bits == 8 and symmetric:
        if strategy not in ("tensor", "channel", "block"):
            return None
        is_static = inputs is not None and not inputs.get("dynamic")
        if strategy == "block" and is_static:
            return None
        served = "FP8A16" if inputs is None else "FP8" if is_static else "FP8_DYNAMIC"
        return compressed(f"{served}_{strategy.upper()}")
    if style in ("int-quantized", "naive-quantized") and kind == "int" and bits == 8 and symmetric and inputs:
        if inputs.get("num_bits") != 8 or strategy not in ("tensor", "channel"):
            return None
        return compressed(f"{'W8A8_DYNAMIC' if inputs.get('dynamic') else 'W8A8'}_{strategy.upper()}")
    return None


def _auto_round(declared: Mapping[str, Any]) -> TargetedDeclaration:
    bits, kind, size = declared.get("bits"), str(declared.get("data_type", "int")), declared.get("group_size")
    style = declared.get("packing_format")
    if kind in ("fp", "fp8") and bits == 8 and size == [128, 128] and style in (None, "auto_round:fp8"):
        algorithm, of_group = compressed("FP8_DYNAMIC_BLOCK"), None
    elif "mx_fp" in kind and bits in (4, 8) and style in (None, "auto_round:llm_compressor"):
        algorithm, of_group = compressed(f"MXFP{bits}"), 32
    elif kind == "int" and bits in (4, 8) and style in (None, "auto_round", "auto_round:auto_gptq", "auto_round:gptq"):
        algorithm, of_group = GPTQ[bits], _group(size)
    elif kind == "int" and bits == 4 and style == "auto_round:auto_awq":
        algorithm, of_group = AWQ, _group(size)
    else:
        raise _Unreadable(
            f"data_type {kind!r} with bits {bits!r}, group_size {size!r} and packing_format {style!r} is nothing that "
            f"{_VLLM} has ({PLACES['AutoRound']}) and this gate knows"
        )
    targets, excluded = [], []
    for name, own in mapping_or_empty(declared.get("extra_config")).items():
        own = mapping_or_empty(own)
        is_pattern = re.search(r"[*+?^$()\[\]{}|\\]", name) is not None
        pattern = f"re:.*(?:{name})" if is_pattern else name
        if own.get("bits", bits) >= 16:
            excluded.append(pattern)
        elif own.get("bits", bits) == bits:
            targets.append(Target(pattern, algorithm, _group(own.get("group_size", of_group))))
        elif kind == "int" and own["bits"] in GPTQ and algorithm != AWQ:
            targets.append(Target(pattern, GPTQ[own["bits"]], _group(own.get("group_size", of_group))))
        else:
            raise _Unreadable(f"extra_config of {name}: bits {own.get('bits')!r} beside {algorithm}")
    blocks = declared.get("block_name_to_quantize") or declared.get("to_quant_block_names")
    blocks = blocks.split(",") if isinstance(blocks, str) else blocks
    patterns = [f"re:(?:{'|'.join(re.escape(str(name).strip()) for name in blocks)})"] if blocks else ["Linear"]
    targets += [Target(pattern, algorithm, of_group) for pattern in patterns]
    return _declaration(targets, excluded)


def _gptq(declared: Mapping[str, Any]) -> TargetedDeclaration:
    bits, symmetric = declared.get("bits"), declared.get("sym")
    if bits not in GPTQ or symmetric is not True:
        raise _Unreadable(f"bits {bits!r}, sym {symmetric!r}: {_VLLM} takes 4 or 8, symmetric ({PLACES['GPTQ']})")
    size = declared.get("group_size")
    targets, excluded = [], []
    for pattern, own in mapping_or_empty(declared.get("dynamic")).items():
        text = f"re:{pattern[2:] if pattern[:2] in ('+:', '-:') else pattern}"
        if pattern.startswith("-:"):
            excluded.append(text)
        else:
            own = mapping_or_empty(own)
            targets.append(Target(text, GPTQ[own.get("bits", bits)], _group(own.get("group_size", size))))
    targets.append(Target("Linear", GPTQ[bits], _group(size)))
    if declared.get("lm_head"):
        targets.append(Target("re:(.*[.])?lm_head$", GPTQ[bits], _group(size)))
    return _declaration(targets, excluded, follows_tensors=True)


def _awq(declared: Mapping[str, Any]) -> TargetedDeclaration:
    bits = declared.get("w_bit", declared.get("bits"))
    if bits != 4 or str(declared.get("version", "gemm")).lower() != "gemm":
        version = declared.get("version")
        raise _Unreadable(f"bits {bits!r}, version {version!r}: {_VLLM} takes 4 and gemm ({PLACES['AWQ']})")
    size = _group(declared.get("q_group_size", declared.get("group_size")))
    excluded = [f"re:.*{re.escape(str(name))}" for name in declared.get("modules_to_not_convert") or []]
    return _declaration([Target("Linear", AWQ, size)], excluded, follows_tensors=True)


def _group(size: Any) -> int | None:
    """A declared group size; -1 is a row as a whole."""
    return WHOLE_ROW if size == -1 else size if type(size) is int and size > 0 else None


_READERS = {
    "compressed-tensors": _compressed_tensors,
    "auto-round": _auto_round,
    "gptq": _gptq,
    "awq": _awq,
}
