"""What a checkpoint holds beside its weights, against its source: configurations, tokenizer, chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.source.side_files import effective_chat_template

_UNINTERESTING = {"transformers_version", "_name_or_path", "_from_model_config"}
_EXPECTED_CONFIG = _UNINTERESTING | {"quantization_config", "sparse_attention_config", "use_cache"}
_MUST_STAY = {
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "hidden_act",
    "rms_norm_eps",
    "auto_map",
}
_TOKENIZER_KEYS = {
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "model_max_length",
    "tokenizer_class",
}
_TOKENIZER_FILES = re.compile(
    r"(tokenizer.*\.(json|model)|vocab.*|merges\.txt|spiece\.model|.*\.tiktoken|(pre|video_pre)?processor_config\.json|"
    r"generation_config\.json|special_tokens_map\.json|added_tokens\.json|chat_template.*|image_processor_config\.json)"
)
_REDUNDANT_FILES = ("special_tokens_map.json", "added_tokens.json")


class Change(TypedDict):
    """A change beside the weights, with the fields of :class:`day0.records.validation.MetadataDiff`."""

    field: str
    source: Any
    output: Any
    expected: bool


def is_expected(place: str) -> bool:
    """Whether a change of that place, as FILE: KEY, is one that quantizing makes."""
    return place.rpartition(".")[2].rpartition(":")[2].strip() in _EXPECTED_CONFIG


def _normal_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with one spelling for what transformers 4 and 5 spell differently, null values left out."""
    normal = {key: value for key, value in config.items() if value is not None and key not in ("torch_dtype", "dtype")}
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype is not None:
        normal["dtype"] = str(dtype).removeprefix("torch.")
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(normal.get(key), dict):
            rope |= normal.pop(key)
    if "rope_theta" in normal:
        rope.setdefault("rope_theta", normal.pop("rope_theta"))
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    rope.setdefault("rope_type", "default")
    if rope.keys() - {"rope_type"}:
        normal["rope"] = rope
    return normal


def compare_configs(source: Mapping[str, Any], output: Mapping[str, Any], place: str = "config.json") -> list[Change]:
    """Changes from one config.json to another.

    A value that only one side spells out is taken for the other's default, unless the field decides what is computed.
    """
    before, after = _normal_config(source), _normal_config(output)
    diffs: list[Change] = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and key.endswith("_config") and key != "quantization_config":
            diffs += compare_configs(old, new, f"{place}: {key}")
            continue
        expected = key in _EXPECTED_CONFIG
        if not expected and (old is None or new is None):
            is_default = key in ("num_key_value_heads", "head_dim", "tie_word_embeddings", "rope") and old is None
            is_default = is_default or (key == "tie_word_embeddings" and old is True)
            expected = key not in _MUST_STAY or is_default
        diffs.append({"field": f"{place}: {key}", "source": old, "output": new, "expected": expected})
    return diffs


def compare_generation_configs(source: Mapping[str, Any], output: Mapping[str, Any]) -> list[Change]:
    """Changes of generation_config.json; the exporter sets do_sample where top_k or top_p are set."""
    diffs: list[Change] = []
    for key in sorted((source.keys() | output.keys()) - _UNINTERESTING):
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
    diffs = compare_configs(read_json(source / "config.json"), read_json(output / "config.json"))
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
    old, new = effective_chat_template(source), effective_chat_template(output)
    if old != new:
        diffs.append(
            {"field": "chat template", "source": _shortened(old), "output": _shortened(new), "expected": False}
        )
    return diffs


def _compare_side_file(name: str, before: Path, after: Path) -> list[Change]:
    if not name.endswith(".json"):
        return [{"field": name, "source": "other bytes", "output": "other bytes", "expected": False}]
    old, new = read_json(before), read_json(after)
    if name == "generation_config.json":
        return compare_generation_configs(old, new)
    diffs: list[Change] = []
    for key in sorted((old.keys() | new.keys()) - {"chat_template"}):
        if old.get(key) != new.get(key):
            expected = name == "tokenizer_config.json" and key not in _TOKENIZER_KEYS
            diffs.append(
                {
                    "field": f"{name}: {key}",
                    "source": _shortened(old.get(key)),
                    "output": _shortened(new.get(key)),
                    "expected": expected,
                }
            )
    return diffs


def _shortened(value: Any, length: int = 200) -> Any:
    text = value if isinstance(value, str) else None if value is None else repr(value)
    return text if text is None or len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
