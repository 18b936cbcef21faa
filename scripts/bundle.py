"""Bundle an accepted checkpoint for publication: the model folder, a model card, the evidence, and SHA256SUMS.

Refuses unless the verdict is ACCEPT and every file is still the one that the verdict was made from. The checkpoint is
hard-linked where the file system allows it, else copied; never moved. The folder appears whole or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

import jinja2

from day0.artefacts import (
    EXIT_FAILED_CHECK,
    UnusableInput,
    digest_of_file,
    inventory,
    read_json,
    run_cli,
    write_text,
)

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"


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
    """Give a file a second name, or a copy where the file system has no hard links to offer."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def render_model_card(
    verdict: dict[str, Any], record: dict[str, Any], source: dict[str, Any], validation: dict[str, Any]
) -> str:
    """The README.md of the bundle, with the front matter that the hub reads."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["thousands"] = lambda number: f"{number:,}"
    location = source["location"]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **{key: verdict[key] for key in ("model", "recipe", "suite", "policy", "decision", "tasks", "size_ratio")},
        bits_per_weight=verdict["bits_per_weight"],
        hub=location.get("hub"),
        revision=location.get("revision"),
        license=source.get("license"),
        parameters=source["parameters"],
        versions=record["versions"],
        kv_cache=record.get("kv_cache"),
        calibration=record["calibration"],
        layer_precision_counts=validation["layer_precision_counts"],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdict", type=Path, required=True, help="verdict.json")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the accepted checkpoint")
    parser.add_argument("--record", type=Path, required=True, help="its quantization.json")
    parser.add_argument("--source-record", type=Path, required=True, help="source.json")
    parser.add_argument("--report", type=Path, required=True, help="report.html")
    parser.add_argument("--output", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()

    verdict, record, source = (read_json(p) for p in (arguments.verdict, arguments.record, arguments.source_record))
    if verdict.get("decision") != "ACCEPT":
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

    unfinished = arguments.output.with_name(f".{arguments.output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in record["files"]:
        link_or_copy(arguments.checkpoint / name, unfinished / name)
    evidence = {name: Path(entry["path"]) for name, entry in verdict["evidence"].items()}
    evidence |= {f"{run}_results": evidence[run].with_name("results.yml") for run in ("baseline_run", "candidate_run")}
    evidence |= {"verdict": arguments.verdict, "quantization": arguments.record, "source": arguments.source_record}
    evidence |= {"report": arguments.report}
    for name, path in evidence.items():
        target = unfinished / "evidence" / f"{name}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(path, target)
    card = unfinished / "README.md"
    card.unlink(missing_ok=True)
    write_text(card, render_model_card(verdict, record, source, read_json(evidence["validation"])))
    sums = {name: entry["sha256"] for name, entry in record["files"].items() if name != "README.md"}
    others = ["README.md", *(f"evidence/{name}{path.suffix}" for name, path in evidence.items())]
    sums |= {name: digest_of_file(unfinished / name) for name in others}
    write_text(unfinished / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    shutil.rmtree(arguments.output, ignore_errors=True)
    unfinished.rename(arguments.output)
    print(f"{arguments.output}: {len(sums) + 1} files")
    return 0


if __name__ == "__main__":
    run_cli(main)
