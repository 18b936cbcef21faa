"""A search as the configuration has it: its mistakes, and the policies by which its candidates are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from day0.plan.config import Search
from day0.plan.plan import BASELINE, PlannedSearch
from day0.records.policy import Policy, Thresholds
from day0.records.recipe import ResolvedRecipe
from day0.records.search import Budget
from day0.suite.disjoint import overlaps
from day0.suite.documents import declared_documents
from day0.suite.suites import Suite


def budget_of(search: Search) -> Budget:
    """The budget, with whether there is a screening."""
    return Budget(**search.budget.model_dump(), screened=search.screen is not None)


def final_policy(policy: Policy, search: Search) -> Policy:
    """The release's policy as the finalists are held to it: its chance of error is shared by all decisions.

    A release states the scores of all samples, so that a finalist's evaluation ends early only where it has lost.
    """
    stopping = "reject" if policy.early_stopping == "both" else policy.early_stopping
    return policy.model_copy(update={"decisions": search.budget.decisions, "early_stopping": stopping})


def screening_policy(policy: Policy, margin: float) -> Policy:
    """The policy of the screening: a part of the limits, and an end as soon as the answer is clear either way."""
    limits = policy.thresholds
    return policy.model_copy(
        update={
            "threshold": margin * policy.threshold,
            "thresholds": Thresholds(
                tiers={tier: margin * limit for tier, limit in limits.tiers.items()},
                tasks={task: margin * limit for task, limit in limits.tasks.items()},
            ),
            "require": {},
            "early_stopping": "both",
        }
    )


def find_mistakes(search: Search, suite: str, policy: Policy, suites: Mapping[str, Suite]) -> Iterator[tuple[str, str]]:
    """(key, sentence) of what is wrong with a search by itself and its suites.

    Args:
        search: as the configuration has it.
        suite: the deciding one.
        policy: of the release.
        suites: those that could be read.
    """
    budget = search.budget
    if policy.criterion == "point":
        yield (
            "criterion",
            "'point' accepts the best of several candidates by chance; a search needs suite or confident, which prove "
            "that nothing was lost",
        )
    if policy.min_speedup is not None:
        yield (
            "min_speedup",
            f"found {policy.min_speedup:g}; a search goes by scores, and would take a slow candidate for one that has "
            "lost; set it for a release of the winner's recipe instead, and null here",
        )
    if budget.decisions > budget.candidates:
        yield (
            "search.budget.decisions",
            f"found {budget.decisions}, more than the {budget.candidates} candidates; each decision makes the proof of "
            f"the others harder, so give {budget.candidates} at most",
        )
    if search.screen is None:
        return
    if budget.rungs < 2:
        yield (
            "search.budget.rungs",
            "found 1; a rung that screens needs one that decides after it, so that nothing could be accepted; give 2 "
            "or more, or remove 'screen'",
        )
    name = search.screen.suite
    if name == suite:
        yield (
            "search.screen.suite",
            f"{name!r} is the deciding suite; samples that chose a candidate cannot judge it, so give another suite",
        )
    elif name in suites and suite in suites:
        for problem in overlaps(suites[name], suite, suites[suite]):
            yield "search.screen.suite", problem


def is_base(recipe: ResolvedRecipe) -> bool:
    """Whether a search could go on from a recipe: one with fixed patterns, which `base` can name."""
    made_of_others = {"base", "sensitivity", "auto_quantize"} & recipe.definition.keys()
    is_search = "/auto_quantize/" in str(recipe.definition.get("modelopt_recipe"))
    return recipe.kind not in ("imported", "search") and not made_of_others and not is_search


def planned_samples(suite: Suite) -> int | None:
    """Samples of a suite, repeats counted; None where a task says neither how many it has nor how many it asks."""
    if any(task.samples is None and task.limit is None for task in suite.tasks.values()):
        return None
    return sum(len(declared_documents(task.model_dump())) * task.repeats for task in suite.tasks.values())


class Hours(NamedTuple):
    """GPU hours of a search at most, and of quantizing all its candidates and evaluating each beside a baseline."""

    at_most: float
    full: float


def search_hours(search: PlannedSearch, hours_of: Callable[..., float]) -> Hours:
    """Add up what a search may take.

    Args:
        search: as it is planned.
        hours_of: (candidate) for its quantization, (candidate, suite) for its evaluation; in GPU hours.
    """
    names, budget = list(search.recipes), search.budget

    def most(count: int, *suite: str) -> float:
        return sum(sorted((hours_of(name, *suite) for name in names), reverse=True)[:count])

    suites = [] if search.screen is None else [search.screen[0]]
    screened = sum(most(budget.candidates, suite) for suite in suites)
    baselines = sum(hours_of(BASELINE, suite) for suite in (*suites, search.suite))
    decided = most(min(budget.decisions, budget.candidates), search.suite)
    everything = len(names)
    full = most(everything) + most(everything, search.suite) + everything * hours_of(BASELINE, search.suite)
    return Hours(at_most=most(budget.candidates) + screened + decided + baselines, full=full)


def announcement(search: PlannedSearch, samples: Mapping[str, int | None], hours: Hours | None) -> Iterator[str]:
    """What a plan cannot show of a search: its jobs follow from what it finds; a sentence for each line.

    Args:
        search: as it is planned.
        samples: of each suite; None where a task does not declare its own.
        hours: what it may take; None where there is no GPU, or the model's size is not known yet.
    """
    names, budget = list(search.recipes), search.budget
    tried, decided = min(budget.candidates, len(names)), min(budget.decisions, budget.candidates, len(names))

    def asked(suite: str) -> str:
        return f"{suite} ({samples[suite]:,} samples)" if samples.get(suite) else suite

    yield f"search {search.name} of {search.model}: {len(names)} candidates: {', '.join(names)}"
    screening = "" if search.screen is None else f" and screened by {asked(search.screen[0])}"
    yield (
        f"  which ones are asked shows rung by rung; at most {tried} are quantized{screening}, and at most {decided} "
        f"decided on by {asked(search.suite)}"
    )
    if hours is not None:
        yield f"  that is about {hours.at_most:.3g} GPU hours at most; all of them in full would be {hours.full:.3g}"
