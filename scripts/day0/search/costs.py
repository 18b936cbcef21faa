"""What a recipe makes of a model, worked out before anything is quantized: its costs, and how risky it is.

Costs follow from the shapes of the source's tensors and the recipe's resolved patterns. They are exact but for
smoothing vectors (AWQ, SmoothQuant), low-rank parts (SVDQuant), scales of the KV cache, and the scales of experts that
the source holds fused and the checkpoint apart; in models of usual width these are less than a thousandth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from day0.checkpoint.intentions import Intention, Patterns
from day0.checkpoint.layers import read_layers, sort_tensors
from day0.checkpoint.names import EXPERT_NUMBER
from day0.checkpoint.source_weights import SourceWeights
from day0.recipe.modules import family_of
from day0.recipe.resolve import resolve_configuration
from day0.records.search import Costs
from day0.records.sensitivity import Sensitivity
from day0.source.safetensors_headers import payload_bytes

FULL_BITS = 16
# Bits of a value by number format, see Format.kind.
BITS_OF = {
    "FP8": 8, "FP8 per channel": 8, "FP8 blocks": 8, "MXFP8": 8, "INT8": 8, "MXINT8": 8, "MXFP6": 6,
    "NVFP4": 4, "MXFP4": 4, "INT4": 4, "none": FULL_BITS,
}  # fmt: skip
# Mean squared error of a normal variable rounded to a format, as a fraction of its variance: simulated, with one scale
# for the tensor, for 4,096 values (INT8), 16 (NVFP4), 32 (MX formats) or 128 (INT4).
NOISE = {
    "FP8": 7e-4, "FP8 per channel": 7e-4, "FP8 blocks": 7e-4, "MXFP8": 7e-4, "INT8": 7.5e-5, "MXINT8": 7e-5,
    "MXFP6": 2.8e-3, "NVFP4": 9e-3, "MXFP4": 1.3e-2, "INT4": 1.4e-2, "none": 0.0,
}  # fmt: skip
# Assumed, and only an order follows from them: activations have outliers that weights lack, some calibrations take part
# of the weights' noise away, and attention and the head have few weights for what hangs on them.
ACTIVATIONS = 4.0
CALIBRATED = {"awq_lite": 0.8, "awq_full": 0.8, "awq_clip": 0.8, "mse": 0.8, "local_hessian": 0.8, "gptq": 0.7}
WEIGHT_OF = {"attention": 2.0, "lm_head": 2.0, "experts": 0.7}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_ROUTED = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "top_k_experts",
    "num_selected_experts",
)
_NOT_READ = ("vision", "MTP")  # by a token of text
_EMBEDDINGS = re.compile(r"embed|wte$|wte[.]weight$")
_PLACE = re.compile(
    r"(?:^|(?<=[.]))(?:layers|blocks|h)[.]\d+[.].+"
)  # what precedes it differs between files and memory
_LAYER = "model.layers.0.mlp.up_proj"  # any linear layer, to ask what a preset makes of one


class Matrix(NamedTuple):
    """A weight of the source, or any other tensor, and what a recipe makes of it.

    ``read`` is the share of it that a token of text reads. ``kind`` and ``input_kind`` are the number formats of the
    weight and its inputs, see :attr:`day0.checkpoint.formats.Format.kind`; "none" where they stay as they are.
    """

    name: str
    family: str
    elements: int
    source_bytes: int
    bytes: int
    read: float
    kind: str = "none"
    input_kind: str = "none"

    @property
    def bits(self) -> int:
        """Bits that decide how fast it is multiplied: the wider of the weight's and the inputs'."""
        return max(BITS_OF.get(kind, FULL_BITS) for kind in (self.kind, self.input_kind))

    def noise(self, method: str) -> float:
        """Noise of the rounded weight and inputs, as a fraction of their variance, by the calibration's method."""
        weights = NOISE.get(self.kind, 0.0) * CALIBRATED.get(method, 1.0)
        return weights + ACTIVATIONS * NOISE.get(self.input_kind, 0.0)


