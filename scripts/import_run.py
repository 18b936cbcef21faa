"""Put a run that was made elsewhere into the place of one of the graph's.

Reads a results.yml of this project or NeMo Evaluator's, or a folder of NeMo Evaluator's runs, and writes results.yml
and samples/ as the evaluation does. A run that cannot be used (another model's, another suite's, a broken file) is
recorded as failed, exit 0, so that the gate refuses it and the verdict says why.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from day0.base.artefacts import write_text, write_yaml
from day0.base.cli import json_argument, run_cli
from day0.evaluation.imported_run import import_run
from day0.records.quantization import read_checkpoint_record
from day0.records.source import Source
from day0.suite.suites import load_suite


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--request", required=True, help="JSON: path, counts (require or trust), model_ids")
    parser.add_argument("--record", type=Path, required=True, help="source.json or quantization.json of the checkpoint")
    parser.add_argument("--suite", type=Path, required=True, help="the suite that the run answers")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--candidate", required=True, help='"baseline" or the name of the recipe')
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for results.yml and samples/")
    arguments = parser.parse_args()

    request, record = json_argument("--request", arguments.request), read_checkpoint_record(arguments.record)
    suite = load_suite(arguments.suite.stem, arguments.suite.parent).model_dump(mode="json")
    found = import_run(
        Path(request["path"]),
        suite_name=arguments.suite.stem,
        suite=suite,
        model=arguments.model,
        candidate=arguments.candidate,
        model_ids=request["model_ids"],
        counts=request["counts"],
        checkpoint_digest=str(record.digest if isinstance(record, Source) else record.checkpoint_digest),
    )
    samples = arguments.output_dir / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    samples.mkdir(parents=True)
    for name, lines in found.samples.items():
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        write_text(samples / f"{name}.jsonl", text)
    write_yaml(arguments.output_dir / "results.yml", found.document)
    metadata = found.document["metadata"]
    print(f"{metadata['status']}: {metadata['detail']}")
    return 0


if __name__ == "__main__":
    run_cli(main)
