"""What the report and the portfolio show of a search: its path rung by rung, and every candidate with its costs."""

from __future__ import annotations

import csv
import io
from typing import Any

from day0.records.failure_class import Decision
from day0.records.search import Candidate, Kind, Objective, Outcome, Search

OBJECTIVES: dict[Objective, str] = {
    "size": "size of the weights, of the source's",
    "bits_per_weight": "bits of a weight",
    "active_bytes": "bytes that a token reads, of the source's",
    "throughput": "multiplications by their width, of the source's",
}
KINDS: dict[Kind, str] = {"screen": "screening", "final": "deciding suite"}
TONES = {Decision.ACCEPT: "good", Decision.REGRESSION: "bad"}
COLUMNS = (
    "candidate", "cost", "size", "bits_per_weight", "active_bytes", "throughput", "measured_size", "risk", "rungs",
    "decided_by", "decision", "failure_class", "score", "mean_drop", "drop_low", "drop_high", "largest_drop_in_limits",
    "speed_ratio", "speed_is_native", "samples_asked", "reason",
)  # fmt: skip


def last_outcomes(search: Search) -> dict[str, Outcome]:
    """Of each candidate that was asked, the outcome that counts: the deciding suite's, else the screening's."""
    by_kind = sorted(search.outcomes, key=lambda one: one.kind == "final")
    return {one.name: one for one in by_kind}


def rungs_of(search: Search) -> dict[str, list[int]]:
    """Numbers of the rungs that asked each candidate."""
    found: dict[str, list[int]] = {}
    for rung in search.rungs:
        for one in rung.asked:
            found.setdefault(one.name, []).append(rung.rung)
    return found


def portfolio_table(search: Search) -> str:
    """portfolio.csv: a row for each candidate of the space, the cheapest first; drops are fractions of the scales."""
    outcomes, rungs = last_outcomes(search), rungs_of(search)
    reasons = {one.name: one.reason for one in search.not_tried}
    reasons |= {one.name: one.reason for rung in search.rungs for one in rung.asked}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in search.candidates:
        found = outcomes.get(one.name)
        asked = sum(outcome.samples_asked for outcome in search.outcomes if outcome.name == one.name)
        loss = found.loss if found else None
        drops = (loss.drop, loss.low, loss.high) if loss else (None, None, None)
        writer.writerow(
            [
                one.name, _short(one.cost), *map(_short, one.costs.model_dump().values()),
                _short(found.size_ratio if found else None), _short(one.risk),
                " ".join(map(str, rungs.get(one.name, []))), found.kind if found else "",
                found.decision if found else "not tried", (found.failure_class or "") if found else "",
                _short(found.score if found else None), *map(_short, drops),
                _short(found.worst_drop if found else None), _short(found.speed_ratio if found else None),
                "" if found is None or found.speed_is_native is None else found.speed_is_native,
                asked, reasons.get(one.name, ""),
            ]
        )  # fmt: skip
    return stream.getvalue()


def search_section(search: Search) -> dict[str, Any]:
    """Variables of the report's part on the search."""
    outcomes = {(one.name, one.kind): one for one in search.outcomes}
    costs = {one.name: one for one in search.candidates}
    samples, share = search.samples, search.samples.share
    asked = f"{samples.screening:,} for screening and {samples.deciding:,} for deciding"
    of_all = f", {share:.0%} of two full evaluations of each of the {len(search.candidates)} candidates"
    alpha = search.alpha
    return {
        "decision": search.decision,
        "tone": TONES.get(search.decision, "odd"),
        "detail": search.detail,
        "facts": [
            ("Objective", f"{search.objective}: {OBJECTIVES[search.objective]}; the smaller, the better"),
            ("Winner", search.winner or "none" + (f"; nearest is {search.nearest}" if search.nearest else "")),
            ("Samples asked", asked + (of_all if share is not None else "")),
            (
                "Chance of error",
                f"{alpha.total:.3g} for the whole search, {alpha.each:.3g} for each of {search.budget.decisions} "
                f"decisions, {alpha.spent:.3g} used",
            ),
        ],
        "rungs": [
            {
                "number": rung.rung,
                "reason": rung.reason,
                "asked": [
                    {"name": one.name, "suite": KINDS[one.kind], "reason": one.reason}
                    | _result(outcomes.get((one.name, one.kind)), costs.get(one.name))
                    for one in rung.asked
                ],
            }
            for rung in search.rungs
        ],
        "not_tried": [
            {"name": one.name, "cost": _short(costs[one.name].cost), "reason": one.reason}
            for one in search.not_tried
            if one.name in costs
        ],
    }


def _result(outcome: Outcome | None, candidate: Candidate | None) -> dict[str, str]:
    """What was found of a candidate, as the page's table has it."""
    cost = _short(candidate.cost) if candidate else ""
    if outcome is None:
        unknown = dict.fromkeys(("failure_class", "drop", "samples"), "")
        return {"cost": cost, "decision": "not known", "tone": "odd", **unknown}
    loss = outcome.loss
    drop = f"{loss.drop:.2%} [{loss.low:.2%}, {loss.high:.2%}], limit {loss.limit:.2%}" if loss else ""
    return {
        "cost": cost,
        "decision": str(outcome.decision),
        "failure_class": str(outcome.failure_class or ""),
        "tone": TONES.get(outcome.decision, "odd"),
        "drop": drop,
        "samples": f"{outcome.samples_asked:,}",
    }


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
