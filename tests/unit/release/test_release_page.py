"""The report page: every decision renders from real run folders, alone, escaped, and the same each time."""

import html
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from decided_release import make_release, run_script
from decision_input import described_source

import report
from day0.base.artefacts import digest_of_file, read_json, read_yaml, write_json, write_yaml
from day0.records.failure_class import Decision
from day0.release.effort import benchmark_row
from day0.release.release_page import _checkpoint_rows, _rerun, page_content

SCRIPTS = Path(__file__).parents[3] / "scripts"


def test_the_script_runs_by_itself(tmp_path):
    command = [sys.executable, str(SCRIPTS / "report.py"), "--verdict", str(tmp_path), "--output", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be read" in done.stderr


class Page(HTMLParser):
    """Collects what a page would load, and whether its tags are balanced."""

    void = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value or "")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("decision", Decision)
def test_every_decision_renders_alone(tmp_path, decision):
    verdict = make_release(tmp_path, decision)
    output = tmp_path / "report.html"
    done = run_script("report.py", "--verdict", verdict, "--output", output)
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    page = Page(text)
    assert not page.open
    assert all(reference.startswith("#") for reference in page.references)
    assert not set(page.tags) & {"script", "link", "img", "iframe"}
    assert not re.search(r"@import|url\((?!#)", text)
    assert f"<strong>{decision}</strong>" in text
    assert read_json(verdict)["next_action"] in text.replace("&#39;", "'")
    assert ('id="figure-drops"' in text) == (decision != "INFEASIBLE")
    assert 'id="figure-timeline"' in text
    if decision == "INFEASIBLE":
        assert "QUANT_COVERAGE_FAILURE" in text and "self_attn.q_proj" in text
    else:
        assert "2,210" in text and "Questions the limit needs" in text and "lm-eval 0.4.13" in text
    assert "quantize" in text and "18.4" in text and "unchanged" in text


def test_two_renderings_are_the_same_bytes(tmp_path):
    verdict = make_release(tmp_path, "REGRESSION")
    for name in ("one.html", "two.html"):
        assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / name).returncode == 0
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_changed_evidence_is_named(tmp_path):
    verdict = make_release(tmp_path, "INFEASIBLE")
    path = Path(read_json(verdict)["evidence"]["validation"]["path"])
    path.write_text(path.read_text() + " ")
    assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
    text = (tmp_path / "report.html").read_text()
    assert ">changed<" in text and ">unchanged<" not in text


def test_values_are_escaped(tmp_path):
    verdict = make_release(tmp_path, "REGRESSION")
    content = read_json(verdict) | {"detail": "<script>alert(1)</script>", "model": "<b>$x$</b>"}
    write_json(verdict, content)
    assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(1)" in text and "<b>$x$" not in text


def test_unusable_verdict_is_refused(tmp_path):
    write_json(tmp_path / "verdict.json", {"decision": "PERHAPS"})
    output = tmp_path / "report.html"
    done = run_script("report.py", "--verdict", tmp_path / "verdict.json", "--output", output)
    assert done.returncode == 2 and "no release" in done.stderr and "Traceback" not in done.stderr
    sound = read_json(make_release(tmp_path, "ACCEPT"))
    for key, value in (
        ("tasks", 3),
        ("stage", []),
        ("size_ratio", "half"),
        ("evidence", {"a": None}),
        ("decision", "YES"),
    ):
        write_json(tmp_path / "verdict.json", sound | {key: value})
        done = run_script("report.py", "--verdict", tmp_path / "verdict.json", "--output", output)
        assert done.returncode == 2 and f"{key}" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not output.exists()
    done = run_script(
        "report.py", "--verdict", make_release(tmp_path, "ACCEPT"), "--benchmark", "x", "--output", output
    )
    assert done.returncode == 2 and "NAME=FILE" in done.stderr


def test_page_of_a_crash_verdict_has_no_evidence():
    verdict = {
        "release": "a", "model": "m", "recipe": "r", "suite": "s", "decision": "ANOMALOUS", "failure_class": "SYSTEMIC",
        "stage": "quantize_model", "detail": "Rule quantize_model crashed.", "next_action": "Rerun.", "evidence": {},
    }  # fmt: skip
    content = page_content(verdict)
    assert content["figures"] == {} and content["tasks"] == [] and content["stage_name"] == "the stage quantize_model"


