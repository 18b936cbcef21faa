"""Files that are made from others are up to date."""

import html
import json
import re
import subprocess
import sys
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
    assert len(locks) == 9
    for lock in locks:
        lines = [line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in lines if "://" in line or line.startswith("-")], lock
        packages = [line for line in lines if line and not line[0].isspace()]
        assert all(line.endswith("\\") and "==" in line for line in packages), lock
