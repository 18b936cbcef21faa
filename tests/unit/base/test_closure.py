"""A script's sources are the files that it really imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from day0.base.closure import CannotFollow, code_digest, get_sources

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
    assert not names & {"config.py", "plan.py", "jobs.py", "resources.py"}


# --- trees of files --------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """Write files into a new folder each time (a process reads a file once); returns the folder."""
    made = []

    def write(**files):
        folder = tmp_path / str(len(made))
        made.append(folder)
        for name, text in {"script.py": "", **files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            if path.parent != folder:
                (path.parent / "__init__.py").touch()
        return folder

    return write


def closure(folder):
    found = (Path(path).relative_to(folder).as_posix() for path in get_sources(folder / "script.py"))
    return [name for name in found if name != "script.py"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("from p import m", ["p/__init__.py", "p/m.py"]),
        ("from p import m as other", ["p/__init__.py", "p/m.py"]),
        ("import p.m", ["p/__init__.py", "p/m.py"]),
        ("import p.q.n as n", ["p/__init__.py", "p/q/__init__.py", "p/q/n.py"]),
        ("from p.q import n", ["p/__init__.py", "p/q/__init__.py", "p/q/n.py"]),
        ("from p.q.n import f", ["p/__init__.py", "p/q/__init__.py", "p/q/n.py"]),
        ("def late():\n    from p.m import f", ["p/__init__.py", "p/m.py"]),
        ("from p.up import x", ["p/__init__.py", "p/m.py", "p/up.py"]),
        ("from p.q.up import x", ["p/__init__.py", "p/m.py", "p/q/__init__.py", "p/q/n.py", "p/q/up.py"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import m", []),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    import p.m\nelse:\n    import p.q",
            ["p/__init__.py", "p/q/__init__.py"],
        ),
        ("import os, json\nfrom collections import abc", []),
        ("import importlib\nimportlib.import_module('os.path')", []),
    ],
)
def test_every_form_of_import_is_followed(tree, statement, found):
    files = {
        "p/m.py": "def f(): pass",
        "p/up.py": "from . import m\nx = 1",
        "p/q/n.py": "def f(): pass",
        "p/q/up.py": "from .n import f\nfrom ..m import f as g\nx = 1",
    }
    assert closure(tree(**files, **{"script.py": statement})) == found


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("from p.m import *", "one by one"),
        ("import importlib\nname = 'p.m'\nimportlib.import_module(name)", "import_module"),
        ("__import__('p.m')", "__import__"),
        ("from importlib import import_module as load", "import_module"),
        ("import runpy\nrunpy.run_path('p/m.py')", "run_path"),
        ("from p import missing", "no module missing"),
        ("import p.missing", "no module p.missing"),
        ("from p.missing import f", "no module p.missing"),
        ("from . import m", "beyond the packages"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_place(tree, statement, said):
    folder = tree(**{"p/m.py": "f = 1", "script.py": statement})
    with pytest.raises(CannotFollow, match=said) as refused:
        get_sources(folder / "script.py")
    assert f"script.py, line {statement.count(chr(10)) + 1}" in str(refused.value)


def digest(folder):
    return code_digest(folder / "script.py")


SCRIPT = """\"\"\"What it does.\"\"\"
import json
from p.m import f, g


def main(number=1):
    \"\"\"Do it.\"\"\"
    text = \"kept\"
    return f(number) + g(text)


class Thing:
    \"\"\"A thing.\"\"\"

    width = 2
