"""Rarer forms of imports and of changes than test_closure.py has, and what a spoilt memory costs."""

import ast
import json
import os
import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from day0.base.closure import CannotFollow, code_digest, get_sources, local_imports

SCRIPTS = Path(__file__).parents[3] / "scripts"
NUMBER = count()


def write(tmp_path, files):
    """A folder of its own for files by name, since what was read of a path is kept; returns its script.py."""
    folder = tmp_path / f"tree{next(NUMBER)}"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder / "script.py"


def sources(script):
    return [Path(path).relative_to(script.parent).as_posix() for path in get_sources(script)]


# --- which files ------------------------------------------------------------------------------------------------------

TREE = {
    "beside.py": "x = 1\n",
    "a/__init__.py": '"""A package."""\n',
    "a/b/__init__.py": '"""A package in it."""\n',
    "a/b/c.py": "x = 1\ndef f():\n    return x\n",
    "a/b/d.py": "from .c import f\n",
    "a/e.py": "y = 2\n",
    "a/unused.py": "",
    "named/__init__.py": "from a.e import y\nif y:\n    def late(): pass\n",
    "space/inner/m.py": "z = 3\n",
}
A_B_C = ["a/__init__.py", "a/b/__init__.py", "a/b/c.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import beside", ["beside.py"]),
        ("import beside as other, os.path", ["beside.py"]),
        ("import a", ["a/__init__.py"]),
        ("import a.b.c", A_B_C),
        ("import a.b.c as c", A_B_C),
        ("from a.b import c", A_B_C),
        ("from a.b import c as d", A_B_C),
        ("from a.b.c import f", A_B_C),
        ("from a.b.c import f as g, x", A_B_C),
        ("from a import b", ["a/__init__.py", "a/b/__init__.py"]),
        ("from a.b.d import f", [*A_B_C, "a/b/d.py"]),
        ("from named import y", ["a/__init__.py", "a/e.py", "named/__init__.py"]),
        ("from named import late", ["a/__init__.py", "a/e.py", "named/__init__.py"]),
        ("from space import inner", []),
        ("from space.inner import m", ["space/inner/m.py"]),
        ("import space.inner.m", ["space/inner/m.py"]),
        ("def f():\n    from a.b import c", A_B_C),
        ("class C:\n    async def f(self):\n        with x:\n            import a.b.c", A_B_C),
        ("try:\n    import a.e\nexcept ImportError:\n    import beside", ["a/__init__.py", "a/e.py", "beside.py"]),
        ("if TYPE_CHECKING:\n    import a.e", []),
        ("if typing.TYPE_CHECKING:\n    import a.e\nelse:\n    import beside", ["beside.py"]),
        (
            "if TYPE_CHECKING:\n    import a.e\nelif TYPE_CHECKING:\n    import a.e\nelse:\n    import beside",
            ["beside.py"],
        ),
        ("if not TYPE_CHECKING:\n    import beside", ["beside.py"]),
        ("import os, numpy.linalg\nfrom json import *\nfrom yaml import nothing", []),
        ("import importlib\nimportlib.import_module('numpy.linalg')\n__import__('os')", []),
    ],
)
def test_every_form_of_import_is_followed(tmp_path, text, expected):
    assert sources(write(tmp_path, {**TREE, "script.py": text})) == sorted([*expected, "script.py"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from . import c", A_B_C),
        ("from .c import f", A_B_C),
        ("from .. import e", ["a/__init__.py", "a/e.py"]),
        ("from ..e import y", ["a/__init__.py", "a/e.py"]),
        ("from ..b import c", A_B_C),
        ("from .. import b", []),
    ],
)
def test_relative_imports_are_followed(tmp_path, text, expected):
    script = write(tmp_path, {**TREE, "a/b/relative.py": text, "script.py": "from a.b import relative"})
    around = ["a/__init__.py", "a/b/__init__.py", "a/b/relative.py", "script.py"]
    assert sources(script) == sorted({*expected, *around})


def test_relative_imports_of_a_package_itself_are_followed(tmp_path):
    script = write(tmp_path, {"a/__init__.py": "from .m import x", "a/m.py": "x = 1", "script.py": "from a import x"})
    assert sources(script) == ["a/__init__.py", "a/m.py", "script.py"]


