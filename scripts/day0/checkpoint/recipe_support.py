"""What becomes of a recipe on a model, worked out before anything runs: the same for presets and recipes of the wheel.

A recipe's configuration (:func:`day0.recipe.resolve.resolve_configuration`) is applied to the modules that the headers
of the source name. The layers that come of it are held against the engine by the check that the gate makes of the
checkpoint later. What is said of ModelOpt is true of nvidia-modelopt 0.47.0: every preset and recipe of its wheel was
run on two models, see tests/unit/checkpoint/data/recipe_support.json.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from day0.base.numbers import mapping_or_empty
from day0.checkpoint.checks import Check, check_engine
from day0.checkpoint.formats import FORMATS, MIXED, number_format
from day0.checkpoint.intentions import Intention, Patterns
from day0.checkpoint.layers import sort_tensors
from day0.checkpoint.names import NUMBER, first_of
from day0.checkpoint.source_weights import DEQUANTIZED, SourceWeights
from day0.checkpoint.summary import CheckpointSummary, Layer, Layers
from day0.checkpoint.vllm_rules import DEFAULT_NVFP4_GROUP, NVFP4_ALGORITHMS
from day0.recipe.modules import NOT_LINEAR, family_of
from day0.records.quantization import ModelOptConfiguration
from day0.source.safetensors_headers import Tensor

# Algorithms whose scales are learned by training, which a calibration does not do (modelopt/.../config.py:1330).
TRAINED_METHODS = frozenset({"lsq"})
# Algorithms that try scales of static NVFP4 blocks, or round these one after the other, which takes Triton
# (tensor_quant.py:587). What else rounds to NVFP4 runs on a CPU too, see scripts/nvfp4_emulation.py.
TRITON_METHODS = frozenset({"mse", "local_hessian", "gptq"})
# Modules that stand for those of any model, where the source's are not known.
_ANY_MODEL = tuple(
    f"model.layers.0.{place}"
    for place in (
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"{mlp}.{name}_proj" for mlp in ("mlp", "mlp.experts.0") for name in ("gate", "up", "down")),
    )
)
# Names that transformers 5.14 gives to modules as it loads them (conversion_mapping.py), where they are not the files'.
_RENAMED = (
    (".block_sparse_moe.", ".mlp."),
    ("backbone.", "model."),
    ("language_model.model.", "model.language_model."),
    ("model.language_model.", "model."),
    ("model.layers.", "model.language_model.layers."),
)
_USUAL_NAME = re.compile(r"(^|[.])(self_attn|mlp|mixer|linear_attn|block_sparse_moe|feed_forward)[.]|(^|[.])lm_head$")


class _Part(NamedTuple):
    """A list of patterns of a recipe, with the modules that it is for.

    ``places`` are patterns of names, None: all modules; ``without`` are those that it is not for. A search chooses one
    of its candidates for each layer.
    """

    patterns: Patterns
    methods: frozenset[str]
    places: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    is_candidate: bool = False

    def is_for(self, module: str) -> bool:
        return (self.places is None or _matches(module, self.places)) and not _matches(module, self.without)


@dataclass(frozen=True)
class RecipeSupport:
    """What is known of a recipe on a model.

    Attributes:
        layers: number of linear layers that become quantized, by algorithm; of a search, what it may choose.
        linear: number of all linear layers; None where the model's modules are not known.
        trained: the algorithm that needs training, or None.
        not_exported: number formats that ModelOpt's export cannot write.
        needs_cuda: why it cannot be calibrated on a CPU, or None.
        undivided: modules whose in-features the blocks of their format do not divide, as sentences without a subject.
        matches_nothing: True: no pattern quantizes a module of this model; None: not known.
        engine: the outcome of the check of the engine; None where no layer is of a format that it knows.
    """

    layers: Mapping[str, int] = field(default_factory=dict)
    linear: int | None = None
    trained: str | None = None
    not_exported: tuple[str, ...] = ()
    needs_cuda: str | None = None
    undivided: tuple[str, ...] = ()
    matches_nothing: bool | None = False
    engine: Check | None = None

    @property
    def labels(self) -> list[str]:
        """The row of the table, in short: what stands in a recipe's way on a model, else that the engine takes it."""
        found = {
            "trains": self.trained is not None,
            "matches nothing": self.matches_nothing is True,
            "not exported": bool(self.not_exported),
            "blocks do not divide": bool(self.undivided),
            "needs CUDA": self.needs_cuda is not None,
            "engine refuses": self.engine is not None and not self.engine.passed,
        }
        return [label for label, is_so in found.items() if is_so] or ["engine takes"]


