"""vLLM's command line (``vllm serve …``), which asks for the version of ``vllm``: its CPU build is called otherwise."""

from types import SimpleNamespace

from vllm.entrypoints.cli import main as command_line
from vllm.version import __version__

if __name__ == "__main__":
    # In this one module: elsewhere vLLM detects its platform by the distribution that it does not find.
    command_line.importlib = SimpleNamespace(metadata=SimpleNamespace(version=lambda name: __version__))
    command_line.main()
