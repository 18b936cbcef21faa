"""Render a verdict and its evidence as one self-contained HTML page.

Reads verdict.json and, where they are not given, the assessments that it names, the record of the quantize stage, the
runs' metadata and the benchmark files that lie beside them. The page needs no network and no script.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from day0.artefacts import UnusableInput, digest_of_file, read_json, read_yaml, run_cli, write_text
from day0.report import benchmark_row, page_content
from day0.triage import DECISIONS

TEMPLATES = Path(__file__).parent / "templates"
SHOWN_EVIDENCE = ("comparison", "validation", "baseline_run", "candidate_run")


def render(content: dict[str, Any]) -> str:
    """The page's HTML; every value is escaped but the pictures, which are our own SVG."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    pictures = {name: Markup(content[name]) if content[name] else None for name in ("chart", "layer_map")}
    return environment.get_template("report.html.jinja").render({**content, **pictures})


def read_verdict(path: Path) -> dict[str, Any]:
    """Read verdict.json.

    Raises:
        UnusableInput: it lacks what the page cannot do without.
    """
    verdict = read_json(path)
    needed = ("release", "model", "recipe", "suite", "decision", "detail", "next_action")
    missing = [key for key in needed if key not in verdict]
    if missing or verdict["decision"] not in DECISIONS:
        found = f"no {', '.join(missing)}" if missing else f"decision {verdict['decision']!r}"
        expected = f"a verdict with {', '.join(needed)}, its decision one of {', '.join(DECISIONS)}"
        raise UnusableInput(f"{path}: expected {expected}; found {found}")
    return {"failure_class": None, "stage": None, "created": None, "git_commit": None, **verdict}


def state_of(entry: dict[str, Any]) -> str:
    """Whether the evidence still is what the verdict was made from."""
    path = Path(str(entry.get("path")))
    if not path.is_file():
        return "missing"
    return "unchanged" if digest_of_file(path) == entry.get("sha256") else "changed"


def find_benchmarks(given: list[str], folders: list[Path]) -> dict[str, Path]:
    """Benchmark files: those given as NAME=FILE, else those beside the evidence and in benchmarks/ below it."""
    pairs = [item.partition("=") for item in given]
    if any(not (name and separator and file) for name, separator, file in pairs):
        raise UnusableInput(f"--benchmark: expected NAME=FILE, found {given}")
    if pairs:
        return {name: Path(file) for name, _, file in pairs}
    found = {}
    for folder in dict.fromkeys(folders):
        for file in sorted([*folder.glob("*.tsv"), *folder.glob("benchmarks/*.tsv")]):
            parts = [part for part in file.parts if part not in ("results", "benchmarks")]
            found[" / ".join([*parts[-3:-1], file.stem])] = file
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdict", type=Path, required=True, help="verdict.json")
    for name, what in (
        ("comparison", "comparison.json"),
        ("validation", "validation.json"),
        ("baseline-run", "run.json of the baseline"),
        ("candidate-run", "run.json of the candidate"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=f"{what}; default: the one that the verdict names")
    parser.add_argument("--quantization", type=Path, help="quantization.json; default: the one beside the validation")
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME=FILE", help="Snakemake's file")
    parser.add_argument("--output", type=Path, required=True, help="HTML page to write")
    arguments = parser.parse_args()

    verdict = read_verdict(arguments.verdict)
    evidence = verdict.get("evidence") or {}
    paths: dict[str, Path] = {}
    for name in SHOWN_EVIDENCE:
        given, named = getattr(arguments, name), evidence.get(name, {}).get("path")
        if given or (named and Path(named).is_file()):
            paths[name] = given or Path(named)
    content = {name: read_json(path) for name, path in paths.items()}
    if arguments.quantization or "validation" in paths:
        record = arguments.quantization or paths["validation"].parent / "quantization.json"
        if arguments.quantization or record.is_file():
            paths["quantization"], content["quantization"] = record, read_json(record)
    runs = {}
    for side in ("baseline", "candidate"):
        if f"{side}_run" in paths:
            results = paths[f"{side}_run"].parent / "results.yml"
            metadata = read_yaml(results).get("metadata") if results.is_file() else {}
            runs[side] = (content[f"{side}_run"], metadata if isinstance(metadata, dict) else {})
    folders = [path.parent for name, path in paths.items() if name != "comparison"]
    benchmarks = {}
    for name, file in find_benchmarks(arguments.benchmark, folders).items():
        try:
            row = benchmark_row(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UnusableInput(f"--benchmark: {file}: cannot be read: {error}") from error
        benchmarks |= {name: row} if row else {}
    page = page_content(
        verdict,
        comparison=content.get("comparison"),
        validation=content.get("validation"),
        quantization=content.get("quantization"),
        runs=runs,
        benchmarks=benchmarks,
        states={name: state_of(entry) for name, entry in evidence.items()},
    )
    write_text(arguments.output, render(page))
    print(f"{arguments.output}: {verdict['decision']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
