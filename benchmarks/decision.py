"""How often the decision is wrong, by simulated releases and by real runs; the statistics are the production functions.

Three parts, each against its bounds (``--part`` runs one alone). Exit status: 0 where every bound holds, else 1.

intervals  Each cell draws releases of n samples whose scores are 0 or 1: the baseline is right with the given accuracy,
    a share of the samples (disagreement) changes its score, and the true drop is losses less wins. Where questions are
    repeated or grouped, a cluster is of one mind (all its samples change alike) with the given probability, else each
    sample changes by itself. Coverage: the nominal 95 % interval holds the true drop in at least 94 % of releases, in
    every cell but those where fewer than three questions change in all of their repeats: none may be seen then, and
    the interval is as narrow as the seen answers are alike ("unseen", printed without a bound). False alarm: a lossless
    candidate is called REGRESSION by `confident` in at most 5 %, with one task and with ten. Gain: a lossless candidate
    is held up for a gain above 5 % of the scale in at most 5 %; and a true gain of 15 % of the scale on 198 samples or
    more is let through in at most 5 %.

suites     Releases of whole suites, as configured and with half of their questions, by every criterion and by the rule
    of NeMo Evaluator's gate (src/nemo_evaluator/engine/gate.py at ac66aff5: a t-interval of the paired drop per task,
    all within the limit or one beyond). Greedy tasks: a share of the answers differs. Sampled tasks: a question is
    answered right with a chance of its own, drawn from a beta distribution; ``spread`` is its two parameters' sum, so
    that 0.5 is nearly all-or-nothing and 3 is even. A loss lowers all chances in proportion ("even") or those of a few
    questions ("few"), by just so much on the questions asked; "moved" is a candidate that redraws the chances of a
    tenth of the questions and loses nothing over all questions like them, though these may score less.

runs       Real runs that ask each question many times (--runs FOLDER, written by the evaluate stage): their repeats are
    dealt into evaluations of the same model, the first of which is the baseline of the others.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from day0.base.artefacts import read_json_lines, read_yaml
from day0.decision.comparability import Run
from day0.decision.comparison import ANOMALOUS_GAIN, compare_runs, is_chance
from day0.records.policy import BLOCKING_TIERS
from day0.statistics.paired import (
    CONFIDENCE,
    LEAST_REPEATS,
    Error,
    Moments,
    cluster_moments,
    drop_interval,
    is_proven_regression,
    mcnemar_p,
    regression_p,
    repeat_error,
)
from day0.statistics.pooled import pool
from day0.suite.suites import load_suite

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.01
COVERAGE, FALSE_ALARM, MISSED_GAIN = 0.94, 0.05, 0.05
SEEN = 2.9  # questions whose repeats all change, on average; of 3, none is seen in 5 % of releases
BLOCK = 2_000_000  # cluster sums held at once


class Cell(NamedTuple):
    """What the releases of a cell have in common; all rates are per sample."""

    sizes: tuple[int, ...]  # of the clusters; one entry stands for clusters of one size
    clusters: int
    accuracy: float
    disagreement: float
    drop: float
    one_mind: float = 0.0
    together: bool = False  # a cluster holds questions on one passage, else the repeats of one question

    @property
    def is_covered(self) -> bool:
        """Whether the coverage is bounded: of few questions that change in all their repeats, none may be seen."""
        return self.together or not self.one_mind or self.clusters * self.one_mind * self.disagreement >= SEEN

    @property
    def samples(self) -> int:
        return int(self.cluster_sizes().sum())

    def cluster_sizes(self) -> np.ndarray:
        return np.resize(np.array(self.sizes), self.clusters)

    def is_possible(self) -> bool:
        """Whether a baseline of this accuracy can lose and win so much."""
        losses, wins = (self.disagreement + self.drop) / 2, (self.disagreement - self.drop) / 2
        return 0 <= wins <= 1 - self.accuracy + 1e-12 and 0 <= losses <= self.accuracy + 1e-12


def draw(cell: Cell, releases: int, random: np.random.Generator) -> Iterator[tuple[Moments, np.ndarray, np.ndarray]]:
    """Moments, losses and wins of simulated releases, in blocks; arrays of shape (releases of the block,)."""
    losses, wins = (cell.disagreement + cell.drop) / 2, (cell.disagreement - cell.drop) / 2
    rates = [losses, wins, 1 - losses - wins]
    sizes = cell.cluster_sizes()
    if sizes.max() == 1:
        # Of samples that stand for themselves only the counts matter; the sums of the clusters are -1, 0 and 1.
        counts = random.multinomial(cell.samples, rates, releases)
        lost, won = counts[:, 0], counts[:, 1]
        n = cell.samples
        yield Moments(n, n, lost - won, lost + won, lost - won, n, lost + won), lost, won
        return
    left = releases
    while left:
        block = min(left, max(1, BLOCK // len(sizes)))
        left -= block
        each = random.multinomial(np.broadcast_to(sizes, (block, len(sizes))), rates)
        together = random.multinomial(1, rates, (block, len(sizes))) * sizes[:, None]
        counts = np.where(random.random((block, len(sizes), 1)) < cell.one_mind, together, each)
        lost, won = counts[..., 0], counts[..., 1]
        yield cluster_moments(lost - won, sizes), lost.sum(1), won.sum(1)


def measure(cell: Cell, releases: int, seed: int) -> dict[str, float]:
    """Shares of a cell's releases: covered, and called REGRESSION and ACCEPT by the intervals of one task."""
    random = np.random.default_rng(seed)
    covered = regressed = accepted = 0
    for moments, _, _ in draw(cell, releases, random):
        interval = drop_interval(moments, 1.0, together=cell.together)
        covered += int(((interval.low <= cell.drop + 1e-12) & (cell.drop - 1e-12 <= interval.high)).sum())
        regressed += int(is_proven_regression(regression_p(interval, LIMIT)[:, None]).sum())
        accepted += int((interval.high <= LIMIT).sum())
    return {
        name: count / releases
        for name, count in (("covered", covered), ("regressed", regressed), ("accepted", accepted))
    }


