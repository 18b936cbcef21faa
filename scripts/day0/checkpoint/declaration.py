"""What a checkpoint declares about its quantization, in config.json and hf_quant_config.json."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from day0.checkpoint.formats import FORMATS, FULL_PRECISION, MIXED
from day0.checkpoint.names import EXPERT_NUMBER, first_of
from day0.checkpoint.vllm_rules import ALIASES, DEFAULT_NVFP4_GROUP, NVFP4_ALGORITHMS
from day0.source.safetensors_headers import Tensor


class Target(NamedTuple):
    """How the modules are quantized that a pattern names.

    ``pattern``: a module's name, ``re:`` with a regular expression that matches from its start, or, without a dot, the
    class of all linear layers but lm_head. ``group``: values per scale.
    """

    pattern: str
    algorithm: str
    group: int | None = None


@dataclass(frozen=True)
class Declaration:
    """What a checkpoint declares: one algorithm for all but ``excluded``, or with ``layers`` one for each of these.

    ``aliases`` are the other spellings of algorithms (:data:`day0.checkpoint.vllm_rules.ALIASES`) that it uses, by the
    entries of ``layers``; what holds for all of the checkpoint stands under an empty name. ``keeps_source``: what it
    declares nothing for may be quantized as it is in the source. ``targets`` of another tool than ModelOpt name modules
    by patterns, see :mod:`day0.checkpoint.methods`. ``follows_tensors``: a layer without quantized tensors is in full
    precision, whatever is declared.
    """

    algorithm: str | None
    kv_cache: str | None
    excluded: tuple[str, ...]
    layers: dict[str, str] | None
    groups: Mapping[str, Any] | None = None
    group_size: int | None = None
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)
    keeps_source: bool = False
    targets: tuple[Target, ...] = ()
    follows_tensors: bool = False

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
                if name in (self.layers or {}):
                    return name
                name = name.rpartition(".")[0]
        return None

    @property
    def names_experts(self) -> bool:
        """Whether it declares one expert of a layer differently from another."""
        return any(EXPERT_NUMBER.search(name) for name in (self.layers or self.excluded))


def _matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.") or fnmatch.fnmatchcase(module, pattern)


def kv_format(scheme: Any) -> str | None:
    """Number format of the KV cache, in upper case, by its name or by bits and type; None where it has none."""
    if isinstance(scheme, dict) and (scheme.get("num_bits"), scheme.get("type")) == (8, "float"):
        return "FP8"
    return str(scheme).upper() if scheme else None


def _declaration(algorithm: Any, kv_cache: Any, excluded: Any, layers: Any, group_size: Any = None) -> Declaration:
    by_layer = groups = None
    spelled = {"": str(algorithm).upper()} if algorithm else {}
    if isinstance(layers, dict) and layers:
        by_layer = {
            name: str(entry.get("quant_algo")).upper() if isinstance(entry, dict) else str(entry).upper()
            for name, entry in layers.items()
        }
        spelled |= by_layer
        by_layer = {name: ALIASES.get(algorithm, algorithm) for name, algorithm in by_layer.items()}
        groups = {name: entry.get("group_size") for name, entry in layers.items() if isinstance(entry, dict)}
    patterns = tuple(sorted(map(str, excluded))) if isinstance(excluded, list) else ()
    size = group_size if type(group_size) is int and group_size > 0 else None
    name = ALIASES.get(spelled[""], spelled[""]) if algorithm else None
    aliases = {entry: name for entry, name in spelled.items() if name in ALIASES}
    return Declaration(name, kv_format(kv_cache), patterns, by_layer, groups, size, aliases)


def read_declarations(
    config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None
) -> tuple[Declaration | None, list[str]]:
    """The declaration of a checkpoint, and where its two places contradict each other, as sentences.

    hf_quant_config.json alone is a declaration: ModelOpt wrote nothing else before 0.31.
    """
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
    if first is not None and isinstance(in_config, dict) and _is_deepseek_v4_with_experts_of_its_own(config):
        held = {algorithm for module, algorithm in (first.layers or {}).items() if ".experts." in module}
        named = str(in_config["moe_quant_algo"]).upper()
        conflict = (
            f"config.json's moe_quant_algo is {named}, hf_quant_config.json has {', '.join(sorted(held)) or 'none'}"
        )
        return replace(first, keeps_source=True), [] if held == {named} else [f"{conflict} for experts"]
    if second is None:
        return first, [] if first is not None else ["nothing is declared"]
    if first is None:
        return second, [
            "hf_quant_config.json has no 'quantization', where TensorRT-LLM and tools of ModelOpt look for it"
        ]
    conflicts = [
        f"hf_quant_config.json says {name} {getattr(first, name)!r:.120}, config.json {getattr(second, name)!r:.120}"
        for name in ("algorithm", "kv_cache", "excluded", "layers")
        if getattr(first, name) != getattr(second, name)
    ]
    if first.layers and second.layers and first.layers != second.layers:
        names = first.layers.keys() | second.layers.keys()
        differing = sorted(name for name in names if first.layers.get(name) != second.layers.get(name))
        conflicts = [text for text in conflicts if " layers " not in text]
        conflicts.append(f"quantized_layers of hf_quant_config.json and config.json differ in {first_of(differing)}")
    return first, conflicts


def _is_deepseek_v4_with_experts_of_its_own(config: Mapping[str, Any]) -> bool:
    """Whether vLLM loads the experts alone by ``moe_quant_algo``, and all else as DeepSeek-V4 is published in FP8.

    Source: vLLM, DeepseekV4FP8Config (models/deepseek_v4/quant_config.py).
    """
    inner = config.get("quantization_config")
    if config.get("model_type") != "deepseek_v4" or not isinstance(inner, Mapping):
        return False
    return inner.get("quant_method") in ("fp8", "deepseek_v4_fp8") and bool(inner.get("moe_quant_algo"))


def _group_of(groups: Any) -> Any:
    """Group size of config_groups, where it has a single one."""
    sizes = set()
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and type(weights.get("group_size")) is int:
            sizes.add(weights["group_size"])
    return sizes.pop() if len(sizes) == 1 else None


def unknown_algorithms(declaration: Declaration) -> list[str]:
    """Declared algorithms that no table knows; those of other tools are looked up where they are read."""
    if declaration.targets:
        return []
    names = set(declaration.layers.values()) if declaration.layers is not None else {declaration.algorithm or "NONE"}
    return sorted(names - FORMATS.keys() - FULL_PRECISION - {MIXED})


def group_that_the_engine_reads(config: Mapping[str, Any], declaration: Declaration | None) -> int:
    """Group size of NVFP4 as vLLM finds it: at the top of quantization_config, in its first such layer, or 16."""
    top = config.get("quantization_config")
    size = top.get("group_size") if isinstance(top, dict) else None
    if type(size) is int and size > 0:
        return size
    if declaration is not None and declaration.layers is not None:
        for module, algorithm in declaration.layers.items():
            if algorithm in NVFP4_ALGORITHMS:
                return declaration.group_of(module) or DEFAULT_NVFP4_GROUP
    return DEFAULT_NVFP4_GROUP


def groundless_entries(declaration: Declaration | None, tensors: Mapping[str, Tensor]) -> list[str]:
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