class Model:
    """A source model as a search needs it; read once for all candidates.

    Args:
        weights: of the source's files.
        config: its config.json.
        sensitivity: of its layers, where it was measured.
        catalogue: envs/modelopt_catalogue.json, which says what the formats of the sensitivity are.
    """

    def __init__(
        self,
        weights: SourceWeights,
        config: Mapping[str, Any],
        sensitivity: Sensitivity | None = None,
        catalogue: Mapping[str, Any] | None = None,
    ) -> None:
        self.weights = weights
        self.names = sort_tensors(self.weights.logical)
        self.logical, self.stored = dict(weights.logical.items()), dict(weights.tensors.items())
        self.weight_names = self.names.modules()
        text = config.get("text_config")
        self.text: Mapping[str, Any] = text if isinstance(text, Mapping) else config
        self.source_bytes = payload_bytes(weights.tensors)
        layers = self.text.get("num_hidden_layers")
        self.layer_count = layers if isinstance(layers, int) else None
        self.routed_share = self._routed_share()
        self.is_tied = not any(module.endswith(("lm_head", "output_layer")) for module in self.weight_names)
        self.scores = _scores(sensitivity, catalogue or {})
        self.measured, self.unit = self._measured()
        self.read_shares: dict[str, float] = {}

    def _measured(self) -> tuple[set[str], float]:
        """Weights whose sensitivity was measured, and the loss for a unit of noise there; it turns a guess into a loss.

        One for all recipes, by each group's noisiest format: else a recipe that protects a layer could seem riskier.
        """
        if not self.scores:
            return set(), 0.0
        number_of = {_place_of(module): at for at, group in enumerate(self.scores) for module in group.modules}
        elements = [0.0] * len(self.scores)
        measured = set()
        for module, name in self.weight_names.items():
            if (at := number_of.get(_place_of(module))) is not None:
                measured.add(name)
                elements[at] += self.logical[name].elements * WEIGHT_OF.get(family_of(module), 1.0)
        noisiest = [(max(group.by_noise), elements[at]) for at, group in enumerate(self.scores) if group.by_noise]
        noise = sum(noise * count for (noise, _), count in noisiest)
        return measured, sum(loss for (_, loss), _ in noisiest) / noise if noise else 0.0

    def _routed_share(self) -> float:
        """Share of the routed experts that a token is sent to; 1 where the model has none or does not say."""
        experts, routed = (
            next((found for key in keys if isinstance(found := self.text.get(key), int) and found > 0), None)
            for keys in (_EXPERTS, _ROUTED)
        )
        return min(1.0, routed / experts) if experts and routed else 1.0

    def _read_share(self, name: str, family: str, shape: tuple[int, ...]) -> float:
        """Share of a tensor that a token of text reads; the same whatever the recipe."""
        if name not in self.read_shares:
            self.read_shares[name] = self._find_read_share(name, family, shape)
        return self.read_shares[name]

    def _find_read_share(self, name: str, family: str, shape: tuple[int, ...]) -> float:
        if family in _NOT_READ:
            return 0.0
        if ".experts." in name:
            return self.routed_share
        # A tied embedding is read as a whole, as the head.
        if _EMBEDDINGS.search(name) and len(shape) == 2 and not self.is_tied:
            return 1 / shape[0]
        return 1.0

    def matrices(self, patterns: Patterns) -> Iterator[Matrix]:
        """Every tensor of the model, by what a recipe makes of it."""
        layers, _ = read_layers(self.names, None, patterns, self.layer_count)
        inputs: dict[str, str] = {}
        for module, layer in layers.items():
            name = self.weight_names[module]
            tensor, kind, input_kind = self.logical[name], "none", "none"
            if layer.expected is not None and isinstance(layer.intended, Intention):
                kind = layer.intended.kind or "none"
                key = module if patterns.names_experts else EXPERT_NUMBER.sub("experts.*", module)
                if key not in inputs:
                    inputs[key] = patterns.input_kind(module) or "none"
                input_kind = inputs[key]
            stored = sum(self.stored[part].bytes for part in self.weights.parts.get(name, (name,)))
            size = tensor.bytes if layer.expected is None else layer.expected
            read = self._read_share(name, layer.family, tensor.shape)
            yield Matrix(name, layer.family, tensor.elements, stored, size, read, kind, input_kind)
        for name in self.names.others:
            tensor = self.logical[name]
            read = self._read_share(name, "other", tensor.shape)
            yield Matrix(name, "other", tensor.elements, tensor.bytes, tensor.bytes, read)

    @cached_property
    def costs_of_source(self) -> Costs:
        """What the source costs: 1 by each objective but the bits of a weight."""
        elements = sum(tensor.elements for tensor in self.logical.values())
        return Costs(size=1, bits_per_weight=8 * self.source_bytes / elements, active_bytes=1, throughput=1)

    def costs_and_risk(self, patterns: Patterns) -> tuple[Costs, float]:
        """What a recipe costs by each objective, and how much accuracy it is expected to lose, in a unit of its own.

        The risk is by the measured sensitivity of each group of layers where there is one; what was not measured counts
        by the noise of its format and its share of the weights, in the unit of what was.
        """
        size = elements = active = source_active = work = source_work = 0.0
        guessed = 0.0
        for one in self.matrices(patterns):
            size += one.bytes
            elements += one.elements
            active += one.read * one.bytes
            source_active += one.read * one.source_bytes
            work += one.read * one.elements * one.bits
            source_work += one.read * one.elements * FULL_BITS
            if one.name not in self.measured:
                guessed += one.noise(patterns.method) * WEIGHT_OF.get(one.family, 1.0) * one.elements
        costs = Costs(
            size=size / self.source_bytes,
            bits_per_weight=8 * size / elements,
            active_bytes=active / source_active,
            throughput=work / source_work,
        )
        unit = self.unit or 1 / elements
        return costs, _measured_loss(self.scores, patterns) + guessed * unit


