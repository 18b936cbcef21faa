"""Coverage and false alarms of the decision, by simulated releases; the statistics are the production functions.

Each cell draws releases of n samples whose scores are 0 or 1: the baseline is right with the given accuracy, a share of
the samples (disagreement) changes its score, and the true drop is losses less wins. Where questions are repeated or
grouped, a cluster is of one mind (all its samples change alike) with the given probability, else each sample changes
by itself. Three checks, each against its bound:

coverage     the nominal 95 % interval holds the true drop in at least 94 % of releases, in every cell;
false alarm  a lossless candidate (samples change, the true drop is zero) is called REGRESSION by `confident` in at
             most 5 %, with one task and with ten;
gain         a lossless candidate is held up for a gain above 5 % of the scale in at most 5 %; and a true gain of 15 %
             of the scale on 198 samples or more is let through in at most 5 %.

Exit status: 0 where every cell holds, 1 where one does not.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from day0.decision.comparison import ANOMALOUS_GAIN, is_chance
from day0.statistics.paired import (
    CONFIDENCE,
    Moments,
    cluster_moments,
    drop_interval,
    is_proven_regression,
    mcnemar_p,
    regression_p,
)

LIMIT = 0.01
COVERAGE, FALSE_ALARM, MISSED_GAIN = 0.94, 0.05, 0.05
BLOCK = 2_000_000  # cluster sums held at once


class Cell(NamedTuple):
    """What the releases of a cell have in common; all rates are per sample."""

    sizes: tuple[int, ...]  # of the clusters; one entry stands for clusters of one size
    clusters: int
    accuracy: float
    disagreement: float
    drop: float
    one_mind: float = 0.0

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
        yield Moments(n, n, lost - won, lost + won, lost - won, n), lost, won
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
        interval = drop_interval(moments, 1.0)
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
        np.concatenate([regression_p(drop_interval(m, 1.0), LIMIT) for m, _, _ in draw(cell, releases, random)])
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
    shapes = [((1,), n, 0.0) for n in (30, 100, 198, 500, 1319, 5000)]
    shapes += [((16,), 198, share) for share in (0.0, 0.5, 1.0)]
    shapes += [((64,), 30, share) for share in (0.0, 0.5, 1.0)]
    shapes += [((1, 2, 3, 5, 14), 100, share) for share in (0.0, 0.5, 1.0)]
    shapes += [((40,), 14, share) for share in (0.0, 1.0)]
    cells = []
    for (sizes, clusters, share), accuracy, disagreement, part in itertools.product(
        shapes, (0.1, 0.5, 0.95), (0.002, 0.01, 0.03, 0.1, 0.2), (0.0, 0.5, 1.0)
    ):
        cells.append(Cell(sizes, clusters, accuracy, disagreement, part * disagreement, share))
    return [cell for cell in cells if cell.is_possible()]


GAIN_SAMPLES = (20, 50, 100, 198, 500, 1319)


def run(cells: list[Cell], releases: int, jobs: int) -> bool:
    """Measure, print the tables, and say whether every bound holds."""
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
        f"{'samples':>8}{'clusters':>9}{'one mind':>9}{'cells':>6}  {'coverage':>17}"
        f"  {'false alarm':>12}  {'of ten tasks':>12}"
    )
    print(f"{'':>32}  {'lowest':>8} {'mean':>8}  {'highest':>12}  {'highest':>12}")
    holds = True
    family_of = dict(zip(lossless, families, strict=True))
    for key, group in itertools.groupby(
        zip(cells, found, strict=True), key=lambda pair: (pair[0].samples, pair[0].clusters, pair[0].one_mind)
    ):
        rows = list(group)
        covered = [result["covered"] for _, result in rows]
        alarms = [result["regressed"] for cell, result in rows if cell.drop == 0]
        ten = [family_of[cell] for cell, _ in rows if cell.drop == 0]
        good = min(covered) >= COVERAGE and max(alarms) <= FALSE_ALARM and max(ten) <= FALSE_ALARM
        holds &= good
        print(
            f"{key[0]:>8,}{key[1]:>9,}{key[2]:>9.1f}{len(rows):>6}  {min(covered):>8.2%} {np.mean(covered):>8.2%}"
            f"  {max(alarms):>12.2%}  {max(ten):>12.2%}{'' if good else '  FAILS'}"
        )
    worst = min(zip(found, cells, strict=True), key=lambda pair: pair[0]["covered"])
    print(f"\nlowest coverage {worst[0]['covered']:.2%}: {worst[1]}")
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
    print(f"\n{'every bound holds' if holds else 'A BOUND DOES NOT HOLD'}")
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=10_000, help="simulated releases per cell (%(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th cell only")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    arguments = parser.parse_args()
    return 0 if run(grid()[:: arguments.every], arguments.releases, arguments.jobs) else 1


if __name__ == "__main__":
    sys.exit(main())
