"""The rule of the search: what it asks next, and how it ends, by the evidence alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from day0.records.search import Budget, Candidate, Costs, MeanLoss, Outcome, Search
from day0.search.rule import ContradictoryEvidence, conclude, propose

SUITES = {"screen": 500, "final": 2000}


def candidate(name, cost, risk, group=""):
    costs = Costs(size=cost, bits_per_weight=16 * cost, active_bytes=cost, throughput=cost)
    return Candidate(name=name, cost=cost, risk=risk, group=group, costs=costs)


def outcome(name, kind="screen", decision="ACCEPT", **fields):
    return Outcome(name=name, kind=kind, decision=decision, **{"samples_asked": SUITES[kind], **fields})


def ended(candidates, outcomes, budget=None, rungs=()):
    return conclude(candidates, outcomes, budget or Budget(), list(rungs), "size", 0.05, SUITES)


def search(candidates, answer, budget=None):
    """A whole search: ``answer`` gives the outcome of a candidate's name and kind."""
    budget, outcomes, rungs = budget or Budget(), [], []
    while not rungs or not rungs[-1].is_end:
        rungs.append(propose(candidates, outcomes, budget, len(rungs)))
        outcomes += [answer(one.name, one.kind) for one in rungs[-1].asked]
    return ended(candidates, outcomes, budget, rungs), rungs, outcomes


# The embedded model's candidates as measured: cost, an assumed risk, the drop in limits on 1,000 and on 4,000 samples.
EMBEDDED = {
    "nvfp4": (0.294, 1.0, 2.4, 2.4),
    "kl-5": (0.316, 0.8, 1.6, 1.6),
    "kl-5p5": (0.345, 0.6, 0.5, 0.92),
    "kl-6": (0.373, 0.4, 1.1, 0.78),
    "attention": (0.380, 0.45, 0.3, 0.40),
    "kl-7": (0.438, 0.2, 0.0, 0.0),
    "fp8": (0.509, 0.01, 0.0, 0.0),
}
SPACE = [candidate(name, cost, risk) for name, (cost, risk, *_) in EMBEDDED.items()]


def answer_as_measured(name, kind):
    drop = EMBEDDED[name][2 if kind == "screen" else 3]
    accepted = drop <= 0.5
    return outcome(
        name,
        kind,
        "ACCEPT" if accepted else "REGRESSION",
        worst_drop=drop,
        regressed=() if accepted else ("addition",),
        conclusive=drop > 1.5,
    )


def test_the_embedded_search_ends_with_fp8_attention():
    found, rungs, _ = search(SPACE, answer_as_measured, Budget(rungs=6))
    assert found.winner == "attention" and found.decision == "ACCEPT" and found.failure_class is None
    assert [[(one.name, one.kind) for one in rung.asked] for rung in rungs[:2]] == [
        [("nvfp4", "screen"), ("fp8", "screen")],
        [("kl-5", "screen"), ("kl-6", "screen")],
    ]
    assert found.samples.share < 0.4


def test_a_cheapest_that_passes_ends_the_search_after_the_first_rung():
    found, rungs, _ = search(SPACE, lambda name, kind: outcome(name, kind))
    assert found.winner == "nvfp4" and [len(rung.asked) for rung in rungs] == [2, 1, 0]
    assert all("no cheaper than nvfp4" in one.reason for one in found.not_tried)


def asked_after(*outcomes, candidates=SPACE, budget=None, rung=1):
    return propose(candidates, outcomes, budget or Budget(), rung)


def reasons(rung):
    return {one.name: one.reason for one in rung.excluded}


LOSS = {"decision": "REGRESSION", "worst_drop": 2.0, "regressed": ("a",)}


