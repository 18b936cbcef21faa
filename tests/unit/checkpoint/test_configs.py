"""A config.json that would load as something else fails by the key's name; what is only spelled otherwise passes."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_assess import JSON_VALUES

from day0.checkpoint.configs import compare_configs, problems_of_code, problems_of_lists
from day0.checkpoint.metadata import compare_metadata
from day0.source.side_files import merged_config

DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "kv_lora_rank": 64,
    "q_lora_rank": 96,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "num_nextn_predict_layers": 1,
    "rope_theta": 10000,
    "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0},
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "aux_loss_alpha": 0.001,
    "seq_aux": True,
    "ep_size": 1,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
VISION = {
    "architectures": ["SomeForConditionalGeneration"],
    "model_type": "some_vl",
    "image_token_id": 7,
    "text_config": {
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "layer_types": ["full_attention"] * 2,
        "norm_topk_prob": True,
    },
    "vision_config": {"depth": 2, "hidden_size": 128, "patch_size": 14, "deepstack_visual_indexes": [1]},
}
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 256,
    "num_attention_heads": 4,
    "head_dim": 64,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "query_pre_attn_scalar": 64,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "top_k": 64,
    "use_sliding_window": False,
}
LITE = {"model_type": "deepseek_v2", "q_lora_rank": None, "sliding_window": None, "num_hidden_layers": 2}


def lose(*path):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return change


def put(*path, **fields):
    def change(config):
        for key in path:
            config = config[key]
        config.update(fields)

    return change


def rename(old, new):
    return lambda config: config.update({new: config.pop(old)})


MATTERS = [
    *("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group", "topk_group", "kv_lora_rank"),
    *("q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "routed_scaling_factor", "norm_topk_prob"),
    *("scoring_func", "topk_method", "first_k_dense_replace", "moe_layer_freq", "num_nextn_predict_layers"),
    *("hidden_act", "attention_bias", "tie_word_embeddings", "num_key_value_heads", "architectures", "model_type"),
]
FAULTS = {
    **{f"{key} lost": (DEEPSEEK, lose(key), f"config.json: {key}") for key in MATTERS},
    "rope_theta lost": (DEEPSEEK, lose("rope_theta"), "config.json: rope"),
    "rope_scaling lost": (DEEPSEEK, lose("rope_scaling"), "config.json: rope"),
    "q_lora_rank was null": (LITE, lose("q_lora_rank"), "config.json: q_lora_rank"),
    "sliding_window was null": (LITE, lose("sliding_window"), "config.json: sliding_window"),
    "q_lora_rank becomes null": (DEEPSEEK, put(q_lora_rank=None), "config.json: q_lora_rank"),
    "F19: vision_config lost": (VISION, lose("vision_config"), "config.json: vision_config"),
    "F19b: text_config lost": (VISION, lose("text_config"), "config.json: text_config"),
    "a key of text_config lost": (
        VISION,
        lose("text_config", "norm_topk_prob"),
        "config.json: text_config: norm_topk_prob",
    ),
    "a key of vision_config lost": (
        VISION,
        lose("vision_config", "deepstack_visual_indexes"),
        "config.json: vision_config: deepstack_visual_indexes",
    ),
    "image_token_id lost": (VISION, lose("image_token_id"), "config.json: image_token_id"),
    "local rope lost": (GEMMA, lose("rope_local_base_freq"), "config.json: rope"),
    "query_pre_attn_scalar lost": (GEMMA, lose("query_pre_attn_scalar"), "config.json: query_pre_attn_scalar"),
    "another name with another value": (
        DEEPSEEK,
        lambda config: (rename("n_routed_experts", "num_experts")(config), put(num_experts=16)(config)),
        "config.json: n_routed_experts",
    ),
    "F16: layer_types too long": (VISION, put("text_config", layer_types=["full_attention"] * 3), "layer_types"),
    "layer_types too short": (VISION, put("text_config", layer_types=["full_attention"]), "layer_types"),
}
HARMLESS = {
    "what only training reads": (
        DEEPSEEK,
        lambda config: [
            config.pop(key) for key in ("initializer_range", "aux_loss_alpha", "seq_aux", "attention_dropout")
        ],
    ),
    "what only a loader of shards reads": (
        DEEPSEEK,
        lambda config: [config.pop(k) for k in ("ep_size", "pretraining_tp")],
    ),
    "the source's own quantization": (DEEPSEEK, lose("quantization_config")),
    "use_cache": (DEEPSEEK, lose("use_cache")),
    "spelled as transformers 5 does": (
        DEEPSEEK,
        lambda config: (
            rename("torch_dtype", "dtype")(config),
            put(rope_parameters={"rope_type": "yarn", "factor": 40, "mscale": 1.0, "rope_theta": 10000})(config),
            [config.pop(key) for key in ("rope_theta", "rope_scaling")],
        ),
    ),
    "another name of a key": (DEEPSEEK, rename("n_routed_experts", "num_local_experts")),
    "another name of the layers of MTP": (DEEPSEEK, rename("num_nextn_predict_layers", "num_mtp_layers")),
    "two ropes under one key": (
        GEMMA,
        lambda config: (
            [config.pop(key) for key in ("rope_theta", "rope_local_base_freq")],
            put(
                rope_parameters={
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            )(config),
        ),
    ),
    "settings of generation": (GEMMA, lose("top_k")),
    "a default that all share": (GEMMA, lose("use_sliding_window")),
    "head_dim that follows from others": (GEMMA, lose("head_dim")),
    "PreTrainedConfig's defaults": (
        {**DEEPSEEK, "is_encoder_decoder": False, "return_dict": True},
        lambda config: [config.pop(k) for k in ("is_encoder_decoder", "return_dict")],
    ),
    "nested as transformers 5 does": (
        {**VISION["text_config"], "model_type": "qwen2_vl", "vision_config": VISION["vision_config"]},
        lambda config: config.update(
            text_config={**{key: config.pop(key) for key in VISION["text_config"]}, "model_type": "qwen2_vl_text"}
        ),
    ),
    "a null where it was absent": (DEEPSEEK, put(sliding_window=None)),
    "a window that is not used": ({**LITE, "use_sliding_window": False}, lose("sliding_window")),
}


def unexpected(source, output):
    diffs = [*compare_configs(source, output), *problems_of_lists(output)]
    json.dumps(diffs)
    return [diff["field"] for diff in diffs if not diff["expected"]]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_config_that_loads_as_something_else_fails(fault):
    source, change, place = FAULTS[fault]
    output = copy.deepcopy(source)
    change(output)
    found = unexpected(source, output)
    assert any(place in field for field in found) and len(found) <= 2


@pytest.mark.parametrize("name", HARMLESS)
def test_a_config_that_loads_as_the_same_passes(name):
    source, change = HARMLESS[name]
    output = copy.deepcopy(source)
    change(output)
    assert unexpected(source, output) == []


LONG = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention", "full_attention"]}
CUT = {**LONG, "layer_types": LONG["layer_types"][:2]}


def test_layers_that_the_exporter_cut_stay_cut():
    """S16: the source lists the types of its MTP layer, too."""
    assert unexpected(LONG, CUT) == [] and unexpected({"text_config": LONG}, {"text_config": CUT}) == []
    assert merged_config(LONG, CUT) == CUT
    assert merged_config({"text_config": {**LONG, "a": 1}}, {"text_config": CUT}) == {"text_config": {**CUT, "a": 1}}
    assert merged_config(LONG, LONG) == LONG
    other = {**CUT, "layer_types": ["sliding_attention"] * 2}
    assert merged_config(LONG, other) == LONG and unexpected(LONG, other) == ["config.json: layer_types"]


def test_layers_are_counted_in_the_source_too():
    """F16: what the source has wrong the checkpoint has wrong."""
    assert unexpected(LONG, LONG) == ["config.json: layer_types"]
    assert unexpected({**LONG, "model_type": "step3p5"}, {**LONG, "model_type": "step3p5"}) == []
    only_mlp = {"num_hidden_layers": 2, "mlp_layer_types": ["dense"]}
    assert unexpected(only_mlp, only_mlp) == []


CODE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}
WITH_CODE = {
    "F15: code lost": (CODE, [], "config.json", "modeling_x.py"),
    "one file lost": (CODE, ["configuration_x.py"], "config.json", "modeling_x.py"),
    "a tokenizer's code lost": (
        {"AutoTokenizer": ["tokenization_x.X", None]},
        [],
        "tokenizer_config.json",
        "tokenization_x.py",
    ),
}
WITHOUT_NEED = {
    "code beside it": (CODE, ["configuration_x.py", "modeling_x.py"]),
    "code of another repository": ({"AutoConfig": "someone/x--configuration_x.XConfig"}, []),
    "no names": ({"AutoConfig": None, "AutoModel": [None]}, []),
}


def folders(tmp_path, auto_map, files, name="config.json"):
    source, output = tmp_path / "source", tmp_path / "output"
    for side in (source, output):
        side.mkdir()
        (side / "config.json").write_text("{}")
        (side / name).write_text(json.dumps({"auto_map": auto_map}))
    for file in files:
        (output / file).write_text("")
    return source, output


@pytest.mark.parametrize("fault", WITH_CODE)
def test_code_that_is_named_and_not_there_fails(tmp_path, fault):
    auto_map, files, name, missing = WITH_CODE[fault]
    (change,) = compare_metadata(*folders(tmp_path, auto_map, files, name))
    assert not change["expected"] and change["field"] == f"{name}: auto_map" and missing in change["output"]


@pytest.mark.parametrize("layout", WITHOUT_NEED)
def test_code_that_is_there_or_elsewhere_passes(tmp_path, layout):
    assert compare_metadata(*folders(tmp_path, *WITHOUT_NEED[layout])) == []


KEYS = ["model_type", "num_hidden_layers", "layer_types", "rope_parameters", "rope_local_base_freq", "text_config"]
ANY_CONFIG = st.dictionaries(
    st.sampled_from([*KEYS, "auto_map", "head_dim", "hidden_size", "sliding_window"]), JSON_VALUES
)


@settings(deadline=None)
@given(ANY_CONFIG, ANY_CONFIG)
def test_any_config_is_judged(tmp_path_factory, source, output):
    folder = tmp_path_factory.getbasetemp()
    diffs = [*compare_configs(source, output), *problems_of_lists(output), *problems_of_code("x", output, folder)]
    assert all(isinstance(diff["expected"], bool) for diff in diffs)
    json.dumps(merged_config(source, output))
