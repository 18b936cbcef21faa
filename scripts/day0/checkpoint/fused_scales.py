"""Scales as an engine fuses them: layers that become one must share what the one has once.

Source: vLLM, vllm/model_executor/layers/quantization/modelopt.py. A fused NVFP4 layer has one global scale for its
weights: of an expert's gate and up the gate's (ModelOptNvFp4FusedMoE), of others the largest (KNvfp4Static), while the
block scales stay as they are: weights under another global scale are read multiplied by the ratio. Of the input scales
it takes the largest (KNvfp4Dynamic), which costs those with smaller ones some range; FP8 weights it quantizes again
under the largest scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy

from day0.checkpoint.formats import compressed
from day0.checkpoint.summary import Layer, Layers
from day0.checkpoint.vllm_rules import fused_with
from day0.source.tensors import Ints, Kind, Scalars, rows_named

# Relative difference of global scales that is rounding; and ratio of input scales that costs half of E4M3's range.
TOLERANCE, MOST_INPUT_RATIO = 1e-3, 256.0
# Largest magnitude of a layer's inputs by its input scale: below is what no activation is, above what none reaches.
LEAST_INPUT, MOST_INPUT = 1e-5, 1e6
_MAX_OF_INPUTS = {"FP8": 448.0, "NVFP4": 448.0 * 6.0}
# Name of the global scale of a format's weights; compressed-tensors has its reciprocal, of which the engine takes the
# largest (CompressedTensorsW4A4Fp4).
_GLOBAL = {
    **dict.fromkeys(("NVFP4", "W4A16_NVFP4", "NVFP4_AWQ", "NVFP4_SVD", "W4A8_NVFP4_FP8"), "weight_scale_2"),
    **dict.fromkeys((compressed("NVFP4"), compressed("NVFP4A16")), "weight_global_scale"),
}


class FusedScales(NamedTuple):
    """Scales that an engine would misread, each as name and sentence; and remarks on what it takes with a loss."""

    problems: dict[str, str]
    remarks: list[str]


def check_fused_scales(layers: Mapping[str, Layer], scalars: Mapping[str, float]) -> FusedScales:
    """Compare the scalar scales of layers that engines fuse, and the input scales with what activations are.

    Args:
        layers: the checkpoint's, by module.
        scalars: values of its scalar scales, by tensor.
    """
    problems: dict[str, str] = {}
    uneven = 0
    for module in _uneven(Scalars.of(scalars)):
        layer = layers.get(module)
        scale = _GLOBAL.get(layer.precision) if layer is not None else None
        others = fused_with(module)
        if layer is None or scale is None or layer.problem is not None:
            continue
        leaf = module.rpartition(".")[2]
        first, inputs = scalars.get(f"{module}.{scale}"), scalars.get(f"{module}.input_scale")
        for other in others:
            second = scalars.get(f"{other}.{scale}")
            if first is not None and second is not None and abs(first - second) > TOLERANCE * first:
                taken = f"{leaf}'s" if ".experts." in module else "the largest"
                problems[f"{other}.{scale}"] = (
                    f"is {second:.4g} where {leaf} has {first:.4g}: an engine fuses the two and takes {taken} for both"
                )
            theirs = scalars.get(f"{other}.input_scale")
            if inputs and theirs and inputs > 0 and theirs > 0 and inputs != theirs:
                uneven += 1
                if max(inputs / theirs, theirs / inputs) > MOST_INPUT_RATIO:
                    problems[f"{other}.input_scale"] = (
                        f"is {theirs:.4g} where {leaf} has {inputs:.4g}: an engine fuses the two and takes the larger"
                    )
    remarks = [f"{uneven} input scales differ within a fused group, of which the largest counts"] if uneven else []
    problems |= _implausible_inputs(layers, scalars)
    remarks += _constant_kv(scalars)
    return FusedScales(problems, remarks)


def _uneven(scalars: Scalars) -> list[str]:
    """Modules that are the first of a fused group in which a scale of a name is not the same everywhere."""
    found: dict[str, int] = {}  # with the place of a scale, whose order is that of the files
    tensors = scalars.tensors
    for number, kind in tensors.present():
        module, _, part = kind.stem.rpartition(".")
        rows, keys = tensors.rows_of(number), tensors.keys_of(number)
        first = scalars.of_kind(kind, keys)
        for other in fused_with(module):
            second = scalars.of_kind(Kind(f"{other}.{part}", kind.numbers), keys)
            is_uneven = (first != second) & ~numpy.isnan(second)
            names = Kind(module, kind.numbers).names(keys[is_uneven])
            found |= zip(names, rows[is_uneven].tolist(), strict=True)
    return sorted(found, key=found.__getitem__)


def leaders_where(layers: Layers, is_wanted: Callable[[Layer, Layer], bool]) -> list[str]:
    """Modules that are the first of a fused group, with one of which a question on two layers is answered with yes."""
    wanted = numpy.array([[is_wanted(one, other) for other in layers.distinct] for one in layers.distinct], bool)
    found: list[Ints] = [layers.rows[:0]]
    tensors = layers.tensors
    for number, kind in tensors.present():
        module, dot, leaf = kind.stem.rpartition(".")
        stem, end = (module, f"{dot}{leaf}") if leaf == "weight" else (kind.stem, "")
        rows, keys = tensors.rows_of(number), tensors.keys_of(number)
        for other in fused_with(stem):
            others = tensors.find(Kind(f"{other}{end}", kind.numbers), keys)
            places = layers.places[rows], numpy.where(others < 0, -1, layers.places[others])
            is_there = (places[0] >= 0) & (places[1] >= 0)
            first, second = (layers.which[place[is_there]] for place in places)
            found.append(rows[is_there][wanted[first, second]])
    return list(dict.fromkeys(layers.modules(numpy.sort(numpy.concatenate(found)))))


def _implausible_inputs(layers: Mapping[str, Layer], scalars: Mapping[str, float]) -> dict[str, str]:
    """Input scales whose largest input is none that a network has."""
    smallest, largest_of_all = LEAST_INPUT / min(_MAX_OF_INPUTS.values()), MOST_INPUT / max(_MAX_OF_INPUTS.values())
    held = Scalars.of(scalars)
    found = {}
    for name, value in held.where(~((smallest < held.column) & (held.column < largest_of_all))).items():
        if not name.endswith("input_scale") or not value > 0:
            continue
        layer = layers.get(name.rpartition(".")[0])
        largest = value * _MAX_OF_INPUTS.get(layer.precision if layer is not None else "", 448.0)
        if not LEAST_INPUT <= largest <= MOST_INPUT:
            found[name] = f"is {value:.4g}: inputs up to {largest:.3g}, which no calibration gives"
    return found


def _constant_kv(scalars: Mapping[str, float]) -> list[str]:
    """A remark where all scales of the KV cache are 1.0: older exporters clamp them, others measured nothing."""
    names = rows_named(Scalars.of(scalars).tensors, lambda name: name.endswith((".k_scale", ".v_scale")))
    values = [value for name in names if (value := scalars.get(name)) is not None]
    if values and all(value == 1.0 for value in values):
        return [f"all {len(values)} scales of the KV cache are exactly 1.0: clamped by the exporter, or not measured"]
    return []
