"""Tokenizer files that make other tokens of a text fail by the part that changed; a file that is rewritten passes."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_assess import JSON_VALUES

from day0.checkpoint.metadata import compare_metadata
from day0.checkpoint.tokenizer_files import compare_tokenizer_configs, compare_tokenizer_json

EOS = {"id": 3, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [{**EOS, "special": True}, {**EOS, "id": 4, "content": "<tool>", "special": True}],
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "\\p{N}"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    },
    "post_processor": None,
    "decoder": {"type": "ByteLevel", "add_prefix_space": True},
    "model": {
        "type": "BPE",
        "unk_token": None,
        "byte_fallback": False,
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": [["a", "b"], ["ab", "a"]],
    },
}
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "</s>",
    "clean_up_tokenization_spaces": False,
    "additional_special_tokens": ["<tool>"],
    "extra_special_tokens": {"tool": "<tool>"},
    "added_tokens_decoder": {"3": {"content": "</s>", "special": True}, "4": {"content": "<tool>", "special": True}},
}


def tokenizer(change):
    return lambda files: change(files["tokenizer.json"])


def config(**fields):
    return lambda files: files["tokenizer_config.json"].update(fields)


def lose(*keys):
    return lambda files: [files["tokenizer_config.json"].pop(key) for key in keys]


FAULTS = {
    "a token added": (
        tokenizer(lambda t: t["added_tokens"].append({**EOS, "id": 9, "content": "<x>"})),
        "added_tokens",
        "<x>",
    ),
    "a token lost": (tokenizer(lambda t: t["added_tokens"].pop()), "added_tokens", "<tool>"),
    "a token no longer special": (
        tokenizer(lambda t: t["added_tokens"][1].update(special=False)),
        "added_tokens",
        "<tool>",
    ),
    "another id of a token": (tokenizer(lambda t: t["added_tokens"][1].update(id=5)), "added_tokens", "5"),
    "a vocabulary exchanged": (tokenizer(lambda t: t["model"]["vocab"].update(a=1, b=0)), "vocab", "'a'"),
    "a word lost": (tokenizer(lambda t: t["model"]["vocab"].pop("ab")), "vocab", "'ab'"),
    "merges in another order": (tokenizer(lambda t: t["model"]["merges"].reverse()), "merges", "ab a"),
    "merges cut": (tokenizer(lambda t: t["model"]["merges"].pop()), "merges", "1 merges"),
    "another model": (tokenizer(lambda t: t["model"].update(byte_fallback=True)), "model", "byte_fallback"),
    "another normalizer": (tokenizer(lambda t: t.update(normalizer={"type": "NFKC"})), "normalizer", "NFKC"),
    "no normalizer": (tokenizer(lambda t: t.update(normalizer=None)), "normalizer", None),
    "another expression": (
        tokenizer(lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex="\\d")),
        "pre_tokenizer",
        "\\\\d",
    ),
    "a space before": (
        tokenizer(lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True)),
        "pre_tokenizer",
        "add_prefix_space",
    ),
    "texts cut": (tokenizer(lambda t: t.update(truncation={"max_length": 512})), "truncation", "512"),
    "a token added after each text": (
        tokenizer(lambda t: t.update(post_processor={"type": "X"})),
        "post_processor",
        "X",
    ),
    "another class": (config(tokenizer_class="LlamaTokenizer"), "tokenizer_class", "LlamaTokenizer"),
    "F14: extra_special_tokens is a list": (config(extra_special_tokens=["<tool>"]), "extra_special_tokens", "<tool>"),
    "special tokens split": (config(split_special_tokens=True), "split_special_tokens", "True"),
    "spaces cleaned": (config(clean_up_tokenization_spaces=True), "clean_up_tokenization_spaces", "True"),
    "another added token": (
        config(added_tokens_decoder={"3": {"content": "</s>", "special": True}, "8": {"content": "<y>"}}),
        "added_tokens_decoder",
        "<y>",
    ),
}
HARMLESS = {
    "nothing changed but the spaces": tokenizer(lambda t: None),
    "merges as texts": tokenizer(lambda t: t["model"].update(merges=["a b", "ab a"])),
    "tokens in another order": tokenizer(lambda t: t["added_tokens"].reverse()),
    "added tokens in the vocabulary too": tokenizer(lambda t: t["model"]["vocab"].update({"</s>": 3, "<tool>": 4})),
    "defaults written out": tokenizer(lambda t: t["model"].update(ignore_merges=False, fuse_unk=False, dropout=None)),
    "defaults left out": tokenizer(lambda t: t["pre_tokenizer"]["pretokenizers"][0].pop("invert")),
    "a sequence of one": tokenizer(
        lambda t: t.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}]})
    ),
    "added tokens in tokenizer.json alone": lose("added_tokens_decoder"),
    "special tokens in tokenizer.json alone": lose("additional_special_tokens"),
    "special tokens under another key": lambda files: (
        lose("extra_special_tokens", "additional_special_tokens")(files),
        config(extra_special_tokens=["<tool>"])(files),
    ),
    "the class of transformers 5": config(tokenizer_class="TokenizersBackend"),
    "what transformers 5 adds": config(is_local=True, local_files_only=True, backend="tokenizers"),
    "a default left out": lose("clean_up_tokenization_spaces"),
    "what slow tokenizers read": config(legacy=False),
}


def changes(tmp_path, change):
    before = {"tokenizer.json": TOKENIZER, "tokenizer_config.json": CONFIG, "config.json": {}}
    if change is HARMLESS["special tokens under another key"]:
        before["tokenizer_config.json"] = {k: v for k, v in CONFIG.items() if k != "extra_special_tokens"}
    after = copy.deepcopy(before)
    after["tokenizer_config.json"].setdefault("extra_special_tokens", None)
    change(after)
    for side, files in (("source", before), ("output", after)):
        (tmp_path / side).mkdir()
        for name, content in files.items():
            (tmp_path / side / name).write_text(json.dumps(content, indent=2 if side == "output" else None))
    return [change for change in compare_metadata(tmp_path / "source", tmp_path / "output") if not change["expected"]]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tokenizer_that_makes_other_tokens_fails(tmp_path, fault):
    change, part, named = FAULTS[fault]
    found = {one["field"].rpartition(" ")[2]: one for one in changes(tmp_path, change)}
    assert part in found
    assert named is None or named in f"{found[part]['source']} {found[part]['output']}"


@pytest.mark.parametrize("name", HARMLESS)
def test_a_tokenizer_that_is_only_rewritten_passes(tmp_path, name):
    assert changes(tmp_path, HARMLESS[name]) == []


ANY_MODEL = st.dictionaries(st.sampled_from(["vocab", "merges", "type"]), JSON_VALUES) | JSON_VALUES
ANY_TOKENIZER = st.fixed_dictionaries(
    {}, optional={"model": ANY_MODEL, "added_tokens": JSON_VALUES, "decoder": JSON_VALUES}
)
ANY_CONFIG = st.dictionaries(st.sampled_from([*CONFIG, "legacy"]), JSON_VALUES)


@settings(deadline=None)
@given(ANY_TOKENIZER, ANY_TOKENIZER, ANY_CONFIG, ANY_CONFIG)
def test_any_tokenizer_is_compared(tmp_path_factory, old, new, before, after):
    folder = tmp_path_factory.getbasetemp()
    assert compare_tokenizer_json(old, old) == []
    json.dumps(compare_tokenizer_json(old, new))
    json.dumps(compare_tokenizer_configs(before, after, folder, folder))
