"""Render a verdict and its evidence as one self-contained HTML page.

Reads verdict.json and, where they are not given, the assessments that it names, the record of the quantize stage, the
runs' metadata and the benchmark files that lie beside them. The page needs no network and no script; its figures are
written as files of their own too where a folder is given.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from day0.base.artefacts import digest_of_file, read_json, read_yaml, write_text
from day0.base.cli import UnusableInput, run_cli
from day0.records.search import Search
from day0.release.figures import Stage
from day0.release.release_page import benchmark_row, float_or_none, page_content
from day0.release.verdicts import read_verdict

TEMPLATES = Path(__file__).parent / "templates"
# What is made from the report or beside it: its figures are of an earlier run.
LATER_STAGES = {"render_report", "bundle_release", "log_decision", "publish_release"}
SHOWN_EVIDENCE = ("comparison", "validation", "baseline_run", "candidate_run")


def render(template: str, content: dict[str, Any]) -> str:
    """A page's HTML; every value is escaped but the figures, which are our own SVG."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    figures = {name: Markup(svg) for name, svg in content["figures"].items()}
    return environment.get_template(template).render({**content, "figures": figures})


def write_figures(folder: Path, figures: dict[str, str]) -> None:
    """Write each figure as a file of its own, and leave no other in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, svg in figures.items():
        write_text(folder / f"{name}.svg", f'<?xml version="1.0" encoding="utf-8"?>\n{svg}')


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
            if file.stem not in LATER_STAGES:
                parts = [part for part in file.parts if part not in ("results", "benchmarks")]
                found["/".join([*parts[-3:-1], file.stem])] = file
    return found


def read_stages(benchmarks: dict[str, Path], groups: dict[str, str]) -> tuple[list[Stage], dict[str, float]]:
    """Stages and their largest resident memory (MiB) from Snakemake's benchmark files, each written as its job ended.

    Args:
        benchmarks: name of a stage to its file.
        groups: folder to what its stages are for; a file counts to the nearest folder above it.
    """
    stages, memory = [], {}
    for name, file in benchmarks.items():
        try:
            row, end = benchmark_row(file.read_text(encoding="utf-8")), file.stat().st_mtime
        except (OSError, UnicodeDecodeError) as error:
            raise UnusableInput(f"--benchmark: {file}: cannot be read: {error}") from error
        seconds = float_or_none(row.get("s"))
        if seconds is None:
            continue
        group = next((groups[str(parent)] for parent in file.parents if str(parent) in groups), "other")
        label = f"{file.stem.replace('_', ' ')}, {group}" if "/" in name else name
        stages.append(Stage(label, end - seconds, seconds, group))
        if (most := float_or_none(row.get("max_rss"))) is not None:
            memory[label] = most
    return stages, memory


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
    parser.add_argument("--search", type=Path, help="search.json; default: search/search.json beside the verdict")
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME=FILE", help="Snakemake's file")
    parser.add_argument("--output", type=Path, required=True, help="HTML page to write")
    parser.add_argument("--figures", type=Path, help="folder to write the figures to, NAME.svg each")
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
    groups = {
        str(path.parent): side for side in ("baseline", "candidate") for path in [paths.get(f"{side}_run")] if path
    }
    groups |= {str(paths["validation"].parent): "candidate"} if "validation" in paths else {}
    model = paths["validation"].parent.parent if "validation" in paths else arguments.verdict.parent.parent
    groups = {str(model): "source", str(arguments.verdict.parent): "decision"} | groups
    folders = [Path(folder) for folder in groups]
    stages, memory = read_stages(find_benchmarks(arguments.benchmark, folders), groups)
    of_search = arguments.search or arguments.verdict.parent / "search" / "search.json"
    search = Search.read(of_search) if arguments.search or of_search.is_file() else None
    page = page_content(
        verdict,
        search=search,
        comparison=content.get("comparison"),
        validation=content.get("validation"),
        quantization=content.get("quantization"),
        runs=runs,
        stages=stages,
        memory=memory,
        states={name: state_of(entry) for name, entry in evidence.items()},
    )
    if arguments.figures:
        write_figures(arguments.figures, page["figures"])
    write_text(arguments.output, render("report.html.jinja", page))
    print(f"{arguments.output}: {verdict['decision']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
