"""Snakemake's command line, each command in a fork of this process, which has imported Snakemake once.

A command is a line of JSON on standard input (its folder, arguments, environment and output file); it is answered with
its exit status. Half of a small command's time would be the import.
"""

import importlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

import python_server
from snakemake.cli import get_argument_parser, main

# What Snakemake imports late, and what the project's own code imports, of which each copy has its own.
for module in (
    *("smart_open", "numpy", "scipy.special", "scipy.stats", "scipy.optimize", "pandas", "pydantic", "msgspec", "yaml"),
    *("jinja2", "huggingface_hub.repocard", "http.server", "concurrent.futures", "statistics"),
):
    importlib.import_module(module)

LONGEST_SECONDS = 300


def become(folder, arguments, environment, output):
    """Give this process what a command of its own would have been started with."""
    signal.alarm(LONGEST_SECONDS)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    files = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, file in enumerate((files[0], files[1], files[1])):
        os.dup2(file, number)
    sys.argv = ["snakemake", *arguments]
    sys.path[0] = folder
    sys.executable = str(PYTHON)  # the rules look for python beside it


get_argument_parser()
tools = tempfile.mkdtemp()  # no TemporaryDirectory, which every fork would remove at its end
address = f"{tools}/socket"
PYTHON = python_server.make_python(Path(tools), address)
listener = socket.socket(socket.AF_UNIX)
listener.bind(address)
listener.listen(64)
SCRIPTS = os.fork()
if SCRIPTS == 0:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # the commands are the other process's
    python_server.serve(listener)
listener.close()
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        become(**command)
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os.kill(SCRIPTS, signal.SIGKILL)
shutil.rmtree(tools)
