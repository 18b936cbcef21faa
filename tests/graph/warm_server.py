"""Snakemake's command line and the stages' scripts, each in a fork of a process that has imported what it needs.

A command of Snakemake is a line of JSON on standard input (its folder, arguments, environment and output file); it is
answered with its exit status and the CPU seconds that it took itself. `python` in the rules of such a command is
`warm_python.py`. Both hand arguments, folder, environment and files over a socket to the server, a fork of this process
with all libraries. More than half of the time of a small command would be the import.

The project's own modules come from the copy at hand. For each content of a folder scripts/, by its digest, the server
keeps a nursery: a fork that imports what earlier processes of the same kind have imported from there, and which all
processes with scripts of that content are forks of. A copy whose scripts differ in a byte gets a nursery of its own.
"""

import atexit
import contextlib
import gc
import hashlib
import importlib
import itertools
import json
import marshal
import os
import runpy
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path

import huggingface_hub.repocard  # noqa: F401
import jinja2  # noqa: F401
import matplotlib.figure  # noqa: F401
import msgspec  # noqa: F401
import numpy  # noqa: F401
import pydantic.json_schema
import pydantic.networks
import scipy.optimize
import scipy.stats  # noqa: F401
import smart_open  # noqa: F401  Snakemake imports it late, and its plugins with the arguments that they add
import snakemake.api  # before the next one, which it imports itself
import snakemake.workflow
import tabulate  # noqa: F401
import yaml  # noqa: F401
from snakemake.cli import get_argument_parser
from snakemake.cli import main as run_snakemake
from snakemake.parser import parse

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))
from forks import become, finish, receive  # noqa: E402

FOLDER = Path(tempfile.mkdtemp(prefix="warm-"))
ADDRESS, PARSED = str(FOLDER / "socket"), FOLDER / "parsed"
NURSERIES = 6  # kept at a time: each takes some 30 MB
COMPLETED = []  # models, by this process
complete_model = pydantic.BaseModel.model_rebuild.__func__
# By them Snakemake runs another Snakefile than that of the folder where it is called.
OTHER_PLACES = {"-s", "--snakefile", "-d", "--directory"}


def send(connection, content, files=()):
    """The counterpart of ``receive``."""
    message = marshal.dumps(content)
    message = len(message).to_bytes(4, "little") + message
    sent = socket.send_fds(connection, [message], files)
    connection.sendall(message[sent:])


def connect():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(ADDRESS)
    return connection


def parse_once(path, workflow, linemap, overwrite_shellcmd=None, rulecount=0):
    """Snakemake's parser, whose answer on a text is kept between commands; only the file's path stands in it."""
    with workflow.sourcecache.open(path) as file:
        key = hashlib.sha256(f"{overwrite_shellcmd} {rulecount} {file.read()}".encode()).hexdigest()
    place, kept = repr(path.get_path_or_uri(secret_free=True)), PARSED / key
    if not kept.exists():
        lines = {}
        code, rulecount = parse(path, workflow, lines, overwrite_shellcmd, rulecount)
        being_written = PARSED / f"{key}.{os.getpid()}"
        being_written.write_bytes(marshal.dumps((code.replace(place, "@path@"), lines, rulecount)))
        being_written.rename(kept)
    code, lines, rulecount = marshal.loads(kept.read_bytes())
    linemap |= lines
    return code.replace("@path@", place), rulecount


def tell_cpu_seconds(pipe):
    """Write how long this process itself was on a CPU, without those that it has started."""
    os.write(pipe, struct.pack("d", sum(os.times()[:2])))


def latest_modules(before, scripts):
    """Names of the modules of a folder among those that were imported since there were so many, the first one first."""
    # Not all are gone through: a fork has to copy each page of memory whose objects it only looks at.
    names = [*itertools.islice(reversed(sys.modules), len(sys.modules) - before)]
    return [name for name in reversed(names) if is_below(scripts, getattr(sys.modules[name], "__file__", None))]


def complete(cls, *, _parent_namespace_depth=2, **options):
    """Pydantic's completion of a model, which waits until it is first used, in this project; notes which it was."""
    COMPLETED.append((cls.__module__, cls.__qualname__))
    return complete_model(cls, _parent_namespace_depth=_parent_namespace_depth + 1, **options)


def tell_what_was_made(kind, scripts, before):
    """Tell the server what this process has imported and completed, for the next of its kind."""
    made = [(name, None) for name in latest_modules(before, scripts)] + COMPLETED
    if made:
        with contextlib.suppress(OSError), connect() as connection:
            send(connection, {"kind": kind, "made": made})


