"""Make config/schemas/*.schema.json, for editors and readers, from the data types of the files and artefacts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from day0.base.artefacts import write_text
from day0.base.cli import EXIT_FAILED_CHECK, EXIT_PASS, run_cli
from day0.decision.external import ExternalScores
from day0.plan.config import Config
from day0.recipe.recipes import Recipe
from day0.records.attempts import Attempts
from day0.records.comparison import Comparison
from day0.records.early_stopping import StoppingRules
from day0.records.environment import Environment, ImageEnvironment
from day0.records.file_states import FileStates
from day0.records.history import PastDecision
from day0.records.outcome import Outcome
from day0.records.part import Part
from day0.records.preflight import Preflight
from day0.records.provenance import Statement
from day0.records.publication import Publication
from day0.records.quantization import Quantization
from day0.records.record import Artefact
from day0.records.results import RunMetadata
from day0.records.run import RunAssessment
from day0.records.samples import Sample
from day0.records.search import Rung, Search
from day0.records.sensitivity import Sensitivity
from day0.records.sign_off import SignOff
from day0.records.source import Source
from day0.records.speed import Speed
from day0.records.token import Token
from day0.records.tracking import Tracking
from day0.records.validation import Validation
from day0.records.verdict import Verdict
from day0.suite.suites import Suite

ARTEFACTS: tuple[type[Artefact], ...] = (
    Environment,
    ImageEnvironment,
    Source,
    FileStates,
    Preflight,
    Quantization,
    Sensitivity,
    Validation,
    StoppingRules,
    Attempts,
    Part,
    Speed,
    RunMetadata,
    RunAssessment,
    Comparison,
    Verdict,
    Rung,
    Search,
    Token,
    Tracking,
    SignOff,
    Publication,
)
SCHEMAS = {
    "config": Config,
    "suite": Suite,
    "recipe": Recipe,
    "external_scores": ExternalScores,
    "provenance": Statement,
    "sample": Sample,
    "history": PastDecision,
    "outcome": Outcome,
    **{artefact.schema_name: artefact for artefact in ARTEFACTS},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=Path("config/schemas"))
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 unless the files are up to date")
    arguments = parser.parse_args()

    outdated = []
    for name, model in SCHEMAS.items():
        path = arguments.output_dir / f"{name}.schema.json"
        text = json.dumps(model.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
        if not arguments.check:
            write_text(path, text)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            outdated.append(str(path))
    if outdated:
        print(f"{', '.join(outdated)}: not what the data types say; run scripts/make_schemas.py")
    return EXIT_FAILED_CHECK if outdated else EXIT_PASS


if __name__ == "__main__":
    run_cli(main)
