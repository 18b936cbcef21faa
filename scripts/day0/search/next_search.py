"""After a plain release that lost: what to protect first, and the search that goes on from its recipe.

What loses most is known where the model's sensitivity was measured; else the families that the checkpoint holds in the
fewest bits lead. Tasks say how much was lost and not where: of two things alone they are a hint, the KV cache, which
weighs most on long answers, and the kind of text that a sensitivity is best measured with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from day0.decision.verdict import ReleaseRequest
from day0.recipe.failures import Unsupported
from day0.recipe.forms import FAMILY_NAMES
from day0.recipe.modules import family_of
from day0.recipe.sensitivity import RANKED_BY, most_sensitive
from day0.records.comparison import Task
from day0.records.failure_class import Decision
from day0.records.policy import BLOCKING_TIERS, PolicySettings
from day0.records.record import Record
from day0.records.sensitivity import LayerGroup, Sensitivity
from day0.records.validation import FamilyCoverage
from day0.records.verdict import Verdict
from day0.statistics.resolution import CONCLUSIVE

FILE = "next_search.yaml"  # beside the verdict: numbers of --config arrive as texts, so that it cannot carry a search
FP8_BITS = 8.0
SENSITIVE_GROUPS = 4
DECISIONS = 4


@dataclass(frozen=True)
class NextSearch:
    """What to do after a loss: sentences for the next action, and what the search's file holds; None: there is none."""

    sentences: str
    configuration: dict[str, Any] | None


class _Families(Record):
    """What is read of a validation."""

    model_config = ConfigDict(extra="ignore")

    families: dict[str, FamilyCoverage] = Field({})


def search_command(release: ReleaseRequest) -> str:
    """The command of the search that goes on from a release."""
    return f"snakemake release --configfile results/{release.model}/{release.name}/{FILE}"


def next_search(
    release: ReleaseRequest,
    verdict: Verdict,
    validation: Mapping[str, Any],
    sensitivity: Sensitivity | None = None,
    kv_format: str | None = None,
) -> NextSearch | None:
    """What to protect, and to search, after a release that is proven to have lost; None for any other.

    Args:
        release: that was decided on.
        verdict: on it.
        validation: of its checkpoint, as JSON holds it.
        sensitivity: of its model, where it was measured; one that failed or is of another model counts as none.
        kv_format: number format that the recipe gives the KV cache; None: it leaves that alone, or cannot tell.
    """
    is_loss = verdict.decision is Decision.REGRESSION and verdict.failure_class is None
    if not is_loss or verdict.evidence_strength != CONCLUSIVE:
        return None
    bits = _bits_of_families(validation)
    groups = _ranked_groups(sensitivity, validation.get("source_digest"), bits)
    losses = _losses(groups)
    sentences = _protection_by_loss(losses, groups) if losses else _protection_by_bits(bits)
    sentences += _of_tasks(verdict.tasks, kv_format)
    if not release.may_be_searched or not bits:
        return NextSearch(sentences, None)
    command = search_command(release)
    sentences += f" To search on from here (after a --configfile of your own, if you gave one): {command}"
    return NextSearch(sentences, _configuration(release, bits, losses, groups))


def _bits_of_families(validation: Mapping[str, Any]) -> dict[str, float]:
    """Bits of a weight of each family of layers that the checkpoint holds quantized, by the names of recipes."""
    try:
        families = _Families.model_validate(validation).families
    except ValidationError:
        return {}
    return {name.lower(): f.bits_per_weight for name, f in families.items() if f.quantized and f.bits_per_weight}


def _ranked_groups(sensitivity: Sensitivity | None, source_digest: Any, bits: Mapping[str, float]) -> list[LayerGroup]:
    """Groups of the families that are quantized, the most sensitive first; none where nothing was measured of them."""
    if sensitivity is None or source_digest not in (None, sensitivity.source_digest):
        return []
    try:
        return [group for group in most_sensitive(sensitivity) if _family(group) in bits]
    except Unsupported:
        return []


def _family(group: LayerGroup) -> str:
    return family_of(group.modules[0]).lower() if group.modules else ""


def _losses(groups: Sequence[LayerGroup]) -> dict[str, float]:
    """Share of the measured loss by family, the largest first; empty where nothing is lost."""
    losses: dict[str, float] = {}
    for group in groups:
        losses[_family(group)] = losses.get(_family(group), 0.0) + max(0.0, group.scores[RANKED_BY])
    total = sum(losses.values())
    ordered = sorted(losses, key=lambda name: (-losses[name], name))
    return {name: losses[name] / total for name in ordered} if total > 0 else {}