def test_imports_in_a_circle_end(tmp_path):
    files = {
        "a.py": "import b\ndef f(): return b.g()",
        "b.py": "import a\ndef g(): return a.f()",
        "script.py": "import a",
    }
    script = write(tmp_path, files)
    assert sources(script) == ["a.py", "b.py", "script.py"]
    assert code_digest(script) != code_digest(write(tmp_path, {**files, "b.py": "import a\ndef g(): return 1"}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\nfrom a.b.c import *", "line 2: import the names of a.b.c one by one"),
        ("import importlib\nimportlib.import_module(name)", "line 2: what import_module imports cannot be read"),
        ("import importlib\nimportlib.import_module(name='a.e')", "what import_module imports cannot be read"),
        ("from importlib import import_module as load\nload(name)", "what import_module imports cannot be read"),
        ("def f():\n    import_module('a.e')", "line 2: what import_module imports cannot be read"),
        ("import_module('.e', 'a')", "what import_module imports cannot be read"),
        ("__import__(name)", "what __import__ imports cannot be read"),
        ("import runpy\nrunpy.run_path('beside.py')", "what run_path imports cannot be read"),
        ("import runpy\nrunpy.run_module(name)", "what run_module imports cannot be read"),
        ("import runpy\nrunpy.run_module('beside')", "what run_module imports cannot be read"),
        ("spec_from_file_location('foreign', path)", "what spec_from_file_location imports cannot be read"),
        ("SourceFileLoader('foreign', path)", "what SourceFileLoader imports cannot be read"),
        ("import a.missing", "line 1: there is no module a.missing"),
        ("from a.missing import x", "there is no module a.missing"),
        ("from a import missing", "package a has no module missing and does not define that name"),
        ("from named import e", "package named has no module e"),
        ("from space import missing", "package space has no module missing"),
        ("from . import beside", "a relative import beyond the packages"),
        ("from .a import e", "a relative import beyond the packages"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_file_and_line(tmp_path, text, sentence):
    script = write(tmp_path, {**TREE, "script.py": text})
    with pytest.raises(CannotFollow) as refusal:
        get_sources(script)
    assert sentence in str(refusal.value) and f"{script}, line " in str(refusal.value)
    with pytest.raises(CannotFollow):
        code_digest(script)


@pytest.mark.parametrize("text", ["from ...x import y", "from ....x import y", "from .missing import y"])
def test_a_relative_import_of_what_is_not_there_is_refused(tmp_path, text):
    script = write(tmp_path, {**TREE, "a/b/relative.py": text, "script.py": "from a.b import relative"})
    with pytest.raises(CannotFollow, match=r"relative\.py, line 1: (a relative import beyond|there is no module)"):
        get_sources(script)


@pytest.mark.parametrize("text", ["def f(:\n", "x = 1\0"])
def test_a_file_that_does_not_parse_is_a_syntax_error(tmp_path, text):
    with pytest.raises(SyntaxError):
        code_digest(write(tmp_path, {"script.py": text}))


def test_the_imports_of_one_file_are_found(tmp_path):
    script = write(tmp_path, {**TREE, "script.py": "import beside\nfrom a.b import d\nimport os"})
    found = [path.relative_to(script.parent).as_posix() for path in local_imports(script, script.parent)]
    assert found == ["beside.py", "a/__init__.py", "a/b/__init__.py", "a/b/d.py"]


# --- what the code means ----------------------------------------------------------------------------------------------

PROGRAM = {
    "script.py": """
        import os
        import sys
        from pack.tools import first, second
        from pack import other
        import beside as near

        LIMIT = 5

        def main(count=1):
            return first(count) + second(LIMIT) + other.third() + near.fourth()

        class Kind:
            pass
        """,
    "pack/__init__.py": '"""A package."""\n',
    "pack/tools.py": "def first(x):\n    return x\n\ndef second(x):\n    return -x\n",
    "pack/other.py": "from pack.tools import first\n\ndef third():\n    return first(3)\n",
    "beside.py": "def fourth():\n    return 4\n",
}


def changed(name, old, new):
    """The program with one text replaced."""
    text = textwrap.dedent(PROGRAM[name])
    assert text.count(old) == 1
    return {**PROGRAM, name: text.replace(old, new)}


def without(name, files):
    return {other: text for other, text in files.items() if other != name}


SAME = {
    "a comment": changed("script.py", "LIMIT = 5", "# The limit.\nLIMIT = 5  # five"),
    "a comment of an imported file": changed("pack/tools.py", "return -x", "return -x  # negative"),
    "a module's docstring": changed("beside.py", "def fourth():", '"""A module."""\n\ndef fourth():'),
    "a package's docstring": changed("pack/__init__.py", "A package.", "Another sentence."),
    "a function's docstring": changed("pack/tools.py", "def second(x):", 'def second(x):\n    """Negate."""'),
    "a class's docstring": changed("script.py", "    pass", '    """A kind."""'),
    "an attribute's docstring": changed("script.py", "LIMIT = 5", 'LIMIT = 5\n"""The limit."""'),
    "pass beside a docstring": changed("script.py", "    pass", '    """A kind."""\n\n    pass'),
    "blank lines": changed("script.py", "LIMIT = 5", "\n\nLIMIT = 5\n\n"),
    "line breaks and brackets": changed("script.py", "return first(count) +", "return (first(\n    count)) +"),
    "quotes": {**PROGRAM, "beside.py": "def fourth():\n    return (4)\n"},
    "the order of imports": changed("script.py", "import os\nimport sys\n", "import sys\nimport os\n"),
    "an import at the end of the imports": changed("script.py", "import os\nimport sys\n", "import sys\n")
    | {"script.py": changed("script.py", "import os\n", "")["script.py"].replace("as near\n", "as near\nimport os\n")},
    "a statement of two imports": changed("script.py", "import os\nimport sys\n", "import os, sys\n"),
    "a statement split in two": changed(
        "script.py", "import first, second", "import second\nfrom pack.tools import first"
    ),
    "an import for type checkers": changed(
        "script.py", "LIMIT = 5", "if TYPE_CHECKING:\n    from beside import fourth\nLIMIT = 5"
    ),
    "a relative import instead": changed("pack/other.py", "from pack.tools", "from .tools"),
    "a module renamed": without(
        "beside.py",
        changed("script.py", "import beside as near", "import nearby as near") | {"nearby.py": PROGRAM["beside.py"]},
    ),
    "a module moved into a package": without(
        "beside.py",
        changed("script.py", "import beside as near", "from moved.deep import beside as near")
        | {
            "moved/__init__.py": '"""New."""',
            "moved/deep/__init__.py": "",
            "moved/deep/beside.py": PROGRAM["beside.py"],
        },
    ),
    "a module imported in another way": changed("script.py", "from pack import other", "import pack.other as other"),
    "a module moved with both its importers": without(
        "pack/tools.py",
        changed("script.py", "from pack.tools", "from tools")
        | {
            "pack/other.py": PROGRAM["pack/other.py"].replace("pack.tools", "tools"),
            "tools.py": PROGRAM["pack/tools.py"],
        },
    ),
    "a file that is not imported": {**PROGRAM, "pack/unused.py": "x = 1"},
}

OTHER = {
    "a statement": changed("script.py", "LIMIT = 5", "LIMIT = 6"),
    "a statement of an imported file": changed("pack/tools.py", "return -x", "return x"),
    "a statement added": changed("beside.py", "return 4", "print()\n    return 4"),
    "the order of statements": PROGRAM
    | {"pack/tools.py": "def second(x):\n    return -x\n\ndef first(x):\n    return x\n"},
    "a type of number": changed("script.py", "LIMIT = 5", "LIMIT = 5.0"),
    "a default argument": changed("script.py", "count=1", "count=2"),
    "a decorator": changed("script.py", "def main", "@sys.intern\ndef main"),
    "a base class": changed("script.py", "class Kind:", "class Kind(dict):"),
    "an annotation": changed("script.py", "count=1", "count: int = 1"),
    "a text": changed("script.py", "LIMIT = 5", "LIMIT = '5'"),
    "async": changed("script.py", "def main", "async def main"),
    "code in a package's __init__": changed("pack/__init__.py", '"""A package."""', "print()"),
    "a name imported from another module": changed(
        "script.py", "tools import first, second", "tools import second\nfrom pack.other import first"
    ),
    "another name of a module": changed("script.py", "import first, second", "import second as first, first as second"),
    "an alias bound to another module": changed("script.py", "import beside as near", "from pack import tools as near"),
    "aliases exchanged": changed(
        "script.py",
        "from pack import other\nimport beside as near",
        "from pack import other as near\nimport beside as other",
    ),
    "a foreign module": changed("script.py", "import os", "import posixpath as os"),
    "a future statement": changed("beside.py", "def fourth", "from __future__ import annotations\n\ndef fourth"),
    "an import moved into a function": PROGRAM
    | {
        "script.py": changed("script.py", "import os\n", "")["script.py"].replace(
            "count=1):", "count=1):\n    import os"
        )
    },
}


@pytest.mark.parametrize("change", SAME)
def test_what_changes_no_meaning_keeps_the_digest(tmp_path, change):
    assert code_digest(write(tmp_path, SAME[change])) == code_digest(write(tmp_path, PROGRAM))


@pytest.mark.parametrize("change", OTHER)
def test_what_changes_the_meaning_changes_the_digest(tmp_path, change):
    assert code_digest(write(tmp_path, OTHER[change])) != code_digest(write(tmp_path, PROGRAM))


PAIR = {"one.py": "def f():\n    return 1\n", "two.py": "def f():\n    return 2\n"}


@pytest.mark.parametrize(
    "text",
    [
        "def a():\n    from {} import f\n    return f()\ndef b():\n    from {} import f\n    return f()\n",
        "if x:\n    from {} import f\nelse:\n    from {} import f\n",
        "if x:\n    y()\n    from {} import f\nelse:\n    from {} import f\n",
        "try:\n    from {} import f\nexcept ImportError:\n    from {} import f\n",
        "from {} import f\nx = f()\nfrom {} import f\ny = f()\n",
        "from {} import f\nfrom {} import f\n",
    ],
)
def test_where_a_name_is_imported_counts(tmp_path, text):
    one = code_digest(write(tmp_path, {**PAIR, "script.py": text.format("one", "two")}))
    assert one != code_digest(write(tmp_path, {**PAIR, "script.py": text.format("two", "one")}))


def test_modules_that_only_pass_names_on_are_distinguished(tmp_path):
    """Their code is the same, none; what they pass on is not, however many of them stand between."""
    faces = {"face_one.py": "from inner_one import f", "face_two.py": "from inner_two import f"}
    inner = {"inner_one.py": "from one import f", "inner_two.py": "from two import f"}
    both = "import face_one, face_two\nfrom {} import f\nf()"
    script = {name: {**PAIR, **faces, **inner, "script.py": both.format(name)} for name in ("face_one", "face_two")}
    assert code_digest(write(tmp_path, script["face_one"])) != code_digest(write(tmp_path, script["face_two"]))


def test_modules_of_the_same_text_are_counted(tmp_path):
    """Each has a state of its own."""
    state = {"one.py": "state = []", "two.py": "state = []"}
    apart = {**state, "script.py": "from one import state as x\nfrom two import state as y"}
    shared = {**state, "script.py": "from one import state as x\nfrom one import state as y"}
    assert code_digest(write(tmp_path, apart)) != code_digest(write(tmp_path, shared))


def test_a_digest_of_several_scripts_has_the_code_of_each(tmp_path):
    script = write(tmp_path, {**PROGRAM, "second.py": "import beside\n", "third.py": "x = 3\n"})
    second, third = (script.with_name(name) for name in ("second.py", "third.py"))
    assert code_digest(script, second) == code_digest(second, script) != code_digest(script)
    assert code_digest(script, third) != code_digest(script, second)


def test_the_digest_is_the_same_wherever_the_scripts_lie(tmp_path):
    files = {path.relative_to(SCRIPTS).as_posix(): path.read_text() for path in SCRIPTS.rglob("*.py")}
    copy = write(tmp_path, files).parent
    assert code_digest(copy / "gate_run.py") == code_digest(SCRIPTS / "gate_run.py")


STATEMENTS = st.sampled_from(
    [
        "x = 1",
        "def f(a, b=2):\n    return a + b",
        "class C:\n    y: int = 3",
        "for i in range(3):\n    print(i)",
        "if x > 1:\n    x = 'text'\nelse:\n    x = f'{x!r:>4}'",
        "with open('f') as s:\n    s.read()",
        "async def g():\n    await f(*x, **y)",
        "match x:\n    case [1, *rest]:\n        pass\n    case {'k': v}:\n        y = v",
        "try:\n    f()\nexcept (A, B) as e:\n    raise e from None\nfinally:\n    del x",
        "lambda a, /, *, b: [i async for i in a if b]",
    ]
)
IMPORTS = st.sampled_from(["import one", "import two as second", "from one import f", "from two import f as g, h"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(IMPORTS, unique=True), st.lists(STATEMENTS, min_size=1, max_size=5), st.randoms())
def test_only_the_statements_and_what_names_are_bound_to_count(tmp_path, imports, statements, random):
    pair = {"one.py": "def f(): pass", "two.py": "def f(): return 2\ndef h(): return 3"}
    text = "\n".join([*imports, *statements])
    digest = code_digest(write(tmp_path, {**pair, "script.py": text}))
    shuffled = random.sample(imports, len(imports))
    remarks = "\n\n# remark\n".join(ast.unparse(ast.parse(statement)) for statement in statements)
    other = '"""Docstring."""\n# remark\n' + "\n\n".join(shuffled) + "\n" + remarks + "\npass\n"
    assert code_digest(write(tmp_path, {**pair, "script.py": other})) == digest
    for number in range(len(statements)):
        fewer = [*imports, *statements[:number], *statements[number + 1 :]]
        assert code_digest(write(tmp_path, {**pair, "script.py": "\n".join(fewer)})) != digest


# --- what is remembered between runs ----------------------------------------------------------------------------------

PROCESS = """
import sys
from pathlib import Path
import day0.base.closure as closure
parsed = []
read = closure._read_facts
closure._read_facts = lambda file, text: parsed.append(file.name) or read(file, text)
closure.remember_in(Path(sys.argv[2]))
print(closure.code_digest(Path(sys.argv[1])), ",".join(sorted(parsed)))
closure.save_memory()
"""


def digest_by_process(script, memory):
    """Digest of a script as another process finds it, and the files that it had to parse."""
    run = subprocess.run(
        [sys.executable, "-c", PROCESS, script, memory],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=True,
    )
    digest, _, parsed = run.stdout.strip("\n").partition(" ")
    return digest, parsed.split(",") if parsed else []


ALL = ["__init__.py", "beside.py", "other.py", "script.py", "tools.py"]


def test_another_process_parses_nothing_and_finds_the_same(tmp_path):
    script, memory = write(tmp_path, PROGRAM), tmp_path / "folder" / "memory.json"
    first, parsed = digest_by_process(script, memory)
    assert (first, parsed) == (code_digest(script), ALL)
    assert digest_by_process(script, memory) == (first, [])
    # A process that reads fewer files keeps what others found.
    digest_by_process(script.with_name("beside.py"), memory)
    assert digest_by_process(script, memory) == (first, [])


def test_an_edit_is_noticed_whatever_its_time(tmp_path):
    script, memory = write(tmp_path, PROGRAM), tmp_path / "memory.json"
    first, _ = digest_by_process(script, memory)
    edited = script.with_name("beside.py")
    before = edited.stat()
    edited.write_text(edited.read_text().replace("4", "5"))
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    second, parsed = digest_by_process(script, memory)
    assert second != first and parsed == ["beside.py"]


def falsified(memory):
    """A memory with another fact under a key that is right."""
    content = json.loads(memory)
    next(iter(content["facts"].values()))[0] = "0"
    return json.dumps(content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda memory: "",
        lambda memory: memory[:-20],
        lambda memory: "[]",
        lambda memory: "{}",
        lambda memory: '{"digest": 1, "facts": {}}',
        lambda memory: json.dumps({"digest": "x", "facts": dict.fromkeys(json.loads(memory)["facts"], 5)}),
        lambda memory: "\ud800",
        lambda memory: "[" * 100000,
        falsified,
    ],
)
def test_a_spoilt_memory_costs_only_time(tmp_path, spoil):
    script, memory = write(tmp_path, PROGRAM), tmp_path / "memory.json"
    first, _ = digest_by_process(script, memory)
    memory.write_text(spoil(memory.read_text()), errors="surrogatepass")
    assert digest_by_process(script, memory) == (first, ALL)
    assert digest_by_process(script, memory) == (first, [])


def test_a_memory_that_cannot_be_written_costs_only_time(tmp_path):
    script, memory = write(tmp_path, PROGRAM), tmp_path / "file" / "memory.json"
    memory.parent.write_text("no folder")
    assert digest_by_process(script, memory) == digest_by_process(script, memory) == (code_digest(script), ALL)
