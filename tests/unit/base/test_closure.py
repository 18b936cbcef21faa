"""A script's sources are the files that it really imports."""

from pathlib import Path

import pytest

from day0.base.closure import get_sources

SCRIPTS = Path(__file__).parents[3] / "scripts"


def test_imports_are_followed(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "direct.py").write_text("from package.indirect import x")
    (tmp_path / "package" / "indirect.py").write_text("import os\nx = 1")
    (tmp_path / "package" / "unused.py").write_text("")
    (tmp_path / "beside.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text("import beside, json\ndef late():\n    from package import direct\n")
    found = [Path(path).relative_to(tmp_path).as_posix() for path in get_sources(script)]
    assert found == ["beside.py", "package/__init__.py", "package/direct.py", "package/indirect.py", "script.py"]


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_runs_by_hand_and_imports_what_is_there(script):
    sources = get_sources(SCRIPTS / script)
    assert str(SCRIPTS / script) in sources
    assert all(Path(source).is_file() for source in sources)


def test_decisions_import_no_workflow_and_no_framework():
    for module in (SCRIPTS / "day0").rglob("*.py"):
        for name in ("snakemake", "torch", "vllm", "modelopt", "transformers"):
            text = module.read_text()
            assert f"import {name}" not in text and f"from {name}" not in text, (module, name)


@pytest.mark.parametrize("stage", ["describe_source", "quantize", "gate_ptq", "evaluate", "gate_run", "gate_compare"])
def test_what_a_configuration_may_say_redoes_no_stage(stage):
    """A stage gets its part as params: a new key of the configuration must not redo evaluations."""
    names = {Path(source).name for source in get_sources(SCRIPTS / f"{stage}.py")}
    assert not names & {"config.py", "plan.py", "cluster.py"}
