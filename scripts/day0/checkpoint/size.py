"""How large a checkpoint should be: by its recipe and the source's shapes, or, of a summary, within which bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from day0.checkpoint.formats import bytes_of
from day0.checkpoint.intentions import Intention, Patterns
from day0.checkpoint.layers import SortedTensors
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.summary import Layers, distinct, modules_where
from day0.source.safetensors_headers import Tensor

SOURCE_BITS = 16
# A recipe that covers attention, MLP and experts reaches at least this part of the weights of every model in use;
# small models with large vocabularies come closest to it.
LEAST_COVERED = 0.25
_PLACES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj", "mlp.experts.0.down_proj")


def expected_sizes(
    source: SourceWeights,
    output: Mapping[str, Tensor],
    names: SortedTensors,
    layers: Layers,
    missing: Iterable[str],
    kept: Mapping[str, int],
) -> tuple[dict[str, int], int]:
    """Bytes that the matrices of each family should take with their scales, and those of all other tensors.

    A matrix that the recipe quantizes takes what its format takes of the source's shape, everything else what it takes
    in the source: in full precision where that is quantized, unless it is kept as the source stores it; what the source
    lacks (scales of the KV cache) counts as it is.
    """
    before = source.logical
    families: Counter[str] = Counter()
    for layer, count in distinct(layers):
        if layer.expected is not None:
            families[layer.family] += count * layer.expected
    for module in modules_where(layers, lambda layer: layer.expected is None):
        name = names.weight_of(module) or module
        families[layers[module].family] += kept.get(name) or (before.get(name) or output[name]).bytes
    in_kept = {part for name in kept for part in source.parts[name]}
    others = sum((before.get(name) or output[name]).bytes for name in names.others if name not in in_kept)
    return dict(families), others + sum(before[name].bytes for name in missing if name in before)


def ratio_bounds(patterns: Patterns | None, source_bits: float = SOURCE_BITS) -> tuple[float, float] | None:
    """Smallest and largest size ratio that a recipe can give, whatever the model's shapes; None where unknown.

    The smallest is that of a model that is quantized as a whole. The largest is below 1 for a recipe that covers
    attention, MLP and experts: see :data:`LEAST_COVERED`.
    """
    if patterns is None:
        return None
    intended = [patterns.intention(f"model.layers.0.{place}") for place in _PLACES]
    formats = [one for one in intended if isinstance(one, Intention)]
    algorithms = [(one.algorithm, one.group) for one in formats if one.algorithm is not None]
    if not formats or len(algorithms) < len(formats):
        return None
    side = 4096
    bits = [bytes_of(algorithm, group, (side, side)) * 8 / side**2 for algorithm, group in algorithms]
    largest = 1 - LEAST_COVERED * (1 - max(bits) / source_bits) if len(formats) == len(_PLACES) else 1.0
    return min(bits) / source_bits, largest
