"""Why the values of a quantized matrix are not the source's: a scale, the order of the codes, or other weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy

from day0.checkpoint.dequantize import Files, Matrix, Values
from day0.checkpoint.matrices import source_matrices
from day0.checkpoint.names import NUMBER
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.values import LEAST_COLUMNS, Pair, Part, Sums, read_part, read_source

# Parts whose cause is looked for, and matrices of the source that each is compared with at most.
EXAMINED, OTHERS = 32, 600
# Modules that are easily exchanged for one another.
_TWINS = (("gate_proj", "up_proj"), ("w1", "w3"), ("q_proj", "k_proj", "v_proj", "o_proj"), ("fc1", "fc2"))
_LEAST_COSINE = 0.5  # cosine below which two matrices have nothing in common; a sound one has 0.99
ALMOST_ALL = 0.9  # share of the matrices from which on it is the source that is another one


class Cause(NamedTuple):
    """What is wrong with a matrix and the probable cause, as the end of a sentence.

    ``is_unrelated``: its values have nothing to do with the source's, as far as is known.
    """

    sentence: str
    is_unrelated: bool = False


def causes_of(
    off: Sequence[Part], source: SourceWeights, scalars: Mapping[str, float], files: Files
) -> dict[str, Cause]:
    """For each module that is off its cause; it is looked for in the first :data:`EXAMINED`.

    The others count as unrelated by their cosine, where nearly all of the first were found to be.
    """
    found: dict[str, Cause] = {}
    further: dict[str, Sums] = {}
    for part in off:
        module = part.pair.module
        if module in found or module in further:
            continue
        if len(found) < EXAMINED:
            found[module] = _cause(part, source, scalars, files)
        else:
            further[module] = Sums.of(*read_part(part, files))
    are_unrelated = sum(cause.is_unrelated for cause in found.values()) >= ALMOST_ALL * len(found)
    for module, sums in further.items():
        sentence = f"differs from the source by {_percent(sums.error())}; its cause was not looked for"
        found[module] = Cause(sentence, are_unrelated and abs(_cosine(sums)) < _LEAST_COSINE)
    return found


def _cause(part: Part, source: SourceWeights, scalars: Mapping[str, float], files: Files) -> Cause:
    pair, first, count = part.pair, part.first, part.count
    held, before = (values.copy() for values in read_part(part, files))
    if not numpy.isfinite(held).all():
        return Cause(f"holds NaN or infinity in rows {first} to {first + count - 1}")
    rows = numpy.flatnonzero(Sums.of(held, before).is_off(pair.bounds.limit))
    some = ""
    if len(rows) < count == len(held) and pair.held.columns >= LEAST_COLUMNS:
        held, before = held[rows], before[rows]
        some = f"in {len(rows)} of {count} rows that were read, first row {first + int(rows[0])}, "
    else:
        rows = numpy.arange(count)
    sums = Sums.of(held, before)
    limit = pair.bounds.limit
    if not sums.held.any() and before.any():
        return Cause(f"{some}is zero where the source has values")
    factor = sums.factor()
    if _is_sound(held * numpy.float32(factor), before, limit):
        if some:
            return Cause(f"{some}holds the source's values times {1 / factor:.4g}: the scales of these rows are wrong")
        return Cause(_scale_sentence(pair, factor, scalars))
    error = f"{some}differs from the source by {_percent(sums.error())}, where {pair.kind} gives "
    error += f"{pair.bounds.typical:.1%}"
    for explanation, matrix in _other_orders(pair.held):
        other = matrix.read(files, first, count)[rows]
        if _is_sound(_scaled_like(other, before), before, limit):
            return Cause(f"{error}: {explanation}")
    if _is_scaled_by_rows(held, before, limit):
        return Cause(
            f"{error}: its scales are wrong, a row's by another factor than the next one's; its codes are sound"
        )
    for name, matrix in _other_places(pair, source):
        if _is_sound(held, read_source(matrix, part, files)[rows], limit):
            return Cause(f"{error}: it holds what the source has in {name}")
    cosine = _cosine(sums)
    if abs(cosine) < _LEAST_COSINE:
        what = "its values have nothing to do with the source's (re-initialised, or of another source model)"
        return Cause(f"{error}: {what}", is_unrelated=True)
    what = "its scales or its codes were changed, or its weights were trained further"
    return Cause(f"{error} (cosine {cosine:.3f}): {what}")


def _is_sound(held: Values, source: Values, limit: float) -> bool:
    sums = Sums.of(held, source)
    return bool(numpy.isfinite(sums.held).all()) and sums.error() <= limit


def _scaled_like(held: Values, source: Values) -> Values:
    factor = Sums.of(held, source).factor()
    return held * numpy.float32(factor) if math.isfinite(factor) else held


def _cosine(sums: Sums) -> float:
    left, right, both = (float(part.sum(dtype=numpy.float64)) for part in sums)
    return both / math.sqrt(left * right) if left > 0 and right > 0 else 0.0


def _percent(error: float) -> str:
    return f"{error:.0%}" if error < 100 else f"a factor of {error:.3g}"


def _scale_sentence(pair: Pair, factor: float, scalars: Mapping[str, float]) -> str:
    """What is wrong with a scale: the values are the source's but for a factor."""
    stem = pair.tensor.removesuffix("weight")
    names = [f"{stem}{part}" if stem != pair.tensor else f"{pair.tensor}_{part}" for part in _SCALES]
    name = next((name for name in names if name in scalars), None)
    if name is None:
        return f"holds the source's values times {1 / factor:.4g}: its scales are wrong"
    value = scalars[name]
    expected = value * factor
    sentence = f"holds the source's values times {1 / factor:.4g}: {name.rpartition('.')[2]} is {value:.4g} where "
    sentence += f"{expected:.4g} is expected"
    if value == 1.0:
        return f"{sentence}; a scale of 1.0 is what is left where none was computed"
    if math.isclose(value * expected, 1.0, rel_tol=0.2):
        return f"{sentence}, which is the inverse"
    return sentence