def measure_family(cell: Cell, tasks: int, releases: int, seed: int) -> float:
    """Share of releases of several such tasks, all lossless, that are called REGRESSION."""
    random = np.random.default_rng(seed)
    p_values = [
        np.concatenate(
            [
                regression_p(drop_interval(moments, 1.0, together=cell.together), LIMIT)
                for moments, _, _ in draw(cell, releases, random)
            ]
        )
        for _ in range(tasks)
    ]
    return float(is_proven_regression(np.stack(p_values, axis=-1)).mean())


def measure_gain(cell: Cell, releases: int, seed: int) -> float:
    """Share of releases held up for their gain."""
    held = 0
    for moments, losses, wins in draw(cell, releases, np.random.default_rng(seed)):
        interval = drop_interval(moments, 1.0)
        suspect = (wins - losses) / cell.samples > ANOMALOUS_GAIN + 1e-9
        for place in np.flatnonzero(suspect):
            bounds = [float(interval.low[place]), float(interval.high[place])]
            p = mcnemar_p(int(wins[place]), int(losses[place]))
            held += not is_chance(bounds, p, CONFIDENCE)
    return held / releases


def grid() -> list[Cell]:
    """The cells of coverage and false alarm; a lossless candidate is a cell whose drop is zero."""
    shapes = [((1,), n, 0.0, False) for n in (30, 100, 198, 500, 1319, 5000)]
    shapes += [((16,), 198, share, False) for share in (0.0, 0.5, 1.0)]
    shapes += [((64,), 30, share, False) for share in (0.0, 0.5, 1.0)]
    shapes += [((1, 2, 3, 5, 14), 100, share, True) for share in (0.0, 0.5, 1.0)]
    shapes += [((40,), 14, share, True) for share in (0.0, 1.0)]
    cells = []
    for (sizes, clusters, share, together), accuracy, disagreement, part in itertools.product(
        shapes, (0.1, 0.5, 0.95), (0.002, 0.01, 0.03, 0.1, 0.2), (0.0, 0.5, 1.0)
    ):
        cells.append(Cell(sizes, clusters, accuracy, disagreement, part * disagreement, share, together))
    return [cell for cell in cells if cell.is_possible()]


GAIN_SAMPLES = (20, 50, 100, 198, 500, 1319)


