"""Choose the candidates that a search asks next, or end it: with a winner, or with the reason that there is none.

The rule is in day0/search; this reads what the rule goes by, from the source model and the verdicts so far.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput, json_argument, run_cli
from day0.base.mistakes import mistakes_of
from day0.checkpoint.source_weights import SourceWeights
from day0.records.comparison import Comparison
from day0.records.run import RunAssessment
from day0.records.search import Candidate, Kind, Outcome, Rung, SearchRequest
from day0.records.sensitivity import Sensitivity
from day0.records.source import Source
from day0.records.verdict import Verdict
from day0.search.candidates import candidates_of, resolve_moves
from day0.search.outcomes import outcome_of
from day0.search.rule import conclude, propose
from day0.source.safetensors_headers import read_tensors
from day0.statistics.resolution import CONFIDENCE

KINDS: tuple[Kind, ...] = ("screen", "final")
CATALOGUE = Path(__file__).resolve().parents[1] / "envs" / "modelopt_catalogue.json"


def read_request(text: str) -> SearchRequest:
    """The search as the command line gives it.

    Raises:
        UnusableInput: it is no JSON, or not what the type says; all mistakes are named.
    """
    try:
        return SearchRequest.model_validate(json_argument("--search", text))
    except ValidationError as error:
        lines = mistakes_of(error, SearchRequest)
        raise UnusableInput("\n".join(f"--search: {line}" for line in lines)) from None


def read_verdict(path: Path, name: str) -> tuple[Kind, Verdict]:
    """A candidate's verdict, and which suite of the search of that name it is by.

    Raises:
        UnusableInput: the verdict cannot be read, or is of no candidate of the search.
    """
    verdict = Verdict.read(path)
    for kind in KINDS:
        if verdict.release == f"{name}.{kind}.{verdict.candidate}":
            return kind, verdict
    raise UnusableInput(f"{path}: release: found {verdict.release!r}; expected {name}.KIND.{verdict.candidate}")


def read_outcome(kind: Kind, verdict: Verdict) -> Outcome:
    """What a candidate's verdict says to its search.

    Raises:
        UnusableInput: the comparison that it was made from cannot be read.
    """
    compared = verdict.evidence.get("comparison")
    return outcome_of(verdict.candidate, kind, verdict, Comparison.read(compared.path) if compared else None)


def candidates_of_request(request: SearchRequest, source: Source, sensitivity: Sensitivity | None) -> list[Candidate]:
    """The candidates with their costs, which follow from the shapes of the source's tensors.

    Raises:
        UnusableInput: a recipe does not say before it is quantized what becomes of the model.
    """
    catalogue, weights = read_json(CATALOGUE), SourceWeights(read_tensors(source.path))
    recipes = resolve_moves(request.moves, weights, catalogue, sensitivity)
    return candidates_of(recipes, weights, source.config, request.objective, sensitivity, catalogue)


def samples_of_baselines(verdicts: Sequence[tuple[Kind, Verdict]]) -> dict[Kind, int]:
    """Samples that the baseline was asked on each kind's suite, as far as it was."""
    runs = {kind: run for kind, verdict in verdicts if (run := verdict.evidence.get("baseline_run"))}
    return {
        kind: sum(score.samples or 0 for score in RunAssessment.read(run.path).scores.values())
        for kind, run in runs.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", required=True, help="JSON: name, objective, budget, moves, definition_digest")
    parser.add_argument("--source", type=Path, required=True, help="source.json: the shapes that costs follow from")
    parser.add_argument("--sensitivity", type=Path, help="sensitivity.json, where recipes of the space go by it")
    parser.add_argument("--rungs", nargs="*", type=Path, default=[], help="rung-K.json of all rungs so far, in order")
    parser.add_argument("--verdicts", nargs="*", type=Path, default=[], help="verdict.json that these rungs asked for")
    parser.add_argument("--rung", type=int, help="choose the candidates of this rung; without: end the search")
    parser.add_argument("--output", type=Path, required=True, help="rung-K.json or search.json to write")
    arguments = parser.parse_args()

    request = read_request(arguments.search)
    sensitivity = Sensitivity.read(arguments.sensitivity) if arguments.sensitivity else None
    candidates = candidates_of_request(request, Source.read(arguments.source), sensitivity)
    verdicts = [read_verdict(path, request.name) for path in arguments.verdicts]
    outcomes = [read_outcome(*one) for one in verdicts]
    of_this = {"definition_digest": request.definition_digest}
    if arguments.rung is not None:
        rung = propose(candidates, outcomes, request.budget, arguments.rung).model_copy(update=of_this)
        rung.write(arguments.output)
        print(f"rung {rung.rung}: {rung.reason}")
        for one in rung.asked:
            print(f"  {one.name} ({one.kind}): {one.reason}")
        return 0
    rungs = [Rung.read(path) for path in arguments.rungs]
    samples = samples_of_baselines(verdicts)
    search = conclude(
        candidates, outcomes, request.budget, rungs, request.objective, 1 - CONFIDENCE, samples
    ).model_copy(update=of_this)
    search.write(arguments.output)
    print(f"{search.decision}: {search.detail}")
    return 0


if __name__ == "__main__":
    run_cli(main)
