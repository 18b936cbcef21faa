"""An interpreter whose scripts are run by forks of a server of warm starts, and anything else by Python.

Started for every stage, so that it imports nothing but what the interpreter has built in.
"""

import _socket
import marshal
import os
import sys

PYTHON, ADDRESS = "@python@", "@address@"

if not sys.argv[1:] or not sys.argv[1].endswith(".py"):
    os.execv(PYTHON, [PYTHON, *sys.argv[1:]])
connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
connection.connect(ADDRESS)
message = marshal.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)})
files = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
message = len(message).to_bytes(4, "little") + message
sent = connection.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
while sent < len(message):
    sent += connection.send(message[sent:])
answer = b""
while len(answer) < 4:
    part = connection.recv(4 - len(answer))
    if not part:
        sys.exit("the server of the stages has ended")
    answer += part
status = int.from_bytes(answer, sys.byteorder)
if os.WIFSIGNALED(status):
    os.kill(os.getpid(), os.WTERMSIG(status))
sys.exit(os.WEXITSTATUS(status))