def measure_intervals(cells: list[Cell], releases: int, jobs: int) -> bool:
    """Print the tables of the intervals, and say whether every bound holds."""
    start = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        found = list(pool.map(measure, cells, itertools.repeat(releases), range(len(cells)), chunksize=4))
        lossless = [cell for cell in cells if cell.drop == 0]
        families = list(
            pool.map(measure_family, lossless, itertools.repeat(10), itertools.repeat(releases), range(len(lossless)))
        )
        gains = [
            Cell((1,), n, 0.4, max(rate, gain), -gain)
            for n, rate, gain in itertools.product(GAIN_SAMPLES, (0.05, 0.15, 0.3), (0.0, 0.15))
        ]
        held = list(pool.map(measure_gain, gains, itertools.repeat(releases), range(len(gains))))
    print(f"{len(cells)} cells of {releases:,} releases, {time.perf_counter() - start:.0f} s\n")
    print(
        f"{'samples':>8}{'clusters':>9}{'one mind':>9}{'cells':>6}  {'coverage':>17}{'unseen':>8}"
        f"  {'false alarm':>12}  {'of ten tasks':>12}"
    )
    print(f"{'':>32}  {'lowest':>8} {'mean':>8}{'lowest':>8}  {'highest':>12}  {'highest':>12}")
    holds = True
    family_of = dict(zip(lossless, families, strict=True))
    for key, group in itertools.groupby(
        zip(cells, found, strict=True), key=lambda pair: (pair[0].samples, pair[0].clusters, pair[0].one_mind)
    ):
        rows = list(group)
        covered = [result["covered"] for cell, result in rows if cell.is_covered]
        unseen = [result["covered"] for cell, result in rows if not cell.is_covered]
        alarms = [result["regressed"] for cell, result in rows if cell.drop == 0]
        ten = [family_of[cell] for cell, _ in rows if cell.drop == 0]
        good = min(covered) >= COVERAGE and max(alarms) <= FALSE_ALARM and max(ten) <= FALSE_ALARM
        holds &= good
        print(
            f"{key[0]:>8,}{key[1]:>9,}{key[2]:>9.1f}{len(rows):>6}  {min(covered):>8.2%} {np.mean(covered):>8.2%}"
            f"{format(min(unseen), '8.2%') if unseen else '':>8}"
            f"  {max(alarms):>12.2%}  {max(ten):>12.2%}{'' if good else '  FAILS'}"
        )
    worst = min(
        (pair for pair in zip(found, cells, strict=True) if pair[1].is_covered), key=lambda pair: pair[0]["covered"]
    )
    print(f"\nlowest coverage with a bound {worst[0]['covered']:.2%}: {worst[1]}")
    print(f"\n{'samples':>8}{'changed':>9}  {'held up, no true gain':>22}  {'let through, gain of 15 %':>26}")
    for place in range(0, len(gains), 2):
        none, real = held[place], 1 - held[place + 1]
        enough = gains[place].samples >= 198
        good = none <= FALSE_ALARM and (not enough or real <= MISSED_GAIN)
        holds &= good
        print(
            f"{gains[place].samples:>8,}{gains[place].disagreement:>9.0%}  {none:>22.2%}  {real:>26.2%}"
            f"{'' if good else '  FAILS'}"
        )
    return holds


# --- suites ---------------------------------------------------------------------------------------------------------

# Questions of tasks whose suite does not say so; counts of the data sets' cards.
QUESTIONS = {"hle": 2158, "scicode": 338, "ifbench": 300, "omniscience": 600, "livecodebench": 315, "critpt": 71}
ACCURACY = {"hle": 0.12, "critpt": 0.1, "scicode": 0.35, "ifbench": 0.45, "aalcr": 0.5, "mmlu-pro": 0.82}
USUAL_ACCURACY = 0.65
CRITERIA = ("suite", "point", "confident", "gate")


class Asked(NamedTuple):
    """A task as it is asked; greedy: nothing but the questions is chance."""

    name: str
    questions: int
    repeats: int
    accuracy: float


class Truth(NamedTuple):
    """What is true of the candidate: the loss of each task, in limits, and how it changes the answers."""

    label: str
    losses: tuple[float, ...]
    kind: str = "even"


class Evidence(NamedTuple):
    """What the criteria read of one task in many releases, shape (releases,)."""

    drop: Any
    interval: Any
    error: Error
    gate: tuple[Any, Any]  # NeMo Evaluator's interval


