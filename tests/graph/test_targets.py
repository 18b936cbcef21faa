"""What the targets leave behind and say last, whatever was decided."""

import re
import zipfile

import pytest

from conftest import TWO_RELEASES

INFEASIBLE = {"quantize": {"nvfp4": {"failure_class": "MODEL_UNSUPPORTED"}}}


@pytest.fixture
def project(equipped):
    """With environments and a model: what these tests look at comes after them."""
    return equipped


def last_lines(run, count=6):
    return "\n".join(run.output.splitlines()[-count:])


def test_the_index_shows_every_decision_though_the_release_fails(project):
    project.use_real_pages()
    project.configure(releases=TWO_RELEASES)
    project.behave(INFEASIBLE)
    run = project.snakemake("release")
    assert run.status == 1 and "Traceback" not in run.output, run.output
    page = (project.folder / "results" / "index.html").read_text()
    assert '">ACCEPT</span>' in page and '">INFEASIBLE</span>' in page and "MODEL_UNSUPPORTED" in page
    assert 'href="tiny-llama/fp8/report.html"' in page and project.exists("figures/tiny-llama.demo.svg")
    table = (project.folder / "results" / "decisions.csv").read_text().splitlines()
    assert len(table) == 3 and table[0].startswith("model,release,decision")
    last = last_lines(run)
    assert "tiny-llama nvfp4: INFEASIBLE" in last and "next: " in last and "report: results/tiny-llama/nvfp4" in last


def test_a_plan_of_a_refused_release_succeeds_and_says_no_decision(project):
    project.behave({"evaluate": {"fp8": {"scores": {"addition": 0.8}}}})
    assert project.snakemake("release").status == 1
    run = project.snakemake("-n", "release")
    assert run.status == 0 and "REGRESSION" not in run.output, run.output


def test_a_crash_is_on_the_pages_and_in_the_last_lines(project):
    project.use_real_pages()
    project.behave({"evaluate": {"fp8": {"crashes": 2}}})
    run = project.snakemake("verdict")
    assert run.status == 1 and "Traceback" not in run.output, run.output
    assert "not decided" not in run.output
    last = run.output.rpartition("\nmodel ")[2]
    assert "tiny-llama fp8: ANOMALOUS" in last and "SYSTEMIC: Rule evaluate_run crashed" in last and "next:" in last
    assert "report: results/tiny-llama/fp8/report.html" in last
    assert "evaluate_run crashed" in (project.folder / "results/tiny-llama/fp8/report.html").read_text()
    page = (project.folder / "results" / "index.html").read_text()
    assert 'data-decision="ANOMALOUS"' in page and "SYSTEMIC" in page
    project.behave({})
    run = project.snakemake("verdict")
    page = (project.folder / "results" / "index.html").read_text()
    assert run.status == 0 and 'data-decision="ACCEPT"' in page and 'data-decision="ANOMALOUS"' not in page
    assert "2 decisions" in page and "Rule evaluate_run crashed" in page  # its history


def test_what_a_stopped_run_did_not_reach_is_said_and_no_old_verdict_shown(released):
    released.behave({"evaluate": {"baseline": {"crashes": 99}}})
    suite = released.folder / "config" / "suites" / "demo.yaml"
    suite.write_text(suite.read_text().replace("seed: 1234", "seed: 1235"))
    released.configure(releases=[*TWO_RELEASES, {"model": "tiny-llama", "recipe": "mxfp8"}])
    (released.folder / "results" / "tiny-llama" / "mxfp8").mkdir()
    # Without the profile, the first failure stops the run.
    run = released.snakemake("verdict", "--workflow-profile", "none", "--cores", "1")
    assert run.status == 1, run.output
    last = run.output.rpartition("\nmodel ")[2]
    assert "ACCEPT" not in last and last.count("ANOMALOUS") >= 2, last


def test_publishing_shows_first_and_does_it_when_told(project):
    target = project.folder / "shared" / "tiny-llama-fp8"
    publish = {"folder": "shared/{model}-{release}"}
    project.configure(publish=publish)
    run = project.snakemake("publish")
    assert run.status == 0 and "dry run, nothing was sent" in run.output and "model.safetensors" in run.output, (
        run.output
    )
    assert not target.exists() and not project.exists("tiny-llama/fp8/published.json")
    run = project.snakemake("publish", "--config", "publish={dry_run: false}")
    assert run.status == 0 and f"published at {target.as_uri()}" in run.output, run.output
    assert (target / "SHA256SUMS").read_bytes() == (
        project.folder / "results/tiny-llama/fp8/release/SHA256SUMS"
    ).read_bytes()
    record = project.read("tiny-llama/fp8/published.json")
    assert record["folder"] == "shared/tiny-llama-fp8" and record["files"] == len(record["uploaded"])
    project.configure(publish={**publish, "dry_run": False})
    run = project.snakemake("publish")
    assert run.status == 0 and "publish_release" not in run.output and "published at" in run.output, run.output


def test_nothing_but_an_accepted_release_is_published(project):
    project.configure(publish={"folder": "shared", "dry_run": False})
    project.behave({"evaluate": {"fp8": {"scores": {"addition": 0.8}}}})
    run = project.snakemake("publish")
    assert run.status == 1 and "tiny-llama fp8: REGRESSION" in last_lines(run), run.output
    assert not (project.folder / "shared").exists()


def test_a_release_may_go_elsewhere_and_no_destination_is_said_plainly(project):
    run = project.snakemake("publish")
    assert run.status == 1 and "no release says where it is to be published" in run.output
    assert "Traceback" not in run.output and project.calls() == []
    own = {"model": "tiny-llama", "recipe": "nvfp4", "publish": {"folder": "own"}}
    project.configure(releases=[TWO_RELEASES[0], own], publish={"hub": "org/{model}-{release}"})
    run = project.snakemake("-n", "-p", "publish")
    assert run.status == 0, run.output
    assert '"hub": "org/tiny-llama-fp8"' in run.output and '"folder": "own", "hub": null' in run.output, run.output


def test_the_report_of_snakemake_has_the_same_parts(project):
    project.use_real_pages()
    assert project.snakemake("verdict").status == 0
    run = project.snakemake("--report", "report.zip", "--", "verdict")
    assert run.status == 0, run.output
    added = [line for line in run.output.splitlines() if line.startswith("Adding ")]
    for name in ("report.html", "index.html", "decisions.csv", "drops.svg", "timeline.svg", "tiny-llama.demo.svg"):
        assert any(f"Adding {name} " in line for line in added), (name, added)
    assert "Traceback" not in run.output
    with zipfile.ZipFile(project.folder / "report.zip") as archive:
        files = set(archive.namelist())
        (index,) = (name for name in files if name.endswith("/index.html"))
        (report,) = re.findall('data-archived="([^"]+)"', archive.read(index).decode())
    assert f"{index.rsplit('/', 2)[0]}/{report}/report.html" in files, files
