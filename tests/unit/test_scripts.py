"""Every script runs by hand: it says what it does, and refuses what it cannot use without a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted(path for path in (Path(__file__).parents[2] / "scripts").glob("*.py"))
# Read their instructions from standard input, train, or are imported; they have no use by hand.
DRIVEN = {"harness_lm_eval.py", "harness_questions.py", "harness_transport.py", "make_demo_model.py"}
DRIVEN |= {"loaded_model.py", "nvfp4_emulation.py"}
BY_HAND = [script for script in SCRIPTS if script.name not in DRIVEN]


def run(script, *arguments):
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", BY_HAND, ids=lambda path: path.name)
def test_help_says_what_a_script_does(script):
    done = run(script, "--help")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize("script", BY_HAND, ids=lambda path: path.name)
def test_an_unknown_option_is_unusable_input(script):
    done = run(script, "--no-such-option")
    assert done.returncode == 2 and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("gate.py", ["--assessment", "none.json", "--token", "none.ok"]),
        ("gate_ptq.py", ["--summary", "none.json"]),
        ("gate_ptq.py", ["--checkpoint", "none", "--source", "none", "--recipe", "fp8"]),
        ("gate_run.py", ["--run", "none"]),
        ("gate_compare.py", ["--baseline", "none", "--candidate", "none"]),
        ("decide.py", ["--release", "{", "--evidence", "{}", "--output", "none.json"]),
        ("decide.py", ["--release", "{}", "--evidence", "[]", "--output", "none.json"]),
        ("report.py", ["--verdict", "none.json", "--output", "none.html"]),
        ("summarize.py", ["none.json"]),
        ("describe_source.py", ["--model", "{", "--output", "none.json"]),
        ("preflight.py", ["--request", "{", "--output", "none.json"]),
        ("preflight.py", ["--request", "1", "--output", "none.json"]),
        (
            "measure_sensitivity.py",
            ["--source", "none", "--formats", "fp8", "--calibration", "{}", "--output", "none.json"],
        ),
        ("quantize.py", ["--source", "none", "--recipe", "fp8", "--output", "none", "--record", "none.json"]),
        ("make_engine_table.py", ["--source", "none"]),
    ],
)
def test_input_that_is_not_there_is_named_without_a_traceback(tmp_path, monkeypatch, name, arguments):
    monkeypatch.chdir(tmp_path)
    done = run(Path(__file__).parents[2] / "scripts" / name, *arguments)
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
