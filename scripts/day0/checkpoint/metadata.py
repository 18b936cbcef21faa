"""What a checkpoint holds beside its weights, against its source: configurations, tokenizer, chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.checkpoint.configs import UNINTERESTING, Change, compare_configs, problems_of_code, problems_of_lists
from day0.checkpoint.tokenizer_files import compare_tokenizer_configs, compare_tokenizer_json, shortened
from day0.source.side_files import effective_chat_template

_TOKENIZER_FILES = re.compile(
    r"(tokenizer.*\.(json|model)|vocab.*|merges\.txt|spiece\.model|.*\.tiktoken|(pre|video_pre)?processor_config\.json|"
    r"generation_config\.json|special_tokens_map\.json|added_tokens\.json|chat_template.*|image_processor_config\.json)"
)
_WITH_CODE = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_REDUNDANT_FILES = ("special_tokens_map.json", "added_tokens.json")


def compare_generation_configs(source: Mapping[str, Any], output: Mapping[str, Any]) -> list[Change]:
    """Changes of generation_config.json; the exporter sets do_sample where top_k or top_p are set."""
    diffs: list[Change] = []
    for key in sorted((source.keys() | output.keys()) - UNINTERESTING):
        old, new = source.get(key), output.get(key)
        if old != new:
            expected = key == "do_sample" and new is True and ("top_k" in source or "top_p" in source)
            diffs.append(
                {"field": f"generation_config.json: {key}", "source": old, "output": new, "expected": expected}
            )
    return diffs


def compare_metadata(source: Path, output: Path) -> list[Change]:
    """Changes beside the weights: config, generation config, tokenizer and processor files, chat template.

    Raises:
        UnusableInput: a JSON file of either side cannot be read.
    """
    config = read_json(output / "config.json")
    diffs = [*compare_configs(read_json(source / "config.json"), config), *problems_of_lists(config)]
    diffs += problems_of_code("config.json", config, output)
    unreadable: list[str] = []
    names = {path.name for path in source.iterdir() if path.is_file() and _TOKENIZER_FILES.fullmatch(path.name)}
    for name in sorted(names):
        before, after = source / name, output / name
        if name.startswith("chat_template"):
            continue
        if not after.is_file():
            is_redundant = name in _REDUNDANT_FILES and (output / "tokenizer.json").is_file()
            diffs.append({"field": name, "source": "present", "output": "missing", "expected": is_redundant})
        elif before.read_bytes() != after.read_bytes():
            try:
                diffs += _compare_side_file(name, before, after)
            except UnusableInput as error:
                diffs.append({"field": name, "source": None, "output": str(error), "expected": False})
                unreadable.append(name)
    if unreadable:
        return diffs
    for name in _WITH_CODE:
        if (output / name).is_file():
            diffs += problems_of_code(name, read_json(output / name), output)
    old, new = effective_chat_template(source), effective_chat_template(output)
    if old != new:
        diffs.append({"field": "chat template", "source": shortened(old), "output": shortened(new), "expected": False})
    return diffs


def _compare_side_file(name: str, before: Path, after: Path) -> list[Change]:
    if not name.endswith(".json"):
        return [{"field": name, "source": "other bytes", "output": "other bytes", "expected": False}]
    old, new = read_json(before), read_json(after)
    if name == "generation_config.json":
        return compare_generation_configs(old, new)
    if name == "tokenizer.json":
        return compare_tokenizer_json(old, new)
    if name == "tokenizer_config.json":
        return compare_tokenizer_configs(old, new, before.parent, after.parent)
    diffs: list[Change] = []
    for key in sorted((old.keys() | new.keys()) - {"chat_template"}):
        if old.get(key) != new.get(key):
            before_it, after_it = shortened(old.get(key)), shortened(new.get(key))
            diffs.append({"field": f"{name}: {key}", "source": before_it, "output": after_it, "expected": False})
    return diffs
