"""Render a verdict and its evidence as one self-contained HTML page.

Reads verdict.json and, where they are not given, the assessments that it names, the record of the quantize stage, the
runs' metadata, the texts of the samples that flipped, the decisions before this one and the benchmark files that lie
beside them. The page needs no network and no script; its figures are
written as files of their own too where a folder is given.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from day0.base.artefacts import digest_of_file, read_json, read_yaml, write_text
from day0.base.cli import UnusableInput, run_cli
from day0.base.numbers import float_or_none, mapping_or_empty
from day0.decision.recount import read_samples_file
from day0.records.history import read_history
from day0.records.samples import shortened
from day0.records.search import Search
from day0.release.effort import Effort, benchmark_row, gpus_of_quantization, gpus_of_server
from day0.release.figures import for_page
from day0.release.release_page import Question, page_content
from day0.release.verdicts import read_verdict

TEMPLATES = Path(__file__).parent / "templates"
# What is made from the report or beside it: its figures are of an earlier run.
LATER_STAGES = {"render_report", "bundle_release", "log_decision", "publish_release"}
SIDES = ("baseline", "candidate")
SAMPLED_SECONDS = 2.0  # Snakemake samples memory each half second: of a shorter job it is that of the shell
SHOWN_EVIDENCE = ("comparison", "validation", "baseline_run", "candidate_run")


def render(template: str, content: dict[str, Any]) -> str:
    """A page's HTML; every value is escaped but the figures, which are our own SVG."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    figures = {name: Markup(for_page(svg)) for name, svg in content["figures"].items()}
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


def read_efforts(benchmarks: dict[str, Path], groups: dict[str, str], gpus: dict[str, int | None]) -> list[Effort]:
    """What each stage took, from Snakemake's benchmark files, each written as its job ended.

    Args:
        benchmarks: name of a stage to its file.
        groups: folder to what its stages are for; a file counts to the nearest folder above it.
        gpus: "STAGE, GROUP" to the GPUs that it held; none where it is not named.
    """
    efforts = []
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
        held = gpus.get(f"{file.stem}, {group}", 0)
        cpu, memory = float_or_none(row.get("cpu_time")), float_or_none(row.get("max_rss"))
        if seconds < SAMPLED_SECONDS:
            memory = None
        efforts.append(Effort(label, file.stem, group, end - seconds, seconds, cpu, memory, held))
    return efforts


class ReleaseFiles:
    """What lies beside a verdict, as far as it is there: its evidence, the records of its stages, their benchmarks."""

    def __init__(
        self,
        path: Path,
        given: Mapping[str, Path | None] | None = None,
        read_results: Callable[[Path], dict[str, Any]] = read_yaml,
    ) -> None:
        """Find and read the files.

        Args:
            path: verdict.json.
            given: names of evidence, and quantization, to files that take the place of those that the verdict names.
            read_results: reads a results.yml; releases that share a baseline may share what was read of its file.
        """
        self.verdict = read_verdict(path)
        self.path, self._read_results, chosen = path, read_results, given or {}
        self.paths: dict[str, Path] = {}
        for name in SHOWN_EVIDENCE:
            named = (self.verdict.get("evidence") or {}).get(name, {}).get("path")
            if (own := chosen.get(name)) or (named and Path(named).is_file()):
                self.paths[name] = own or Path(named)
        if own := chosen.get("quantization"):
            self.paths["quantization"] = own
        elif "validation" in self.paths:
            record = self.paths["validation"].parent / "quantization.json"
            self.paths |= {"quantization": record} if record.is_file() else {}
        self.content = {name: read_json(file) for name, file in self.paths.items()}
        self.metadata = {side: self._metadata(side) for side in SIDES if f"{side}_run" in self.paths}

    def _metadata(self, side: str) -> dict[str, Any]:
        results = self.paths[f"{side}_run"].parent / "results.yml"
        found = self._read_results(results).get("metadata") if results.is_file() else {}
        return found if isinstance(found, dict) else {}

    def efforts(self, benchmarks: list[str]) -> list[Effort]:
        """What its stages took; from the benchmark files beside the evidence where none are given."""
        groups = {str(self.paths[f"{side}_run"].parent): side for side in self.metadata}
        groups |= {str(self.paths["validation"].parent): "candidate"} if "validation" in self.paths else {}
        model = self.paths["validation"].parent.parent if "validation" in self.paths else self.path.parent.parent
        groups = {str(model): "source", str(self.path.parent): "decision"} | groups
        gpus = {
            f"evaluate, {side}": gpus_of_server(mapping_or_empty(metadata.get("server")))
            for side, metadata in self.metadata.items()
        }
        gpus["quantize, candidate"] = gpus_of_quantization(self.content.get("quantization", {}))
        return read_efforts(find_benchmarks(benchmarks, [Path(folder) for folder in groups]), groups, gpus)

    def questions(self) -> dict[str, Question]:
        """Of the samples that flipped, what was asked and answered, by "TASK ID REPEAT"."""
        tasks = self.content.get("comparison", {}).get("tasks") or self.verdict.get("tasks") or {}
        found: dict[str, Question] = {}
        for task, entry in tasks.items():
            flips = mapping_or_empty(mapping_or_empty(entry.get("paired")).get("flips"))
            wanted = {(str(row["id"]), str(row["repeat"])) for kind in flips.values() for row in kind}
            if not wanted:
                continue
            ids, texts = {one for one, _ in wanted}, {side: {} for side in SIDES}  # type: dict[str, dict]
            asked: dict[str, tuple[str | None, str | None]] = {}
            for side in self.metadata:
                file = self.paths[f"{side}_run"].parent / "samples" / f"{task}.jsonl"
                for sample in read_samples_file(file, is_own=False).samples:
                    if sample.id in ids:
                        texts[side][sample.id, str(sample.repeat)] = sample.answer
                        if sample.prompt is not None:
                            asked[sample.id] = (sample.prompt, sample.target)
            for key in wanted:
                prompt, target = asked.get(key[0], (None, None))
                answers = [shortened(texts[side].get(key)) for side in SIDES]
                found[" ".join((task, *key))] = Question(prompt, target, *answers)
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
    parser.add_argument("--search", type=Path, help="search.json; default: search/search.json beside the verdict")
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME=FILE", help="Snakemake's file")
    parser.add_argument("--output", type=Path, required=True, help="HTML page to write")
    parser.add_argument("--figures", type=Path, help="folder to write the figures to, NAME.svg each")
    arguments = parser.parse_args()

    given = {name: getattr(arguments, name) for name in (*SHOWN_EVIDENCE, "quantization")}
    files = ReleaseFiles(arguments.verdict, given)
    verdict = files.verdict
    of_search = arguments.search or arguments.verdict.parent / "search" / "search.json"
    search = Search.read(of_search) if arguments.search or of_search.is_file() else None
    page = page_content(
        verdict,
        search=search,
        comparison=files.content.get("comparison"),
        validation=files.content.get("validation"),
        quantization=files.content.get("quantization"),
        runs={side: (files.content[f"{side}_run"], metadata) for side, metadata in files.metadata.items()},
        efforts=files.efforts(arguments.benchmark),
        states={name: state_of(entry) for name, entry in (verdict.get("evidence") or {}).items()},
        questions=files.questions(),
        history=[entry.as_plain() for entry in read_history(arguments.verdict)],
        verdict_sha256=digest_of_file(arguments.verdict),
    )
    if arguments.figures:
        write_figures(arguments.figures, page["figures"])
    write_text(arguments.output, render("report.html.jinja", page))
    print(f"{arguments.output}: {verdict['decision']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