def recipe_support(
    configuration: ModelOptConfiguration,
    engine: str,
    tensors: Mapping[str, Tensor] | None = None,
    is_tied: bool = False,
) -> RecipeSupport:
    """Work out what becomes of a recipe.

    Args:
        configuration: the recipe's.
        engine: ``vllm`` or ``vllm==VERSION``; what the table refuses of another version is no refusal.
        tensors: of the source, by their headers; None: not known, so that the names of any model stand in for them.
        is_tied: whether the model's config.json ties lm_head to the embeddings.
    """
    shapes = _linear_shapes(tensors) if tensors is not None else dict.fromkeys(_ANY_MODEL, ())
    parts = _parts_of(configuration)
    methods = frozenset().union(*(part.methods for part in parts))
    found = [_layers_of(part, shapes) for part in parts]
    counts: dict[str, int] = {}
    for layer in (layer for layers in found for layer in layers.values() if layer.is_quantized):
        counts[layer.precision] = counts.get(layer.precision, 0) + 1
    checks = [check for layers in found if (check := _check_engine(layers, engine, is_tied)) is not None]
    return RecipeSupport(
        layers=dict(sorted(counts.items())),
        linear=len(shapes) if tensors is not None else None,
        trained=next(iter(sorted(methods & TRAINED_METHODS)), None),
        not_exported=tuple(sorted(name for name in counts if name in ("MXFP6", "MXINT8"))),
        needs_cuda=_needs_cuda(parts, found),
        undivided=_undivided(parts, found),
        matches_nothing=_matches_nothing(parts, shapes) if tensors is not None else False,
        engine=next((check for check in checks if not check.passed), checks[0] if checks else None),
    )


def _linear_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of the linear modules' weights, by the modules' names, once dequantized."""
    logical = SourceWeights(tensors).logical
    names = sort_tensors(logical)
    shapes = [logical.forms.list[form][1] for form in logical.form[names.rows].tolist()]
    weights = dict(zip(names.modules(), shapes, strict=True))
    is_linear = {name: NOT_LINEAR.search(name) is None for name in dict.fromkeys(map(_folded, weights))}
    return {module: shape for module, shape in weights.items() if is_linear[_folded(module)]}


def _folded(module: str) -> str:
    """A module's name for all experts of its layer."""
    head, is_expert, tail = module.partition(".experts.")
    number, _, leaf = tail.partition(".")
    return f"{head}.experts.*.{leaf}" if is_expert and number.isdigit() and leaf else module


def _parts_of(configuration: ModelOptConfiguration) -> list[_Part]:
    """The lists of patterns that a configuration holds: its own, and those that its search chooses from."""
    found = [_part(configuration.quantize)]
    search = configuration.auto_quantize
    if search is not None:
        without = tuple(map(str, _list_of(search.get("disabled_layers"))))
        found += [_part(one, None, without, True) for one in _list_of(search.get("candidate_formats"))]
        for space in map(mapping_or_empty, _list_of(search.get("module_search_spaces"))):
            places = tuple(map(str, _list_of(space.get("module_name_patterns"))))
            found += [_part(one, places, without, True) for one in _list_of(space.get("candidate_formats"))]
    return [part for part in found if part is not None]


def _part(
    settings: Any, places: tuple[str, ...] | None = None, without: tuple[str, ...] = (), is_candidate: bool = False
) -> _Part | None:
    patterns = Patterns.of_settings(settings)
    if patterns is None:
        return None
    return _Part(patterns, frozenset(_methods(settings.get("algorithm"))), places, without, is_candidate)


def _methods(algorithm: Any) -> Iterable[str]:
    """Names of a calibration algorithm and of all that it hands the scales on to."""
    if isinstance(algorithm, str):
        yield algorithm
    elif isinstance(algorithm, Sequence):
        for one in algorithm:
            yield from _methods(one)
    elif isinstance(algorithm, Mapping):
        if isinstance(algorithm.get("method"), str):
            yield algorithm["method"]
        for one in algorithm.values():
            if isinstance(one, Mapping):
                yield from _methods(one)


