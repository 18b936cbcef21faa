"""The last lines say what was decided, by how much, and where to look."""

import os

from day0.base.artefacts import write_json
from summarize import MANY, format_decisions

PUBLISHED = {"url": "https://hub.example/org/m", "uploaded": [], "deleted": [], "bundle": "b", "files": 1}
PUBLISHED |= {"sums_sha256": "0" * 64, "published": "2030-01-02T03:04:05+00:00"}


def verdict(folder, **changes):
    content = {
        "model": "m",
        "release": folder.name,
        "recipe": "fp8",
        "suite": "demo",
        "decision": "ACCEPT",
        "failure_class": None,
        "stage": "comparison",
        "detail": "all is well",
        "next_action": "Publish.",
        "size_ratio": 0.5,
        "bits_per_weight": 8.25,
        "tasks": {"addition": {"baseline": 1.0, "candidate": 0.995, "drop": 0.005}},
    }
    write_json(folder / "verdict.json", content | changes)
    return folder / "verdict.json"


def test_an_accepted_release_shows_its_figures_and_files(tmp_path):
    path = verdict(tmp_path / "fp8")
    (tmp_path / "fp8" / "release").mkdir()
    (tmp_path / "fp8" / "report.html").write_text("")
    text = format_decisions([path])
    assert text.splitlines() == [
        "m fp8: ACCEPT (0.500 of the source's size, 8.25 bits/weight, "
        "largest drop of 1 task: addition 1.0000 -> 0.9950)",
        f"  report: {tmp_path}/fp8/report.html   bundle: {tmp_path}/fp8/release",
    ]


def test_of_several_tasks_the_one_that_lost_most_is_named(tmp_path):
    tasks = {
        "gained": {"baseline": 0.5, "candidate": 0.6, "drop": -0.1},
        "lost": {"baseline": 0.5, "candidate": 0.49, "drop": 0.01},
        "unknown": {"baseline": 0.5, "candidate": None, "drop": None},
    }
    text = format_decisions([verdict(tmp_path / "fp8", tasks=tasks, size_ratio=None, bits_per_weight=None)])
    assert text == "m fp8: ACCEPT (largest drop of 2 tasks: lost 0.5000 -> 0.4900)"
    del tasks["lost"]
    text = format_decisions([verdict(tmp_path / "fp8", tasks=tasks, size_ratio=None, bits_per_weight=None)])
    assert text == "m fp8: ACCEPT (no task lost)"


def test_a_refused_release_says_why_and_what_next(tmp_path):
    changes = {"decision": "INFEASIBLE", "failure_class": "MODEL_UNSUPPORTED", "tasks": {}, "size_ratio": None}
    text = format_decisions(
        [verdict(tmp_path / "fp8", **changes, detail="no layer matched", next_action="Correct it.")]
    )
    assert "m fp8: INFEASIBLE\n  MODEL_UNSUPPORTED: no layer matched\n  next: Correct it." in text


def test_of_many_releases_those_that_need_something_are_shown_below_the_number_of_the_others(tmp_path):
    paths = [verdict(tmp_path / f"r{number:02}") for number in range(MANY)]
    assert format_decisions(paths).count(": ACCEPT") == MANY
    paths.append(verdict(tmp_path / "lost", decision="REGRESSION", failure_class="TOO_SLOW"))
    paths.append(verdict(tmp_path / "unlogged", mlflow={"status": "failed", "detail": "nobody answers"}))
    lines = format_decisions(paths, {paths[3]: ["release/model.safetensors is gone"]}).splitlines()
    assert lines[0] == f"{MANY - 1} releases: ACCEPT, each with its report in results/index.html"
    assert [line.split(" (")[0] for line in lines[1:] if line.startswith("m ")] == [
        "m r03: ACCEPT",
        "m lost: REGRESSION",
        "m unlogged: ACCEPT",
    ]
    assert lines[2] == "  DAMAGED: release/model.safetensors is gone"


def test_a_report_older_than_its_verdict_is_not_shown(tmp_path):
    path = verdict(tmp_path / "fp8")
    report = path.with_name("report.html")
    report.write_text("")
    os.utime(report, (1, 1))
    assert "report:" not in format_decisions([path])


def test_a_published_release_shows_its_address_and_a_failed_log_its_reason(tmp_path):
    path = verdict(tmp_path / "fp8", mlflow={"status": "failed", "detail": "nobody answers"})
    write_json(path.with_name("published.json"), PUBLISHED)
    text = format_decisions([path])
    assert "published: https://hub.example/org/m" in text and "not logged with MLflow: nobody answers" in text
    os.utime(path.with_name("published.json"), (1, 1))
    assert "published:" not in format_decisions([path])