def test_tokens_and_malformed_answers_of_each_task_are_shown():
    tokens = {"baseline": 100.0, "candidate": 112.5, "ratio": 1.125, "interval": [1.1, 1.15], "sentence": "More."}
    kind = {"kind": "cut", "baseline": 2, "candidate": 21, "baseline_only": 1, "candidate_only": 20, "p": 2e-5}
    tasks = {"a": {"tokens": tokens, "answers": [kind]}, "b": {"tokens": None, "answers": []}}
    content = page_content({"decision": "ACCEPT"}, {"tasks": tasks, "tokens": tokens})
    (row,) = content["answers"]
    assert (row["name"], row["baseline"], row["candidate"]) == ("a", "100.0", "112.5") and content["tokens"] == "More."
    assert row["change"] == "12.5 %" and row["interval"] == "10.0 to 15.0 %"
    assert row["malformed"] == "cut: 2 and 21, alone 1 and 20 (p < 0.0001)"


def test_benchmark_row_takes_the_last():
    assert benchmark_row("s\tmax_rss\n1.5\t10\n2.5\t20\n") == {"s": "2.5", "max_rss": "20"}
    assert benchmark_row("s\tmax_rss\n") == {} == benchmark_row("")


def test_the_memory_of_a_short_job_is_not_known(tmp_path):
    for name, seconds in (("short", 0.8), ("long", 20.0)):
        (tmp_path / f"{name}.tsv").write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:20\t3.2\n")
    files = {path.stem: path for path in tmp_path.glob("*.tsv")}
    memory = {one.name: one.memory for one in report.read_efforts(files, {}, {})}
    assert memory == {"short": None, "long": 3.2}


def add_evidence(verdict, **changes):
    """Change the comparison that a verdict names, and its digest."""
    content = read_json(verdict)
    path = Path(content["evidence"]["comparison"]["path"])
    write_json(path, read_json(path) | changes)
    content["evidence"]["comparison"]["sha256"] = digest_of_file(path)
    write_json(verdict, content)


def test_warnings_precision_external_check_and_guard_are_on_the_page(tmp_path):
    verdict = make_release(tmp_path, "REGRESSION")
    tasks = read_json(read_json(verdict)["evidence"]["comparison"]["path"])["tasks"]
    tasks["addition"]["relative_guard"] = {"relative_drop": 0.03, "limit": 0.02, "within": False}
    tasks["addition"]["paired"]["mcnemar_p_holm"] = 0.0123
    entry = {"task": "addition", "score": 0.996, "expected": 0.9, "difference": 0.096, "source": "https://a.example/b"}
    add_evidence(
        verdict,
        tasks=tasks,
        criterion="confident",
        baseline_precision="BF16",
        warnings=[{"task": "addition", "sentence": "1,000 samples cannot resolve it."}],
        external={"status": "failed", "entries": [{**entry, "notes": "zero-shot", "status": "failed"}]},
    )
    assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
    text = (tmp_path / "report.html").read_text()
    for words in (
        "1,000 samples cannot resolve it.",
        "Precision of the baseline: <b>BF16</b>",
        "https://a.example/b",
        "does not meet its published scores",
        "the whole interval of the drop within 1 %",
        "relative drop 3 %, beyond the relative limit of 2 %",
        "0.0123",
    ):
        assert words in text, words
    assert "https://a.example/b" not in "".join(Page(text).references)


def test_the_page_says_how_far_a_rerun_of_the_same_model_may_move_a_score(tmp_path):
    verdict = make_release(tmp_path, "REGRESSION")
    content = read_json(verdict)
    tasks = read_json(content["evidence"]["comparison"]["path"])["tasks"]
    width = tasks["addition"]["scale"]["max"] - tasks["addition"]["scale"]["min"]
    for rate, said in ((0.05, True), (None, False)):
        policy = dict(content["policy"] or {}) | {"expected_disagreement_rate": rate}
        write_json(verdict, content | {"policy": policy if rate else {}})
        assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
        text = (tmp_path / "report.html").read_text()
        assert ("scores 5 % of its samples otherwise" in text) is said
    clusters = tasks["addition"]["paired"]["clusters"]
    expected = _rerun(clusters, 0.05, tasks["addition"]["scale"])
    draw = np.random.default_rng(1)
    moved = draw.choice([-1, 0, 1], p=[0.025, 0.95, 0.025], size=(4000, clusters)).mean(axis=1) * width
    assert 0.93 <= np.mean(abs(moved) <= expected) <= 0.97
    assert _rerun(0, 0.05, None) is None is _rerun(clusters, None, None)


