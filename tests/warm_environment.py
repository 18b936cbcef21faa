"""A stage's interpreter whose scripts run in forks of a process of that environment that has imported the slow modules.

For tests whose subject is not the start of a process: torch, vLLM or transformers take longer to import than most tests
to run. Code, arguments, folder, environment, files and exit status are those of a start of its own; a fork leads a
session of its own, and its children end with it as soon as its caller has ended. Tests of kills, of process groups and
of starts take the real interpreter. What a library reads from the environment while it is imported must be the same:
else, the fork starts the real interpreter.
"""

import contextlib
import importlib
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from forks import become, finish, receive

READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "NEMO_", "NLTK_", "OMP_", "PYTHON", "TORCH", "TRANSFORMERS_", "VLLM_", "XDG_")

# What lm-eval imports, but for datasets, which reads the folder of the run's own data sets as it is imported.
OF_LM_EVAL = ["transformers.models.auto.tokenization_auto", "pandas", "pyarrow.dataset", "pyarrow.parquet", "aiohttp"]
OF_LM_EVAL += ["requests", "jinja2", "tenacity"]


def warm_lm_eval(folder, environments):
    """The interpreter of that harness."""
    own = ["HF_DATASETS_CACHE", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"]
    return warm_interpreter(folder, environments / "lm-eval/bin/python", OF_LM_EVAL, own=own)


def warm_nemo_evaluator(folder, environments):
    """NeMo Evaluator's, with the command of its framework; the tool itself reads its settings as it is imported."""
    own = ["HF_DATASETS_CACHE", "NEMO_EVALUATOR_TELEMETRY_LEVEL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"]
    python = environments / "nemo-evaluator/bin/python"
    return warm_interpreter(folder, python, [*OF_LM_EVAL, "flask"], ["lm-eval"], own)


def warm_quantize(folder, environments):
    """The interpreter of ModelOpt, imported with the settings that quantize.py makes before."""
    python, own = environments / "quantize.cpu/bin/python", ["OMP_NUM_THREADS", "OMP_WAIT_POLICY"]
    modules = ["torch", "transformers", "modelopt.torch.quantization", "modelopt.torch.export"]
    return warm_interpreter(folder, python, modules, own=own, OMP_WAIT_POLICY="PASSIVE")


@contextlib.contextmanager
def warm_interpreter(folder, python, modules, commands=(), own=(), **environment):
    """The path of an interpreter in that folder, which can be used until the end of the block.

    Args:
        python: the environment's own.
        modules: what to import before the forks.
        commands: console scripts of the environment that stand beside the interpreter, and are forks as well.
        own: variables of ``READ_AT_IMPORT`` that may differ: no module reads them, or they only set its threads.
        environment: further variables of the process that imports.
    """
    address, warm = folder / "socket", folder / "python"
    code = Path(__file__).with_name("warm_python.py").read_text()
    warm.write_text(
        f"#!{sys.executable} -IS\n{code.replace('@python@', str(python)).replace('@address@', str(address))}"
    )
    for name in commands:
        (folder / f"{name}.py").write_text(python.with_name(name).read_text())
        (folder / name).write_text(f'#!/bin/sh\nexec {warm} {folder / name}.py "$@"\n')
        (folder / name).chmod(0o755)
    warm.chmod(0o755)
    command = [str(python), __file__, str(address), ",".join(modules), ",".join(own)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # It ends with its standard input, so also where these tests are killed.
    environment = {**os.environ, **environment}
    with subprocess.Popen(command, start_new_session=True, env=environment, **pipes) as process:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{python} does not import {', '.join(modules)}; its message stands above")
        yield warm


def read_at_import(environment, own):
    """Variables that libraries may have read, without those whose names are given."""
    return {name: value for name, value in environment.items() if name.startswith(READ_AT_IMPORT) and name not in own}


def run(request, files, python, is_warm):
    """In a fork: become what is asked for, and do it."""
    os.setsid()
    arguments, folder = request["arguments"], request["folder"]
    become(folder, request["environment"], files, arguments, str(Path(folder, arguments[0]).parent))
    if not is_warm:
        os.execv(python, [python, *arguments])
    tempfile.tempdir = None
    sys.path[1:1] = filter(None, request["environment"].get("PYTHONPATH", "").split(os.pathsep))
    finish(runpy.run_path, arguments[0], run_name="__main__")


def main():
    address, modules, own = sys.argv[1], sys.argv[2].split(","), (*sys.argv[3].split(","), "PYTHONPATH")
    answers = os.dup(1)
    os.dup2(2, 1)  # what a module prints is no answer
    python, environment = sys.executable, read_at_import(os.environ, own)
    for name in modules:
        importlib.import_module(name)
    # By it a script finds the commands of its environment.
    sys.executable = str(Path(address).with_name("python"))
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(address)
        listener.listen(64)
        os.write(answers, b"ready\n")
        os.close(answers)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ, lambda: begin(listener, selector, python, environment, own))
        is_needed = True
        while is_needed:
            for key, _ in selector.select():
                if key.data:
                    key.data()
                else:
                    is_needed = False
    os._exit(0)  # without taking every library apart, which takes seconds


def begin(listener, selector, python, environment, own):
    """Start the fork that a caller asks for."""
    caller = listener.accept()[0]
    request, files = receive(caller, 3)
    if request is None:
        caller.close()
        return
    is_warm = read_at_import(request["environment"], own) == environment
    process = os.fork()
    if process == 0:
        run(request, files, python, is_warm)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)

    def end(is_orphan):
        """The fork has ended, or its caller has, with which all ends that the fork has started."""
        if caller.fileno() < 0:  # both in one breath
            return
        if is_orphan:
            try:
                os.killpg(process, signal.SIGKILL)
            except ProcessLookupError:  # not yet a leader
                os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        selector.unregister(ended)
        selector.unregister(caller)
        os.close(ended)
        with caller, contextlib.suppress(OSError):
            caller.sendall(struct.pack("i", status))

    selector.register(ended, selectors.EVENT_READ, lambda: end(is_orphan=False))
    selector.register(caller, selectors.EVENT_READ, lambda: end(is_orphan=True))


if __name__ == "__main__":
    main()
