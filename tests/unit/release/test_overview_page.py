"""The page over all releases shows every decision, and size against accuracy where there is both."""

import csv
import html
import os

import pytest
from decided_release import make_release, run_script

from day0.base.artefacts import read_json, write_json
from day0.records.failure_class import Decision
from day0.release.effort import Effort
from day0.release.overview_page import COLUMNS, Decided, index_figures, index_rows, whole_cost

SCALE = {"min": 0.0, "max": 1.0, "direction": "higher"}


def verdict(release="fp8", decision="ACCEPT", **changes):
    task = {"baseline": 1.0, "candidate": 0.98, "drop": 0.02, "drop_fraction": 0.02, "tier": "critical", "scale": SCALE}
    advisory = {**task, "candidate": 0.1, "drop_fraction": 0.9, "tier": "advisory"}
    content = {
        "model": "m.1", "release": release, "recipe": release, "suite": "s", "decision": decision, "size_ratio": 0.5,
        "bits_per_weight": 8.25, "detail": "It <is> so.", "next_action": "Do it.", "failure_class": None,
        "tasks": {"addition": task, "extra": advisory}, "created": "2030-01-02T03:04:05+00:00",
    }  # fmt: skip
    return content | changes


def write(root, *verdicts):
    paths = []
    for content in verdicts:
        paths.append(root / content["model"] / content["release"] / "verdict.json")
        write_json(paths[-1], content)
        paths[-1].with_name("report.html").write_text("")
    return paths


def test_an_unreadable_verdict_of_an_earlier_run_is_left_out_and_named(tmp_path):
    verdict = make_release(tmp_path / "results", "ACCEPT")
    for name, change in (("odd", {"tasks": {"a": 3}}), ("older", {"key_of_another_version": 1})):
        write_json(
            tmp_path / "results" / "tiny" / name / "verdict.json", read_json(verdict) | {"release": name} | change
        )
    output = tmp_path / "results" / "index.html"
    done = run_script("index.py", verdict, "--others", tmp_path / "results", "--output", output)
    assert done.returncode == 0, done.stderr
    assert "left out:" in done.stdout and "tiny/odd/verdict.json" in done.stdout and "tasks.a" in done.stdout
    assert ">older<" in output.read_text() and ">odd<" not in output.read_text()


def test_a_stage_that_releases_share_counts_once():
    """Each stage is a power of ten: two releases of one candidate, and a candidate on another suite."""
    source, baseline = Effort("", "preflight", "source", 0, 1), Effort("", "evaluate", "baseline", 0, 10)
    quantized = Effort("", "quantize", "candidate", 0, 100)
    decided = [Effort("", "decide", "decision", 0, 1000), Effort("", "decide", "decision", 0, 10_000)]
    other = [Effort("", "evaluate", "baseline", 0, 100_000), Effort("", "quantize", "candidate", 0, 1_000_000)]
    releases = [
        Decided(verdict("one", candidate="c"), None, None, "", [source, baseline, quantized, decided[0]]),
        Decided(verdict("two", candidate="c"), None, None, "", [source, baseline, quantized, decided[1]]),
        Decided(verdict("three", candidate="d", suite="t"), None, None, "", [source, *other]),
    ]
    assert whole_cost(releases).seconds == 1_111_111


def test_every_decision_has_its_row_and_its_next_action(tmp_path):
    paths = write(tmp_path, *(verdict(f"r{number}", name) for number, name in enumerate(Decision)))
    output = tmp_path / "index.html"
    done = run_script("index.py", *paths, "--output", output, "--table", tmp_path / "t.csv")
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    for decision in Decision:
        assert f'">{decision}</span>' in text
    assert text.count("<b>Next:</b> Do it.") == 3 and "It &lt;is&gt; so." in text
    assert 'href="m.1/r0/report.html"' in text
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["decision"] for row in rows] == list(Decision) and tuple(rows[0]) == COLUMNS
    assert (rows[0]["worst_task"], rows[0]["largest_drop"], rows[0]["mean_score"]) == ("addition", "0.02", "0.98")


def test_what_was_decided_earlier_is_listed_apart(tmp_path):
    paths = write(tmp_path, verdict("new"), verdict("earlier", "REGRESSION"))
    (tmp_path / "m.1" / "broken").mkdir()
    (tmp_path / "m.1" / "broken" / "verdict.json").write_text("{")
    output = tmp_path / "index.html"
    assert run_script("index.py", paths[0], "--output", output).returncode == 0
    assert "earlier" not in output.read_text()
    done = run_script("index.py", paths[0], "--others", tmp_path, "--output", output)
    assert done.returncode == 0 and "broken" in done.stdout
    first, _, second = output.read_text().partition("Decided earlier")
    assert 'data-decision="REGRESSION"' not in first and 'data-decision="REGRESSION"' in second


def test_a_report_or_bundle_older_than_the_verdict_is_no_link(tmp_path):
    (path,) = write(tmp_path, verdict())
    os.utime(path.with_name("report.html"), (1, 1))
    assert run_script("index.py", path, "--output", tmp_path / "index.html").returncode == 0
    assert 'report.html"' not in (tmp_path / "index.html").read_text()


def test_two_suites_make_two_figures_and_an_unmeasured_candidate_none():
    decided = [verdict("a"), verdict("b", suite="t"), verdict("c", "INFEASIBLE", suite="u", size_ratio=None, tasks={})]
    rows = index_rows([Decided(content, None, None, True) for content in decided])
    figures = index_figures(rows)
    assert list(figures) == ["m.1.s", "m.1.t"]
    assert "a: ACCEPT, 50.0% of the size, mean score 98.00%" in html.unescape(figures["m.1.s"])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"candidate": 0.25, "scale": {"min": 0, "max": 1, "direction": "lower"}}, 0.75),
        ({"candidate": 0.0, "scale": {"min": -100, "max": 100, "direction": "higher"}}, 0.5),
        ({"candidate": None, "scale": SCALE}, None),
    ],
)
def test_the_mean_score_is_one_of_the_scale(entry, expected):
    (row,) = index_rows([Decided(verdict(tasks={"t": entry}), None, None, True)])
    assert row["mean_score"] == expected


def test_no_task_and_no_size_still_make_a_row():
    (row,) = index_rows([Decided(verdict(tasks={}, size_ratio=None), None, None, True)])
    assert row["mean_score"] is row["largest_drop"] is row["worst_task"] is None
