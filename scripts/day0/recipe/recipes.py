"""Recipes: what a candidate is quantized to, by which calibration, found by name and checked before anything is loaded.

A recipe is a file of config/recipes, a definition of the same form within the configuration, a preset of ModelOpt or a
recipe of ModelOpt's wheel; day0/recipe/forms.py has those that are made of others. The names that ModelOpt knows come
from a committed catalogue, so that a plan can be checked where ModelOpt is not installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from day0.base.artefacts import digest_of, read_yaml
from day0.base.cli import UnusableInput
from day0.base.mistakes import Strict, mistakes_of, nearest
from day0.recipe.forms import AutoQuantize, BySensitivity, Protected, Protection, QuantizeConfig
from day0.recipe.resolve import read_format
from day0.records.recipe import KV_CACHE_NONE, NOT_OF_THE_WEIGHTS, Calibration, Kind, ResolvedRecipe

INHERITED = ("kv_cache", "calibration", "serving")  # from a recipe of which some layers are protected
RECIPE_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Recipe(Strict):
    """A recipe file, config/recipes/NAME.yaml, or a definition of the same form within the configuration."""

    description: str = ""
    preset: str | None = Field(None, description="ModelOpt's preset, such as fp8 or nvfp4")
    modelopt_recipe: str | None = Field(
        None, description="recipe of ModelOpt's wheel, such as general/ptq/nvfp4_default-kv_fp8"
    )
    overrides: list[str] = Field(
        [], description="values that replace those of modelopt_recipe, each as path.to.key=value"
    )
    imports: dict[str, str] | None = Field(None, description="ModelOpt's own recipe form: named building blocks")
    metadata: dict[str, Any] | None = Field(None, description="ModelOpt's own recipe form: recipe_type and description")
    quantize: QuantizeConfig | None = Field(None, description="ModelOpt's own recipe form: quant_cfg and algorithm")
    auto_quantize: AutoQuantize | None = Field(
        None, description="ModelOpt's own recipe form: a search of formats per layer"
    )
    sensitivity: BySensitivity | None = Field(
        None, description="a format for each group of layers, by what each of them loses"
    )
    base: str | dict[str, Any] | None = Field(
        None, description="a recipe of which some layers are protected: its name, or its definition"
    )
    protect: list[Protected] = Field([], description="which layers of 'base' are protected")
    by: Protection | None = Field(None, description="format of the protected layers")
    kv_cache: str | None = Field(
        None,
        description=f"ModelOpt's KV-cache preset; {KV_CACHE_NONE!r}: leave the cache alone; null: as the recipe has it",
    )
    calibration: dict[str, Any] | None = Field(
        None, description="calibration settings that take precedence over the model's"
    )
    serving: dict[str, Any] = Field({}, description="serving settings that take precedence over the model's")

    @model_validator(mode="after")
    def _one_source(self) -> Recipe:
        body = self.quantize is not None or self.auto_quantize is not None
        sources = {
            "preset": self.preset is not None,
            "modelopt_recipe": self.modelopt_recipe is not None,
            "quantize": body,
            "sensitivity": self.sensitivity is not None,
            "base": self.base is not None,
        }
        given = [name for name, is_given in sources.items() if is_given]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(
                "give exactly one of 'preset', 'modelopt_recipe', 'sensitivity', 'base' and ModelOpt's own body "
                f"('quantize' or 'auto_quantize'); found {found}"
            )
        if not body and (self.imports is not None or self.metadata is not None):
            raise ValueError(f"'imports' and 'metadata' belong to ModelOpt's own body; remove them beside '{given[0]}'")
        if self.overrides and self.modelopt_recipe is None:
            raise ValueError("'overrides' belongs to 'modelopt_recipe'; remove it")
        wrong = [entry for entry in self.overrides if not re.match(r"[^=\s]+=", entry)]
        if wrong:
            raise ValueError(f"overrides: expected path.to.key=value, found {wrong[0]!r}")
        if self.base is None and (self.protect or self.by):
            raise ValueError(f"'protect' and 'by' belong to 'base'; remove them beside '{given[0]}'")
        if self.base is not None and not (self.protect and self.by):
            raise ValueError("'base' needs 'protect', the layers to protect, and 'by', fp8 or bf16")
        if isinstance(self.base, dict):
            Recipe.model_validate(self.base)
        if self.calibration is not None:
            Calibration.model_validate(self.calibration)
        return self


def resolve_recipe(
    name: str,
    definitions: Mapping[str, Mapping[str, Any]],
    recipes_dir: Path,
    catalogue: Mapping[str, Any],
    within: tuple[str, ...] = (),
) -> ResolvedRecipe:
    """Find a recipe: a definition of the configuration, else config/recipes/NAME.yaml, a preset, a recipe of the wheel.

    Args:
        name: as given in the configuration or on the command line.
        definitions: recipes defined within the configuration, by name.
        recipes_dir: folder of the recipe files.
        catalogue: what ModelOpt knows, see scripts/make_recipe_catalogue.py.
        within: recipes that are being resolved, of which this one is the base.

    Raises:
        UnusableInput: nothing has that name (the near ones are in the message), or the recipe holds mistakes.
    """
    if name in within:
        raise UnusableInput(f"recipe {within[0]!r}: base: {' -> '.join([*within, name])}, a circle")

    def find(base: str) -> ResolvedRecipe:
        return resolve_recipe(base, definitions, recipes_dir, catalogue, (*within, name))

    wheel_name = name.removesuffix(".yaml").removesuffix(".yml")
    if name in definitions:
        return _resolved(name, "inline", dict(definitions[name]), None, catalogue, f"recipe {name!r}", find)
    file = recipes_dir / f"{name}.yaml"
    if RECIPE_FILE_NAME.fullmatch(name) and os.path.isfile(file):
        return _resolved(name, "file", read_yaml(file), file, catalogue, str(file), find)
    if name in catalogue["presets"]:
        return _resolved(name, "preset", {"preset": name}, None, catalogue, f"recipe {name!r}")
    if wheel_name in catalogue["recipes"]:
        return _resolved(
            wheel_name, "modelopt_recipe", {"modelopt_recipe": wheel_name}, None, catalogue, f"recipe {name!r}"
        )

    files = sorted(path.stem for path in recipes_dir.glob("*.yaml"))
    known = [*definitions, *files, *catalogue["presets"], *catalogue["recipes"]]
    raise UnusableInput(
        f"unknown recipe {name!r}{nearest(name, known)}; a recipe is one defined under 'recipes' in the configuration "
        f"({', '.join(definitions) or 'none is'}), a file {recipes_dir}/NAME.yaml ({', '.join(files) or 'none'}), a "
        f"preset of ModelOpt {catalogue['version']} ({', '.join(catalogue['presets'])}) or one of the "
        f"{len(catalogue['recipes'])} recipes of its wheel (such as general/ptq/nvfp4_default-kv_fp8)"
    )


def recipe_of_checkpoint(name: str, folder: str) -> ResolvedRecipe:
    """The recipe of a checkpoint that was made elsewhere: a name, and no more is known of it than the folder."""
    definition = {"checkpoint": folder}
    return ResolvedRecipe(name=name, kind="imported", definition=definition, digest=digest_of(definition))


def resolve_recipe_file(file: Path, recipes_dir: Path, catalogue: Mapping[str, Any]) -> ResolvedRecipe:
    """Read a recipe file, wherever it is; a recipe that it is based on is one of ``recipes_dir`` or of ModelOpt.

    Raises:
        UnusableInput: the file cannot be read or holds mistakes.
    """

    def find(base: str) -> ResolvedRecipe:
        return resolve_recipe(base, {}, recipes_dir, catalogue, (str(file),))

    return _resolved(file.stem, "file", read_yaml(file), file, catalogue, str(file), find)


def resolve_named(name_or_file: str, recipes_dir: Path, catalogue: Mapping[str, Any]) -> ResolvedRecipe:
    """Find a recipe by what a command line gives: a YAML file, wherever it is, or a name (:func:`resolve_recipe`).

    Raises:
        UnusableInput: there is no such recipe, or it holds mistakes.
    """
    file = Path(name_or_file)
    if file.suffix in (".yaml", ".yml") and os.path.isfile(file):
        return resolve_recipe_file(file, recipes_dir, catalogue)
    return resolve_recipe(name_or_file, {}, recipes_dir, catalogue)


def read_resolved(content: Mapping[str, Any], place: str) -> ResolvedRecipe:
    """A resolved recipe that another process handed over, as :meth:`ResolvedRecipe.of_the_weights` gives it.

    Raises:
        UnusableInput: it is not in its resolved form, or its digest is not that of its definition.
    """
    try:
        recipe = ResolvedRecipe.model_validate(content)
    except ValidationError as error:
        raise UnusableInput("\n".join(mistakes_of(error, ResolvedRecipe, place))) from None
    read_definition(recipe.definition, f"{place}: definition")
    digest = digest_of(recipe.of_the_weights().definition)
    if recipe.digest != digest:
        raise UnusableInput(f"{place}: digest: found {recipe.digest}; expected {digest}, that of the definition")
    return recipe


def read_definition(definition: Mapping[str, Any], place: str) -> Recipe:
    """A recipe's definition as its type; whether ModelOpt has what it names is not checked.

    Raises:
        UnusableInput: it holds mistakes; all are named.
    """
    try:
        return Recipe.model_validate(definition)
    except ValidationError as error:
        raise UnusableInput("; ".join(f"{place}: {line}" for line in mistakes_of(error, Recipe))) from None


def _resolved(
    name: str,
    kind: Kind,
    definition: dict[str, Any],
    file: Path | None,
    catalogue: Mapping[str, Any],
    place: str,
    find: Callable[[str], ResolvedRecipe] | None = None,
) -> ResolvedRecipe:
    recipe = read_definition(definition, place)
    _check_names(recipe, catalogue, place)
    full = recipe.model_dump(mode="json", exclude_defaults=True)
    if recipe.base is not None:
        full = _with_base(full, recipe.base, catalogue, place, find)
    weights = {key: value for key, value in full.items() if key not in NOT_OF_THE_WEIGHTS}
    return ResolvedRecipe(name=name, kind=kind, definition=full, digest=digest_of(weights), file=file)


def _with_base(
    full: dict[str, Any],
    base: str | dict[str, Any],
    catalogue: Mapping[str, Any],
    place: str,
    find: Callable[[str], ResolvedRecipe] | None,
) -> dict[str, Any]:
    """A definition that holds its base, not the name; KV cache, calibration and serving are inherited where not given.

    Raises:
        UnusableInput: the base holds mistakes, or chooses formats itself.
    """
    if isinstance(base, str):
        assert find is not None
        try:
            found = find(base)
        except UnusableInput as error:
            raise UnusableInput(f"{place}: base: {error}") from error
    else:
        found = _resolved("base", "inline", base, None, catalogue, f"{place}: base", find)
    of_base = dict(found.definition)
    is_search = catalogue["recipes"].get(of_base.get("modelopt_recipe"), {}).get("type") == "auto_quantize"
    if is_search or of_base.get("auto_quantize") is not None or of_base.get("sensitivity") is not None:
        raise UnusableInput(
            f"{place}: base: found {found.name!r}, which chooses the formats of layers itself; give a recipe of fixed "
            "formats, such as nvfp4"
        )
    inherited: dict[str, Any] = {key: of_base.pop(key) for key in INHERITED if key in of_base}
    of_base.pop("description", None)
    return {**inherited, **full, "base": of_base}


def _check_names(recipe: Recipe, catalogue: Mapping[str, Any], place: str) -> None:
    """Refuse a preset, KV-cache preset or wheel recipe that ModelOpt does not have."""
    checks = [
        ("preset", recipe.preset, list(catalogue["presets"]), "presets"),
        ("kv_cache", recipe.kv_cache, [KV_CACHE_NONE, *catalogue["kv_presets"]], "KV-cache presets"),
        ("modelopt_recipe", recipe.modelopt_recipe, list(catalogue["recipes"]), "recipes"),
    ]
    for key, value, known, what in checks:
        if value is not None and value.removesuffix(".yaml") not in known:
            listed = ", ".join(known) if len(known) < 50 else f"{len(known)} such as {', '.join(known[:3])}"
            raise UnusableInput(
                f"{place}: {key}: found {value!r}{nearest(value, known)}; "
                f"ModelOpt {catalogue['version']} has the {what} {listed}"
            )
    if recipe.sensitivity is not None:
        _check_formats(recipe.sensitivity, catalogue, f"{place}: sensitivity")


def _check_formats(wanted: BySensitivity, catalogue: Mapping[str, Any], place: str) -> None:
    """Refuse formats that cannot be chosen by layer, and bits that no choice of them can reach."""
    presets = list(catalogue["presets"])
    formats = {}
    for index, name in enumerate(wanted.formats):
        where = f"{place}.formats[{index}]: found {name!r}"
        if name not in presets:
            raise UnusableInput(f"{where}{nearest(name, presets)}; expected a preset of ModelOpt, such as nvfp4 or fp8")
        try:
            formats[name] = read_format(name, catalogue)
        except ValueError as error:
            raise UnusableInput(f"{where}, {error}; choose one such as nvfp4, w4a16_nvfp4 or fp8") from None
    least = min(one.bits for one in formats.values())
    if wanted.bits < least:
        raise UnusableInput(
            f"{place}.bits: found {wanted.bits:g}; a weight takes {least:g} bits at least in these formats; give more "
            "bits, or a smaller format"
        )
