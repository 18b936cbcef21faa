"""The Slurm plugin's report on efficiency is imported when it is made, and pandas with it.

The plugin 2.8.0 imports both at its start, a quarter of what `snakemake` takes to import, in the driver and in each job
on a node, for a report that is off by default. envs/driver.pth imports this module whenever a Python of .venv
starts, so that it imports nothing itself.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it, which takes longer to import than this module
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

REPORT = "snakemake_executor_plugin_slurm.efficiency_report"


class LazyReport:
    """Finder and loader of a module in the report's place, whose function imports the report itself."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of the module in its place; None for every other module."""
        if name != REPORT:
            return None
        from importlib.machinery import ModuleSpec

        loader: Any = self
        return ModuleSpec(name, loader)

    def create_module(self, spec: ModuleSpec) -> None:
        """None: Python makes the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        vars(module)["create_efficiency_report"] = self.create_efficiency_report

    def create_efficiency_report(self, *arguments: Any, **options: Any) -> Any:
        """What the report's own function does."""
        from importlib import import_module

        if self in sys.meta_path:
            sys.meta_path.remove(self)
            del sys.modules[REPORT]
        return import_module(REPORT).create_efficiency_report(*arguments, **options)


finder: Any = LazyReport()
sys.meta_path.insert(0, finder)
