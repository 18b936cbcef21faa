"""Print the decisions: of each release its figures or the reason against it, and where report and bundle are.

Exit status 1 where a file of an accepted release is no longer what was decided on or bundled (day0/release/damage.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, run_cli
from day0.records.failure_class import Decision
from day0.records.publication import Publication
from day0.release.damage import find_damage
from day0.release.verdicts import read_verdict

MANY = 20  # releases, above which those that are well are counted, so that the others are seen


def format_decisions(verdicts: Iterable[Path], damage: Mapping[Path, list[str]] | None = None) -> str:
    """A paragraph for each release: its decision, its figures or why it was refused and what to do next, its files.

    Of more than ``MANY`` releases, those that are accepted and need nothing share a line before the others.

    Args:
        damage: by verdict, what of the release is no longer as it was.

    Raises:
        UnusableInput: a verdict cannot be read.
    """
    damage = damage or {}
    contents = {path: read_verdict(path) for path in verdicts}
    well = {path for path, verdict in contents.items() if _is_well(verdict) and not damage.get(path)}
    shown = [path for path in contents if len(contents) <= MANY or path not in well]
    hidden = len(contents) - len(shown)
    lines = [f"{hidden} releases: ACCEPT, each with its report in results/index.html"] if hidden else []
    for path in shown:
        lines += [_note(path, contents[path]), *(f"  DAMAGED: {what}" for what in damage.get(path, []))]
    return "\n".join(lines)


def _is_well(verdict: Mapping[str, Any]) -> bool:
    return verdict["decision"] == Decision.ACCEPT and not _is_unlogged(verdict)


def _is_unlogged(verdict: Mapping[str, Any]) -> bool:
    return (verdict.get("mlflow") or {}).get("status") == "failed"


def _figures(verdict: dict) -> str:
    """Size and the task that lost most, of an accepted release."""
    words = []
    if isinstance(ratio := verdict.get("size_ratio"), int | float):
        words.append(f"{ratio:.3f} of the source's size")
    if isinstance(bits := verdict.get("bits_per_weight"), int | float):
        words.append(f"{bits:.2f} bits/weight")
    drops = {
        task: entry["drop"] for task, entry in (verdict.get("tasks") or {}).items() if entry.get("drop") is not None
    }
    if drops and max(drops.values()) <= 0:
        words.append("no task lost")
    elif drops:
        task = max(drops, key=lambda name: drops[name])
        scores = " -> ".join(f"{verdict['tasks'][task][key]:.4f}" for key in ("baseline", "candidate"))
        words.append(f"largest drop of {len(drops)} {'task' if len(drops) == 1 else 'tasks'}: {task} {scores}")
    return ", ".join(words)


def _is_current(made: Path, verdict: Path) -> bool:
    return made.is_file() and made.stat().st_mtime >= verdict.stat().st_mtime


def _note(path: Path, verdict: dict) -> str:
    name = f"{verdict['model']} {verdict['release']}"
    report, bundle = path.with_name("report.html"), path.with_name("release")
    if verdict["decision"] == Decision.ACCEPT:
        figures = _figures(verdict)
        lines = [f"{name}: {verdict['decision']}" + (f" ({figures})" if figures else "")]
    else:
        lines = [
            f"{name}: {verdict['decision']}",
            f"  {verdict['failure_class'] or verdict['stage']}: {verdict['detail']}",
            f"  next: {verdict['next_action']}",
        ]
    places = [f"report: {report}"] if _is_current(report, path) else []
    if verdict["decision"] == Decision.ACCEPT and bundle.is_dir():
        places.append(f"bundle: {bundle}")
    if places:
        lines.append("  " + "   ".join(places))
    published = path.with_name("published.json")
    if verdict["decision"] == Decision.ACCEPT and _is_current(published, path):
        lines.append(f"  published: {Publication.read(published).url}")
    if _is_unlogged(verdict):
        lines.append(f"  not logged with MLflow: {verdict['mlflow'].get('detail')}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", nargs="+", type=Path, help="verdict.json files")
    parser.add_argument("--index", type=Path, help="the page over all releases, to be named last")
    parser.add_argument("--bundles", action="store_true", help="every accepted release must have its bundle")
    parser.add_argument(
        "--verify", choices=("quick", "full"), default="quick", help="full: hash every file of a bundle"
    )
    arguments = parser.parse_args()
    damage = {path: find_damage(path, arguments.verify == "full", arguments.bundles) for path in arguments.verdicts}
    print("\n" + format_decisions(arguments.verdicts, damage))
    if arguments.index:
        print(f"all releases: {arguments.index}")
    if found := sum(map(len, damage.values())):
        print(f"error: {found} files are no longer what was decided on or bundled; they are named above as DAMAGED")
        return EXIT_FAILED_CHECK
    return EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
