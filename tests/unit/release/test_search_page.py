"""The portfolio of a search: its table, its picture, and its part of the report."""

import csv
import io
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from decided_release import make_release, run_script

import report
from day0.records.search import Budget, Candidate, Costs, MeanLoss, Outcome
from day0.release.figures import search_chart
from day0.release.search_page import portfolio_table, search_section
from day0.search.rule import conclude, propose

SCRIPTS = Path(__file__).parents[3] / "scripts"
SUITES = {"screen": 500, "final": 2000}
# The embedded model: cost, an assumed risk, and the mean drop in percent.
SPACE = {
    "nvfp4": (0.258, 1.0, 1.2), "kl-5": (0.29, 0.8, 0.8), "kl-5.5": (0.32, 0.6, 0.46), "kl-6": (0.35, 0.4, 0.39),
    "attention-fp8": (0.357, 0.45, 0.2), "kl-7": (0.42, 0.2, 0.05), "fp8": (0.505, 0.01, 0.0),
    "w4a16": (1.0, 0.1, 0.0),
}  # fmt: skip


def answer(name, kind):
    drop = SPACE[name][2] / 100
    limit, error = (0.005, 0.002) if kind == "screen" else (0.01, 0.0015)
    decision = "ACCEPT" if drop + 2 * error <= limit else "ANOMALOUS" if drop <= limit else "REGRESSION"
    return Outcome(
        name=name,
        kind=kind,
        decision=decision,
        failure_class="INSUFFICIENT_EVIDENCE" if decision == "ANOMALOUS" else None,
        worst_drop=drop / limit,
        conclusive=drop - 2 * error > limit,
        samples_asked=SUITES[kind],
        loss=MeanLoss(drop=drop, low=drop - 2 * error, high=drop + 2 * error, limit=limit),
        score=0.97 - drop,
        size_ratio=0.3,
        speed_ratio=1.25,
        speed_is_native=False,
    )


@pytest.fixture(scope="module")
def search():
    space = [
        Candidate(
            name=name,
            cost=cost,
            risk=risk,
            saves=cost < 1,
            costs=Costs(size=0.3, bits_per_weight=5, active_bytes=0.3, throughput=cost),
        )
        for name, (cost, risk, _) in SPACE.items()
    ]
    outcomes, rungs, budget = [], [], Budget()
    while not rungs or not rungs[-1].is_end:
        rungs.append(propose(space, outcomes, budget, len(rungs)))
        outcomes += [answer(one.name, one.kind) for one in rungs[-1].asked]
    return conclude(space, outcomes, budget, rungs, "throughput", 0.05, SUITES)


def test_the_table_has_every_candidate_with_its_result_or_the_reason(search):
    rows = {row["candidate"]: row for row in csv.DictReader(io.StringIO(portfolio_table(search)))}
    assert list(rows) == list(SPACE) and rows[search.winner]["decided_by"] == "final"
    assert rows[search.winner]["decision"] == "ACCEPT" and " " in rows[search.winner]["rungs"]
    assert int(rows[search.winner]["samples_asked"]) == 2500 and float(rows[search.winner]["mean_drop"]) < 0.01
    assert (rows[search.winner]["speed_ratio"], rows[search.winner]["speed_is_native"]) == ("1.25", "False")
    assert (rows["w4a16"]["speed_ratio"], rows["w4a16"]["speed_is_native"]) == ("", "")
    assert rows["w4a16"]["decision"] == "not tried" and "no less than the source" in rows["w4a16"]["reason"]
    assert all(row["reason"] for row in rows.values())


def test_the_section_shows_the_path_rung_by_rung(search):
    section = search_section(search)
    assert [rung["number"] for rung in section["rungs"]] == list(range(len(search.rungs)))
    assert [one["name"] for one in section["rungs"][0]["asked"]] == ["nvfp4", "fp8"]
    assert section["rungs"][-1]["asked"] == [] and section["rungs"][-1]["reason"]
    facts = dict(section["facts"])
    assert facts["Winner"] == search.winner and "of two full evaluations" in facts["Samples asked"]
    assert [one["name"] for one in section["not_tried"]] == [one.name for one in search.not_tried]


def test_the_picture_names_every_candidate_and_why_it_was_not_tried(search):
    svg = search_chart(search)
    ElementTree.fromstring(svg)
    for name in SPACE:
        assert name in svg
    assert "not tried: costs no less than the source" in svg and svg == search_chart(search)


def test_a_search_without_a_score_has_a_picture(search):
    infeasible = [
        one.model_copy(update={"loss": None, "decision": "INFEASIBLE", "failure_class": "MODEL_UNSUPPORTED"})
        for one in search.outcomes
    ]
    changes = {"winner": None, "decision": "INFEASIBLE", "failure_class": "SEARCH_SPACE_INFEASIBLE", "passed": False}
    ended = search.model_copy(update={**changes, "outcomes": infeasible})
    ElementTree.fromstring(search_chart(ended))
    first = search_section(ended)["rungs"][0]["asked"][0]
    assert (first["decision"], first["failure_class"]) == ("INFEASIBLE", "MODEL_UNSUPPORTED")
    assert search_chart(ended.model_copy(update={"candidates": []})) is None


def test_the_script_writes_table_and_picture(search, tmp_path):
    search.write(tmp_path / "search.json")
    outputs = ["--table", tmp_path / "a" / "portfolio.csv", "--figure", tmp_path / "a" / "pareto.svg"]
    command = [sys.executable, SCRIPTS / "portfolio.py", "--search", tmp_path / "search.json", *outputs]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "portfolio.csv").read_text() == portfolio_table(search)
    ElementTree.parse(tmp_path / "a" / "pareto.svg")


def test_the_page_has_the_section_where_there_is_a_search(search):
    verdict = {"release": "r", "suite": "s", "decision": "ACCEPT", "detail": "d", "next_action": "n", "stage": "x"}
    with_search = report.page_content(verdict, search=search)
    assert with_search["search"]["rungs"] and "search" in with_search["figures"]
    assert report.page_content(verdict)["search"] is None


def test_the_report_of_a_searchs_release_shows_it(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdict = make_release(tmp_path, "ACCEPT")
    assert run_script("report.py", "--verdict", verdict, "--output", "plain.html").returncode == 0
    search.write(verdict.parent / "search" / "search.json")
    done = run_script("report.py", "--verdict", verdict, "--output", "page.html", "--figures", "figures")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text()
    for text in (search.detail, "figure-search", "Not tried", "costs no less than the source", "two full evaluations"):
        assert text in page, text
    assert "<h2>Search</h2>" not in (tmp_path / "plain.html").read_text()
    assert (tmp_path / "figures" / "search.svg").is_file()
