"""The configuration that ModelOpt makes of a recipe, worked out from the catalogue of its recipes without ModelOpt.

ModelOpt's recipes are YAML files of building blocks: ``imports`` names blocks, and ``$import`` puts one in its place.
The rules are those of nvidia-modelopt 0.47.0, modelopt/torch/opt/config_loader.py and modelopt/recipe/loader.py; the
tests hold the outcome against ModelOpt's own for every preset and recipe.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from day0.base.artefacts import read_text
from day0.base.cli import UnusableInput
from day0.base.mistakes import mistakes_of
from day0.base.numbers import mapping_or_empty
from day0.base.parsing import MAX_YAML_BYTES, Unparsable, parse_yaml, parse_yaml_documents
from day0.recipe.formats import FULL_PRECISION, LayerFormat, format_of
from day0.recipe.forms import BySensitivity, Protected
from day0.recipe.protection import protecting_entries
from day0.recipe.sensitivity import choose_formats, entries_of_choice
from day0.records.quantization import ModelOptConfiguration
from day0.records.recipe import KV_CACHE_NONE
from day0.records.sensitivity import Sensitivity

PRESETS, KV_PRESETS = "configs/ptq/presets/model", "configs/ptq/presets/kv"
# Modules that no format is chosen for: routers, gates, convolutions, vision towers.
NEVER_CHOSEN_FOR = "configs/auto_quantize/units/base_disabled_layers"
_SMALL_FLOAT = re.compile(r"[Ee](\d+)[Mm](\d+)")


def read_block(text: str) -> dict[str, Any]:
    """A building block's file as JSON-able ``{"imports": {name: path}, "body": mapping or list}``.

    Raises:
        ValueError: it is none.
    """
    documents = [document for document in parse_yaml_documents(text) if document is not None]
    header = documents[0] if documents else {}
    if len(documents) > 2 or not isinstance(header, dict | list) or (len(documents) == 2 and isinstance(header, list)):
        raise ValueError("expected a YAML mapping or list, with its imports before it")
    body = documents[1] if len(documents) == 2 else header
    if not isinstance(body, dict | list):
        raise ValueError(f"expected a YAML mapping or list, found {type(body).__name__}")
    imports = header.get("imports") if isinstance(header, dict) else None
    if isinstance(body, dict) and isinstance(header, dict):
        body = {key: value for key, value in {**header, **body}.items() if key != "imports"}
    return {"imports": imports or {}, "body": _plain(body)}


def _plain(value: Any, key: str = "") -> Any:
    """The same as JSON holds it: texts for keys, and a number format such as e4m3 as its two numbers."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if key in ("num_bits", "scale_bits") and isinstance(value, str) and (match := _SMALL_FLOAT.fullmatch(value)):
        return [int(match[1]), int(match[2])]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def resolve_configuration(
    definition: Mapping[str, Any],
    catalogue: Mapping[str, Any],
    place: str,
    kv_cache: str | None = None,
    modules: Sequence[str] | None = None,
    sensitivity: Sensitivity | None = None,
) -> ModelOptConfiguration:
    """Work out what the quantize stage will give to ModelOpt, in the form that quantization.json records.

    Args:
        definition: keys of :class:`day0.recipe.recipes.Recipe`.
        catalogue: envs/modelopt_catalogue.json.
        place: the recipe, for messages.
        kv_cache: KV-cache preset that takes precedence over the recipe's.
        modules: linear modules of the model, see :func:`day0.recipe.modules.linear_modules`; None: they are not known,
            and no layer of a recipe is protected.
        sensitivity: of the model; None: it is not known. A recipe that chooses formats by it is then a search of them,
            and the most sensitive groups are not protected.

    Raises:
        UnusableInput: a block that does not exist, imports in a circle, an override that only ModelOpt can apply, or
            layers to protect that the model does not have.
        Unsupported: the sensitivity does not allow what the recipe asks for.
    """
    if definition.get("preset") is not None:
        body = {"quantize": _block(f"{PRESETS}/{definition['preset']}", catalogue, place)}
    elif definition.get("modelopt_recipe") is not None:
        body = _block(definition["modelopt_recipe"].removesuffix(".yaml"), catalogue, place)
        for override in definition.get("overrides") or []:
            body = _overridden(body, override, place)
    elif definition.get("sensitivity") is not None:
        body = _by_sensitivity(BySensitivity.model_validate(definition["sensitivity"]), catalogue, place, sensitivity)
    elif definition.get("base") is not None:
        base = resolve_configuration(definition["base"], catalogue, f"{place}: base", None, modules, sensitivity)
        entries = list((base.quantize or {})["quant_cfg"])
        if modules is not None:
            entries += protections(definition, entries, catalogue, place, modules, sensitivity)
        body = {"quantize": {**(base.quantize or {}), "quant_cfg": entries}}
    else:
        own = {key: definition[key] for key in ("quantize", "auto_quantize") if definition.get(key) is not None}
        body = _filled(_plain(own), _imported(definition.get("imports"), catalogue, place, ()), place)
    if not isinstance(body, dict):
        raise UnusableInput(f"{place}: expected a recipe, found a list")
    kv_name, kv = kv_cache or definition.get("kv_cache"), None
    if kv_name == KV_CACHE_NONE:
        kv = {"quant_cfg": [{"quantizer_name": "*[kv]_bmm_quantizer", "enable": False}]}
    elif kv_name is not None:
        kv = _block(f"{KV_PRESETS}/{kv_name}", catalogue, place)
    fixed, search = body.get("quantize"), body.get("auto_quantize")
    if search is None:
        fixed = fixed if isinstance(fixed, dict) else {}
        entries = fixed.get("quant_cfg") or [{"quantizer_name": "*", "enable": False}]
        entries = [*(entries if isinstance(entries, list) else []), *((kv or {}).get("quant_cfg") or [])]
        fixed = {**fixed, "quant_cfg": entries, "algorithm": fixed.get("algorithm") or "max"}
    try:
        return ModelOptConfiguration(quantize=fixed, auto_quantize=search, kv_cache=kv)
    except ValidationError as error:
        raise UnusableInput("\n".join(mistakes_of(error, ModelOptConfiguration, place))) from None


