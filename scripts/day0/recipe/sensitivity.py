"""What follows from a model's measured sensitivity: a format for each group of layers, and the most sensitive groups.

The choice is the one that ModelOpt 0.47.0 makes by KL divergence (algorithms.py:1860): the largest loss of any group is
made as small as the bits allow, each group gets its cheapest format that loses no more. ModelOpt halves an interval a
hundred times, ends on either side of the target, and its re-solve does not say on which; here the threshold is one of
the scores themselves, so that the bits are kept to wherever they can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from day0.base.numbers import mapping_or_empty
from day0.recipe.failures import Unsupported
from day0.recipe.formats import FULL_BITS, LayerFormat
from day0.recipe.forms import BySensitivity
from day0.recipe.modules import family_of, patterns_of
from day0.records.failure_class import FailureClass
from day0.records.sensitivity import LayerGroup, Sensitivity

# The most sensitive groups are those that lose most in this format, whichever the recipe is that they are protected in.
RANKED_BY = "nvfp4"
# Measured for every model of which anything is: a recipe that is added later then changes no score of the others.
ALWAYS_MEASURED = ("fp8", "nvfp4", "w4a16_nvfp4")


class Choice(NamedTuple):
    """Formats of the groups that are chosen for, None: 16 bits; and the bits of a weight on average over them."""

    formats: list[tuple[LayerGroup, str | None]]
    bits: float


def formats_to_measure(definition: Mapping[str, Any]) -> list[str]:
    """Presets whose scores a recipe needs of a sensitivity, by its resolved definition; none where it needs none."""
    if definition.get("sensitivity") is not None:
        return sorted(definition["sensitivity"]["formats"])
    if any(mapping_or_empty(item).get("groups") for item in definition.get("protect") or []):
        return [RANKED_BY]
    return []


def choose_formats(sensitivity: Sensitivity, wanted: BySensitivity) -> Choice:
    """Choose a format for each group so that the weights take the wanted bits at most.

    Raises:
        Unsupported: the formats were not measured, or even the smallest of them take more bits.
    """
    _check_measured(sensitivity, wanted.formats)
    groups = [group for group in sensitivity.groups if wanted.lm_head or not _is_head(group)]
    if wanted.lm_head and not any(map(_is_head, groups)):
        raise Unsupported(
            "sensitivity.lm_head: the model has no lm_head of its own to choose a format for; remove it",
            FailureClass.USER_CONFIG_ERROR,
        )
    total = sum(group.weights for group in groups)
    if not total:
        raise Unsupported("sensitivity.json holds no layer that a format can be chosen for")
    scores = sorted({group.scores[name] for group in groups for name in wanted.formats})
    choice = Choice([], FULL_BITS)
    for threshold in (float("-inf"), *scores):
        choice = _at_most(threshold, groups, wanted.formats, sensitivity.formats, total)
        if choice.bits <= wanted.bits:
            return choice
    raise Unsupported(
        f"sensitivity.bits: {wanted.bits:g} cannot be reached: with every layer in its smallest format of "
        f"{', '.join(wanted.formats)} the weights take {choice.bits:.2f} bits; give more bits, or a smaller format",
        FailureClass.USER_CONFIG_ERROR,
    )


def _at_most(
    threshold: float, groups: Sequence[LayerGroup], names: Sequence[str], bits: Mapping[str, float], total: int
) -> Choice:
    chosen: list[tuple[LayerGroup, str | None]] = []
    taken = 0.0
    for group in groups:
        allowed = [name for name in names if group.scores[name] <= threshold]
        name = min(allowed, key=lambda one: (bits[one], group.scores[one], one), default=None)
        chosen.append((group, name))
        taken += group.weights * (bits[name] if name is not None else FULL_BITS)
    return Choice(chosen, taken / total)


def entries_of_choice(
    choice: Choice, sensitivity: Sensitivity, formats: Mapping[str, LayerFormat]
) -> list[dict[str, Any]]:
    """The ``quant_cfg`` that gives each group its chosen format, and nothing to all else.

    Args:
        choice: of :func:`choose_formats`.
        sensitivity: that it was made by.
        formats: by preset.
    """
    of_model = [name for group in sensitivity.groups for name in group.quantizers]
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for group, name in choice.formats:
        if name is not None:
            entries += formats[name].entries(patterns_of(group.quantizers, of_model))
    return entries


def most_sensitive(sensitivity: Sensitivity) -> list[LayerGroup]:
    """The groups by what they lose in NVFP4, the most first; lm_head is not among them.

    Raises:
        Unsupported: the format was not measured.
    """
    _check_measured(sensitivity, [RANKED_BY])
    groups = [group for group in sensitivity.groups if not _is_head(group)]
    return sorted(groups, key=lambda group: -group.scores[RANKED_BY])


def _is_head(group: LayerGroup) -> bool:
    return any(family_of(module) == "lm_head" for module in group.modules)


def _check_measured(sensitivity: Sensitivity, names: Sequence[str]) -> None:
    if sensitivity.status == "failed":
        assert sensitivity.failure_class is not None
        raise Unsupported(f"the sensitivity could not be measured: {sensitivity.detail}", sensitivity.failure_class)
    missing = [name for name in names if name not in sensitivity.formats]
    if missing:
        raise Unsupported(
            f"the sensitivity was measured for {', '.join(sensitivity.formats) or 'no format'}, not for "
            f"{', '.join(missing)}; measure it anew with these formats",
            FailureClass.USER_CONFIG_ERROR,
        )
