"""Python for the stages of the copies: each script runs in a fork of this process, which has imported what they share.

Most of a small script's time would be the imports. ``make_python`` writes the executable ``python`` that stands before
the driver's own in the PATH of rules; it hands its script, streams and environment over, passes signals on and ends as
the script does. Whatever is no script goes to the driver's own Python.
"""

import array
import atexit
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys
if len(sys.argv) < 2 or not sys.argv[1].endswith(".py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
for number in {signals}:
    signal.signal(number, lambda number, frame: connection.sendall(bytes([number])))
request = json.dumps(dict(arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))).encode()
files = array.array("i", [0, 1, 2])
connection.sendmsg([len(request).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
connection.sendall(request)
answer = connection.recv(8)
status = int.from_bytes(answer, "little", signed=True) if len(answer) == 8 else 1
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def make_python(folder: Path, address: str) -> Path:
    """Write the executable, and return the path of it."""
    made = folder / "python"
    signals = tuple(int(number) for number in PASSED_ON)
    made.write_text(CLIENT.format(python=sys.executable, address=address, signals=signals))
    made.chmod(0o755)
    return made


def serve(listener: socket.socket) -> None:
    """Run scripts until the process is ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            atexit._clear()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Run one script in a child; the child returns to run it, this process ends with it."""
    data, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(12))
    files = array.array("i")
    files.frombytes(ancillary[0][2])
    length, text = int.from_bytes(data, "little"), b""
    while len(text) < length:
        text += connection.recv(length - len(text))
    request = json.loads(text)
    child = os.fork()
    if child == 0:
        connection.close()
        run(files, **request)
    for file in (0, 1, 2, *files):  # a pipe ends when its last writer has closed it
        os.close(file)
    watched = os.pidfd_open(child)
    while True:
        ready, _, _ = select.select([watched, connection], [], [])
        if watched in ready:
            break
        sent = connection.recv(16)
        for number in sent or [signal.SIGKILL]:  # a client that was killed takes its script along
            os.kill(child, number)
        if not sent:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        connection.sendall(status.to_bytes(8, "little", signed=True))
    finally:
        os._exit(0)


def run(files: array.array, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Become what the script would have been started with, run it, and end."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    for number in PASSED_ON:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).absolute().parent)
    runpy.run_path(arguments[0], run_name="__main__")
    sys.exit(0)
