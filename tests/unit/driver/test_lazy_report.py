"""The Slurm plugin's report, with pandas and numpy, is imported when it is made; the plugin is as it was read."""

import subprocess
import sys
from pathlib import Path

import snakemake_executor_plugin_slurm as plugin

LOADED = "print(*(name in sys.modules for name in ('pandas', 'numpy')))"


def run(*lines):
    done = subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_plugin_takes_one_function_of_the_report():
    """A failure means: read the new version, and adapt scripts/driver/plugins/day0_lazy_report.py to it."""
    text = Path(plugin.__file__).read_text()
    imports = [line for line in text.splitlines() if "efficiency_report import" in line]
    assert imports == ["from .efficiency_report import create_efficiency_report"]


def test_snakemake_imports_neither_pandas_nor_numpy():
    assert run("import snakemake.cli, snakemake_executor_plugin_slurm", LOADED) == ["False False"]


def test_the_report_is_the_plugins_own_when_it_is_made(tmp_path):
    tool = tmp_path / "sacct"
    tool.write_text("#!/bin/sh\necho '1|run|rule_a|00:01:00|00:00:30|1|1|2048K|4G'\n")
    tool.chmod(0o755)
    lines = [
        "import logging, os, pathlib",
        f"folder = {str(tmp_path)!r}",
        "os.environ['PATH'] = folder + os.pathsep + os.environ['PATH']",
        "import snakemake.cli, snakemake_executor_plugin_slurm as plugin",
        "plugin.create_efficiency_report(0.5, 'run', pathlib.Path(folder), logging.getLogger())",
        LOADED,
        "from snakemake_executor_plugin_slurm.efficiency_report import parse_maxrss",
        "print(parse_maxrss('2048K'))",
    ]
    assert run(*lines)[-2:] == ["True True", "2.0"]
    assert "CPU Efficiency (%)" in (tmp_path / "efficiency_report_run.csv").read_text()
