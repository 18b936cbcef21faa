"""Changes of tokenizer.json and tokenizer_config.json, by what they mean for the tokens that a text becomes.

Both files are rewritten by whatever saves a tokenizer: merges as pairs or as texts, added tokens in one file or in the
other, special tokens under another key. That is no change; another token, id, merge or rule is one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import read_json
from day0.base.numbers import mapping_or_empty
from day0.checkpoint.configs import Change
from day0.checkpoint.names import first_of

_IDENTITY = (
    *("bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "add_eos_token", "add_prefix_space"),
    *("model_max_length", "tokenizer_class"),
)
# How a text is split or spelled, and the values that a loader assumes without them.
_RULES: dict[str, Any] = {
    "clean_up_tokenization_spaces": False,
    "do_lower_case": False,
    "spaces_between_special_tokens": True,
    "split_special_tokens": False,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
}
# The same of tokenizers without a tokenizer.json, which holds what they say.
_RULES_OF_SLOW = {"legacy", "sp_model_kwargs"}
# Fields of tokenizer.json that are left out at these values, by tokenizers 0.22.
_DEFAULTS = {"use_regex": True, "invert": False, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
_FLAGS = ("single_word", "lstrip", "rstrip", "special")


def compare_tokenizer_json(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Changes of tokenizer.json: added tokens, vocabulary, merges, and the rules before and after them."""
    changes: list[Change] = []

    def add(part: str, before: Any, after: Any, describe: Callable[[Any, Any], tuple[Any, Any]] | None = None) -> None:
        if before != after:
            source, output = describe(before, after) if describe is not None else (shortened(before), shortened(after))
            changes.append({"field": f"tokenizer.json: {part}", "source": source, "output": output, "expected": False})

    added = _added_tokens(old), _added_tokens(new)
    add("added_tokens", *added, _differing)
    before, after = old.get("model"), new.get("model")
    if isinstance(before, dict) and isinstance(after, dict):
        add("vocab", _ids(before, added[0]), _ids(after, added[1]), _differing)
        add("merges", _merges(before), _merges(after), _first_difference)
        before, after = _rules(before), _rules(after)
    add("model", _plain(before), _plain(after))
    for key in sorted((old.keys() | new.keys()) - {"added_tokens", "model", "version", "chat_template"}):
        add(key, _plain(old.get(key)), _plain(new.get(key)))
    return changes


def _added_tokens(content: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Added tokens with their ids and flags; whether one is normalized first is left to the normalizer."""
    listed = content.get("added_tokens")
    tokens = [token for token in listed if isinstance(token, dict)] if isinstance(listed, list) else []
    return {str(token.get("content")): _token(token.get("id"), token) for token in tokens}


def _token(number: Any, token: Mapping[str, Any]) -> tuple[Any, ...]:
    return (str(number), *(bool(token.get(flag)) for flag in _FLAGS))


def _ids(model: Mapping[str, Any], added: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Ids of the vocabulary, or scores by place where it is a list; that of an added token may stand in either list."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        return {str(place): json.dumps(entry) for place, entry in enumerate(vocabulary)}
    if not isinstance(vocabulary, dict):
        return {}
    return {token: str(number) for token, number in vocabulary.items()} | {t: entry[0] for t, entry in added.items()}


def _rules(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model.items() if key not in ("vocab", "merges")}


def _merges(model: Mapping[str, Any]) -> list[str]:
    merges = model.get("merges")
    listed = merges if isinstance(merges, list) else []
    return [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in listed]


def _plain(value: Any) -> Any:
    """A part of tokenizer.json without what it leaves at the default; a sequence of one is that one."""
    if isinstance(value, dict):
        parts = {key: _plain(part) for key, part in value.items()}
        for key in ("normalizers", "pretokenizers", "processors", "decoders"):
            if parts.get("type") == "Sequence" and isinstance(parts.get(key), list) and len(parts[key]) == 1:
                return parts[key][0]
        return {key: part for key, part in parts.items() if part is not None and part != _DEFAULTS.get(key)}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, str]:
    """Tokens that differ, as they stand on each side."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    sides = []
    for side in (before, after):
        texts = [f"{name!r} {side[name]}" if name in side else f"no {name!r}" for name in names]
        sides.append(f"{len(names)} tokens: {first_of(texts, 3)}")
    return sides[0], sides[1]


def _first_difference(before: list[str], after: list[str]) -> tuple[str, str]:
    pairs = zip(before, after, strict=False)
    place = next((place for place, (old, new) in enumerate(pairs) if old != new), min(len(before), len(after)))
    sides = [f"{len(side)} merges, number {place} {side[place : place + 1]}" for side in (before, after)]
    return sides[0], sides[1]


def compare_tokenizer_configs(
    old: Mapping[str, Any], new: Mapping[str, Any], source: Path, output: Path
) -> list[Change]:
    """Changes of tokenizer_config.json; what it says of added and special tokens is taken with tokenizer.json's.

    Raises:
        UnusableInput: a tokenizer.json cannot be read.
    """
    changes: list[Change] = []
    for key in sorted((old.keys() | new.keys()) - {"chat_template"}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key in ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"):
            expected = _is_same_tokens(key, old, new, source, output)
        elif key == "tokenizer_class":
            expected = _class(before) == _class(after)
        elif key in _RULES:
            default = _RULES[key]
            expected = (default if before is None else before) == (default if after is None else after)
        elif key in _RULES_OF_SLOW:
            expected = (output / "tokenizer.json").is_file()
        else:
            expected = key not in _IDENTITY
        changes.append(
            {
                "field": f"tokenizer_config.json: {key}",
                "source": shortened(before),
                "output": shortened(after),
                "expected": expected,
            }
        )
    return changes


def _class(name: Any) -> Any:
    """A tokenizer's class by the name of transformers 5, which has no slow ones beside the fast ones."""
    plain = name.removesuffix("Fast") if isinstance(name, str) else name
    return "TokenizersBackend" if plain == "PreTrainedTokenizer" else plain


def _is_same_tokens(key: str, old: Mapping[str, Any], new: Mapping[str, Any], source: Path, output: Path) -> bool:
    if key == "extra_special_tokens" and isinstance(old.get(key), dict) and isinstance(new.get(key), list):
        return False  # transformers 4 asks a mapping for its keys and fails on a list
    before, after = _all_added(old, source), _all_added(new, output)
    if key == "added_tokens_decoder":
        return before == after
    return _special(old) <= _special(new) | {token for token, entry in after.items() if entry[-1]}


def _all_added(config: Mapping[str, Any], folder: Path) -> dict[str, tuple[Any, ...]]:
    """Added tokens of both files; tokenizer_config.json's add to tokenizer.json's."""
    file = folder / "tokenizer.json"
    tokens = _added_tokens(read_json(file)) if file.is_file() else {}
    for number, token in mapping_or_empty(config.get("added_tokens_decoder")).items():
        if isinstance(token, dict):
            tokens[str(token.get("content"))] = _token(number, token)
    return tokens


def _special(config: Mapping[str, Any]) -> set[str]:
    found: set[str] = set()
    for key in ("additional_special_tokens", "extra_special_tokens"):
        held = config.get(key)
        listed = list(held.values()) if isinstance(held, dict) else held if isinstance(held, list) else []
        found |= {str(token.get("content")) if isinstance(token, dict) else str(token) for token in listed}
    return found


def shortened(value: Any, length: int = 200) -> Any:
    """A value as text of at most some characters, with its length where it is cut; None stays None."""
    text = value if isinstance(value, str) else None if value is None else repr(value)
    return text if text is None or len(text) <= length else f"{text[:length]}... ({len(text)} characters)"
