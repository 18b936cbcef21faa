"""A small sample of benchmarks/kills.py, which kills all parts of a real release: of what needs no server."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("workspace")  # for the environments and the embedded model of the root
def test_a_kill_of_a_build_or_an_export_leaves_nothing_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "benchmarks/kills.py", "--victims", "environment", "exporter", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tried 2, handled 2, wrong ACCEPT 0, lost answers 0, asked twice 0, orphans 0, ports 0" in done.stdout
