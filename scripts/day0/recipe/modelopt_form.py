"""Recipes and configurations in ModelOpt's own form, and back from it to what JSON holds."""

from __future__ import annotations

import re
from typing import Any

import yaml

from day0.recipe.recipes import Recipe


def recipe_file_text(recipe: Recipe) -> str:
    """The text of a recipe file of ModelOpt, for a recipe that is written in ModelOpt's own form."""
    metadata = {
        "recipe_type": "auto_quantize" if recipe.auto_quantize is not None else "ptq",
        **({"description": recipe.description} if recipe.description else {}),
        **(recipe.metadata or {}),
    }
    search = recipe.auto_quantize
    body = {
        "imports": recipe.imports,
        "metadata": metadata,
        "quantize": recipe.quantize,
        "auto_quantize": None if search is None else search.model_dump(mode="json", exclude_unset=True),
    }
    given = {key: value for key, value in body.items() if value is not None}
    return yaml.safe_dump(with_number_keys(given), sort_keys=False)


def with_number_keys(content: Any) -> Any:
    """Turn numbers as keys back from texts, as in ``block_sizes`` (-1: the last dimension): JSON has texts only."""
    if isinstance(content, dict):
        return {
            int(key) if isinstance(key, str) and re.fullmatch(r"-?\d+", key) else key: with_number_keys(value)
            for key, value in content.items()
        }
    return [with_number_keys(value) for value in content] if isinstance(content, list) else content


def as_json(value: Any) -> Any:
    """A configuration of ModelOpt as JSON-able values; what is not set is left out."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(exclude_unset=True)
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
