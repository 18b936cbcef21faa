"""How well a search finds the cheapest recipe that passes, by simulated models; rule and criterion are the real ones.

A synthetic model has candidates of known cost whose true losses fall with the cost, but not in order: each is off the
curve by chance, and their risk, by which the rule looks for them, is off the losses again. How much the whole model
loses, and how steeply, is drawn anew for each. Every evaluation draws the answers of its samples: ``propose`` and
``conclude`` decide what is asked, the criterion ``suite`` decides on each by the statistics of day0/statistics, and a
screening ends early as an evaluation does. Parts:

models     Models as they may be. Printed: how far the winner's cost is from that of the cheapest candidate that is
    truly within its limits and of the cheapest that the deciding suite would accept if all were asked, and the
    evaluations and samples that the search asked, against two full evaluations for each candidate of the space.
beyond     Every candidate truly loses two limits, or just its limit, on every task: how many searches have a winner.

Exit status: 0 where every goal holds, else 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from decision import LIMIT, Asked, tasks_of

from day0.records.failure_class import Decision, FailureClass
from day0.records.search import Budget, Candidate, Costs, Kind, MeanLoss, Outcome, Rung, Search
from day0.search.rule import conclude, propose
from day0.statistics.paired import Error, Moments, drop_interval, is_proven_regression, regression_p
from day0.statistics.pooled import pool
from day0.statistics.resolution import CONFIDENCE, shared_confidence
from day0.statistics.sequential import (
    BEYOND,
    BEYOND_SHARE,
    evidence_of_more,
    needed_to_reject,
)

CANDIDATES = 12
MARGIN = 0.5
SUITES: dict[Kind, str] = {"screen": "standard-screening", "final": "standard"}
LOOK = 100  # questions between two looks at the evidence
DISTANCE, FALSE_ACCEPT, AT_THE_LIMIT, SAMPLES = 0.1, 0.01, 0.05, 0.4


class Model(NamedTuple):
    """A synthetic model: its candidates, and what is true of each.

    ``losses``: mean true drop of each candidate in limits. ``by_task``: how a task's loss differs from the mean, a
    factor for each kind, candidate and task. ``disagreement``: share of answers that a candidate changes.
    """

    candidates: list[Candidate]
    losses: np.ndarray
    by_task: dict[Kind, np.ndarray]
    disagreement: np.ndarray

    def loss(self, place: int, kind: Kind) -> np.ndarray:
        """True drop of a candidate on each task, as fractions of the scale."""
        return self.losses[place] * LIMIT * self.by_task[kind][place]


def draw_model(random: np.random.Generator, tasks: dict[Kind, list[Asked]], losses: float | None = None) -> Model:
    """A model; ``losses``: every candidate loses as many limits on every task."""
    costs = np.sort(random.uniform(0.26, 0.55, CANDIDATES))
    place = (costs.max() - costs) / np.ptp(costs)
    curve = np.exp(random.uniform(np.log(0.3), np.log(8.0))) * (0.02 + place ** random.uniform(0.7, 2.5))
    true = curve * np.exp(random.normal(0, 0.5, CANDIDATES))
    risk = true * np.exp(random.normal(0, 0.5, CANDIDATES))
    spread = {kind: np.exp(random.normal(0, 0.3, (CANDIDATES, len(found)))) for kind, found in tasks.items()}
    by_task = {kind: found / found.mean(-1, keepdims=True) for kind, found in spread.items()}
    disagreement = np.minimum(0.12, random.uniform(0.01, 0.03) + 0.01 * true)
    if losses is not None:
        true, by_task = np.full(CANDIDATES, losses), {kind: np.ones_like(found) for kind, found in spread.items()}
    candidates = [
        Candidate(
            name=f"c{number:02}",
            cost=float(cost),
            risk=float(risk[number]),
            costs=Costs(size=float(cost), bits_per_weight=16 * float(cost), active_bytes=0, throughput=0),
        )
        for number, cost in enumerate(costs)
    ]
    return Model(candidates, true, by_task, disagreement)


def evaluate(
    model: Model, place: int, kind: Kind, tasks: Sequence[Asked], decisions: int, random: np.random.Generator
) -> Outcome:
    """One candidate on one suite: its answers drawn, and decided on by the criterion ``suite``.

    Of a screening the limits are a part, and it ends as soon as a task is shown to have lost more.
    """
    limit = LIMIT * (MARGIN if kind == "screen" else 1.0)
    moments, means, is_rejected = [], [], False
    for task, loss in zip(tasks, model.loss(place, kind), strict=True):
        rate = max(model.disagreement[place], loss)
        uniform = random.random(task.questions)
        drops = np.where(uniform < (rate + loss) / 2, 1.0, np.where(uniform < rate, -1.0, 0.0))
        if kind == "screen":
            end = _rejected_at(drops, limit, len(tasks))
            is_rejected = end is not None
            drops = drops[:end]
        lost, won, n = int((drops > 0).sum()), int((drops < 0).sum()), len(drops)
        moments.append(Moments(n, n, lost - won, lost + won, lost - won, n, lost + won))
        means.append((lost - won) / n)
        if is_rejected:
            break
    intervals = [drop_interval(one, 1.0) for one in moments]
    errors = [Error(one.centre, one.error, one.freedom) for one in intervals]
    confidence = shared_confidence(decisions) if kind == "final" else CONFIDENCE
    drop = np.array(means)
    found = pool(
        drop,
        np.array([float(error.error) for error in errors]),
        np.array([float(error.largest(confidence)) for error in errors]),
        np.array([float(error.loss_p()) for error in errors]),
        np.full(len(drop), limit),
        confidence,
    )
    beyond = bool(is_proven_regression(np.array([float(regression_p(one, limit)) for one in intervals]), confidence))
    decision, failure_class = Decision.ANOMALOUS, FailureClass.INSUFFICIENT_EVIDENCE
    if is_rejected or bool(found.is_regression):
        decision, failure_class = Decision.REGRESSION, None
    elif bool(found.is_accepted):
        decision, failure_class = Decision.ACCEPT, None
    mean, error = float(found.plain.drop), float(found.plain.error)
    return Outcome(
        name=model.candidates[place].name,
        kind=kind,
        decision=decision,
        failure_class=failure_class,
        worst_drop=float(drop.max() / limit),
        conclusive=decision is Decision.REGRESSION and (beyond or mean - 1.96 * error > found.plain.limit),
        samples_asked=sum(int(one.samples) for one in moments),
        loss=None
        if is_rejected
        else MeanLoss(drop=mean, low=mean - 1.96 * error, high=mean + 1.96 * error, limit=limit),
    )


def _rejected_at(drops: np.ndarray, limit: float, tasks: int) -> int | None:
    """After how many questions an evaluation ends since the task lost too much, or None; see sequential.rejects."""
    against_none = evidence_of_more(drops, 0.0, running=True)[LOOK - 1 :: LOOK]
    looks = np.arange(LOOK, len(drops) + 1, LOOK)
    hit = (against_none >= needed_to_reject(tasks)) & (drops.cumsum()[LOOK - 1 :: LOOK] / looks > limit)
    if not hit.any():
        return None
    hit &= evidence_of_more(drops, BEYOND_SHARE * limit, running=True)[LOOK - 1 :: LOOK] >= BEYOND
    return int(looks[hit.argmax()]) if hit.any() else None


class Searched(NamedTuple):
    """What one search did, beside what was true.

    Costs are None where there is no such candidate: ``passing`` is the cheapest whose true losses are within the
    limits, ``decided`` the cheapest that the deciding suite accepts where all candidates are asked.
    """

    failure_class: str | None
    winner: float | None
    winner_loss: float | None
    passing: float | None
    decided: float | None
    evaluations: int
    rungs: int
    share: float


def search_once(seed: int, budget: Budget, losses: float | None = None) -> Searched:
    """One search over one synthetic model."""
    random = np.random.default_rng(seed)
    tasks: dict[Kind, list[Asked]] = {kind: tasks_of(suite) for kind, suite in SUITES.items()}
    model = draw_model(random, tasks, losses)
    places = {one.name: place for place, one in enumerate(model.candidates)}
    outcomes: list[Outcome] = []
    rungs: list[Rung] = []
    while not rungs or not rungs[-1].is_end:
        rungs.append(propose(model.candidates, outcomes, budget, len(rungs)))
        outcomes += [
            evaluate(model, places[one.name], one.kind, tasks[one.kind], budget.decisions, random)
            for one in rungs[-1].asked
        ]
    samples: dict[Kind, int] = {kind: sum(task.questions for task in found) for kind, found in tasks.items()}
    found = conclude(model.candidates, outcomes, budget, rungs, "size", 1 - CONFIDENCE, samples)
    return _beside_the_truth(model, found, tasks["final"], budget.decisions, random)


def _beside_the_truth(
    model: Model, found: Search, tasks: Sequence[Asked], decisions: int, random: np.random.Generator
) -> Searched:
    costs = [one.cost for one in model.candidates]
    within = [cost for place, cost in enumerate(costs) if model.loss(place, "final").max() <= LIMIT]
    accepted = (
        cost
        for place, cost in enumerate(costs)
        if evaluate(model, place, "final", tasks, decisions, random).decision is Decision.ACCEPT
    )
    winner = next((place for place, one in enumerate(model.candidates) if one.name == found.winner), None)
    return Searched(
        failure_class=found.failure_class,
        winner=None if winner is None else costs[winner],
        winner_loss=None if winner is None else float(model.losses[winner]),
        passing=min(within, default=None),
        decided=next(accepted, None),
        evaluations=len(found.outcomes),
        rungs=sum(not rung.is_end for rung in found.rungs),
        share=found.samples.share or 0.0,
    )


def _run(count: int, budget: Budget, losses: float | None, jobs: int, first: int) -> list[Searched]:
    with ProcessPoolExecutor(jobs) as processes:
        seeds = range(first, first + count)
        return list(processes.map(search_once, seeds, itertools.repeat(budget), itertools.repeat(losses), chunksize=8))


def _verdict(name: str, value: float, goal: float) -> bool:
    print(f"  {name}: {value:.2%} (goal at most {goal:.0%}){'' if value <= goal else '  FAILS'}")
    return value <= goal


def measure_models(found: Sequence[Searched]) -> bool:
    """Print what the searches of plausible models found and cost, and say whether the goals hold."""
    won = [one for one in found if one.winner is not None]
    both = [(one.winner, one.passing) for one in won if one.winner is not None and one.passing is not None]
    distances = np.array([winner / passing - 1 for winner, passing in both])
    beside = np.array(
        [one.winner / one.decided - 1 for one in won if one.winner is not None and one.decided is not None]
    )
    could = [one for one in found if one.decided is not None]
    print(f"  ended: {len(won) / len(found):.1%} with a winner", end="")
    for name in sorted({one.failure_class for one in found if one.failure_class}):
        print(f", {sum(one.failure_class == name for one in found) / len(found):.1%} {name}", end="")
    missed = sum(one.winner is None for one in could) / max(1, len(could))
    print(f"\n  without a winner though the deciding suite accepts a candidate where all are asked: {missed:.1%}")
    print("  cost of the winner over that of the cheapest truly within its limits: ", end="")
    print(f"median {np.median(distances):+.1%}, mean {distances.mean():+.1%}")
    print(f"  evaluations {np.mean([one.evaluations for one in found]):.1f} of {2 * CANDIDATES}", end="")
    print(f", rungs {np.mean([one.rungs for one in found]):.1f}")
    holds = _verdict(
        "mean cost of the winner over the cheapest accepted where all are asked", float(beside.mean()), DISTANCE
    )
    wrong = sum(one.winner_loss is not None and one.winner_loss >= 2 for one in found) / len(found)
    holds &= _verdict("winners that truly lose two limits or more", wrong, FALSE_ACCEPT)
    share = float(np.mean([one.share for one in found]))
    alone = share * 2 * CANDIDATES / (CANDIDATES + 1)
    print(f"  samples asked, of one full evaluation of each candidate and of the baseline: {alone:.1%}")
    beyond = sum(one.share > SAMPLES for one in found) / len(found)
    print(f"  searches that ask more than {SAMPLES:.0%} of two full evaluations a candidate: {beyond:.1%}")
    return _verdict("samples asked, of two full evaluations a candidate", share, SAMPLES) and holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=400)
    parser.add_argument("--beyond", type=int, default=1000, help="models whose every candidate loses too much")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rungs", type=int, default=Budget().rungs)
    parser.add_argument("--decisions", type=int, default=Budget().decisions)
    arguments = parser.parse_args()
    start = time.perf_counter()
    budget = Budget(rungs=arguments.rungs, decisions=arguments.decisions)
    print(f"{arguments.models} models of {CANDIDATES} candidates, {budget}")
    holds = measure_models(_run(arguments.models, budget, None, arguments.jobs, arguments.seed))
    for losses, goal in ((2.0, FALSE_ACCEPT), (1.0, AT_THE_LIMIT)):
        found = _run(arguments.beyond, budget, losses, arguments.jobs, arguments.seed + 10**6)
        print(f"{arguments.beyond} models whose every candidate truly loses {losses:g} limits on every task")
        accepted = sum(one.winner is not None for one in found) / len(found)
        holds &= _verdict("searches that end with a winner", accepted, goal)
    print(f"{time.perf_counter() - start:.0f} s; {'every goal holds' if holds else 'a goal is missed'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