def test_a_proven_loss_excludes_what_is_as_risky_and_an_unproven_one_nothing():
    proven = asked_after(outcome("kl-6", **LOSS, conclusive=True))
    assert "as risky as kl-6" in reasons(proven)["kl-5"] and "as risky as kl-6" in reasons(proven)["attention"]
    assert {one.name for one in proven.asked} <= {"kl-7", "fp8"}
    by_chance = asked_after(outcome("kl-6", **LOSS, conclusive=False))
    assert not [text for text in reasons(by_chance).values() if "as risky" in text]


def test_what_the_samples_do_not_decide_moves_riskier_ones_to_the_end():
    undecided = outcome("kl-6", decision="ANOMALOUS", failure_class="INSUFFICIENT_EVIDENCE")
    rung = asked_after(undecided)
    assert {one.name for one in rung.asked} == {"kl-7", "fp8"} and "riskier" in reasons(rung)["nvfp4"]
    later = asked_after(undecided, outcome("kl-7", **LOSS), outcome("fp8", **LOSS))
    assert later.asked and all(one.kind == "screen" for one in later.asked)


@pytest.mark.parametrize(
    ("failure_class", "excludes"),
    [("DEPLOYMENT_HEALTH_FAILED", True), ("MODEL_UNSUPPORTED", True), ("QUANT_COVERAGE_FAILURE", False)],
)
def test_an_infeasible_candidate_excludes_its_group_where_the_engine_refused_it(failure_class, excludes):
    space = [candidate("a", 0.3, 3, "nvfp4"), candidate("b", 0.4, 2, "nvfp4"), candidate("c", 0.5, 1, "fp8")]
    rung = asked_after(outcome("a", decision="INFEASIBLE", failure_class=failure_class), candidates=space)
    assert ("b" in {one.name for one in rung.asked}) is not excludes
    assert ("infeasible" in reasons(rung).get("b", "")) is excludes


def test_a_candidate_that_cannot_be_served_spends_no_decision():
    budget = Budget(decisions=1, screened=False)
    rung = asked_after(outcome("a", "final", **INFEASIBLE), candidates=TWO, budget=budget)
    assert [one.name for one in rung.asked] == ["b"]
    assert ended(TWO, [outcome("a", "final", **INFEASIBLE)], budget).alpha.spent == 0


def test_candidates_without_a_group_fail_alone():
    space = [candidate("a", 0.3, 3), candidate("b", 0.4, 2)]
    rung = asked_after(outcome("a", decision="INFEASIBLE", failure_class="MODEL_UNSUPPORTED"), candidates=space)
    assert [one.name for one in rung.asked] == ["b"]


def test_a_failed_finalist_brings_back_what_it_had_excluded():
    accepted = [outcome(name) for name in ("nvfp4", "fp8")]
    assert [one.name for one in asked_after(*accepted).asked] == ["nvfp4"]
    rung = asked_after(*accepted, outcome("nvfp4", "final", **LOSS), rung=2)
    assert rung.asked and {one.kind for one in rung.asked} == {"screen"}


def test_finalists_are_asked_cheapest_first_and_the_undecided_last():
    space = [candidate(name, cost, 1) for name, cost in (("a", 0.3), ("b", 0.4), ("c", 0.5))]
    found = [
        outcome("a", decision="ANOMALOUS", failure_class="INSUFFICIENT_EVIDENCE", worst_drop=0.4),
        outcome("b"),
        outcome("c"),
    ]
    assert [(one.name, one.kind) for one in asked_after(*found, candidates=space).asked] == [("b", "final")]
    found += [outcome("b", "final", **LOSS), outcome("c", "final", **LOSS)]
    assert [(one.name, one.kind) for one in asked_after(*found, candidates=space).asked] == [("a", "final")]


