"""Files that are made from others are up to date."""

import ast
import html
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def test_schemas_say_what_the_data_types_say():
    command = [sys.executable, "scripts/make_schemas.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_picture_of_the_packages_shows_what_they_import():
    command = [sys.executable, "scripts/make_package_picture.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = (ROOT / "docs" / "packages.dot").read_text()
    arrows = set(re.findall(r"^    (\w+) -> (\w+);$", drawn, re.MULTILINE))
    shown = html.unescape((ROOT / "docs" / "packages.svg").read_text())
    assert arrows and all(f"<title>{tail}->{head}</title>" in shown for tail, head in arrows)


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("suite", "config/suites/*.yaml"), ("recipe", "config/recipes/*.yaml"), ("config", "config/config.yaml")],
)
def test_files_hold_to_their_schema(schema, pattern):
    content = json.loads((ROOT / "config" / "schemas" / f"{schema}.schema.json").read_text())
    files = sorted(ROOT.glob(pattern))
    assert files
    for file in files:
        jsonschema.validate(yaml.safe_load(file.read_text()), content)


def test_locks_carry_hashes_and_no_addresses():
    locks = sorted((ROOT / "envs").glob("*.lock"))
    assert len(locks) == 12
    for lock in locks:
        lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in lines if "://" in line or line.startswith("-")], lock
        packages = [line for line in lines if line and not line[0].isspace()]
        assert all(line.endswith("\\") and "==" in line for line in packages), lock


def imported(folder):
    """Top-level modules that the files of a folder import."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def test_the_drivers_lock_holds_what_a_report_of_snakemake_imports():
    """It asks for pygments only then, which the tests have beside it and a user had not."""
    modules = imported(Path(find_spec("snakemake").origin).parent / "report")
    distributions = {name.lower().replace("_", "-") for each in modules for name in packages_distributions()[each]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "envs" / "workflow.lock").read_text(), re.MULTILINE))
    assert "pygments" in distributions and distributions <= locked
