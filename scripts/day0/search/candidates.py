"""The candidates of a search: what each recipe of its space costs and risks for a source model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from day0.base.cli import UnusableInput
from day0.checkpoint.intentions import Patterns
from day0.checkpoint.source_weights import SourceWeights
from day0.recipe.failures import Unsupported
from day0.recipe.modules import linear_modules
from day0.recipe.resolve import resolve_configuration
from day0.recipe.sensitivity import formats_to_measure
from day0.records.quantization import ModelOptConfiguration
from day0.records.search import Candidate, Objective, RequestedMove
from day0.records.sensitivity import Sensitivity
from day0.search.costs import Model

TOLERANCE = 1e-9


class Recipe(NamedTuple):
    """A recipe of a space, resolved: name of its candidate's folder, what ModelOpt is given, and its group.

    ``problem``: why it cannot be made for the model, and then there is no configuration.
    """

    name: str
    configuration: ModelOptConfiguration | None
    group: str = ""
    problem: str | None = None


def resolve_moves(
    moves: Sequence[RequestedMove],
    weights: SourceWeights,
    catalogue: Mapping[str, Any],
    sensitivity: Sensitivity | None = None,
) -> list[Recipe]:
    """What the recipes of a space make of a model; those that it cannot take are kept with the reason.

    Args:
        moves: of the space, with the definitions that the plan resolved.
        weights: of the source's safetensors files.
        catalogue: envs/modelopt_catalogue.json.
        sensitivity: of the model; only recipes that go by it need it.

    Raises:
        UnusableInput: recipes go by the sensitivity, and it is not given; all such are named.
    """
    without = [move.name for move in moves if sensitivity is None and formats_to_measure(move.definition)]
    if without:
        raise UnusableInput(
            f"{', '.join(without)}: these go by the model's sensitivity; give --sensitivity, as "
            "scripts/measure_sensitivity.py writes it"
        )
    modules = linear_modules({name: tensor.shape for name, tensor in weights.logical.items()})
    recipes = []
    for move in moves:
        try:
            configuration = resolve_configuration(move.definition, catalogue, move.name, None, modules, sensitivity)
        except (UnusableInput, Unsupported) as error:
            recipes.append(Recipe(move.name, None, move.group, str(error)))
            continue
        recipes.append(Recipe(move.name, configuration, move.group))
    return recipes


def candidates_of(
    recipes: Sequence[Recipe],
    weights: SourceWeights,
    config: Mapping[str, Any],
    objective: Objective,
    sensitivity: Sensitivity | None = None,
    catalogue: Mapping[str, Any] | None = None,
) -> list[Candidate]:
    """The candidates of a space, in its order.

    Args:
        recipes: of the space; those that depend on the sensitivity are resolved by it.
        weights: of the source's safetensors files.
        config: the source's config.json.
        objective: what the search is to make small.
        sensitivity: of the source's layers, where it was measured; else risk is guessed from the formats.
        catalogue: envs/modelopt_catalogue.json.

    Raises:
        UnusableInput: what a recipe makes of the model is not known before it is quantized; all such are named.
    """
    made = [one for one in recipes if one.problem is None]
    patterns = {one.name: Patterns.of_configuration(one.configuration) for one in made}
    unknown = [name for name, found in patterns.items() if found is None]
    if unknown:
        raise UnusableInput(
            f"{', '.join(unknown)}: ModelOpt chooses the formats while it quantizes, so the cost is not known before; "
            "expected fixed patterns, or {sensitivity: {formats: [nvfp4, fp8], bits: 5.5}} in its place"
        )
    model = Model(weights, config, sensitivity, catalogue)
    candidates = []
    for recipe in recipes:
        found = patterns.get(recipe.name)
        costs, risk = model.costs_and_risk(found) if found is not None else (model.costs_of_source, 0.0)
        cost, of_source = getattr(costs, objective), getattr(model.costs_of_source, objective)
        candidates.append(
            Candidate(
                name=recipe.name,
                cost=cost,
                problem=recipe.problem,
                saves=cost < of_source - TOLERANCE,
                costs=costs,
                risk=risk,
                group=recipe.group,
            )
        )
    return candidates
