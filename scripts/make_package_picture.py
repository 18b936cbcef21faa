"""Make docs/packages.dot and docs/packages.svg: the packages of scripts/day0 and which of them import which.

The arrows come from the import statements, by the reader that also decides what a changed file redoes
(day0.base.closure). An arrow that follows from others is left out: a path in the picture is an import, direct or by
way of another package, and where there is no path there is no import.
"""

from __future__ import annotations

import argparse
import subprocess
import textwrap
from pathlib import Path

from day0.base.artefacts import write_text
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, UnusableInput, run_cli
from day0.base.closure import local_imports

SCRIPTS = Path(__file__).parent
PACKAGES = SCRIPTS / "day0"

# What a package is for: (fill, line, packages). A package without a part is an error, so that none is forgotten.
PARTS = {
    "plans": ("#ede7f6", "#7e57c2", ["plan", "search", "cluster"]),
    "makes": ("#e3f2fd", "#1e88e5", ["evaluation", "serving"]),
    "judges": ("#fff3e0", "#fb8c00", ["checkpoint", "decision"]),
    "shows and ships": ("#e8f5e9", "#43a047", ["release"]),
    "what the stages work on": ("#fafafa", "#9e9e9e", ["source", "recipe", "suite", "statistics"]),
    "used by all": ("#eceff1", "#455a64", ["records", "base"]),
}
ROWS = [
    ["plan", "release"],
    ["search"],
    ["checkpoint", "decision"],
    ["evaluation"],
    ["serving", "suite"],
    ["recipe", "source", "statistics", "cluster"],
    ["records"],
    ["base"],
]


def package_imports() -> dict[str, set[str]]:
    """Of each package of scripts/day0, the other packages that its modules import."""
    found: dict[str, set[str]] = {init.parent.name: set() for init in sorted(PACKAGES.glob("*/__init__.py"))}
    for name, imported in found.items():
        for module in sorted((PACKAGES / name).glob("*.py")):
            for target in local_imports(module, SCRIPTS):
                package = target.relative_to(PACKAGES).parts[0]
                if package in found and package != name:
                    imported.add(package)
    return found


def without_implied(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The fewest arrows with the same paths.

    Raises:
        UnusableInput: packages import each other in a circle.
    """
    reached: dict[str, set[str]] = {}

    def reach(name: str, way: tuple[str, ...]) -> set[str]:
        if name in way:
            raise UnusableInput(f"packages import each other: {' -> '.join([*way[way.index(name) :], name])}")
        if name not in reached:
            below = [reach(other, (*way, name)) for other in sorted(arrows[name])]
            reached[name] = arrows[name].union(*below)
        return reached[name]

    for name in arrows:
        reach(name, ())
    return {
        name: {other for other in others if not any(other in reached[third] for third in others - {other})}
        for name, others in arrows.items()
    }


def summary_of(package: str) -> str:
    """The first sentence of a package's docstring."""
    text = (PACKAGES / package / "__init__.py").read_text(encoding="utf-8")
    return " ".join(text.split('"""')[1].split("\n\n")[0].split()).rstrip(".")


def make_dot() -> str:
    """The picture in the language of Graphviz."""
    arrows = without_implied(package_imports())
    colours = {package: (fill, line) for fill, line, packages in PARTS.values() for package in packages}
    if not set(arrows) == set(colours) == {package for row in ROWS for package in row}:
        raise UnusableInput(f"{Path(__file__).name}: PARTS and ROWS must name the packages {', '.join(sorted(arrows))}")
    legend = "".join(
        f'<td border="1" style="rounded" bgcolor="{fill}" color="{line}" width="14" height="10" fixedsize="true"></td>'
        f'<td align="left">{part} &nbsp; </td>'
        for part, (fill, line, _) in PARTS.items()
    )
    lines = [
        "// Made by scripts/make_package_picture.py (`make generated`).",
        "digraph packages {",
        "    graph [rankdir=TB, bgcolor=white, nodesep=0.3, ranksep=0.4, margin=0.1, labelloc=b];",
        '    graph [fontname="Helvetica", fontsize=10, fontcolor="#424242"];',
        f'    graph [label=<<table border="0" cellspacing="6"><tr>{legend}</tr></table>>];',
        '    node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=12, margin="0.16,0.09"];',
        '    edge [color="#90a4ae", arrowsize=0.7, penwidth=1.2];',
    ]
    for row in ROWS:
        for package in row:
            fill, line = colours[package]
            text = "<br/>".join(textwrap.wrap(summary_of(package), 28))
            label = f'<<b>{package}</b><br/><font point-size="9" color="#424242">{text}</font>>'
            lines.append(f'    {package} [label={label}, fillcolor="{fill}", color="{line}"];')
        lines.append(f"    {{ rank=same; {'; '.join(row)} }}")
    # Keeps the rows in their order from left to right.
    lines += [f"    {' -> '.join(row)} [style=invis];" for row in ROWS if len(row) > 1]
    lines += [f"    {package} -> {other};" for package in sorted(arrows) for other in sorted(arrows[package])]
    return "\n".join([*lines, "}", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/packages.svg"), help="the .dot file lies beside it")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the .dot file is up to date")
    arguments = parser.parse_args()

    dot, path = make_dot(), arguments.output.with_suffix(".dot")
    if arguments.check:
        if path.is_file() and path.read_text(encoding="utf-8") == dot:
            return EXIT_PASS
        print(f"{path}: not what the packages import; run `make generated`")
        return EXIT_FAILED_CHECK
    try:
        drawn = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnusableInput(f"Graphviz's dot could not draw the picture: {error}") from error
    write_text(path, dot)
    write_text(arguments.output, drawn.stdout)
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