def run(request, files):
    """In a fork: become what is asked for, and do it."""
    arguments, folder = request["arguments"], request["folder"]
    if request["scripts"]:
        atexit.register(tell_what_was_made, request["kind"], request["scripts"], len(sys.modules))
    if request["kind"] == "snakemake":
        atexit.register(tell_cpu_seconds, files[3])
        signal.alarm(request["longest_seconds"])
        become(folder, request["environment"], files[:3], arguments, folder)
        # The rules put the folder of the interpreter that runs Snakemake before all others.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        sys.executable = str(FOLDER / "python")
        finish(run_snakemake)
    become(folder, request["environment"], files, arguments, str(Path(folder, arguments[0]).parent))
    finish(runpy.run_path, arguments[0], run_name="__main__")


def is_below(folder, value):
    """Whether a path or a text names a folder or something in it."""
    return isinstance(value, str | Path) and (str(value) + os.sep).startswith(folder + os.sep)


def move_modules(modules, old, new):
    """Let modules that were imported from one copy of the project be those of another whose scripts are the same."""

    def moved(value):
        return type(value)(new + str(value)[len(old) :]) if is_below(old, value) else value

    for module in modules:
        vars(module).update({name: moved(value) for name, value in vars(module).items() if is_below(old, value)})
        spec = module.__spec__
        spec.origin, spec.cached, spec.loader.path = moved(spec.origin), moved(spec.cached), moved(spec.loader.path)
        if spec.submodule_search_locations:
            spec.submodule_search_locations[:] = map(moved, spec.submodule_search_locations)


class Nursery:
    """In a process of its own: modules of one content, and the processes that are forks of it."""

    def __init__(self, requests):
        self.requests, self.project, self.tried, self.modules = requests, None, set(), []
        self.selector = selectors.DefaultSelector()
        self.selector.register(requests, selectors.EVENT_READ)

    def serve(self):
        """Begin what is asked for, and answer with the status of what has ended, until the server lets go of it."""
        while self.selector.get_map():
            for key, _ in self.selector.select():
                if key.data:
                    self.answer(key.fileobj, *key.data)
                else:
                    self.begin()
        os._exit(0)

    def begin(self):
        request, files = receive(self.requests, 5)
        if request is None:
            self.selector.unregister(self.requests)
            return
        if request["scripts"]:
            self.prepare(request["scripts"], request["made"])
        process = os.fork()
        if process == 0:
            self.requests.close()
            for key in self.selector.get_map().values():
                if key.data:
                    os.close(key.data[1])
            connection = socket.socket(fileno=files[0])
            caller = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            # What ends the group of the caller ends this process, too.
            os.setpgid(0, os.getpgid(caller))
            connection.close()
            run(request, files[1:])
        for file in files[1:]:
            os.close(file)
        self.selector.register(os.pidfd_open(process), selectors.EVENT_READ, (process, files[0]))

    def prepare(self, scripts, made):
        """Import what is missing of these modules, from the folder at hand, and complete their models."""
        project = os.path.dirname(scripts)
        if self.project != project:
            move_modules(self.modules, self.project, project)
            self.project, sys.path[0] = project, scripts
            importlib.invalidate_caches()
        if new := [one for one in made if one not in self.tried]:
            self.tried.update(new)
            before = len(sys.modules)
            for name, model in new:
                # Whoever needs what cannot be imported says so itself.
                with contextlib.suppress(Exception):
                    module = importlib.import_module(name)
                    if model:
                        getattr(module, model).model_rebuild()
            COMPLETED.clear()
            self.modules += [sys.modules[name] for name in latest_modules(before, scripts)]
            gc.collect()
            self.check_paths()
            gc.freeze()

    def check_paths(self):
        """Refuse a path of the copy where :func:`move_modules` would not find it: in what a module's variable holds."""
        known = {id(value) for module in self.modules for value in vars(module).values()}
        paths = [one for one in gc.get_objects() if isinstance(one, Path) and is_below(self.project, one)]
        stray = [str(path) for path in paths if id(path) not in known]
        assert not stray, f"a module keeps {stray} elsewhere than in a variable of its own"

    def answer(self, ended, process, connection):
        self.selector.unregister(ended)
        os.close(ended)
        status = os.waitpid(process, 0)[1]
        with socket.socket(fileno=connection) as caller, contextlib.suppress(OSError):  # the caller was killed
            caller.sendall(struct.pack("i", status))


