"""What stopping a candidate early costs and how often it errs, by simulation.

For suites of equal tasks with binary scores: per size of a task, share of answers that differ, and true loss in limits,
the share of releases that are stopped as rejected, the mean share of the questions that are asked of the task that
decides, and of the rejected how many the full result calls a loss as well (drop beyond the limit, and no loss rejected
at 5 % over the tasks). Run it by ``python benchmarks/early_stopping.py``; it takes minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import special

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from day0.statistics.sequential import (
    ACCEPTANCE,
    ACCEPTED_LIMITS,
    BEYOND,
    BEYOND_SHARE,
    evidence_of_less,
    evidence_of_more,
    needed_to_reject,
)

TASKS, LIMIT = 4, 0.01
CELLS = ((1000, 0.05), (1000, 0.1), (3000, 0.05), (12_000, 0.05), (12_000, 0.1))
LOSSES = (0.0, 0.3, 0.5, 1.0, 2.0, 5.0)
BATCH = 10


def simulate(questions: int, disagreement: float, loss: float, releases: int, seed: int) -> dict[str, float]:
    """Operating characteristics of one task of a release.

    Args:
        disagreement: share of answers that differ.
        loss: true loss in limits.
    """
    generator = np.random.default_rng(seed)
    found: list[tuple[bool, float, bool, bool, float]] = []
    for _ in range(max(1, releases // BATCH)):
        uniform = generator.random((BATCH, questions))
        losses = (disagreement + loss * LIMIT) / 2
        drops = np.where(uniform < losses, 1.0, np.where(uniform < disagreement, -1.0, 0.0))
        counts = np.arange(1, questions + 1)
        rejected = evidence_of_more(drops, 0.0, running=True) >= needed_to_reject(TASKS)
        rejected &= evidence_of_more(drops, BEYOND_SHARE * LIMIT, running=True) >= BEYOND
        rejected &= drops.cumsum(-1) / counts > LIMIT
        accepted = evidence_of_less(drops, ACCEPTED_LIMITS * LIMIT, running=True) >= ACCEPTANCE
        drop = drops.mean(-1)
        error = np.maximum(drops.std(-1), 1e-12) / np.sqrt(questions)
        full = (drop > LIMIT) & (special.ndtr(-drop / error) <= 0.05 / TASKS)
        for row in range(BATCH):
            asked = [int(hit[row].argmax()) + 1 if hit[row].any() else questions for hit in (rejected, accepted)]
            is_rejected, is_accepted = bool(rejected[row].any()), bool(accepted[row].any())
            rejected_first = is_rejected and (not is_accepted or asked[0] <= asked[1])
            both = min(asked) / questions
            found.append((is_rejected, asked[0] / questions, bool(full[row]), is_accepted and not rejected_first, both))
    table = np.array(found, dtype=float)
    stopped = table[table[:, 0] > 0]
    return {
        "rejected": table[:, 0].mean(),
        "asked": table[:, 1].mean(),
        "full": table[:, 2].mean(),
        "agree": stopped[:, 2].mean() if len(stopped) else float("nan"),
        "accepted": table[:, 3].mean(),
        "asked_both": table[:, 4].mean(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=1000, help="simulated releases of each cell")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print("questions differ  loss | rejected  asked  full says so  of the rejected | both: accepted  asked")
    for questions, disagreement in CELLS:
        for loss in LOSSES:
            found = simulate(questions, disagreement, loss, arguments.releases, arguments.seed)
            print(
                f"{questions:9,} {disagreement:6.0%} {loss:5.1f} | {found['rejected']:8.3f} {found['asked']:6.2f} "
                f"{found['full']:13.3f} {found['agree']:16.2f} | {found['accepted']:14.3f} {found['asked_both']:6.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
