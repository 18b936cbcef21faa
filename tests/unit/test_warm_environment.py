"""A warm start of tests/ is told from a start of its own by nothing but its time, and ends with its caller."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from warm_environment import warm_interpreter

SEEN = """
import json, os, sys, tempfile
seen = {"arguments": sys.argv, "folder": os.getcwd(), "input": sys.stdin.read(), "is_warm": "wave" in sys.modules}
seen |= {"told": os.environ.get("TOLD"), "scratch": tempfile.gettempdir(), "path": sys.path[:2]}
print(json.dumps(seen))
print("to stderr", file=sys.stderr)
sys.exit(7)
"""
WAITS = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(os.getpid(), child.pid, flush=True)
child.wait()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A warm interpreter of this environment, with a module that no script here imports."""
    folder = tmp_path_factory.mktemp("warm")
    with warm_interpreter(folder, Path(sys.executable), ["wave"], own=["HF_OWN"]) as python:
        yield python


def run(python, script, *arguments, **changes):
    environment = {**os.environ, **changes}
    command = [str(python), str(script), *arguments]
    return subprocess.run(command, input="asked", cwd=script.parent, env=environment, capture_output=True, text=True)


def test_a_script_sees_what_it_was_started_with(python, tmp_path):
    script = tmp_path / "seen.py"
    script.write_text(SEEN)
    done = run(python, script, "a b", TOLD="x", HF_OWN="1", TMPDIR=str(tmp_path), PYTHONPATH="/of/its/own")
    seen = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (7, "to stderr\n")
    assert seen.pop("is_warm") is True
    assert seen == {
        "arguments": [str(script), "a b"],
        "folder": str(tmp_path),
        "input": "asked",
        "told": "x",
        "scratch": str(tmp_path),
        "path": [str(tmp_path), "/of/its/own"],
    }
    # What a library has read while it was imported would be that of another process.
    assert json.loads(run(python, script, HF_HOME="/elsewhere").stdout)["is_warm"] is False


def test_its_signal_is_the_callers(python, tmp_path):
    script = tmp_path / "ends.py"
    script.write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert run(python, script).returncode == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_caller_and_so_does_what_it_has_started(python, tmp_path, number):
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    with subprocess.Popen([str(python), str(script)], stdout=subprocess.PIPE, text=True) as caller:
        family = [psutil.Process(int(process)) for process in caller.stdout.readline().split()]
        caller.send_signal(number)
    assert len(family) == 2 and not psutil.wait_procs(family, timeout=20)[1]


def test_a_module_that_is_not_there_is_said_at_once(tmp_path):
    with (
        pytest.raises(RuntimeError, match="does not import no_such_module"),
        warm_interpreter(tmp_path, Path(sys.executable), ["no_such_module"]),
    ):
        pass
