"""Changes from a source's config.json to a checkpoint's: what would make the model load as something else.

A key that is lost makes the loader take its default, so a loss is unexpected unless its value is known to be the
default or nothing but training and saving reads it. Sources of the tables: transformers 5.14.1, whose save_pretrained
leaves out the values of PreTrainedConfig's own defaults and nothing else (measured on all 667 of its configurations),
the defaults that all of its configurations share, and their attribute_map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from day0.base.numbers import mapping_or_empty
from day0.source.side_files import LAYER_LISTS

UNINTERESTING = {"transformers_version", "_name_or_path", "_from_model_config"}
_EXPECTED_CONFIG = UNINTERESTING | {"quantization_config", "compression_config", "sparse_attention_config", "use_cache"}
# New keys whose value is not a default that the source left out.
_MUST_NOT_COME = {
    "architectures",
    "model_type",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
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
# Read by nobody who loads the weights to serve them.
_HARMLESS_LOSSES = {
    *("_attn_implementation", "_attn_implementation_autoset", "attn_implementation"),
    *("_flash_attn_2_enabled", "_experts_implementation", "gradient_checkpointing", "torchscript", "return_dict"),
    *("use_return_dict", "output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type"),
    *("finetuning_task", "task_specific_params", "initializer_range", "initializer_factor", "init_std"),
    *("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout", "hidden_dropout_prob", "dropout"),
    *("attn_pdrop", "embd_pdrop", "resid_pdrop", "embedding_dropout", "classifier_dropout", "output_dropout"),
    *("output_router_logits", "router_aux_loss_coef", "router_z_loss_coef", "router_jitter_noise", "aux_loss_alpha"),
    *("seq_aux", "router_bias_update_speed", "ep_size", "pretraining_tp", "input_jitter_noise", "moe_aux_loss_coeff"),
    *("keys_to_ignore_at_inference", "unsloth_fixed", "unsloth_version"),
}
# Settings of generation, which transformers 5 keeps in generation_config.json; source: _get_generation_parameters.
_OF_GENERATION = {
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "min_length", "max_length", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "repetition_penalty", "length_penalty", "no_repeat_ngram_size"),
    *("encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "early_stopping"),
    *("return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values"),
    *("exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
}
# Defaults that all configurations share, or PreTrainedConfig's own.
_DEFAULTS: dict[str, Any] = {
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "logits_scaling": 1.0,
    "mlp_only_layers": [],
    "pruned_heads": {},
    "residual_multiplier": 1.0,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "use_bfloat16": False,
    "use_sliding_window": False,
}
# Keys whose null is a value of its own: without them the loader takes a number, such as DeepSeek's q_lora_rank 1536.
_NULL_IS_A_VALUE = {"q_lora_rank", "sliding_window"}
_NULL = "null"
# Models whose configuration cuts these lists itself; the 62 others of transformers 5.19.0 refuse one entry more.
# Source: configuration_deepseek_v4.py:262, and transformers_utils/configs/step3p5.py of vLLM.
_CUTS_LISTS = ("deepseek_v4", "step3p5")
# Two names for one setting; source: attribute_map of the configurations, which take either and save one.
_OTHER_NAMES = (
    {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"},
    {"num_experts_per_tok", "moe_k", "moe_topk"},
    {"num_mtp_layers", "num_nextn_predict_layers"},
    {"hidden_size", "n_embd", "d_model", "hidden_dim", "embed_dim", "dim"},
    {"num_hidden_layers", "n_layer", "n_layers", "num_layers"},
    {"num_attention_heads", "n_head", "n_heads", "num_heads"},
    {"intermediate_size", "ffn_hidden_size", "n_inner"},
    {"max_position_embeddings", "n_positions", "max_seq_len", "model_max_length"},
    {"layer_types", "layers_block_type"},
    {"head_dim", "kv_channels", "attention_head_dim"},
    {"sliding_window", "sliding_window_size", "attention_window_size"},
    {"image_token_id", "image_token_index"},
    {"video_token_id", "video_token_index"},
    {"audio_token_id", "audio_token_index"},
    {"layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"},
    {"hidden_act", "activation_function", "hidden_activation"},
    {"dtype", "torch_dtype"},
)
_NAMES_OF = {name: names for names in _OTHER_NAMES for name in names}


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
    normal |= {key: _NULL for key in _NULL_IS_A_VALUE if key in config and config[key] is None}
    dtype = config.get("dtype", config.get("torch_dtype"))
    if dtype is not None:
        normal["dtype"] = str(dtype).removeprefix("torch.")
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(normal.get(key), dict):
            rope |= normal.pop(key)
    of_sliding, of_full = rope.pop("sliding_attention", None), rope.pop("full_attention", None)
    if isinstance(of_full, dict):
        rope |= of_full
    local = mapping_or_empty(of_sliding).get("rope_theta", normal.pop("rope_local_base_freq", None))
    if local is not None:
        rope["local rope_theta"] = local
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in normal:
            rope.setdefault(key, normal.pop(key))
    if "type" in rope:
        rope.setdefault("rope_type", rope.pop("type"))
    rope.setdefault("rope_type", "default")
    if rope.keys() - {"rope_type"}:
        normal["rope"] = rope
    return normal


def compare_configs(source: Mapping[str, Any], output: Mapping[str, Any], place: str = "config.json") -> list[Change]:
    """Changes from one config.json to another, those of the configurations within it included.

    What the source has at its top and the output in its text_config is no change: transformers 5 nests what 4 did not.
    """
    before, after = _normal_config(source), _normal_config(output)
    after = {key: value for key, value in after.items() if value != _NULL or key in before}
    nested = _normal_config(mapping_or_empty(after.get("text_config"))) if "text_config" not in before else {}
    diffs: list[Change] = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new or (key == "text_config" and nested and old is None):
            continue
        if isinstance(old, dict) and isinstance(new, dict) and _is_config(key, old):
            diffs += compare_configs(old, new, f"{place}: {key}")
            continue
        if new is None and key in nested and nested[key] == old:
            continue
        expected = key in _EXPECTED_CONFIG
        if not expected and new is None:
            expected = _is_harmless_loss(key, old, before, {**nested, **after})
        elif not expected and old is None:
            expected = key not in _MUST_NOT_COME or _is_respelled(key, new, before)
        elif not expected and key in LAYER_LISTS:
            expected = _is_trimmed(old, new, after.get("num_hidden_layers"))
        diffs.append({"field": f"{place}: {key}", "source": old, "output": new, "expected": expected})
    return diffs


def _is_config(key: str, value: Mapping[str, Any]) -> bool:
    """Whether an entry of a configuration is that of a part of the model."""
    return (key.endswith("_config") or "model_type" in value) and key != "quantization_config"


def _is_harmless_loss(key: str, value: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    if key in _HARMLESS_LOSSES or key in _OF_GENERATION or _is_respelled(key, value, after):
        return True
    if key == "sliding_window" and value == _NULL:
        return before.get("use_sliding_window") is False
    if key == "head_dim":
        size, heads = before.get("hidden_size"), before.get("num_attention_heads")
        return type(size) is int and type(heads) is int and heads > 0 and value == size // heads
    return key in _DEFAULTS and value == _DEFAULTS[key] and type(value) is type(_DEFAULTS[key])


def _is_respelled(key: str, value: Any, others: Mapping[str, Any]) -> bool:
    """Whether another name of the same setting has the same value there."""
    return any(others.get(name) == value for name in _NAMES_OF.get(key, ()) if name != key)


def _is_trimmed(old: Any, new: Any, layers: Any) -> bool:
    """Whether a list of the layers' types was cut to the number of layers, as ModelOpt's exporter does."""
    return isinstance(old, list) and isinstance(new, list) and type(layers) is int and new == old[:layers] != old


def problems_of_lists(config: Mapping[str, Any]) -> list[Change]:
    """Lists of the layers' types whose length is not the number of layers, whatever the source has."""
    found: list[Change] = []
    for place, part in _parts("config.json", config):
        layers = part.get("num_hidden_layers")
        for key in LAYER_LISTS if part.get("model_type") not in _CUTS_LISTS else ():
            types = part.get(key)
            if types is None:
                break  # transformers 5 looks at the second list only where there is the first
            if isinstance(types, list) and type(layers) is int and len(types) != layers:
                reason = f"{len(types)} entries, which transformers 5 and vLLM refuse"
                found.append(_problem(f"{place}: {key}", f"{layers} entries, as num_hidden_layers says", reason))
    return found


def problems_of_code(name: str, content: Mapping[str, Any], folder: Path) -> list[Change]:
    """Python code that the auto_map of a configuration names and that is not beside it."""
    missing = sorted({file for file in _code_of(content) if not (folder / file).is_file()})
    if not missing:
        return []
    reason = f"names Python code that is not there: {', '.join(missing)}"
    return [_problem(f"{name}: auto_map", "its code beside it, or no auto_map", reason)]


def _problem(place: str, expected: str, found: str) -> Change:
    return {"field": place, "source": expected, "output": found, "expected": False}


def _parts(place: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A configuration and those within it, each with its place."""
    yield place, config
    for key, value in config.items():
        if isinstance(value, dict) and _is_config(key, value):
            yield from _parts(f"{place}: {key}", value)


def _code_of(config: Mapping[str, Any]) -> Iterator[str]:
    """Files of Python code that auto_map names, but for those of other repositories (REPOSITORY--MODULE.CLASS)."""
    for names in mapping_or_empty(config.get("auto_map")).values():
        for name in names if isinstance(names, list) else [names]:
            if isinstance(name, str) and "." in name and "--" not in name:
                yield f"{name.rpartition('.')[0].replace('.', '/')}.py"