def _protection_by_loss(losses: Mapping[str, float], groups: Sequence[LayerGroup]) -> str:
    shares = ", ".join(f"{name} ({share:.0%})" for name, share in losses.items())
    layers = ", ".join(group.modules[0] for group in groups[:SENSITIVE_GROUPS])
    return (
        f" Protect first what loses most by the measured sensitivity, in {RANKED_BY}: {shares}; "
        f"the most sensitive layers, each with those fused with it: {layers}."
    )


def _protection_by_bits(bits: Mapping[str, float]) -> str:
    """The families of layers to protect first: those that the checkpoint holds in the fewest bits."""
    if not bits:
        return ""
    fewest = min(bits.values())
    first = sorted(name for name, held in bits.items() if held <= fewest + 0.5)
    rest = sorted(f"{name} ({held:.3g})" for name, held in bits.items() if name not in first)
    sentence = f" Protect first what is held in the fewest bits ({fewest:.3g} per weight): {', '.join(first)}"
    return f"{sentence}; then {', '.join(rest)}." if rest else f"{sentence}."


def _of_tasks(tasks: Mapping[str, Task], kv_format: str | None) -> str:
    """What the tasks that lost can tell of where it was lost, and no more."""
    blocking = {name: task for name, task in tasks.items() if task.tier in BLOCKING_TIERS}
    lost = [name for name, task in blocking.items() if task.within is False]
    kept = [name for name in blocking if name not in lost]
    found = ""
    if lost and kept:
        found += (
            f" Of {len(blocking)} tasks {', '.join(lost)} lost. In which layers a task does not tell; a sensitivity "
            "measured with calibration texts of its kind does."
        )
    elif len(lost) > 1:
        found += f" All {len(lost)} tasks lost, so that no kind of text stands out."
    if kv_format is None:
        return found
    longest = ""
    answers = {name: task.tokens.baseline for name, task in blocking.items() if task.tokens is not None}
    lengths = {name: tokens for name, tokens in answers.items() if tokens is not None}
    if lost and kept and lengths.keys() == blocking.keys():
        shortest_lost, longest_kept = min(lengths[name] for name in lost), max(lengths[name] for name in kept)
        if shortest_lost > longest_kept:
            longest = (
                f" and the tasks that lost have the longest answers ({shortest_lost:.4g} tokens or more on average, "
                f"the others {longest_kept:.4g} at most), on which it weighs most"
            )
    return (
        f"{found} The recipe also holds the KV cache in {kv_format}{longest or ', which a search leaves as it is'}: "
        f"{'first ' if longest else ''}try it with kv_cache: none."
    )


def _configuration(
    release: ReleaseRequest, bits: Mapping[str, float], losses: Mapping[str, float], groups: Sequence[LayerGroup]
) -> dict[str, Any]:
    """A release that searches on from a recipe, held to what the recipe was held to.

    Its space: the recipe; the recipe with each family of layers protected, those that lose most first; with its most
    sensitive groups of layers protected, for which the sensitivity is measured where it was not; and FP8.
    """
    by, limit = ("fp8", FP8_BITS) if min(bits.values()) < FP8_BITS else ("bf16", float("inf"))
    families = [name for name, held in bits.items() if held < limit and name in FAMILY_NAMES]
    families.sort(key=lambda name: (-losses.get(name, 0.0), bits[name], name))
    count = min(SENSITIVE_GROUPS, len(groups)) if groups else SENSITIVE_GROUPS
    protected: list[tuple[str, Any]] = [(name, name) for name in families]
    protected.append((f"{count}-groups", {"groups": count}))
    space: list[Any] = [release.recipe]
    for name, what in protected:
        recipe = {"base": release.recipe, "protect": [what], "by": by}
        space.append({"name": f"{release.candidate}-{name}-{by}", "recipe": recipe})
    if by == "fp8":
        space.append("fp8")
    limits = release.policy.model_dump(mode="json", include=set(PolicySettings.model_fields))
    held_to = {key: value for key, value in limits.items() if value is not None and value != {}}
    if release.policy.criterion == "point":
        held_to["criterion"] = "suite"  # point accepts the best of several by chance
    search = {
        "objective": "size",
        "space": space,
        "budget": {"candidates": len(space), "decisions": min(len(space), DECISIONS)},
    }
    entry = {"model": release.model, "name": f"{release.name}-search", "suite": release.suite, **held_to}
    return {"releases": [entry | {"search": search}]}
