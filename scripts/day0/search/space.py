"""The space of a search: the recipes that it may choose from, a file of config/spaces or part of the configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from day0.base.artefacts import read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import Strict, mistakes_of, nearest
from day0.recipe.recipes import RECIPE_FILE_NAME, Recipe
from day0.records.search import Objective

Axis = Literal["anchor", "sensitivity", "family", "groups", "blocks", "algorithm", "lm_head", "calibration"]
OF_THE_SERVER = ("kv_cache", "serving")  # what these change is the server's, so that all candidates must share it


class Move(Strict):
    """A recipe of a space: a name, or a definition with a name of its own; a bare text is ``recipe``."""

    recipe: str | dict[str, Any] = Field(
        description="name of a recipe as a release would give it, or a definition of the form of config/recipes"
    )
    name: str | None = Field(None, description="of a definition; a name needs none")
    axis: Axis = Field("anchor", description="what it changes against the anchors of the space")
    group: str = Field("", description="moves of one group fail alike where the engine refuses one of them")

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        if not isinstance(value, str | Mapping | cls):
            raise ValueError("expected a recipe's name or a mapping")
        return {"recipe": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_named(self) -> Move:
        if isinstance(self.recipe, str):
            if self.name is not None and self.name != self.recipe:
                raise ValueError(f"name: found {self.name!r} beside the recipe {self.recipe!r}, which has a name")
            return self
        if self.name is None or RECIPE_FILE_NAME.fullmatch(self.name) is None:
            found = "none" if self.name is None else repr(self.name)
            raise ValueError(f"name: a definition needs one, of letters, digits, '.', '_' and '-'; found {found}")
        mixed = [key for key in OF_THE_SERVER if key in self.recipe]
        if mixed:
            raise ValueError(
                f"recipe: {' and '.join(mixed)} would change the server beside the weights; set it for the model, so "
                "that all candidates share it"
            )
        try:
            Recipe.model_validate(self.recipe)
        except ValidationError as error:
            raise ValueError("; ".join(f"recipe: {line}" for line in mistakes_of(error, Recipe))) from None
        return self

    @property
    def recipe_name(self) -> str:
        """Name of the recipe, by which its candidate's folder is called."""
        return self.recipe if isinstance(self.recipe, str) else str(self.name)


class Space(Strict):
    """A file config/spaces/NAME.yaml: the recipes that a search may choose from."""

    description: str = ""
    objectives: list[Objective] = Field(
        ["size", "bits_per_weight", "active_bytes", "throughput"], min_length=1, description="that it serves"
    )
    moves: list[Move] = Field(min_length=1, description="candidates come in this order")

    @model_validator(mode="after")
    def _each_once(self) -> Space:
        names = [move.recipe_name for move in self.moves]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"moves: {', '.join(twice)} stand there twice")
        return self

    @property
    def definitions(self) -> dict[str, dict[str, Any]]:
        """The recipes that are defined here, by their names, as those of the configuration's ``recipes``."""
        return {move.recipe_name: move.recipe for move in self.moves if isinstance(move.recipe, dict)}

    def problem_with(self, objective: Objective) -> str | None:
        """Why the space cannot serve an objective, or None."""
        if objective in self.objectives:
            return None
        return f"the space serves the objectives {', '.join(self.objectives)}, not {objective}"


def load_space(space: str | Sequence[Any], spaces_dir: Path, place: str) -> Space:
    """A space by its name, or of moves that are given in place.

    Args:
        space: name of a file of ``spaces_dir``, or a list of moves (recipes' names, or mappings as :class:`Move`).
        spaces_dir: config/spaces.
        place: where it stands, for messages.

    Raises:
        UnusableInput: there is no such file, or it holds mistakes; all are named.
    """
    if not isinstance(space, str):
        return _parsed({"moves": list(space)}, place)
    file = spaces_dir / f"{space}.yaml"
    if not RECIPE_FILE_NAME.fullmatch(space) or not os.path.isfile(file):
        known = sorted(path.stem for path in spaces_dir.glob("*.yaml"))
        raise UnusableInput(
            f"{place}: found {space!r}{nearest(space, known)}; expected a file {spaces_dir}/NAME.yaml "
            f"({', '.join(known) or 'there is none'}), or a list of recipes"
        )
    return _parsed(read_yaml(file), str(file))


def _parsed(content: Mapping[str, Any], place: str) -> Space:
    try:
        return Space.model_validate(content)
    except ValidationError as error:
        raise UnusableInput("\n".join(mistakes_of(error, Space, place))) from None