def tasks_of(name: str, part: float = 1.0) -> list[Asked]:
    """The blocking tasks of a suite as it is configured, with a part of its questions."""
    tasks = []
    for task, asked in load_suite(name, ROOT / "config" / "suites").tasks.items():
        if asked.tier not in BLOCKING_TIERS:
            continue
        questions = min(asked.samples or QUESTIONS.get(task, 500), asked.limit or 10**9)
        tasks.append(Asked(task, max(2, round(questions * part)), asked.repeats, ACCURACY.get(task, USUAL_ACCURACY)))
    return tasks


def answer_greedily(
    task: Asked, releases: int, loss: float, disagreement: float, random: np.random.Generator
) -> Evidence:
    """A task without sampling: each answer differs by itself."""
    rate = max(disagreement, loss)
    lost, won, _ = random.multinomial(task.questions, [(rate + loss) / 2, (rate - loss) / 2, 1 - rate], releases).T
    return _evidence_of_single_answers(lost, won, task.questions)


def _evidence_of_single_answers(lost: Any, won: Any, questions: int) -> Evidence:
    moments = Moments(questions, questions, lost - won, lost + won, lost - won, questions, lost + won)
    interval = drop_interval(moments, 1.0)
    drop = (lost - won) / questions
    return Evidence(
        drop,
        interval,
        Error(interval.centre, interval.error, interval.freedom),
        _gate(drop, (lost + won) / questions, questions),
    )


def answer_by_sampling(
    task: Asked, releases: int, loss: float, kind: str, spread: float, random: np.random.Generator
) -> Evidence:
    """A sampled task: each question is answered right with a chance of its own."""
    first, second = task.accuracy * spread, (1 - task.accuracy) * spread
    if task.repeats == 1:
        # Questions are alike, so only the chances of a loss and of a win matter, by the moments of the distribution.
        square = task.accuracy**2 + task.accuracy * (1 - task.accuracy) / (spread + 1)
        kept = 1 - loss / task.accuracy
        if kind == "moved":
            square = 0.9 * square + 0.1 * task.accuracy**2
        lost_share, won_share = task.accuracy - kept * square, kept * (task.accuracy - square)
        lost, won, _ = random.multinomial(
            task.questions, [lost_share, won_share, 1 - lost_share - won_share], releases
        ).T
        return _evidence_of_single_answers(lost, won, task.questions)
    chances = random.beta(first, second, (releases, task.questions))
    changed = chances
    if kind == "moved":
        moved = random.random(chances.shape) < 0.1
        changed = np.where(moved, random.beta(first, second, chances.shape), chances)
    elif loss:
        changed = lower(chances, loss, kind, random)
    right = [random.binomial(task.repeats, side) for side in (chances, changed)]
    sums = right[0] - right[1]
    samples = task.questions * task.repeats
    interval = drop_interval(cluster_moments(sums, np.full(task.questions, task.repeats)), 1.0)
    drop = sums.sum(-1) / samples
    error = Error(interval.centre, interval.error, interval.freedom)
    if task.repeats >= LEAST_REPEATS:
        # Repeats times the sample variance of scores of 0 and 1, of which so many are 1.
        variances = [counts * (task.repeats - counts) / (task.repeats - 1) for counts in right]
        squares = sum((values**2 / (task.repeats - 1)).sum(-1) for values in variances)
        error = repeat_error(drop, sum(values.sum(-1) for values in variances), squares, samples, 1.0)
    means = sums / task.repeats
    return Evidence(drop, interval, error, _gate(drop, (means**2).mean(-1), task.questions))


def lower(chances: np.ndarray, loss: float, kind: str, random: np.random.Generator) -> np.ndarray:
    """The chances of right answers, their mean over the questions lowered by the loss, or to 0 where they are less.

    A few questions ("few") are drawn until they make up twice the loss, not each by itself: of 30 questions that would
    often leave less than the loss to lose, and a candidate that lost nothing would count as accepted wrongly.

    Args:
        chances: shape (releases, questions).
        loss: of the score, 0 to 1.
        kind: "even" or "few".
    """
    at_stake = chances
    if kind == "few":
        order = random.permuted(np.broadcast_to(np.arange(chances.shape[-1]), chances.shape), axis=-1)
        drawn = np.take_along_axis(chances, order, -1)
        before = drawn.cumsum(-1) - drawn
        at_stake = np.zeros_like(chances)
        np.put_along_axis(at_stake, order, np.where(before < 2 * loss * chances.shape[-1], drawn, 0.0), -1)
    mean = np.maximum(at_stake.mean(-1, keepdims=True), 1e-12)
    return chances - at_stake * np.minimum(1.0, loss / mean)