@pytest.mark.parametrize(
    ("drop", "conclusive", "passes"), [(0.004, False, True), (0.006, False, False), (0.004, True, False)]
)
@pytest.mark.parametrize("found", ["loss", "undecided"])
def test_a_mean_loss_within_the_screenings_limits_is_enough_to_be_decided_on(found, drop, conclusive, passes):
    loss = MeanLoss(drop=drop, low=drop - 0.003, high=drop + 0.003, limit=0.005)
    fields = {**(LOSS if found == "loss" else UNDECIDED), "loss": loss, "conclusive": conclusive}
    space = [candidate("a", 0.3, 2), candidate("b", 0.4, 1)]
    rung = asked_after(outcome("a", **fields), outcome("b"), candidates=space)
    assert [(one.name, one.kind) for one in rung.asked] == [("a" if passes else "b", "final")]


@pytest.mark.parametrize(("end", "asked"), [("accepted", "a"), ("rejected", "b")])
def test_a_screening_that_ended_early_passed_where_nothing_can_be_lost(end, asked):
    within = MeanLoss(drop=0.001, low=0.0, high=0.002, limit=0.005)
    fields = UNDECIDED if end == "accepted" else LOSS
    space = [candidate("a", 0.3, 2), candidate("b", 0.4, 1)]
    rung = asked_after(outcome("a", early_end=end, loss=within, **fields), outcome("b"), candidates=space)
    assert [(one.name, one.kind) for one in rung.asked] == [(asked, "final")]


def test_places_that_the_front_leaves_free_go_to_the_next():
    space = [candidate("a", 0.3, 3), candidate("b", 0.4, 4), candidate("z", 0.9, 1)]
    rung = asked_after(outcome("z", **LOSS), candidates=[*space, candidate("c", 0.5, 5)])
    assert [one.name for one in rung.asked] == ["a", "b"] and "beaten" in rung.asked[1].reason


def test_few_rungs_ask_several_finalists_at_once():
    found = [outcome(one.name) for one in SPACE]
    assert len(asked_after(*found, rung=4).asked) == 3
    assert len(asked_after(*found, rung=2).asked) == 1


def test_without_a_screening_every_candidate_is_decided_on():
    found, rungs, _ = search(SPACE, answer_as_measured, Budget(screened=False, decisions=5))
    assert {one.kind for rung in rungs for one in rung.asked} == {"final"} and found.winner == "attention"
    assert found.alpha.spent == pytest.approx(found.alpha.each * len(found.outcomes)) and found.samples.screening == 0


INFEASIBLE = {"decision": "INFEASIBLE", "failure_class": "DEPLOYMENT_HEALTH_FAILED"}
BROKEN = {"decision": "ANOMALOUS", "failure_class": "SYSTEMIC"}
UNDECIDED = {"decision": "ANOMALOUS", "failure_class": "INSUFFICIENT_EVIDENCE"}
BASELINE = {"decision": "ANOMALOUS", "failure_class": "EXTERNAL_BASELINE_MISMATCH", "of_baseline": True}
TWO = [candidate("a", 0.3, 2), candidate("b", 0.5, 1)]