def files_below(folder):
    """Paths of all files below a folder with what changes where one is written, in order."""
    found, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if not entry.is_dir():
                    status = entry.stat()
                    found.append((entry.path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
                elif entry.name != "__pycache__":
                    folders.append(entry.path)
    return sorted(found)


def digest_of(folder, files):
    """Digest of files below a folder, by their paths in it."""
    digest = hashlib.blake2b()
    for path, *_ in files:
        text = Path(path).read_bytes()
        digest.update(f"{path[len(folder) :]}\0{len(text)}\0".encode() + text)
    return digest.digest()


def scripts_of(arguments, folder):
    """The folder scripts/ whose modules a process will import; None where that is not sure from the start."""
    if arguments[0] != "snakemake":
        scripts = Path(folder, arguments[0]).parent
    elif OTHER_PLACES.isdisjoint(argument.partition("=")[0] for argument in arguments):
        scripts = Path(folder, "scripts")
    else:
        return None
    return str(scripts) if (scripts / "day0").is_dir() and scripts.resolve() == scripts else None


class Server:
    """Passes each request on to the nursery of its content."""

    def __init__(self, listener, commands):
        self.listener, self.commands = listener, commands
        self.nurseries, self.made, self.known = {}, {}, {}

    def serve(self):
        """Do so until the process that reads the commands has ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(self.commands, selectors.EVENT_READ)
            while all(key.fileobj is self.listener for key, _ in selector.select()):
                with self.listener.accept()[0] as connection:
                    self.take(connection, *receive(connection, 4))
        os._exit(0)

    def take(self, connection, request, files):
        if request is None:
            pass
        elif "made" in request:
            known = self.made.setdefault(request["kind"], [])
            known += [one for one in request["made"] if one not in known]
        else:
            kind = Path(request["arguments"][0]).name
            scripts = scripts_of(request["arguments"], request["folder"])
            request |= {"kind": kind, "scripts": scripts, "made": self.made.get(kind, [])}
            send(self.nursery(scripts and self.content(scripts)), request, [connection.fileno(), *files])
        for file in files:
            os.close(file)

    def content(self, scripts):
        """Digest of the folder as it is now."""
        files = files_below(scripts)
        if scripts not in self.known or self.known[scripts][0] != files:
            self.known[scripts] = files, digest_of(scripts, files)
        return self.known[scripts][1]

    def nursery(self, content):
        """The one of that content, which becomes the last to be let go of."""
        nursery = self.nurseries.pop(content, None)
        if nursery is None:
            nursery, its = socket.socketpair()
            if os.fork() == 0:
                for one in (nursery, self.listener, self.commands, *self.nurseries.values()):
                    one.close()
                Nursery(its).serve()
            its.close()
        self.nurseries[content] = nursery
        if len(self.nurseries) > NURSERIES:
            self.nurseries.pop(next(iter(self.nurseries))).close()
        return nursery


def run_commands():
    """Have each command of standard input run."""
    for line in sys.stdin:
        command = json.loads(line)
        told, cpu = os.pipe()
        output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = {name: command[name] for name in ("folder", "environment", "longest_seconds")}
        with connect() as connection:
            send(
                connection,
                request | {"arguments": ["snakemake", *command["arguments"]]},
                [nothing, output, output, cpu],
            )
            for file in (nothing, output, cpu):
                os.close(file)
            status = os.waitstatus_to_exitcode(struct.unpack("i", connection.recv(4))[0])
        with os.fdopen(told, "rb") as pipe:
            seconds = pipe.read(8)
        print(status, struct.unpack("d", seconds)[0] if seconds else 0.0, flush=True)


def main():
    python = FOLDER / "python"
    code = (TESTS / "warm_python.py").read_text()
    code = code.replace("@python@", sys.executable).replace("@address@", ADDRESS)
    python.write_text(f"#!{sys.executable} -IS\n{code}")
    python.chmod(0o755)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(ADDRESS)
    listener.listen(64)
    PARSED.mkdir()
    snakemake.workflow.parse = parse_once
    pydantic.BaseModel.model_rebuild = classmethod(complete)
    get_argument_parser()
    gc.freeze()
    commands, its = socket.socketpair()
    if os.fork() == 0:
        commands.close()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a module prints is no answer to a command
        Server(listener, its).serve()
    its.close()
    listener.close()
    run_commands()
    shutil.rmtree(FOLDER)


main()
