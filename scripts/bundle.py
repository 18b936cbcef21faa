"""Bundle an accepted checkpoint for publication: the model folder, a model card, evidence, provenance, SHA256SUMS.

Refuses unless the verdict is ACCEPT and every file is still the one that the verdict was made from. The checkpoint is
hard-linked where the file system allows it, else copied; never moved. The folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from day0.base.artefacts import digest_of_file, inventory, read_json, read_yaml, write_json, write_text
from day0.base.cli import EXIT_FAILED_CHECK, UnusableInput, run_cli
from day0.records.failure_class import Decision
from day0.release.provenance import make_statement
from verify_release import verify

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
RUNS = ("baseline_run", "candidate_run")
CARD_COLUMNS = ("tier", "metric", "baseline", "candidate", "drop", "limit", "paired")
LEGAL_FILES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|USE_POLICY).*", re.IGNORECASE)
# Flags of the evaluation's server that change what the model answers or needs, with the value that is vLLM's own.
SERVING_FLAGS = {
    "--max-model-len": None,
    "--dtype": "auto",
    "--kv-cache-dtype": "auto",
    "--tensor-parallel-size": "1",
    "--pipeline-parallel-size": "1",
}


def find_changes(verdict: dict[str, Any], record: dict[str, Any], checkpoint: Path) -> list[str]:
    """Sentences on what is no longer what the verdict was made from."""
    changes = [
        f"{entry['path']} has changed since the verdict"
        for entry in verdict["evidence"].values()
        if not Path(entry["path"]).is_file() or digest_of_file(entry["path"]) != entry["sha256"]
    ]
    if record.get("checkpoint_digest") != verdict["digests"].get("checkpoint_digest"):
        changes.append("quantization.json is of another checkpoint than the verdict")
    there = inventory(checkpoint)
    changed = [
        name for name in sorted(there.keys() | record["files"].keys()) if there.get(name) != record["files"].get(name)
    ]
    return changes + [f"{checkpoint / name} has changed since it was quantized" for name in changed]


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the file system has no hard links to offer.

    The file itself, where the source is a link to it: the hub's cache holds nothing but links.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def front_matter(verdict: dict[str, Any], source: dict[str, Any]) -> str:
    """The metadata that the hub reads from a model card, with every score as an entry of its model-index."""
    name = f"{verdict['model']}-{verdict['release']}"
    scores = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task,
            dataset_name=task,
            metric_type=str(entry.get("metric") or "score"),
            metric_name=str(entry.get("metric") or "score"),
            metric_value=entry["candidate"],
        )
        for task, entry in verdict["tasks"].items()
        if entry.get("candidate") is not None
    ]
    hub = source["location"].get("hub")
    data = ModelCardData(
        model_name=name,
        base_model=hub,
        base_model_relation="quantized" if hub else None,
        license=source.get("license"),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["quantized", "modelopt", "vllm", verdict["recipe"].lower()],
        eval_results=scores,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def serving_arguments(command: str) -> list[str]:
    """Arguments of the evaluation's server that a user needs too."""
    words = command.split()
    kept = [
        f"{flag} {value}" for flag, value in pairwise(words) if flag in SERVING_FLAGS and value != SERVING_FLAGS[flag]
    ]
    return kept + ["--trust-remote-code"] * ("--trust-remote-code" in words)


def render_model_card(
    verdict: dict[str, Any],
    record: dict[str, Any],
    source: dict[str, Any],
    validation: dict[str, Any],
    server: dict[str, Any],
) -> str:
    """The README.md of the bundle, with the front matter that the hub reads."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["number"] = lambda number, sign="": "" if number is None else f"{number:{sign}.4f}"
    location = source["location"]
    external = verdict.get("external") or {}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **{key: verdict[key] for key in ("model", "recipe", "suite", "decision", "size_ratio")},
        tasks={name: dict.fromkeys(CARD_COLUMNS) | task for name, task in verdict["tasks"].items()},
        bits_per_weight=verdict["bits_per_weight"],
        baseline_precision=verdict.get("baseline_precision"),
        evidence_sentence=verdict.get("evidence_sentence"),
        warnings=[entry["sentence"] for entry in verdict.get("warnings") or []],
        external=external.get("status"),
        hub=location.get("hub"),
        revision=location.get("revision"),
        license=source.get("license"),
        parameters=source["parameters"],
        versions=record["versions"],
        kv_cache=record.get("kv_cache"),
        calibration=record["calibration"],
        layer_precision_counts=validation["layer_precision_counts"],
        engine_version=server.get("engine_version"),
        emulation=server.get("emulation"),
        serving=serving_arguments(str(server.get("command") or "")),
    )
    return front_matter(verdict, source) + text


def read_server(results: Path) -> tuple[dict[str, Any], str]:
    """What a run's results.yml says of its server, and the command that made the run."""
    content = read_yaml(results)
    metadata = content.get("metadata")
    server = metadata.get("server") if isinstance(metadata, dict) else None
    return server if isinstance(server, dict) else {}, str(content.get("command") or "")