@pytest.mark.parametrize(
    ("outcomes", "budget", "decision", "failure_class", "sentence"),
    [
        ([outcome("a", **LOSS), outcome("b", **LOSS)], Budget(), "REGRESSION", "SEARCH_EXHAUSTED", "nearest is a"),
        ([outcome("a", **LOSS)], Budget(candidates=1), "ANOMALOUS", "SEARCH_BUDGET_SPENT", "candidates: all 1"),
        (
            [outcome("a"), outcome("b"), outcome("a", "final", **LOSS)],
            Budget(decisions=1), "ANOMALOUS", "SEARCH_BUDGET_SPENT", "decisions: all 1",
        ),
        ([outcome("a", **LOSS)], Budget(rungs=1), "ANOMALOUS", "SEARCH_BUDGET_SPENT", "rungs: all 1"),
        (
            [outcome("a", **INFEASIBLE), outcome("b", **INFEASIBLE)],
            Budget(), "INFEASIBLE", "SEARCH_SPACE_INFEASIBLE", "a (DEPLOYMENT_HEALTH_FAILED)",
        ),
        ([outcome("a", **LOSS), outcome("b", **INFEASIBLE)], Budget(), "REGRESSION", "SEARCH_EXHAUSTED", "is a, whose"),
        ([outcome("a", **LOSS), outcome("b", **BROKEN)], Budget(), "ANOMALOUS", "SYSTEMIC", "not judged: b (SYSTEMIC)"),
        (
            [outcome("a", **LOSS), outcome("b"), outcome("b", "final", **UNDECIDED)],
            Budget(), "ANOMALOUS", "INSUFFICIENT_EVIDENCE", "not judged: b",
        ),
        ([outcome("a", **BASELINE)], Budget(), "ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH", "The baseline failed"),
        (
            [outcome("a", "final"), outcome("b", **BASELINE)],
            Budget(), "ANOMALOUS", "EXTERNAL_BASELINE_MISMATCH", "The baseline failed",
        ),
    ],
)  # fmt: skip
def test_how_a_search_without_a_winner_ends(outcomes, budget, decision, failure_class, sentence):
    rungs = [propose(TWO, [], budget, 0)]
    found = ended(TWO, outcomes, budget, rungs)
    assert (found.decision, found.failure_class, found.winner) == (decision, failure_class, None)
    assert sentence in found.detail
    assert propose(TWO, outcomes, budget, 1).is_end


def test_a_failed_baseline_ends_the_search_at_once():
    rung = asked_after(outcome("nvfp4", **BASELINE), outcome("fp8"))
    assert rung.is_end and "baseline" in rung.reason and all("baseline" in text for text in reasons(rung).values())


