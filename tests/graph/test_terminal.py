"""What a run prints, and where the rest is."""

import os
import subprocess
import sys

from conftest import ROOT

FAILING = {"quantize": {"fp8": {"crashes": 9}}}


def test_a_release_prints_a_page_and_its_log_holds_every_job(project):
    run = project.snakemake("release")
    lines = run.output.splitlines()
    assert run.status == 0 and len(lines) < 60, run.output
    assert f"all of it: {next(project.folder.glob('.snakemake/log/*')).relative_to(project.folder)}" in run.output
    assert "plan: 1 release, " in run.output and "asks 6,000 answers, at most 384,000 tokens" in run.output
    assert "tiny-llama fp8: ACCEPT" in run.output and lines[-1].startswith("done in ")
    assert "rule evaluate_run" not in run.output and "Evaluating fp8 of tiny-llama" in run.log
    assert "plan: " not in project.snakemake("-n", "release").output, "nothing heavy is left to run"
    again = project.snakemake("release")
    assert again.status == 0 and len(again.output.splitlines()) < 9, again.output
    assert "report: results/tiny-llama/fp8/report.html   bundle: results/tiny-llama/fp8/release" in again.output


def test_verbose_prints_everything_on_the_terminal(equipped):
    run = equipped.snakemake("release", "--verbose")
    assert run.status == 0 and "Finished jobid" in run.output, run.output
    assert "    bundle_release: results/tiny-llama/fp8/release: " in run.output, "what a job logs"
    assert len(run.output.splitlines()) > 200


def test_a_crash_takes_three_lines_with_the_place_of_the_rest(equipped):
    equipped.behave(FAILING)
    run = equipped.snakemake("release")
    assert run.status == 1 and "Traceback" not in run.output, run.output
    lines = run.output.splitlines()
    failures = [number for number, line in enumerate(lines) if "FAILED: Quantizing tiny-llama by fp8" in line]
    assert len(failures) == 2 and sum("tried again: Quantizing" in line for line in lines) == 1, run.output
    for number in failures:
        assert "crashing in call" in lines[number + 1]
        assert lines[number + 2] == "  all of it: results/tiny-llama/fp8/logs/quantize.log"
    assert "RuleException" not in run.output and "tiny-llama fp8: ANOMALOUS" in run.output, run.output
    assert len(lines) < 30


def test_a_gate_that_refuses_says_the_decision(equipped):
    equipped.behave({"evaluate": {"fp8": {"scores": {"addition": 0.8}}}})
    run = equipped.snakemake("release")
    lines = run.output.splitlines()
    failure = next(number for number, line in enumerate(lines) if "FAILED: Gate: " in line)
    assert "REGRESSION" in lines[failure + 1] and lines[failure + 2].startswith("  all of it: results/"), run.output


def test_a_snakemake_without_the_plugin_prints_everything_and_says_what_to_do(equipped):
    """As a virtual environment of an earlier version does: without the line in .venv that names the folder."""
    drop = "import sys; sys.path[:] = [p for p in sys.path if not p.endswith('driver/plugins')]; "
    command = [sys.executable, "-c", f"{drop}from snakemake.cli import main; main()", "environments"]
    done = subprocess.run(command, cwd=equipped.folder, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "Nothing to be done" in done.stderr, done.stderr
    assert "run `make setup`" in done.stderr


def test_the_folder_that_the_environment_names_holds_the_plugin():
    site = ROOT / ".venv" / "lib" / "python3" / "site-packages"
    place = os.path.normpath(site / (ROOT / "envs" / "driver.pth").read_text().splitlines()[0])
    assert os.path.isfile(os.path.join(place, "snakemake_logger_plugin_day0", "__init__.py"))
