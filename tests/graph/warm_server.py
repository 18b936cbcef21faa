"""Snakemake's command line and the stages' scripts, each in a fork of a process that has imported the libraries once.

A command of Snakemake is a line of JSON on standard input (its folder, arguments, environment and output file); it is
answered with its exit status and the CPU seconds that it took itself. `python` in the rules of such a command is
`warm_python.py`, which hands its arguments, environment and files over a socket. The project's own modules are imported
by each fork anew, from the copy at hand. More than half of the time of a small command would be the import.
"""

import atexit
import contextlib
import gc
import json
import marshal
import os
import runpy
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import huggingface_hub.repocard  # noqa: F401
import jinja2  # noqa: F401
import matplotlib.figure  # noqa: F401
import msgspec  # noqa: F401
import numpy  # noqa: F401
import pydantic.json_schema  # noqa: F401
import scipy.optimize
import scipy.stats  # noqa: F401
import smart_open  # noqa: F401  Snakemake imports it late, and its plugins with the arguments that they add
import tabulate  # noqa: F401
import yaml  # noqa: F401
from snakemake.cli import get_argument_parser
from snakemake.cli import main as snakemake

FOLDER = Path(tempfile.mkdtemp(prefix="warm-"))


def become(folder, environment, files, arguments, first_path):
    """Give this fork what a process of its own would have been started with; `files` are the standard ones."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.argv = arguments
    sys.path[0] = first_path


def finish(function, *arguments, **keywords):
    """Run the function and end this fork as Python would, but without taking every library apart, which costs 0.2 s."""
    status = 1
    try:
        function(*arguments, **keywords)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 120
    os._exit(status)


def run_stage(connection):
    """Run the script that a connection asks for in a fork and answer with its status."""
    message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    length = int.from_bytes(message[:4], "little")
    while len(message) < 4 + length:
        message += connection.recv(1 << 20)
    arguments, folder, environment = marshal.loads(message[4:])
    caller = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stage = os.fork()
    if stage == 0:
        # What ends the group of the caller ends the stage, too.
        os.setpgid(0, os.getpgid(caller))
        connection.close()
        become(folder, environment, files, arguments, str(Path(folder, arguments[0]).parent))
        finish(runpy.run_path, arguments[0], run_name="__main__")
    for file in files:
        os.close(file)
    status = os.waitpid(stage, 0)[1]
    with contextlib.suppress(BrokenPipeError):  # the caller was killed
        connection.sendall(struct.pack("i", status))
    os._exit(0)


def serve_stages(listener):
    """Run stages until the server of the commands has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run_stage(connection)
        connection.close()


def tell_cpu_seconds(pipe):
    """Write how long this process itself was on a CPU, without those that it has started."""
    os.write(pipe, struct.pack("d", sum(os.times()[:2])))


def run_commands():
    """Run each command of standard input."""
    for line in sys.stdin:
        command = json.loads(line)
        told, cpu = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(told)
            atexit.register(tell_cpu_seconds, cpu)
            signal.alarm(command["longest_seconds"])
            nothing = os.open(os.devnull, os.O_RDONLY)
            output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            arguments = ["snakemake", *command["arguments"]]
            become(command["folder"], command["environment"], (nothing, output, output), arguments, command["folder"])
            # The rules put the folder of the interpreter that runs Snakemake before all others.
            os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            sys.executable = str(FOLDER / "python")
            finish(snakemake)
        os.close(cpu)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(told, "rb") as pipe:
            seconds = pipe.read(8)
        print(status, struct.unpack("d", seconds)[0] if seconds else 0.0, flush=True)


def main():
    python = FOLDER / "python"
    code = Path(__file__).with_name("warm_python.py").read_text()
    code = code.replace("@python@", sys.executable).replace("@address@", str(FOLDER / "socket"))
    python.write_text(f"#!{sys.executable} -IS\n{code}")
    python.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(FOLDER / "socket"))
    listener.listen(64)
    get_argument_parser()
    gc.freeze()
    stages = os.fork()
    if stages == 0:
        serve_stages(listener)
    run_commands()
    os.kill(stages, signal.SIGTERM)
    shutil.rmtree(FOLDER)


main()
