"""Samples that two runs share are found by their digests, and stop a run whose suite forbids them."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from day0.base.artefacts import digest_of
from day0.decision.assess_run import evaluate_run
from day0.decision.shared_samples import disjoint_problems, shared_samples
from day0.suite.suites import read_suite

DEMO = yaml.safe_load((Path(__file__).parents[3] / "config" / "suites" / "demo.yaml").read_text())


def write_run(folder, suite_file, **tasks):
    """A run of a suite with documents (numbers) by task, each asked twice."""
    (folder / "samples").mkdir(parents=True)
    for task, documents in tasks.items():
        lines = [
            {"id": str(n), "repeat": r, "document_digest": f"d{n}", "prompt_digest": f"{task} p{n}", "score": 1.0}
            for n in documents
            for r in (0, 1)
        ]
        (folder / "samples" / f"{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metadata = {"suite_digest": digest_of(read_suite(suite_file))}
    (folder / "results.yml").write_text(yaml.safe_dump({"metadata": metadata}))
    return folder


@pytest.fixture
def site(tmp_path):
    """Suites `screen` and `decide`, and a run of both by the same candidate: documents 0-49 and 40-99."""
    suites = tmp_path / "suites"
    suites.mkdir()
    for name, others in (("screen", ["decide"]), ("decide", []), ("other", [])):
        (suites / f"{name}.yaml").write_text(yaml.safe_dump(copy.deepcopy(DEMO) | {"disjoint_from": others}))
    candidate = tmp_path / "results" / "m" / "fp8"
    write_run(candidate / "screen", suites / "screen.yaml", addition=range(50))
    write_run(candidate / "decide", suites / "decide.yaml", sums=range(40, 100), sorting=range(200, 210))
    return tmp_path


def problems(site, name, candidate="fp8"):
    file = site / "suites" / f"{name}.yaml"
    return disjoint_problems(site / "results" / "m" / candidate / name, read_suite(file), file)


def test_shared_documents_are_counted_whatever_the_tasks_are_called(site):
    screen, decide = (site / "results" / "m" / "fp8" / name for name in ("screen", "decide"))
    assert shared_samples(screen, decide) == [("addition", "sums", 10, 50)]
    assert shared_samples(decide, screen) == [("sums", "addition", 10, 60)]
    assert shared_samples(screen, site) == []


def test_each_side_of_a_pair_that_must_be_disjoint_names_the_other(site):
    (found,) = problems(site, "screen")
    assert "task addition: 10 of its 50 documents were asked by suite decide (task sums) too" in found
    (found,) = problems(site, "decide")
    assert "task sums: 10 of its 60 documents were asked by suite screen (task addition) too" in found


def test_a_run_of_the_baseline_beside_it_counts_and_is_named_once(site):
    baseline = site / "results" / "m" / "baseline"
    write_run(baseline / "decide", site / "suites" / "decide.yaml", sums=range(40, 100))
    assert len(problems(site, "screen")) == 1
    write_run(site / "results" / "m" / "nvfp4" / "screen", site / "suites" / "screen.yaml", addition=range(50))
    assert len(problems(site, "screen", "nvfp4")) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda site: (site / "suites" / "screen.yaml").write_text(yaml.safe_dump(DEMO)),
        lambda site: (site / "suites" / "decide.yaml").write_text(yaml.safe_dump({**DEMO, "seed": 7})),
        lambda site: (site / "suites" / "decide.yaml").unlink(),
        lambda site: (site / "results" / "m" / "fp8" / "decide" / "results.yml").write_text("{"),
        lambda site: (site / "results" / "m" / "fp8" / "decide" / "samples" / "sums.jsonl").write_text("[]\nno\n"),
    ],
    ids=["no such wish", "an earlier definition", "no such suite", "unreadable results", "unreadable samples"],
)
def test_what_says_nothing_of_the_pair_is_no_finding(site, change):
    change(site)
    assert problems(site, "screen") == []


def test_shared_samples_fail_the_run():
    """The run's assessment, from the sentences of the check."""
    accounts = {"expected": 4, "scored": 4}
    summary = {"status": "COMPLETED", "tasks": {"t": {"score": 0.5, "accounting": accounts}}}
    assert evaluate_run(summary).passed
    judged = evaluate_run(summary | {"shared_samples": ["task t: 3 of its 4 documents"]})
    assert not judged.passed and judged.failure_class == "USER_CONFIG_ERROR"
    assert "3 of its 4 documents" in judged.detail