_SCALES = ("weight_scale_2", "weight_scale")


def _other_orders(held: Matrix) -> Iterator[tuple[str, Matrix]]:
    """The matrix with its codes in other orders, with what was done to them."""
    if held.packed:
        yield "the two 4-bit codes of each byte are exchanged", replace(held, is_swapped=True)
    if held.packed == "columns":
        yield "its codes are packed by halves of a row, not by neighbours", replace(held, is_halved=True)


def _is_scaled_by_rows(held: Values, source: Values, limit: float) -> bool:
    """Whether a factor for each row makes the values the source's."""
    sums = Sums.of(held, source)
    if len(sums.held) != len(held):
        return False
    with numpy.errstate(divide="ignore", invalid="ignore"):
        factors = numpy.nan_to_num(sums.both / sums.held)
    return not Sums.of(held * factors[:, None], source).is_off(limit).any()


def _other_places(pair: Pair, source: SourceWeights) -> Iterator[tuple[str, Matrix]]:
    """Matrices of the source of the same shape that may have been taken for this one: twins, experts, other layers."""
    seen = {pair.module}
    number = 0
    for name in _candidates(pair.module, source):
        if name in seen:
            continue
        seen.add(name)
        found = source_matrices(name, [pair.held], source)
        if found is not None:
            yield name, found[0]
            number += 1
            if number >= OTHERS:
                return


def _candidates(module: str, source: SourceWeights) -> Iterator[str]:
    parent, _, leaf = module.rpartition(".")
    for twins in _TWINS:
        if leaf in twins:
            yield from (f"{parent}.{twin}" for twin in twins)
    numbers = list(NUMBER.finditer(module))
    for found in reversed(numbers):
        for other in range(_count(module, found, source)):
            yield f"{module[: found.start()]}{other}{module[found.end() :]}"
    for found in reversed(numbers):
        for other in range(_count(module, found, source)):
            moved = f"{module[: found.start()]}{other}{module[found.end() :]}"
            parent = moved.rpartition(".")[0]
            yield from (f"{parent}.{twin}" for twins in _TWINS if leaf in twins for twin in twins)


def _count(module: str, found: re.Match[str], source: SourceWeights) -> int:
    """One more than the largest number that the source has in a place of a module's name."""
    head = module[: found.start()]
    numbers = [name[len(head) :].partition(".")[0] for name in source.logical if name.startswith(head)]
    if ".experts." in module and head.endswith(".experts.") and not numbers:
        shapes = [tensor.shape for name, tensor in source.logical.items() if name.startswith(head[:-1])]
        return max((shape[0] for shape in shapes if len(shape) == 3), default=0)
    return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1
