"""Every rule's command, rendered with hostile names and fed to a shell: each is one argument, and nothing else runs."""

import ast
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Namedlist
from snakemake.utils import format as render

ROOT = Path(__file__).parents[2]
SHELL = re.compile(r'^(?P<indent> *)shell:\n(?P<text>(?:(?P=indent) +f?".*"\n)+)', re.MULTILINE)
RULE = re.compile(r"^ *(?:rule|checkpoint) (\w+):$", re.MULTILINE)
FIELD = re.compile(r"\{(\w+)(?:\.(\w+))?(:q)?\}")
# Commands that are put together, each word quoted, by a lookup: see the last test.
MADE_BY_A_LOOKUP = {"params.commands"}

HOSTILE = {
    "substitution": "$(touch pwned)",
    "backticks": "`touch pwned`",
    "a second command": "a; touch pwned #",
    "in the background": "a & touch pwned &",
    "a pipe": "a | touch pwned",
    "or": "a || touch pwned",
    "a redirect": "a > pwned",
    "a single quote": "a'; touch pwned; '",
    "a double quote": 'a"; touch pwned; "',
    "a line": "a\ntouch pwned",
    "a variable": "${HOME}$PATH",
    "a glob": "*",
    "braces": "{input} {{x}} {0}",
    "spaces": "  a  b ",
    "an option": "--output=pwned",
    "a backslash": "a\\",
    "a tilde and history": "~root !!",
}


def value_of(name):
    """What an f-string of the rules fills in: a text of common.smk, or a constant that holds no field."""
    assert name.isupper(), f"{name} is no constant of the rules"
    found = re.search(rf'^{name} = "(.*)"$', (ROOT / "rules" / "common.smk").read_text(), re.MULTILINE)
    return found[1] if found else "CONSTANT"


def text_of(literal):
    """The text of string literals that stand side by side, f-strings among them."""
    node = ast.parse(f"({literal})", mode="eval").body
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(part.value if isinstance(part, ast.Constant) else value_of(part.value.id) for part in parts)


def commands():
    """The command of each rule that has one of its own, by the rule's name."""
    found = {}
    for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]:
        text = path.read_text()
        for match in SHELL.finditer(text):
            name = RULE.findall(text[: match.start()])[-1]
            found[name] = text_of(match["text"])
    return found


COMMANDS = commands()
SUITE_FILE = value_of("SUITE_FILE")
# As the rules have them in another workflow, where a job looks for its suite's file.
ELSEWHERE = {
    f"{rule} elsewhere": command.replace(SUITE_FILE, f'"$(find_file {SUITE_FILE})"')
    for rule, command in COMMANDS.items()
    if SUITE_FILE in command
}


def rendered(command, text):
    """The command with every field a hostile text: lists where Snakemake has lists."""
    fields = {(kind, name) for kind, name, _ in FIELD.findall(command)}
    spaces = {}
    for kind in {kind for kind, _ in fields}:
        names = [name for other, name in fields if other == kind and name]
        values = Namedlist(fromdict={name: [text, text] if kind == "input" else text for name in names})
        if kind == "wildcards":
            values = SimpleNamespace(**dict.fromkeys(names, text))
        spaces[kind] = text if kind == "log" else values if names else Namedlist([text, text])
    return render(command, **spaces)


@pytest.mark.parametrize("rule", sorted(COMMANDS))
def test_every_field_is_quoted(rule):
    bare = {".".join(filter(None, field[:2])) for field in FIELD.findall(COMMANDS[rule]) if not field[2]}
    assert not bare - MADE_BY_A_LOOKUP, f"write {{{min(bare)}:q}}"
    assert "$(" not in COMMANDS[rule] and "`" not in COMMANDS[rule]


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_name_runs_nothing_in_any_rule(tmp_path, kind):
    text = HOSTILE[kind]
    stubs = (
        "python() { printf '%s\\0' \"$@\" >> words; }; tee() { cat > /dev/null; }; command_not_found_handle() { :; };"
        'find_file() { echo "$1"; };'
    )
    assert ELSEWHERE
    for rule, command in {**COMMANDS, **ELSEWHERE}.items():
        if any(field in command for field in MADE_BY_A_LOOKUP):
            continue
        folder = tmp_path / rule
        folder.mkdir()
        done = subprocess.run(
            ["bash", "-c", stubs + rendered(command, text)], cwd=folder, capture_output=True, text=True
        )
        assert "syntax error" not in done.stderr and "unexpected EOF" not in done.stderr, (rule, done.stderr)
        made = {path.name for path in folder.iterdir()}
        assert made <= {"words", text}, (rule, made)
        words = (folder / "words").read_text().split("\0") if "words" in made else [text]
        given = {".".join(filter(None, field[:2])) for field in FIELD.findall(command)} - {"log"}
        assert any(text in word for word in words) or not given or "params.python" in given, (rule, words)


def test_the_commands_of_the_target_publish_are_quoted(tmp_path):
    """They are made by a lookup, which is read from its file as Snakemake does."""
    space = {
        "PLAN": SimpleNamespace(
            targets=[
                SimpleNamespace(model="m", name="r", publish={"dry_run": True, "folder": text})
                for text in HOSTILE.values()
            ]
        ),
        "get_text": repr,
        "OWN_SCRIPTS": "scripts",
    }
    exec((ROOT / "rules" / "lookups" / "release.smk").read_text(), space)
    stubs = "python() { printf '%s\\0' \"$@\" >> words; };"
    subprocess.run(["bash", "-c", stubs + space["get_publish_commands"]()], cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"words"}
    words = (tmp_path / "words").read_text().split("\0")
    assert sum(word.startswith("{'dry_run'") for word in words) == len(HOSTILE)


def test_the_test_can_fail(tmp_path):
    """A field without its quotes runs what it holds."""
    for kind in (
        "substitution",
        "backticks",
        "a second command",
        "in the background",
        "a pipe",
        "a redirect",
        "a line",
    ):
        folder = tmp_path / kind
        folder.mkdir()
        command = rendered("true {input.file} > /dev/null", HOSTILE[kind])
        subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True)
        assert (folder / "pwned").exists(), kind