def _layers_of(part: _Part, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layer]:
    """The layers as a list of patterns makes them, but those it does not decide; alike ones share one object."""
    layers: dict[str, Layer] = {}
    known: dict[tuple[str, tuple[int, ...]], Layer | None] = {}
    for module, shape in shapes.items():
        key = module if part.patterns.names_experts else _folded(module), shape
        if key not in known:
            known[key] = _layer(key[0], shape, part.patterns.intention(key[0])) if part.is_for(key[0]) else None
        layer = known[key]
        if layer is not None:
            layers[module] = layer
    return layers


def _layer(module: str, shape: tuple[int, ...], intended: bool | Intention | None) -> Layer | None:
    if intended is False:
        return Layer(DEQUANTIZED, family=family_of(module))
    precision = (intended.algorithm or intended.kind) if isinstance(intended, Intention) else None
    if not isinstance(intended, Intention) or precision is None:
        return None
    form = FORMATS.get(precision)
    values = (intended.group or form.group) if form is not None and form.layout == "group" else 0
    return Layer(precision, family=family_of(module), inputs=shape[-1] if len(shape) == 2 else 0, group=values)


def _check_engine(layers: Mapping[str, Layer], engine: str, is_tied: bool) -> Check | None:
    """The gate's own check of the engine's rules, on layers that are not there yet."""
    known = {m: layer for m, layer in layers.items() if layer.precision in FORMATS or not layer.is_quantized}
    counts = dict.fromkeys((layer.precision for layer in known.values() if layer.is_quantized), 1)
    is_mixed = len(counts) > 1
    groups = [layer.group for layer in known.values() if layer.precision in NVFP4_ALGORITHMS]
    summary = CheckpointSummary(
        0,
        0,
        "",
        counts,
        [],
        layers=Layers.of(known),
        declaration=MIXED if is_mixed else next(iter(counts), None),
        engine=engine,
        is_tied=is_tied,
        is_mixed=is_mixed,
        engine_group=groups[0] if is_mixed and groups else DEFAULT_NVFP4_GROUP,
    )
    check = check_engine(summary)
    return check and replace(check, detail=check.detail.replace("take this checkpoint", "take what the recipe makes"))


def _undivided(parts: Sequence[_Part], found: Sequence[Mapping[str, Layer]]) -> tuple[str, ...]:
    """Layers that ModelOpt's export refuses, as it stores whole blocks only; a search may choose another format."""
    reasons: dict[str, dict[str, None]] = {}
    for part, layers in zip(parts, found, strict=True):
        for module, layer in layers.items() if not part.is_candidate else ():
            if layer.group and layer.inputs % layer.group:
                reason = f"{layer.inputs} in-features, which blocks of {layer.group} ({layer.precision}) do not divide"
                reasons.setdefault(reason, {})[NUMBER.sub("*", module)] = None
    return tuple(f"{first_of(list(kinds), 3)} have {reason}" for reason, kinds in reasons.items())


def _needs_cuda(parts: Sequence[_Part], found: Sequence[Mapping[str, Layer]]) -> str | None:
    """Why a recipe cannot be calibrated on a CPU."""
    for part, layers in zip(parts, found, strict=True):
        if not any(_kind_of(layer) == "NVFP4" for layer in layers.values()):
            continue
        if (methods := part.methods & TRITON_METHODS) and _has_static_nvfp4(part.patterns):
            return f"{first_of(sorted(methods))} tries scales of NVFP4 blocks, which needs CUDA and Triton"
    return None


def _kind_of(layer: Layer) -> str | None:
    return FORMATS[layer.precision].kind if layer.precision in FORMATS else layer.precision


def _has_static_nvfp4(patterns: Patterns) -> bool:
    settings = [mapping_or_empty(entry.get("cfg")) for entry in patterns.entries]
    return any(
        number_format(one)[0] == "NVFP4" and mapping_or_empty(one.get("block_sizes")).get("type") == "static"
        for one in settings
    )


def _matches_nothing(parts: Sequence[_Part], shapes: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether no pattern quantizes a module, by any of the names that it may have in memory; None where it may."""
    modules = dict.fromkeys(map(_folded, shapes))
    usual = all(_USUAL_NAME.search(module) or family_of(module) == "vision" for module in modules)
    names = {spelled for module in modules for spelled in _spellings(module)}
    if any(part.is_for(name) and part.patterns.may_quantize(name) for part in parts for name in names):
        return False
    return True if usual else None


def _spellings(module: str) -> set[str]:
    found = {module}
    for old, new in _RENAMED:
        found |= {name.replace(old, new) for name in found}
    return found


def _matches(module: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns)


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