"""
FILES = {"p/m.py": "def f(x):\n    return x\n\n\ndef g(x):\n    return 0\n", "p/other.py": "def f(x):\n    return -x\n"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it does.", "What it does, in other words."),
        ("Do it.", "Do it now."),
        ("A thing.", "Another thing."),
        ("    return f(number)", "    # why\n\n    return f(number)"),
        ("return f(number) + g(text)", "return (\n        f(number)\n        + g(text)\n    )"),
        ('"kept"', "'kept'"),
        ("import json\nfrom p.m import f, g", "from p.m import g\nfrom p.m import f\nimport json"),
        ("from p.m import f, g", "from p.m import (\n    f,  # the first\n    g,\n)"),
    ],
)
def test_what_changes_no_meaning_changes_no_digest(tree, old, new):
    assert old in SCRIPT
    before = digest(tree(**FILES, **{"script.py": SCRIPT}))
    assert digest(tree(**FILES, **{"script.py": SCRIPT.replace(old, new)})) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("number=1", "number=2"),
        ('"kept"', '"changed"'),
        ("return f(number) + g(text)", "return g(text) + f(number)"),
        ("def main", "@json.loads\ndef main"),
        ("width = 2", "width = 3"),
        ("from p.m import f, g", "from p.m import g, f as f\nfrom p.other import f"),
        ("from p.m import f, g", "from p.m import f as g, g as f"),
        ("import json", "import pickle as json"),
        ("import json", "import json\nimport p.other"),
    ],
)
def test_what_changes_the_meaning_changes_the_digest(tree, old, new):
    assert old in SCRIPT
    before = digest(tree(**FILES, **{"script.py": SCRIPT}))
    assert digest(tree(**FILES, **{"script.py": SCRIPT.replace(old, new)})) != before


def test_a_name_taken_from_another_module_of_the_closure_changes_the_digest(tree):
    both = "from p import m, other\nfrom p.{} import f\n"
    assert digest(tree(**FILES, **{"script.py": both.format("m")})) != digest(
        tree(**FILES, **{"script.py": both.format("other")})
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a, *, b): pass", "def f(a, b): pass"),
        ("x = [1, 2]", "x = [1, [2]]"),
        ("x = a[1:]", "x = a[:1]"),
        ("x = None", "x = 'None'"),
        ("x = {'a': 1, **b}", "x = {**b, 'a': 1}"),
        ("if x:\n    y()\nelse:\n    z()", "if x:\n    y()\nz()"),
        ("try:\n    x()\nfinally:\n    y()", "try:\n    x()\nexcept E:\n    y()"),
    ],
)
def test_what_is_left_out_of_a_tree_makes_no_two_alike(tree, one, other):
    assert digest(tree(**{"script.py": one})) != digest(tree(**{"script.py": other}))


def test_a_module_that_moves_with_its_importers_changes_no_digest(tree):
    before = digest(tree(**{"p/m.py": FILES["p/m.py"], "script.py": SCRIPT}))
    moved = SCRIPT.replace("from p.m import", "from away.from_here import")
    assert digest(tree(**{"away/from_here.py": FILES["p/m.py"], "script.py": moved})) == before


def test_a_change_of_what_is_imported_by_way_of_another_module_changes_the_digest(tree):
    files = {"a.py": "import b", "b.py": "x = 1", "script.py": "import a"}
    before = digest(tree(**files))
    assert digest(tree(**(files | {"b.py": "x = 1  # the same"}))) == before
    assert digest(tree(**(files | {"b.py": "x = 2"}))) != before


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from day0.base.closure import code_digest, remember_in, save_memory
remember_in(Path(sys.argv[2]))
print(code_digest(Path(sys.argv[3])))
save_memory()
"""


def digest_in_a_process(script, memory):
    command = [sys.executable, "-c", PROGRAM, str(SCRIPTS), str(memory), str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_is_remembered_gives_the_same_digests_and_only_costs_time_where_it_is_lost(tree, tmp_path):
    folder = tree(**FILES, **{"script.py": SCRIPT})
    memory = tmp_path / "deep" / "memory.json"
    before = digest_in_a_process(folder / "script.py", memory)
    assert len(json.loads(memory.read_text())["facts"]) == 3
    assert digest_in_a_process(folder / "script.py", memory) == before
    for broken in ("{", "[]", '{"a": 1}'):
        memory.write_text(broken)
        assert digest_in_a_process(folder / "script.py", memory) == before
    assert digest_in_a_process(folder / "script.py", folder / "script.py" / "no folder") == before


def test_an_edit_that_keeps_the_times_is_noticed(tree, tmp_path):
    folder, memory = tree(**FILES, **{"script.py": SCRIPT}), tmp_path / "memory.json"
    module = folder / "p" / "m.py"
    times = module.stat()
    before = digest_in_a_process(folder / "script.py", memory)
    module.write_text(FILES["p/m.py"].replace("return 0", "return 1"))
    os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest_in_a_process(folder / "script.py", memory) != before