def _gate(drop: Any, mean_square: Any, questions: int) -> tuple[Any, Any]:
    error = np.sqrt(np.maximum(0.0, mean_square - drop**2) / (questions - 1))
    reach = special.stdtrit(questions - 1, 0.975) * error
    return drop - reach, drop + reach


def decide_all(found: Sequence[Evidence], limit: float) -> dict[str, tuple[float, float]]:
    """Shares of ACCEPT and REGRESSION by each criterion; the rest is undecided."""
    drops = np.stack([task.drop for task in found], -1)
    errors = [task.error for task in found]
    pooled = pool(
        drops,
        np.stack([error.error for error in errors], -1),
        np.stack([error.largest() for error in errors], -1),
        np.stack([error.loss_p() for error in errors], -1),
        np.full(len(found), limit),
    )
    beyond = is_proven_regression(np.stack([regression_p(task.interval, limit) for task in found], -1))
    inside = np.stack([task.interval.high <= limit for task in found], -1).all(-1)
    low, high = (np.stack([task.gate[end] for task in found], -1) for end in (0, 1))
    worse = (drops > limit + 1e-9).any(-1)
    decided = {
        "suite": (pooled.is_accepted, pooled.is_regression),
        "point": (~worse, worse),
        "confident": (inside & ~beyond, beyond),
        "gate": ((high <= limit).all(-1), (low > limit).any(-1)),
    }
    return {name: (float(accepted.mean()), float(regressed.mean())) for name, (accepted, regressed) in decided.items()}


class Release(NamedTuple):
    """A row of the grid."""

    suite: str
    part: float
    limit: float
    chance: float  # greedy: share of answers that differ; sampled: spread of the chances
    truth: Truth
    repeats: tuple[tuple[str, int], ...] = ()  # in place of the suite's

    def tasks(self) -> list[Asked]:
        """The tasks as they are asked."""
        own = dict(self.repeats)
        return [task._replace(repeats=own.get(task.name, task.repeats)) for task in tasks_of(self.suite, self.part)]

    @property
    def is_greedy(self) -> bool:
        """Whether nothing but the questions is chance."""
        return self.suite in GREEDY


GREEDY = ("standard", "quick")
SAMPLED = ("artificial-analysis", "reasoning")
ENOUGH_REPEATS = {"artificial-analysis": (("scicode", 8), ("hle", 2))}