def write_provenance(path: Path, **parts: Any) -> str:
    """Write the statement and return its sha256; it has no ``schema_version``, its types name its version."""
    write_text(path, json.dumps(make_statement(**parts), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return digest_of_file(path)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdict", type=Path, required=True, help="verdict.json")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the accepted checkpoint")
    parser.add_argument("--record", type=Path, required=True, help="its quantization.json")
    parser.add_argument("--source-record", type=Path, required=True, help="source.json")
    parser.add_argument("--report", type=Path, required=True, help="report.html")
    parser.add_argument("--materials", type=Path, nargs="*", default=[], help="suite, data and lock files")
    parser.add_argument("--builder", default="urn:day0:builder", help="URI of who runs the workflow")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()

    verdict, record, source = (read_json(p) for p in (arguments.verdict, arguments.record, arguments.source_record))
    if verdict.get("decision") != Decision.ACCEPT:
        raise UnusableInput(
            f"{arguments.verdict}: only an accepted release is bundled; the decision is {verdict.get('decision')!r}"
        )
    changes = find_changes(verdict, record, arguments.checkpoint)
    if changes:
        print(
            "error: no bundle, the chain of evidence is broken: "
            + "; ".join(changes)
            + "; rerun from the changed stage"
        )
        return EXIT_FAILED_CHECK

    evidence = {name: Path(entry["path"]) for name, entry in verdict["evidence"].items()}
    evidence |= {f"{run}_results": evidence[run].with_name("results.yml") for run in RUNS}
    evidence |= {"verdict": arguments.verdict, "quantization": arguments.record, "source": arguments.source_record}
    evidence |= {"report": arguments.report}
    servers = {run: read_server(evidence[f"{run}_results"]) for run in RUNS}
    samples = {
        run.removesuffix("_run"): inventory(folder) if (folder := evidence[run].with_name("samples")).is_dir() else {}
        for run in RUNS
    }

    unfinished = arguments.output.with_name(f".{arguments.output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in record["files"]:
        link_or_copy(arguments.checkpoint / name, unfinished / name)
    legal = [name for name in source.get("files") or {} if LEGAL_FILES.fullmatch(name) and name not in record["files"]]
    for name in legal:
        link_or_copy(Path(source["path"]) / name, unfinished / name)
    for name, path in evidence.items():
        target = unfinished / "evidence" / f"{name}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    write_json(unfinished / "evidence" / "samples.json", samples)
    card = unfinished / "README.md"
    card.unlink(missing_ok=True)
    validation = read_json(evidence["validation"])
    write_text(card, render_model_card(verdict, record, source, validation, servers["candidate_run"][0]))

    sums = {name: entry["sha256"] for name, entry in record["files"].items() if name != "README.md"}
    others = ["README.md", "evidence/samples.json", *legal]
    others += [f"evidence/{name}{path.suffix}" for name, path in evidence.items()]
    sums |= {name: digest_of_file(unfinished / name) for name in others}
    commands = {"release": f"snakemake {arguments.output}/SHA256SUMS"}
    for run, (server, command) in servers.items():
        commands |= {f"{run}, evaluate": command, f"{run}, serve": str(server.get("command") or "")}
    sums["provenance.json"] = write_provenance(
        unfinished / "provenance.json",
        subjects=sums,
        verdict=verdict,
        record=record,
        source=source,
        materials={path.as_posix(): digest_of_file(path) for path in arguments.materials},
        byproducts={f"{run}/samples/{n}": e["sha256"] for run, files in samples.items() for n, e in files.items()},
        commands={name: command for name, command in commands.items() if command},
        builder=arguments.builder,
        started=timestamp(min(path.stat().st_mtime for path in evidence.values())),
        finished=timestamp(datetime.now(UTC).timestamp()),
    )
    unlistable = [name for name in sums if "\n" in name or "\\" in name]
    if unlistable:
        raise UnusableInput(f"{arguments.checkpoint}: SHA256SUMS cannot name {unlistable}; rename these files")
    write_text(unfinished / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    problems, _ = verify(unfinished)
    if problems:
        print(f"error: no bundle, it would not hold: {'; '.join(problems)}; rerun from the stage that these name")
        return EXIT_FAILED_CHECK
    shutil.rmtree(arguments.output, ignore_errors=True)
    unfinished.rename(arguments.output)
    print(f"{arguments.output}: {len(sums) + 1} files")
    return 0


if __name__ == "__main__":
    run_cli(main)