def _by_sensitivity(
    wanted: BySensitivity, catalogue: Mapping[str, Any], place: str, sensitivity: Sensitivity | None
) -> dict[str, Any]:
    """The body of a recipe that chooses a format for each group of layers."""
    if sensitivity is None:
        never = [*_block(NEVER_CHOSEN_FOR, catalogue, place), *([] if wanted.lm_head else ["*lm_head*"])]
        formats = [_block(f"{PRESETS}/{name}", catalogue, place) for name in wanted.formats]
        constraints = {"effective_bits": wanted.bits}
        search = {"constraints": constraints, "candidate_formats": formats, "disabled_layers": never}
        return {"auto_quantize": search}
    choice = choose_formats(sensitivity, wanted)
    entries = entries_of_choice(choice, sensitivity, {name: read_format(name, catalogue) for name in wanted.formats})
    return {"quantize": {"quant_cfg": entries, "algorithm": "max"}}


def protections(
    definition: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    catalogue: Mapping[str, Any],
    place: str,
    modules: Sequence[str],
    sensitivity: Sensitivity | None,
) -> list[dict[str, Any]]:
    """The entries by which a recipe protects layers of its base.

    Args:
        definition: of the recipe.
        entries: ``quant_cfg`` of its base.
        catalogue: envs/modelopt_catalogue.json.
        place: the recipe, for messages.
        modules: linear modules of the model.
        sensitivity: of the model; None: it is not known.

    Raises:
        UnusableInput, Unsupported: see :func:`day0.recipe.protection.protecting_entries`.
    """
    protect = [Protected.model_validate(item) for item in definition["protect"]]
    by = FULL_PRECISION if definition["by"] == "bf16" else read_format(definition["by"], catalogue)
    return protecting_entries(entries, protect, by, modules, sensitivity, place)