class _ScoredGroup(NamedTuple):
    """Layers that were measured together: their modules, and what they lose by the noise of a format."""

    modules: list[str]
    by_noise: list[tuple[float, float]]


def _measured_loss(groups: list[_ScoredGroup], patterns: Patterns) -> float:
    """What a recipe loses on the layers whose sensitivity was measured."""
    loss = 0.0
    for group in groups:
        noise = _noise_at(patterns, group.modules[0])
        if noise and group.by_noise:
            # Another format than was scored loses in proportion to the noise of the nearest one.
            _, of_nearest, score = min((abs(scored - noise), scored, score) for scored, score in group.by_noise)
            loss += score * noise / of_nearest
    return loss


def _scores(sensitivity: Sensitivity | None, catalogue: Mapping[str, Any]) -> list[_ScoredGroup]:
    """The groups of a sensitivity; formats that this version of ModelOpt does not have are left out."""
    if sensitivity is None or sensitivity.status != "done":
        return []
    noises = {}
    for name in sensitivity.formats:
        if name in catalogue.get("presets", ()):
            patterns = Patterns.of_configuration(resolve_configuration({"preset": name}, catalogue, name))
            noises[name] = _noise_at(patterns, _LAYER) if patterns is not None else 0.0
    return [
        _ScoredGroup(
            group.modules, [(noises[name], score) for name, score in group.scores.items() if noises.get(name, 0.0) > 0]
        )
        for group in sensitivity.groups
        if group.modules
    ]


def _noise_at(patterns: Patterns, module: str) -> float:
    """Noise that a recipe puts on a module by its name in memory, where a layer's experts are one module."""
    if module.endswith(".experts"):
        module += ".gate_up_proj"
    intended = patterns.intention(module)
    if not isinstance(intended, Intention):
        return 0.0
    of_module = Matrix(module, "", 0, 0, 0, 0.0, intended.kind or "none", patterns.input_kind(module) or "none")
    return of_module.noise(patterns.method)


def _place_of(module: str) -> str:
    """A module's name from its block on, with all experts of a layer as one."""
    found = _PLACE.search(module)
    head, experts, _ = (found[0] if found else module).partition(".experts")
    return f"{head}{experts}"