def measure_release(row: Release, releases: int, seed: int) -> dict[str, tuple[float, float]]:
    """Shares of the decisions in a row of the grid."""
    random = np.random.default_rng(seed)
    shares: list[tuple[int, dict[str, tuple[float, float]]]] = []
    tasks = row.tasks()
    block = max(1, min(releases, BLOCK // max(task.questions for task in tasks if task.repeats > 1 or row.is_greedy)))
    left = releases
    while left:
        size = min(left, block)
        left -= size
        found = [
            answer_greedily(task, size, loss * row.limit, row.chance, random)
            if row.is_greedy
            else answer_by_sampling(task, size, loss * row.limit, row.truth.kind, row.chance, random)
            for task, loss in zip(tasks, row.truth.losses, strict=True)
        ]
        shares.append((size, decide_all(found, row.limit)))
    return {
        name: tuple(sum(size * share[name][place] for size, share in shares) / releases for place in (0, 1))
        for name in CRITERIA
    }  # type: ignore[return-value]


def suite_grid(only_whole: bool = False) -> list[Release]:
    """The rows: suites as configured and at half of their questions, several difficulties, and what is true."""
    rows = []
    for suite, part in itertools.product((*GREEDY, *SAMPLED), (1.0,) if only_whole else (1.0, 0.5)):
        names = [task.name for task in tasks_of(suite)]

        def alone(name: str, loss: float, names: list[str] = names) -> tuple[float, ...]:
            return tuple(loss if other == name else 0.0 for other in names)

        def all_lose(loss: float, names: list[str] = names) -> tuple[float, ...]:
            return (loss,) * len(names)

        truths = [Truth("lossless", all_lose(0.0))]
        truths += [Truth(f"every task loses {loss:g}", all_lose(loss)) for loss in (0.5, 1, 2)]
        truths += [Truth(f"{name} loses {loss:g}", alone(name, loss)) for name in names for loss in (2, 5)]
        if suite in GREEDY:
            rows += [
                Release(suite, part, 0.01, rate, truth) for rate, truth in itertools.product((0.03, 0.05, 0.1), truths)
            ]
            continue
        truths.insert(1, Truth("lossless, moved", all_lose(0.0), "moved"))
        truths += [Truth("every task loses 2, few", all_lose(2), "few")]
        truths += [Truth(f"{name} loses 5, few", alone(name, 5), "few") for name in names]
        variants: list[tuple[tuple[str, int], ...]] = [()]
        if suite in ENOUGH_REPEATS:
            variants.append(ENOUGH_REPEATS[suite])
        rows += [
            Release(suite, part, limit, spread, truth, repeats)
            for repeats, limit, spread, truth in itertools.product(variants, (0.01, 0.02), (0.3, 1.0, 3.0), truths)
        ]
    return rows


def bounds_of(row: Release) -> dict[str, tuple[str, float]]:
    """What must hold for the criterion suite in a row: {"A" or "R": ("<=" or ">=", share)}.

    ACCEPT of the lossless is bounded where the suite can tell: standard at most 10 % disagreement, artificial-analysis
    with enough repeats at a limit of 2 % (of 1 % where chances are nearly all or nothing).
    """
    label, whole = row.truth.label, row.part == 1.0
    bounds: dict[str, tuple[str, float]] = {}
    if label == "lossless":
        bounds["R"] = ("<=", 0.05)
        can_tell = row.suite == "standard" or (
            row.suite == "artificial-analysis"
            and bool(row.repeats)
            and (row.limit, row.chance) in ((0.01, 0.3), (0.02, 0.3), (0.02, 1.0))
        )
        if whole and can_tell:
            bounds["A"] = (">=", 0.95)
    elif label.startswith("every task loses 2"):
        bounds["A"] = ("<=", 0.01)
        if whole and row.suite in ("standard", "artificial-analysis"):
            bounds["R"] = (">=", 0.95)
    elif "loses 5" in label:
        bounds["A"] = ("<=", 0.05)
    return bounds


def measure_suites(rows: list[Release], releases: int, jobs: int) -> bool:
    """Print the grid, and say whether every bound holds."""
    start = time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool_of_processes:
        found = list(
            pool_of_processes.map(measure_release, rows, itertools.repeat(releases), range(len(rows)), chunksize=4)
        )
    print(f"\n{len(rows)} rows of {releases:,} releases, {time.perf_counter() - start:.0f} s")
    print("A: ACCEPT, R: REGRESSION, the rest undecided; losses in limits; gate: NeMo Evaluator's\n")
    noise = 3 * np.sqrt(0.05 * 0.95 / releases)
    holds, heading = True, None
    for row, shares in zip(rows, found, strict=True):
        key = (row.suite, row.part, row.limit, row.chance, row.repeats)
        if key != heading:
            heading = key
            what = "of answers differ" if row.is_greedy else "spread of the chances"
            chance = f"{row.chance:.0%}" if row.is_greedy else f"{row.chance:g}"
            own = "".join(f", {task} x {repeats}" for task, repeats in row.repeats)
            print(f"\n{row.suite}, {row.part:.0%} of the questions, limit {row.limit:.0%}, {chance} {what}{own}")
            print(f"{'':34}" + "".join(f"{name:>10} A     R " for name in CRITERIA))
        wrong = []
        for letter, (sign, bound) in bounds_of(row).items():
            share = shares["suite"]["AR".index(letter)]
            if not (share <= bound + noise if sign == "<=" else share >= bound - noise):
                wrong.append(f"{letter} {sign} {bound:.0%}")
        mean = sum(row.truth.losses) / len(row.truth.losses)
        if mean >= 2 and shares["suite"][0] > shares["gate"][0] + noise:
            wrong.append("more false ACCEPT than the gate")
        holds &= not wrong
        print(
            f"  {row.truth.label:32}"
            + "".join(f"{shares[name][0]:>12.3f} {shares[name][1]:.3f}" for name in CRITERIA)
            + (f"  FAILS: {', '.join(wrong)}" if wrong else "")
        )
    return holds


# --- real runs ------------------------------------------------------------------------------------------------------


def deal(folder: Path, repeats: int) -> list[Run]:
    """The repeats of a real run, dealt into evaluations of so many repeats each.

    Args:
        folder: of a run that the evaluate stage wrote.
    """
    content = read_yaml(folder / "results.yml")
    metadata = content["metadata"]
    files = sorted((folder / "samples").glob("*.jsonl"))
    samples = {file.stem: [row for _, row in read_json_lines(file)] for file in files}
    asked = min(max(row["repeat"] for row in rows) + 1 for rows in samples.values())
    runs = []
    for number in range(asked // repeats):
        mine = {
            task: [
                {**row, "repeat": row["repeat"] - number * repeats}
                for row in rows
                if number * repeats <= row["repeat"] < (number + 1) * repeats
            ]
            for task, rows in samples.items()
        }
        scores = {
            task: {
                "score": sum(row["score"] for row in rows) / len(rows), "samples": len(rows), "stderr": None,
                "metric": "score", "tier": "critical", "scale": {"min": 0.0, "max": 1.0, "direction": "higher"},
            }
            for task, rows in mine.items()
        }  # fmt: skip
        assessment = {"pass": True, "model": metadata["model"], "suite": metadata["suite"], "scores": scores}
        runs.append(Run(assessment, metadata, mine))
    return runs


def measure_runs(folder: Path, repeats: int, limit: float) -> bool:
    """Compare each evaluation of a real run with the first, and say whether 95 % of them are accepted."""
    runs = deal(folder, repeats)
    baseline, others = runs[0], runs[1:]
    decisions = {name: [] for name in ("suite", "point", "confident")}
    for other in others:
        result = compare_runs(baseline, other, {"threshold": limit})
        said = {name: str(entry.decision) for name, entry in result.criteria.items()}
        for name, answers in decisions.items():
            answers.append(said.get(name, str(result.decision)))
    print(f"\n{len(others)} evaluations of {folder} against the first, {repeats} repeats each, limit {limit:.1%}")
    for task, entry in result.tasks.items():
        paired = entry.paired
        print(f"  {task}: baseline {entry.baseline:.4f}, {paired.samples:,} samples, error {paired.error:.4f}")
    for name, answers in decisions.items():
        shares = {decision: answers.count(decision) / len(others) for decision in ("ACCEPT", "REGRESSION", "ANOMALOUS")}
        print(f"  {name:10} " + ", ".join(f"{decision} {share:.0%}" for decision, share in shares.items()))
    return len(others) >= 20 and decisions["suite"].count("ACCEPT") >= 0.95 * len(others)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000, help="simulated releases per cell (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th cell of the simulations only")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--part", choices=("intervals", "suites", "runs"), help="only this one")
    parser.add_argument("--whole", action="store_true", help="suites: not those with half of their questions")
    parser.add_argument("--runs", type=Path, help="folder of a real run that asked each question many times")
    parser.add_argument("--repeats", type=int, default=4, help="runs: repeats of one evaluation (%(default)s)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="runs: the threshold (%(default)s)")
    arguments = parser.parse_args()
    parts = [arguments.part] if arguments.part else ["intervals", "suites", *(["runs"] if arguments.runs else [])]
    if "runs" in parts and not arguments.runs:
        parser.error("--part runs needs --runs FOLDER")
    holds = True
    if "intervals" in parts:
        holds &= measure_intervals(grid()[:: arguments.every], arguments.releases, arguments.jobs)
    if "suites" in parts:
        rows = suite_grid(arguments.whole)[:: arguments.every]
        holds &= measure_suites(rows, arguments.releases, arguments.jobs)
    if "runs" in parts:
        holds &= measure_runs(arguments.runs, arguments.repeats, arguments.limit)
    print(f"\n{'every bound holds' if holds else 'A BOUND DOES NOT HOLD'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
