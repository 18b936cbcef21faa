"""The picture of the graph and the linter's view of the rules are current."""

import html
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def edges(dot):
    """Edges of a graph in dot's language, as pairs of labels."""
    labels = dict(re.findall(r'^\s*(\d+)\[label = "([^"]*)"', dot, re.MULTILINE))
    return sorted((labels[a], labels[b]) for a, b in re.findall(r"^\s*(\d+) -> (\d+)", dot, re.MULTILINE)), labels


def test_the_picture_shows_the_graph_as_it_is(project):
    run = project.snakemake("--forceall", "--dag", "dot", "--", "release")
    shown, labels = edges((ROOT / "docs" / "graph.dot").read_text())
    now, _ = edges(run.output)
    assert now and shown == now, "run `make generated`"
    picture = html.unescape((ROOT / "docs" / "graph.svg").read_text())
    for label in labels.values():
        assert all(f">{line}</text>" in picture for line in label.split("\\n")), label


def test_the_linter_finds_nothing_but_what_is_meant(project):
    run = project.snakemake("--lint")
    found = set()
    place = ""
    for line in run.output.splitlines():
        if match := re.match(r"Lints for (rule \w+|snakefile \S+)", line):
            place = match[1]
        elif match := re.match(r"    \* ([^:]+):", line):
            found.add((place, match[1]))
    # Environments are built by a rule from locks with hashes, which conda and containers do not give.
    found = {entry for entry in found if entry[1] != "Specify a conda environment or container for each rule."}
    # These print decisions and addresses, which belong on the terminal.
    targets = ("release", "verdict", "publish")
    assert found == {(f"rule {name}", "No log directive defined") for name in targets}


def test_every_rule_says_what_it_does(project):
    run = project.snakemake("--list-rules")
    rules = [line for line in run.output.splitlines() if line and not line.startswith("Using workflow")]
    assert len(rules) > 20
