"""Snakemake's command line, each command in a fork of this process, which has imported Snakemake once.

A command is a line of JSON on standard input (its folder, arguments, environment and output file); it is answered with
its exit status. Half of a small command's time would be the import.
"""

import json
import os
import signal
import sys

import smart_open  # noqa: F401  Snakemake imports it late, and its plugins with the arguments that they add
from snakemake.cli import get_argument_parser, main

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


get_argument_parser()
for line in sys.stdin:
    command = json.loads(line)
    child = os.fork()
    if child == 0:
        become(**command)
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
