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


def commands():
    """The command of each rule that has one of its own, by the rule's name."""
    found = {}
    for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]:
        text = path.read_text()
        for match in SHELL.finditer(text):
            name = RULE.findall(text[: match.start()])[-1]
            # What an f-string fills in is a constant of the rules.
            literal = re.sub(r"(?<!\{)\{[A-Z_]+\}(?!\})", "CONSTANT", match["text"])
            found[name] = ast.literal_eval(f"({literal})") if not re.search(r'^ *f"', literal) else eval_f(literal)
    return found


def eval_f(literal):
    return (
        ast.literal_eval("(" + re.sub(r'^( *)f"', r'\1"', literal, flags=re.MULTILINE) + ")")
        .replace("{{", "{")
        .replace("}}", "}")
    )


COMMANDS = commands()


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
    )
    for rule, command in COMMANDS.items():
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