@pytest.mark.parametrize(
    ("candidates", "outcomes", "problem"),
    [
        (TWO, [outcome("a"), outcome("a", **LOSS)], "two different outcomes"),
        (TWO, [outcome("c")], "does not have"),
        ([TWO[0], candidate("a", 0.1, 0.1)], [], "one name"),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(candidates, outcomes, problem):
    with pytest.raises(ContradictoryEvidence, match=problem):
        propose(candidates, outcomes, Budget(), 1)


def test_a_winner_that_nothing_accepted_cannot_be_written():
    found, _, _ = search(SPACE, answer_as_measured, Budget(rungs=6))
    for change in ({"winner": "kl-6"}, {"outcomes": []}, {"decision": "REGRESSION"}, {"failure_class": "UNKNOWN"}):
        with pytest.raises(ValidationError, match=r"did not accept|ACCEPT has a winner|pass is true, yet"):
            Search.model_validate({**found.as_plain(), **change})


# --- properties -----------------------------------------------------------------------------------------------------

NAMES = "abcdefgh"
LEVELS = st.integers(0, 5).map(lambda level: level / 5)
FOUND = st.sampled_from(
    [
        {"decision": "ACCEPT"}, {"decision": "ACCEPT"}, {**LOSS, "conclusive": True}, {**LOSS, "conclusive": False},
        INFEASIBLE, UNDECIDED, BROKEN, {"decision": "INFEASIBLE", "failure_class": "QUANT_COVERAGE_FAILURE"},
    ]
)  # fmt: skip
BUDGETS = st.builds(
    Budget,
    candidates=st.integers(1, 9),
    decisions=st.integers(1, 4),
    parallel=st.integers(1, 3),
    rungs=st.integers(1, 8),
    screened=st.booleans(),
)


@st.composite
def spaces(draw):
    """Candidates, and what each suite would find of each of them."""
    names = NAMES[: draw(st.integers(0, len(NAMES)))]
    space = [candidate(name, draw(LEVELS), draw(LEVELS), draw(st.sampled_from(["", "x", "y"]))) for name in names]
    answers = {(name, kind): outcome(name, kind, **draw(FOUND)) for name in names for kind in ("screen", "final")}
    return space, answers


@settings(max_examples=100)
@given(spaces(), BUDGETS, st.randoms())
def test_every_search_keeps_its_promises(case, budget, random):
    space, answers = case
    found, rungs, outcomes = search(space, lambda name, kind: answers[name, kind], budget)
    asked = [(one.name, one.kind) for rung in rungs for one in rung.asked]
    assert len(set(asked)) == len(asked), "a candidate was asked the same twice"
    tried = {name for name, _ in asked}
    assert len(rungs) <= budget.rungs + 1 and len(tried) <= budget.candidates
    decided = [answers[one] for one in asked if one[1] == "final" and answers[one].decision != "INFEASIBLE"]
    assert len(decided) <= budget.decisions and found.alpha.spent <= found.alpha.total + 1e-12
    if budget.screened:
        assert {name for name, kind in asked if kind == "final"} <= {name for name, kind in asked if kind == "screen"}
    if found.winner:
        assert answers[found.winner, "final"].decision == "ACCEPT" and (found.winner, "final") in asked
        cheapest = min(one.cost for one in space if (one.name, "final") in asked and passes(answers, one.name))
        assert next(one.cost for one in space if one.name == found.winner) == cheapest
    # Every candidate is accounted for once: asked, or not tried with a reason.
    assert sorted([*tried, *(one.name for one in found.not_tried)]) == sorted(one.name for one in space)
    assert all(one.reason for one in found.not_tried) and found.samples.screening % SUITES["screen"] == 0
    # The same evidence in another order gives the same rungs and the same end.
    shuffled, mixed = random.sample(space, len(space)), random.sample(outcomes, len(outcomes))
    again = ended(shuffled, mixed, budget, rungs)
    assert again == found
    for number, rung in enumerate(rungs):
        before = [answers[one.name, one.kind] for earlier in rungs[:number] for one in earlier.asked]
        assert propose(shuffled, random.sample(before, len(before)), budget, number) == rung


def passes(answers, name):
    return answers[name, "final"].decision == "ACCEPT"


@settings(max_examples=60)
@given(spaces(), BUDGETS, st.data())
def test_a_worse_outcome_never_makes_its_candidate_the_winner(case, budget, data):
    """One outcome turned into a loss: its candidate does not win, and every winner passed the deciding suite."""
    space, answers = case
    if not space:
        return
    name = data.draw(st.sampled_from([one.name for one in space]))
    worse = {**answers, (name, "final"): outcome(name, "final", **LOSS, conclusive=True)}
    found, _, _ = search(space, lambda one, kind: worse[one, kind], budget)
    assert found.winner != name and (found.winner is None or passes(worse, found.winner))


@settings(max_examples=60)
@given(spaces(), BUDGETS)
def test_one_more_loss_never_makes_the_winner_cheaper(case, budget):
    """Evidence of a search that ended with a winner, and one more loss: no cheaper candidate wins by it."""
    space, answers = case
    found, rungs, outcomes = search(space, lambda name, kind: answers[name, kind], budget)
    costs = {one.name: one.cost for one in space}
    for one in found.not_tried if found.winner else ():
        kind = "screen" if budget.screened else "final"
        more = ended(space, [*outcomes, outcome(one.name, kind, **LOSS, conclusive=True)], budget, rungs)
        assert more.winner is not None and costs[more.winner] >= costs[found.winner]


def test_few_rungs_are_enough_for_a_monotone_space():
    """Where risk orders the losses, bisection finds the cheapest that passes among 15 in five rungs of two."""
    space = [candidate(f"c{number:02}", number / 15, 15 - number) for number in range(15)]
    budget = Budget(candidates=15, rungs=6)
    for first in range(1, 15):
        found, _, _ = search(
            space,
            lambda name, kind, first=first: (
                outcome(name, kind) if int(name[1:]) >= first else outcome(name, kind, **LOSS, conclusive=True)
            ),
            budget,
        )
        assert found.winner == f"c{first:02}", first
        assert sum(len(rung.asked) for rung in found.rungs) <= 9