def test_the_perplexity_of_the_canary_stands_beside_the_baselines(tmp_path):
    verdict = make_release(tmp_path, "ACCEPT")
    results = Path(read_json(verdict)["evidence"]["candidate_run"]["path"]).with_name("results.yml")
    content = read_yaml(results)
    canary = {"prompt": "x", "answer": "y", "passages": [], "perplexity": 4.04, "baseline_perplexity": 3.76}
    for change, said in (({}, "4.04, the baseline's 3.76: 1.07 times."), ({"baseline_perplexity": None}, "4.04.")):
        write_yaml(results, content | {"metadata": content["metadata"] | {"canary": canary | change}})
        assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
        page = html.unescape((tmp_path / "report.html").read_text())
        assert f"Perplexity of the canary's passages {said}" in page


def test_the_figures_are_files_of_their_own_too(tmp_path):
    verdict = make_release(tmp_path, "REGRESSION")
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "old.svg").write_text("")
    arguments = ("--verdict", verdict, "--output", tmp_path / "report.html", "--figures", folder)
    assert run_script("report.py", *arguments).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["drops.svg", "timeline.svg"]
    for path in folder.iterdir():
        root = ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg") and root.get("role") == "img"
    assert 'id="figure-drops"' in (tmp_path / "report.html").read_text()


def test_the_commands_compare_again_to_the_same_result(tmp_path):
    verdict = make_release(tmp_path, "ACCEPT")
    path = Path(read_json(verdict)["evidence"]["comparison"]["path"])
    entry = {"task": "addition", "metric": "exact_match", "score": 0.996, "expected": 99, "difference": 0.6}
    entry |= {"scale": {"min": 0, "max": 100}, "source": "https://a.example/b", "notes": "it's 0-shot"}
    sentence = "addition: the baseline scores 99.6 of 100, published are 99.0 (https://a.example/b); "
    entry |= {"status": "verified", "sentence": f"{sentence}0.6 points apart, within 5"}
    write_json(path, read_json(path) | {"external": {"status": "verified", "entries": [entry]}})
    assert run_script("report.py", "--verdict", verdict, "--output", tmp_path / "report.html").returncode == 0
    text = html.unescape((tmp_path / "report.html").read_text())
    line = next(line for line in text.splitlines() if "gate_compare.py" in line)
    words = shlex.split(line.removeprefix("<pre>"))
    done = run_script("gate_compare.py", *words[2:])
    assert done.returncode == 2 and "results/tiny/source.json" in done.stderr, "the source's record is no part of this"
    record = tmp_path / "source.json"
    write_json(record, described_source(dtypes={"F8_E4M3": 1}))
    words[words.index("results/tiny/source.json")] = str(record)
    done = run_script("gate_compare.py", *words[2:])
    again, found = json.loads(done.stdout), read_json(read_json(verdict)["evidence"]["comparison"]["path"])
    same = ("decision", "tasks", "evidence_sentence")
    assert {key: again[key] for key in same} == {key: found[key] for key in same}, done.stderr
    assert again["external"]["entries"][0] == {**entry, "difference": pytest.approx(0.6)}
    assert "verify_release.py" in text


def test_of_a_checkpoint_made_elsewhere_the_page_shows_what_is_not_known():
    recipe = {"name": "unknown", "kind": "imported", "definition": {"checkpoint": "/data/made"}}
    record = {"recipe": recipe, "calibration": None, "kv_cache": None, "versions": {"auto-round": "0.16.1"}}
    rows = dict(_checkpoint_rows({}, {}, record))
    assert rows == {"Recipe": "unknown (made elsewhere)", "Made by": "auto-round 0.16.1", "Calibration": "not known"}
    assert dict(_checkpoint_rows({}, {}, record | {"versions": {}}))["Made by"] == "not known"
