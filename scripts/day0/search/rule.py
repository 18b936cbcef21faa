"""Which candidates a search asks next, and how it ends: functions of the evidence alone, in no order.

Costs are exact before anything is quantized, so only the accuracy is searched. Risk orders the candidates as a guide:
it says where to look first, and what a *proven* loss makes not worth asking. The first rung asks the cheapest and the
safest. Each later one drops what is no cheaper than the best that passed and what is as risky as a proven loss,
keeps those that no other beats in cost and risk at once, and asks evenly spaced ones of them. When nothing cheaper is
left to look at, those that passed are put to the deciding suite, the cheapest first, until one is accepted.

A screening chooses and does not judge. A candidate passes it where it is accepted, and also where its mean loss is
within the screening's limits and no loss beyond them is proven: to call such a one lost for a single task that dropped
by chance cost more than it saved (benchmarks/search.py). The winner is always one that the deciding suite accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from day0.base.artefacts import digest_of
from day0.decision.failures import BASELINE_STAGE, SEARCH_STAGE, decide, severity
from day0.records.failure_class import Decision, FailureClass
from day0.records.search import (
    Alpha,
    Asked,
    Asking,
    Budget,
    Candidate,
    Excluded,
    Kind,
    Objective,
    Outcome,
    Rung,
    Search,
)

# What an engine refuses of one recipe it refuses of those of the same group; other classes are the recipe's own.
OF_THE_GROUP = (FailureClass.DEPLOYMENT_HEALTH_FAILED, FailureClass.MODEL_UNSUPPORTED)


class ContradictoryEvidence(ValueError):
    """Two different outcomes of one kind for one candidate, or an outcome of a candidate that the space lacks."""


def propose(candidates: Sequence[Candidate], outcomes: Iterable[Outcome], budget: Budget, rung: int) -> Rung:
    """The rung to ask next; one that asks nobody where the search has ended.

    Args:
        candidates: of the space, names unique; their order does not matter.
        outcomes: of all rungs before this one; their order does not matter.
        budget: what the search may spend.
        rung: number of the rung, 0 for the first.

    Raises:
        ContradictoryEvidence: the outcomes contradict each other or the space.
    """
    state = _State.of(candidates, outcomes, budget)
    asked, reason = _next(state, rung)
    named = {one.name for one in asked}
    excluded = [Excluded(name=one.name, reason=state.why_not(one)) for one in state.unasked if one.name not in named]
    return Rung(rung=rung, asked=asked, reason=reason, excluded=excluded, evidence=state.digest())


def conclude(
    candidates: Sequence[Candidate],
    outcomes: Iterable[Outcome],
    budget: Budget,
    rungs: Sequence[Rung],
    objective: Objective,
    alpha: float,
    suite_samples: Mapping[Kind, int],
) -> Search:
    """How the search ended.

    Args:
        candidates: of the space.
        outcomes: of all rungs.
        budget: what the search was allowed to spend.
        rungs: in their order.
        objective: what the candidates' ``cost`` is.
        alpha: chance of accepting a candidate beyond the limit, over the whole search.
        suite_samples: samples of a full run of each kind's suite, which the baseline is asked once.

    Raises:
        ContradictoryEvidence: the outcomes contradict each other or the space.
    """
    state = _State.of(candidates, outcomes, budget)
    asking = sum(not one.is_end for one in rungs)
    failure_class, detail = (None, _sentence_of_winner(state)) if state.winner else _failure(state, asking)
    # What makes a candidate infeasible says, of the baseline, nothing about any of them.
    stage = BASELINE_STAGE if state.baseline_failure else SEARCH_STAGE
    decision = Decision.ACCEPT if failure_class is None else decide(failure_class, stage).decision
    return Search(
        passed=state.winner is not None,
        objective=objective,
        winner=state.winner.name if state.winner else None,
        decision=decision,
        failure_class=failure_class,
        detail=detail,
        nearest=None if state.winner else _nearest(state),
        budget=budget,
        candidates=state.candidates,
        rungs=list(rungs),
        outcomes=state.outcomes,
        not_tried=[Excluded(name=one.name, reason=state.why_not(one)) for one in state.unasked],
        alpha=Alpha(total=alpha, each=alpha / budget.decisions, spent=alpha / budget.decisions * state.decisions_made),
        samples=_samples(state, suite_samples),
    )


@dataclass(frozen=True)
class _State:
    """The evidence of a search in one order, and what follows from it."""

    candidates: list[Candidate]  # cheapest first
    outcomes: list[Outcome]
    budget: Budget
    screens: dict[str, Outcome]
    finals: dict[str, Outcome]

    @classmethod
    def of(cls, candidates: Sequence[Candidate], outcomes: Iterable[Outcome], budget: Budget) -> _State:
        ordered = sorted(candidates, key=_by_cost)
        names = [one.name for one in ordered]
        if len(set(names)) < len(names):
            raise ContradictoryEvidence("two candidates of the space have one name")
        found: dict[Kind, dict[str, Outcome]] = {"screen": {}, "final": {}}
        for one in set(outcomes):
            if one.name not in names:
                raise ContradictoryEvidence(f"{one.name}: an outcome of a candidate that the space does not have")
            if found[one.kind].setdefault(one.name, one) != one:
                raise ContradictoryEvidence(f"{one.name}: two different outcomes of kind {one.kind}")
        screens, finals = (
            {name: found[kind][name] for name in names if name in found[kind]} for kind in ("screen", "final")
        )
        return cls(ordered, [*screens.values(), *finals.values()], budget, screens, finals)

    def digest(self) -> str:
        """Digest of the evidence, whatever its order."""
        return digest_of([part.as_plain() for part in (*self.candidates, *self.outcomes, self.budget)])

    @cached_property
    def unasked(self) -> list[Candidate]:
        """Candidates that nothing was asked of, cheapest first."""
        return [one for one in self.candidates if one.name not in self.screens and one.name not in self.finals]

    @cached_property
    def asked(self) -> list[Candidate]:
        return [one for one in self.candidates if one.name in self.screens or one.name in self.finals]

    @cached_property
    def baseline_failure(self) -> Outcome | None:
        """The outcome that condemns the baseline, the most severe one."""
        failed = [one for one in self.outcomes if one.of_baseline and one.decision is not Decision.ACCEPT]
        return min(failed, key=_by_severity, default=None)

    @cached_property
    def winner(self) -> Candidate | None:
        """The cheapest candidate that the deciding suite accepted; none where the baseline failed."""
        if self.baseline_failure:
            return None
        return next((one for one in self.candidates if _is(self.finals.get(one.name), Decision.ACCEPT)), None)

    @cached_property
    def best(self) -> Candidate | None:
        """The cheapest candidate that passed the last that was asked of it."""
        return next((one for one in self.candidates if _passes(self.last(one))), None)

    def last(self, candidate: Candidate) -> Outcome | None:
        """The outcome that counts: the deciding suite's, else the screening's."""
        return self.finals.get(candidate.name) or self.screens.get(candidate.name)

    @cached_property
    def finalists(self) -> list[Candidate]:
        """Candidates that wait for the deciding suite, in their order: those that passed, the cheapest first.

        Undecided ones come last, those with the smaller loss first: nothing shows that they lose too much.
        """
        waiting = [one for one in self.candidates if one.name in self.screens and one.name not in self.finals]
        cheaper = [one for one in waiting if self.winner is None or one.cost < self.winner.cost]
        passed = [one for one in cheaper if _passes(self.screens[one.name])]
        undecided = [one for one in cheaper if one not in passed and _is_undecided(self.screens[one.name])]
        return [*passed, *sorted(undecided, key=lambda one: (_drop(self.screens[one.name]), *_by_cost(one)))]

    @property
    def decisions_made(self) -> int:
        """Candidates that the deciding suite was asked about; one that cannot be served was not."""
        return sum(not _is(one, Decision.INFEASIBLE) for one in self.finals.values())

    @property
    def decisions_left(self) -> int:
        return self.budget.decisions - self.decisions_made

    @property
    def candidates_left(self) -> int:
        """How many more candidates may be asked something for the first time."""
        left = self.budget.candidates - len(self.asked)
        return left if self.budget.screened else min(left, self.decisions_left)

    def ruled_out(self, candidate: Candidate) -> str | None:
        """Why a candidate is not worth asking by the evidence, or None."""
        if candidate.problem is not None:
            return f"cannot be made for this model: {candidate.problem}"
        if not candidate.saves:
            return f"costs no less than the source ({candidate.cost:.4g})"
        refused = [
            one
            for one in self.asked
            if candidate.group and one.group == candidate.group and _refuses_group(self.last(one))
        ]
        if refused:
            outcome = self.last(refused[0])
            found = outcome.failure_class if outcome else None
            return f"{refused[0].name}, of the same group ({candidate.group}), is infeasible: {found}"
        best = self.best
        if best is not None and candidate.cost >= best.cost:
            kind = "the deciding suite accepted" if best.name in self.finals else "passed the screening"
            return f"no cheaper than {best.name} ({candidate.cost:.4g}, {best.cost:.4g}), which {kind}"
        lost = [one for one in self.asked if _is_proven_loss(self.last(one)) and candidate.risk >= one.risk]
        if lost:
            worst = min(lost, key=lambda one: (one.risk, one.name))
            return f"as risky as {worst.name} ({candidate.risk:.4g}, {worst.risk:.4g}), which is shown to lose too much"
        return None

    @cached_property
    def open(self) -> list[Candidate]:
        """Candidates worth asking, cheapest first; those riskier than an undecided one only where no other is left."""
        worth = [one for one in self.unasked if self.ruled_out(one) is None]
        undecided = [one.risk for one in self.asked if _is_undecided(self.last(one))]
        safer = [one for one in worth if not undecided or one.risk <= min(undecided)]
        return safer or worth

    def why_not(self, candidate: Candidate) -> str:
        """Why a candidate is not asked now."""
        if self.baseline_failure:
            return "the baseline failed, whatever the recipe"
        found = self.ruled_out(candidate)
        if found:
            return found
        if self.candidates_left < 1:
            return f"worth asking, but the budget of {self.budget.candidates} candidates is spent"
        if candidate not in self.open:
            return "riskier than a candidate that the samples do not decide, so the safer ones come first"
        beating = [one for one in self.open if _beats(one, candidate)]
        if beating:
            return f"{beating[0].name} costs no more at no more risk, so it comes first"
        return "worth asking, but it is another one's turn"


def _next(state: _State, rung: int) -> tuple[list[Asked], str]:
    """What a rung asks, and the rung's reason."""
    budget, rungs_left = state.budget, state.budget.rungs - rung
    failed = state.baseline_failure
    if failed:
        return [], f"the baseline failed ({failed.failure_class}), so no recipe can be judged"
    if rungs_left < 1:
        return [], f"the budget of {budget.rungs} rungs is spent"
    can_explore = state.candidates_left > 0 and (rungs_left > 1 or not budget.screened)
    if can_explore and state.open:
        return _explore(state)
    finalists = state.finalists if budget.screened else []
    if finalists and state.decisions_left > 0:
        # As few at once as the rungs that are left allow: the first one accepted spares the others.
        count = -(-min(len(finalists), state.decisions_left) // rungs_left)
        return _decide(state, finalists[:count])
    if state.winner:
        return [], f"{state.winner.name} is accepted, and nothing cheaper is left to ask"
    return [], _failure(state, rung)[1]


def _explore(state: _State) -> tuple[list[Asked], str]:
    """Candidates that nothing was asked of yet."""
    kind: Kind = "screen" if state.budget.screened else "final"

    def ask(*chosen: tuple[Candidate, str]) -> list[Asked]:
        return [Asked(name=one.name, kind=kind, reason=reason) for one, reason in chosen]

    if not state.asked:
        cheapest, safest = state.open[0], min(state.open, key=_by_risk)
        if cheapest == safest:
            return ask((safest, "the cheapest and the safest")), "the cheapest candidate is also the safest"
        if state.candidates_left == 1:
            return ask((safest, "the safest")), "the safest, since only one candidate may be tried"
        return (
            ask((cheapest, "the cheapest"), (safest, "the safest")),
            "the two ends: the cheapest candidate and the safest",
        )
    count = min(state.budget.parallel, state.candidates_left)
    chosen: list[tuple[Candidate, str]] = []
    left, each = list(state.open), "evenly spaced among those that none beats"
    while left and len(chosen) < count:
        # Places that the front leaves free go to those that only it beats: risk is a guide, no order.
        front = [one for one in left if not any(_beats(other, one) for other in left)]
        chosen += [(one, each) for one in _evenly(front, count - len(chosen))]
        left, each = [one for one in left if one not in front], "beaten in cost and risk only by those asked with it"
    reason = f"{len(state.open)} worth asking, the cheapest at {state.open[0].cost:.4g}"
    return ask(*((one, f"{each}: cost {one.cost:.4g}, risk {one.risk:.4g}") for one, each in chosen)), reason


def _evenly(front: Sequence[Candidate], count: int) -> list[Candidate]:
    """Evenly spaced ones of a front."""
    count = min(count, len(front))
    return [front[(place + 1) * (len(front) + 1) // (count + 1) - 1] for place in range(count)]


def _decide(state: _State, chosen: Sequence[Candidate]) -> tuple[list[Asked], str]:
    """Finalists, which the deciding suite is asked about."""
    asked = []
    for one in chosen:
        screened = state.screens[one.name]
        reason = "passed the screening" if _passes(screened) else "undecided by the screening"
        loss = screened.loss
        of_loss = f", mean loss {loss.drop:.4g} of at most {loss.limit:.4g}" if loss else ""
        asked.append(Asked(name=one.name, kind="final", reason=f"{reason}: cost {one.cost:.4g}{of_loss}"))
    return asked, f"to the deciding suite, {state.decisions_left} of {state.budget.decisions} decisions left"


def _failure(state: _State, rungs: int) -> tuple[FailureClass, str]:
    """Class and sentence of a search without a winner."""
    failed = state.baseline_failure
    if failed:
        return FailureClass.of(failed.failure_class), f"The baseline failed: {failed.detail or failed.failure_class}"
    found = [(one, outcome) for one in state.asked if (outcome := state.last(one))]
    if not state.open and all(_is(outcome, Decision.INFEASIBLE) for _, outcome in found):
        reasons = _listed(f"{one.name} ({outcome.failure_class})" for one, outcome in found)
        sentence = f"No candidate can be served: {reasons}" if found else "No candidate can be made and costs less"
        return FailureClass.SEARCH_SPACE_INFEASIBLE, sentence
    nearest = _nearest_sentence(state)
    spent = _spent(state, rungs)
    if spent:
        return FailureClass.SEARCH_BUDGET_SPENT, f"{spent}{nearest}"
    unjudged = [(one, outcome) for one, outcome in found if outcome.decision is Decision.ANOMALOUS]
    if unjudged:
        worst = min((outcome for _, outcome in unjudged), key=_by_severity)
        names = _listed(f"{one.name} ({outcome.failure_class})" for one, outcome in unjudged)
        sentence = f"No candidate is accepted, and these are not judged: {names}{nearest}"
        return FailureClass.of(worst.failure_class), sentence
    return FailureClass.SEARCH_EXHAUSTED, f"No candidate of the space is within its limits{nearest}"


def _spent(state: _State, rungs: int) -> str | None:
    """Which part of the budget ended a search that had more to ask, or None."""
    budget = state.budget
    waiting = len(state.finalists) if budget.screened else 0
    if waiting and state.decisions_left < 1:
        return f"decisions: all {budget.decisions} are spent, and {waiting} finalists were not decided on"
    if state.open and not budget.screened and state.decisions_left < 1:
        return f"decisions: all {budget.decisions} are spent, and {len(state.open)} candidates are worth asking"
    if state.open and state.candidates_left < 1:
        return f"candidates: all {budget.candidates} are tried, and {len(state.open)} more are worth asking"
    if (state.open or waiting) and rungs >= budget.rungs - 1:
        return f"rungs: all {budget.rungs} are spent, and {len(state.open) + waiting} candidates are worth asking"
    return None


def _nearest(state: _State) -> str | None:
    """The judged candidate with the smallest loss."""
    judged = [
        (one.worst_drop, name)
        for name, one in {**state.screens, **state.finals}.items()
        if one.worst_drop is not None and one.decision is not Decision.INFEASIBLE
    ]
    return min(judged)[1] if judged else None


def _nearest_sentence(state: _State) -> str:
    name = _nearest(state)
    if name is None:
        return ""
    outcome = state.finals.get(name) or state.screens[name]
    tasks = f" on {_listed(outcome.regressed)}" if outcome.regressed else ""
    return f"; nearest is {name}, whose largest drop is {outcome.worst_drop:.3g} of its limit{tasks}"


def _sentence_of_winner(state: _State) -> str:
    winner = state.winner
    if winner is None:
        raise ValueError("the search has no winner")
    failed = _listed(one.name for one in state.asked if one.cost < winner.cost)
    cheaper = f"; cheaper ones that were tried and are not accepted: {failed}" if failed else ""
    return f"{winner.name} is the cheapest that the deciding suite accepts (cost {winner.cost:.4g}){cheaper}"


def _samples(state: _State, suite_samples: Mapping[Kind, int]) -> Asking:
    """Samples asked, the baseline's once for each suite that any candidate was asked."""

    def asked(kind: Kind, found: Mapping[str, Outcome]) -> int:
        return sum(one.samples_asked for one in found.values()) + (suite_samples.get(kind, 0) if found else 0)

    full = 2 * len(state.candidates) * suite_samples.get("final", 0)
    return Asking(screening=asked("screen", state.screens), deciding=asked("final", state.finals), full=full)


def _by_cost(one: Candidate) -> tuple[float, float, str]:
    return one.cost, one.risk, one.name


def _by_risk(one: Candidate) -> tuple[float, float, str]:
    return one.risk, one.cost, one.name


def _by_severity(one: Outcome) -> tuple[int, str, str]:
    return severity(FailureClass.of(one.failure_class)), one.name, one.kind


def _beats(one: Candidate, other: Candidate) -> bool:
    """Whether a candidate is no worse in cost and risk; of equals the first by name."""
    return one != other and one.cost <= other.cost and one.risk <= other.risk and _by_cost(one) < _by_cost(other)


def _is(outcome: Outcome | None, decision: Decision) -> bool:
    return outcome is not None and outcome.decision is decision


def _passes(outcome: Outcome | None) -> bool:
    """Whether a candidate is accepted by the deciding suite, or good enough in the screening to be put to it."""
    if outcome is None or outcome.kind == "final" or outcome.decision is Decision.ACCEPT:
        return _is(outcome, Decision.ACCEPT)
    if outcome.failure_class not in (None, FailureClass.INSUFFICIENT_EVIDENCE):
        return False
    if outcome.early_end is not None:
        # A screening that ends early since no task can have lost much is no release, so it is not accepted.
        return outcome.early_end == "accepted"
    return not outcome.conclusive and outcome.loss is not None and outcome.loss.drop <= outcome.loss.limit


def _is_undecided(outcome: Outcome | None) -> bool:
    """Whether the samples neither let a candidate pass nor show a loss."""
    is_short = outcome is not None and outcome.failure_class is FailureClass.INSUFFICIENT_EVIDENCE
    return is_short and not _passes(outcome)


def _is_proven_loss(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.decision is Decision.REGRESSION and outcome.conclusive


def _refuses_group(outcome: Outcome | None) -> bool:
    return _is(outcome, Decision.INFEASIBLE) and outcome is not None and outcome.failure_class in OF_THE_GROUP


def _drop(outcome: Outcome) -> float:
    return float("inf") if outcome.worst_drop is None else outcome.worst_drop


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