def read_format(preset: str, catalogue: Mapping[str, Any]) -> LayerFormat:
    """The format that a preset gives to a layer, where it can be given to some layers and not to others.

    Raises:
        ValueError: it cannot, with the reason.
    """
    body = _block(f"{PRESETS}/{preset}", catalogue, f"preset {preset!r}")
    if body.get("algorithm") not in (None, "max"):
        method = mapping_or_empty(body["algorithm"]).get("method", body["algorithm"])
        raise ValueError(f"whose scales are calibrated by {method}: layers of several formats are calibrated by max")
    found = format_of(body)
    if found.weight is None:
        raise ValueError("which quantizes layers of certain names only")
    return found


def _block(path: Any, catalogue: Mapping[str, Any], place: str, loading: tuple[str, ...] = ()) -> Any:
    """A block with its imports filled in; a file of that name takes precedence over the wheel's, as in ModelOpt."""
    name = str(path).removesuffix(".yaml").removesuffix(".yml")
    if name in loading:
        raise UnusableInput(f"{place}: imports {' -> '.join([*loading, name])}, a circle")
    file = next((file for ending in (".yml", ".yaml") if os.path.isfile(file := Path(f"{name}{ending}"))), None)
    block = catalogue.get("blocks", {}).get(name)
    if file is not None:
        try:
            block = read_block(read_text(file, MAX_YAML_BYTES))
        except ValueError as error:
            raise UnusableInput(f"{file}: imported by {place}: {error}") from error
    if block is None:
        raise UnusableInput(
            f"{place}: imports {name!r}; neither a file of that name nor a block of ModelOpt {catalogue['version']}"
        )
    return _filled(block["body"], _imported(block.get("imports"), catalogue, place, (*loading, name)), place)


def _imported(imports: Any, catalogue: Mapping[str, Any], place: str, loading: tuple[str, ...]) -> dict[str, Any]:
    if imports is not None and not isinstance(imports, Mapping):
        raise UnusableInput(f"{place}: imports: expected names with paths, found {imports!r:.80}")
    return {name: _block(path, catalogue, place, loading) for name, path in (imports or {}).items()}


def _filled(value: Any, blocks: Mapping[str, Any], place: str) -> Any:
    """Put blocks in the place of ``$import``: in a list a list is spliced, in a mapping the keys beside it win."""
    if isinstance(value, list):
        filled: list[Any] = []
        for item in value:
            if isinstance(item, dict) and item.keys() == {"$import"}:
                block = _lookup(item["$import"], blocks, place)
                filled += block if isinstance(block, list) else [block]
            else:
                filled.append(_filled(item, blocks, place))
        return filled
    if not isinstance(value, dict):
        return value
    merged: dict[str, Any] = {}
    names = value.get("$import", [])
    for name in names if isinstance(names, list) else [names]:
        block = _lookup(name, blocks, place)
        if not isinstance(block, dict):
            raise UnusableInput(f"{place}: $import {name!r}: a list where a mapping is expected")
        merged |= block
    return merged | {key: _filled(item, blocks, place) for key, item in value.items() if key != "$import"}


def _lookup(name: Any, blocks: Mapping[str, Any], place: str) -> Any:
    if not isinstance(name, str) or name not in blocks:
        raise UnusableInput(f"{place}: $import {name!r:.80}: its imports are {', '.join(blocks) or 'none'}")
    return blocks[name]


def _overridden(body: Any, override: str, place: str) -> Any:
    """Set path.to.key=value: mappings are merged, everything else is replaced."""
    path, _, text = override.partition("=")
    if re.search(r"[\[\]]", path):
        raise UnusableInput(f"{place}: overrides: {override!r}: only ModelOpt can replace an item of a list")
    try:
        value = _plain(parse_yaml(text), path.rpartition(".")[2])
    except Unparsable as error:
        raise UnusableInput(f"{place}: overrides: {override!r}: {error}") from error
    for key in reversed(path.split(".")):
        value = {key: value}
    return _merged(body, value)


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}
