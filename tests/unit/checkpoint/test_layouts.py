"""Layouts that publishers use and engines serve pass the checkpoint gate, and a fault planted in each is found.

Each layout is rebuilt small, with the names, dtypes and shapes of a published model and of a checkpoint made of it. The
field cases are those of reports on ModelOpt and vLLM: S01a, S02, S03 and so on.
"""

import json
import struct

import pytest
from test_assess import save, scalar

from day0.checkpoint import assess
from day0.records.quantization import ModelOptConfiguration

HIDDEN, INNER, EXPERTS, VOCABULARY = 128, 64, 2, 8
INDEX = "model.safetensors.index.json"


# ---- how a source stores a matrix


def bf16(module, shape):
    return {f"{module}.weight": ("BF16", shape, None)}


def in_blocks(module, shape, scale="weight_scale_inv", dtype="F32"):
    rows, columns = (-(-extent // 128) for extent in shape[-2:])
    weight = ("F8_E4M3", shape, None)
    return {f"{module}.weight": weight, f"{module}.{scale}": (dtype, (*shape[:-2], rows, columns), None)}


def in_ue8m0_blocks(module, shape):
    """As DeepSeek-V4 has its FP8."""
    return in_blocks(module, shape, "scale", "F8_E8M0")


def by_tensor(module, shape):
    """As Mistral has its FP8."""
    parts = {
        f"{module}.{part}": ("BF16", (), struct.pack("<H", 0x3F80)) for part in ("weight_scale_inv", "activation_scale")
    }
    return {f"{module}.weight": ("F8_E4M3", shape, None), **parts}


def by_row(module, shape):
    """As compressed-tensors has FP8, with dynamic activations."""
    weight = {f"{module}.weight": ("F8_E4M3", shape, None)}
    return {**weight, f"{module}.weight_scale": ("BF16", (shape[0], 1), None)}


def int4(module, shape):
    """As compressed-tensors packs INT4, Kimi-K2's experts among them."""
    out, inputs = shape
    return {
        f"{module}.weight_packed": ("I32", (out, inputs // 8), None),
        f"{module}.weight_scale": ("BF16", (out, inputs // 32), None),
        f"{module}.weight_shape": ("I32", (2,), struct.pack("<ii", out, inputs)),
    }


def packed_mxfp4(module, shape):
    """As compressed-tensors packs MXFP4."""
    out, inputs = shape
    weight = {f"{module}.weight_packed": ("U8", (out, inputs // 2), None)}
    return {**weight, f"{module}.weight_scale": ("U8", (out, inputs // 32), None)}


def fp4_of_deepseek(module, shape):
    """As DeepSeek-V4 has its experts."""
    out, inputs = shape
    weight = {f"{module}.weight": ("I8", (out, inputs // 2), None)}
    return {**weight, f"{module}.scale": ("F8_E8M0", (out, inputs // 32), None)}


# ---- what becomes of it


def nvfp4(module, shape):
    out, inputs = shape
    return {
        f"{module}.weight": ("U8", (out, inputs // 2), None),
        f"{module}.weight_scale": ("F8_E4M3", (out, inputs // 16), None),
        f"{module}.weight_scale_2": scalar(0.5),
        f"{module}.input_scale": scalar(0.5),
    }


def w4a16_nvfp4(module, shape):
    return {name: tensor for name, tensor in nvfp4(module, shape).items() if not name.endswith("input_scale")}


def fp8(module, shape):
    scales = {f"{module}.{part}": scalar(0.5) for part in ("weight_scale", "input_scale")}
    return {f"{module}.weight": ("F8_E4M3", shape, None), **scales}


def fp8_pb_wo(module, shape):
    rows, columns = (-(-extent // 128) for extent in shape)
    weight = {f"{module}.weight": ("F8_E4M3", shape, None)}
    scales = struct.pack("<f", 0.5) * (rows * columns)
    return {**weight, f"{module}.weight_scale": ("F32", (rows, 1, columns, 1), scales)}


ALGORITHM = {bf16: None, nvfp4: "NVFP4", w4a16_nvfp4: "W4A16_NVFP4", fp8: "FP8", fp8_pb_wo: "FP8_PB_WO"}
E2M1 = {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}
E4M3 = {"num_bits": [4, 3]}
BLOCKS = {"num_bits": [4, 3], "block_sizes": {"-1": 128, "-2": 128}}
OFF = [{"quantizer_name": "*", "enable": False}]


def quantized(where, cfg, inputs=None):
    """Patterns that quantize the modules of a wildcard, their inputs in the same format unless it is another."""
    patterns = [{"quantizer_name": f"{where}weight_quantizer", "cfg": cfg, "enable": True}]
    if inputs is not False:
        patterns.append({"quantizer_name": f"{where}input_quantizer", "cfg": inputs or cfg, "enable": True})
    return patterns


def off(*where):
    return [{"quantizer_name": pattern, "enable": False} for pattern in where]


EXCEPTIONS = off(
    "*lm_head*", "*mlp.gate.*", "*router*", "*block_sparse_moe.gate.*", "*mixer.gate.*", "*shared_expert_gate*"
)
ALL_NVFP4 = [*OFF, *quantized("*", E2M1), *EXCEPTIONS]
EXPERTS_NVFP4 = [*OFF, *quantized("*experts*", E2M1)]


class Layout:
    """A source and its checkpoint: a layout adds tensors to both, a fault changes the checkpoint."""

    def __init__(self, patterns, **config):
        self.patterns, self.config = patterns, {"num_hidden_layers": 2, "tie_word_embeddings": False, **config}
        self.source, self.output, self.algorithms, self.excluded = {}, {}, {}, []
        self.in_source, self.in_output = {}, {}  # further files
        self.kv_cache, self.is_mixed, self.is_sharded = None, False, False
        self.unindexed = []
        self.others("model.embed_tokens.weight", shape=(VOCABULARY, HIDDEN))
        self.add("lm_head", (VOCABULARY, HIDDEN))
        self.others("model.norm.weight")

    def others(self, *names, shape=(HIDDEN,), dtype="BF16"):
        """Add tensors that are no linear layer's."""
        for side in (self.source, self.output):
            side.update({name: (dtype, shape, None) for name in names})

    def add(self, module, shape, stored=bf16, becomes=bf16):
        """Add a linear layer."""
        self.source.update(stored(module, shape))
        self.output.update(becomes(module, shape))
        self.algorithms[module] = ALGORITHM[becomes]
        if becomes is bf16:
            self.excluded.append(module)

    def attention(self, layer, stored=bf16, becomes=bf16, place="model.layers"):
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add(f"{place}.{layer}.self_attn.{leaf}", (HIDDEN, HIDDEN), stored, becomes)
        self.others(f"{place}.{layer}.input_layernorm.weight")

    def mlp(self, module, stored=bf16, becomes=bf16, leaves=("gate_proj", "up_proj", "down_proj"), inner=INNER):
        for leaf in leaves:
            shape = (HIDDEN, inner) if leaf in ("down_proj", "w2") else (inner, HIDDEN)
            self.add(f"{module}.{leaf}", shape, stored, becomes)

    def experts(self, block, stored=bf16, becomes=bf16, router="gate", **options):
        """Add a router and experts, each with its own matrices on both sides."""
        self.add(f"{block}.{router}", (EXPERTS, HIDDEN))
        for number in range(EXPERTS):
            self.mlp(f"{block}.experts.{number}", stored, becomes, **options)

    def fused_experts(self, block, becomes=nvfp4, is_transposed=False):
        """Add experts that the source has as one tensor, and the checkpoint each for itself."""
        for leaf, shape in (("gate_up_proj", (2 * INNER, HIDDEN)), ("down_proj", (HIDDEN, INNER))):
            shape = shape[::-1] if is_transposed else shape
            self.source[f"{block}.experts.{leaf}"] = ("BF16", (EXPERTS, *shape), None)
        self.add(f"{block}.gate", (EXPERTS, HIDDEN))
        before = dict(self.source)
        for number in range(EXPERTS):
            self.mlp(f"{block}.experts.{number}", becomes=becomes)
        self.source = before

    def declarations(self):
        """What hf_quant_config.json and config.json declare."""
        named = {module: algorithm for module, algorithm in self.algorithms.items() if algorithm}
        names = set(named.values())
        if self.is_mixed or len(names) > 1:
            sizes = {"NVFP4": 16, "W4A16_NVFP4": 16}
            layers = {
                module: {"quant_algo": algorithm, **({"group_size": sizes[algorithm]} if algorithm in sizes else {})}
                for module, algorithm in named.items()
            }
            first = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
            return first, {**first, "ignore": []}
        (algorithm,) = names
        first = {"quant_algo": algorithm, "exclude_modules": sorted(self.excluded)}
        if "NVFP4" in algorithm:
            first["group_size"] = 16
        return first, {"quant_algo": algorithm, "ignore": sorted(self.excluded)}

    def write(self, folder):
        first, second = self.declarations()
        if self.kv_cache:
            first["kv_cache_quant_algo"] = "FP8"
            second["kv_cache_scheme"] = {"num_bits": 8, "type": "float", "dynamic": False}
        for side, tensors, more in (("source", self.source, self.in_source), ("output", self.output, self.in_output)):
            (folder / side).mkdir()
            inner = {"quantization_config": {**second, "quant_method": "modelopt"}} if side == "output" else {}
            (folder / side / "config.json").write_text(json.dumps(self.config | inner))
            (folder / side / "tokenizer.json").write_text("{}")
            for name, content in more.items():
                save(folder / side / name, content)
            if not self.is_sharded:
                save(folder / side / "model.safetensors", tensors)
                continue
            names, weight_map = list(tensors), {}
            for number in (1, 2):
                file, part = f"model-0000{number}-of-00002.safetensors", names[number - 1 :: 2]
                save(folder / side / file, {name: tensors[name] for name in part})
                weight_map.update(dict.fromkeys(part, file))
            for name in self.unindexed if side == "output" else ():
                del weight_map[name]
            (folder / side / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (folder / "output" / "hf_quant_config.json").write_text(json.dumps({"quantization": first}))

    def assess(self, folder):
        self.write(folder)
        configuration = ModelOptConfiguration(quantize={"quant_cfg": self.patterns}) if self.patterns else None
        return assess.assess_checkpoint(
            folder / "output", folder / "source", recipe="r", engine="vllm", configuration=configuration
        ).as_plain()


# ---- the layouts

LAYOUTS = {}


def layout(function):
    LAYOUTS[function.__name__] = function
    return function


def mtp_behind_the_last(one, stored=bf16):
    """DeepSeek's and GLM's layer of multi-token prediction, which is numbered on from the last and stays in BF16."""
    place = "model.layers.2"
    one.config["num_nextn_predict_layers"] = 1
    one.others(f"{place}.enorm.weight", f"{place}.hnorm.weight", f"{place}.shared_head.norm.weight")
    one.add(f"{place}.eh_proj", (HIDDEN, 2 * HIDDEN))
    one.add(f"{place}.shared_head.head", (VOCABULARY, HIDDEN))
    one.attention(2, stored)
    one.experts(f"{place}.mlp", stored)


def deepseek(stored, patterns, attention=bf16, experts=nvfp4, mtp=None):
    one = Layout(patterns, model_type="deepseek_v3")
    for layer in range(2):
        one.attention(layer, stored, attention)
        one.experts(f"model.layers.{layer}.mlp", stored, experts)
        one.mlp(f"model.layers.{layer}.mlp.shared_experts", stored, experts)
        one.others(f"model.layers.{layer}.mlp.gate.e_score_correction_bias", shape=(EXPERTS,), dtype="F32")
    if mtp is not None:
        mtp_behind_the_last(one, mtp)
    return one


@layout
def deepseek_v3_from_fp8_with_attention_dequantized():
    """S09a: ModelOpt's deepseek_v3 example; the source's FP8 attention becomes BF16, wider than it was."""
    return deepseek(in_blocks, EXPERTS_NVFP4, mtp=in_blocks)


@layout
def deepseek_v3_of_the_example_script():
    """S01a: its index has none of the new scales."""
    one = deepseek(in_blocks, EXPERTS_NVFP4)
    one.is_sharded = True
    one.unindexed = [name for name in one.output if name.endswith(("_scale", "_scale_2"))]
    return one


@layout
def deepseek_v3_with_mtp_in_bf16():
    """S09b, S12: a wide pattern matches the MTP layer by its name; transformers does not load it."""
    return deepseek(bf16, ALL_NVFP4, nvfp4, nvfp4, bf16)


@layout
def deepseek_v3_from_fp8_to_blocks_of_modelopt():
    """As many bits as before."""
    one = Layout([*OFF, *quantized("*", BLOCKS, False), *EXCEPTIONS])
    for layer in range(2):
        one.attention(layer, in_blocks, fp8_pb_wo)
        one.experts(f"model.layers.{layer}.mlp", in_blocks, fp8_pb_wo, inner=128)
    return one


@layout
def glm_from_fp8_of_compressed_tensors():
    return deepseek(by_row, ALL_NVFP4, nvfp4, nvfp4, by_row)


@layout
def minimax_from_fp8():
    one = Layout(ALL_NVFP4, model_type="minimax_m2")
    for layer in range(2):
        one.attention(layer, in_blocks, nvfp4)
        one.experts(f"model.layers.{layer}.block_sparse_moe", in_blocks, nvfp4, leaves=("w1", "w2", "w3"))
        one.others(f"model.layers.{layer}.block_sparse_moe.e_score_correction_bias", shape=(EXPERTS,))
    return one


def gpt_oss(patterns, is_mxfp4=True, to_fp8=False):
    one = Layout(patterns, model_type="gpt_oss")
    for layer in range(2):
        one.attention(layer)
        one.others(f"model.layers.{layer}.self_attn.sinks", shape=(2,))
        block = f"model.layers.{layer}.mlp"
        one.add(f"{block}.router", (EXPERTS, HIDDEN))
        one.others(f"{block}.router.bias", shape=(EXPERTS,))
        for leaf, out, inputs in (("gate_up_proj", 2 * INNER, HIDDEN), ("down_proj", HIDDEN, INNER)):
            name = f"{block}.experts.{leaf}"
            one.others(f"{name}_bias", shape=(EXPERTS, out))
            if is_mxfp4:
                one.source[f"{name}_blocks"] = ("U8", (EXPERTS, out, inputs // 32, 16), None)
                one.source[f"{name}_scales"] = ("U8", (EXPERTS, out, inputs // 32), None)
            else:
                one.source[name] = ("BF16", (EXPERTS, inputs, out), None)
            if to_fp8:
                one.output[name] = ("F8_E4M3", (EXPERTS, inputs, out), None)
            else:
                one.output[name] = ("U8", (EXPERTS, inputs // 2, out), None)
                one.output[f"{name}_weight_scale"] = ("F8_E4M3", (EXPERTS, inputs // 16, out), None)
            for part in ("weight_scale", "input_scale") if to_fp8 else ("weight_scale_2", "input_scale"):
                one.output[f"{name}_{part}"] = scalar(0.5)
            one.algorithms[name] = "FP8" if to_fp8 else "NVFP4"
    return one


@layout
def gpt_oss_from_mxfp4():
    """S03: 4.5 bits in place of 4.25, transposed."""
    return gpt_oss(EXPERTS_NVFP4)


@layout
def gpt_oss_from_mxfp4_to_fp8():
    """Almost twice as large as the source."""
    return gpt_oss([*OFF, *quantized("*experts*", E4M3)], to_fp8=True)


@layout
def gpt_oss_from_bf16():
    return gpt_oss(EXPERTS_NVFP4, is_mxfp4=False)


def kimi(place, stored, **config):
    one = Layout(EXPERTS_NVFP4, **config)
    for layer in range(2):
        one.attention(layer, place=f"{place}.layers")
        one.experts(f"{place}.layers.{layer}.mlp", stored, nvfp4)
    return one


@layout
def kimi_k2_from_int4():
    return kimi("model", int4, model_type="kimi_k2")


@layout
def kimi_k25_with_vision():
    one = kimi("language_model.model", int4, model_type="kimi_k25")
    one.add("vision_tower.encoder.blocks.7.wqkv", (3 * HIDDEN, HIDDEN))
    one.add("mm_projector.proj.0", (HIDDEN, HIDDEN))
    return one


@layout
def experts_from_mxfp4_of_compressed_tensors():
    return kimi("model", packed_mxfp4)


def dense(stored=bf16, becomes=nvfp4, patterns=ALL_NVFP4, place="model", **config):
    one = Layout(patterns, **config)
    for layer in range(2):
        one.attention(layer, stored, becomes, f"{place}.layers")
        one.mlp(f"{place}.layers.{layer}.mlp", stored, becomes)
    return one


def consolidated(one):
    """Mistral's own format: the same weights under other names."""
    names = {"self_attn": "attention", "q_proj": "wq", "mlp": "feed_forward"}
    tensors = {}
    for name, tensor in one.source.items():
        for old, new in names.items():
            name = name.replace(old, new)
        tensors[name.removeprefix("model.")] = tensor
    return tensors


@layout
def mistral_with_consolidated_weights_and_no_index():
    one = dense(by_tensor, model_type="ministral3")
    one.in_source["consolidated.safetensors"] = consolidated(one)
    return one


@layout
def mistral_with_consolidated_weights_and_an_index():
    one = dense(model_type="mistral")
    one.is_sharded = True
    one.in_source["consolidated.safetensors"] = consolidated(one)
    return one


@layout
def mistral3_with_vision():
    one = dense(place="language_model.model", model_type="mistral3")
    one.patterns = [*ALL_NVFP4, *off("*vision_tower*", "*multi_modal_projector*")]
    one.add("vision_tower.transformer.layers.5.attention.q_proj", (HIDDEN, HIDDEN))
    one.add("multi_modal_projector.linear_1", (HIDDEN, HIDDEN))
    return one


def linear_attention(one, place, becomes):
    one.add(f"{place}.in_proj_qkvz", (2 * HIDDEN, HIDDEN), becomes=becomes)
    one.add(f"{place}.in_proj_ba", (16, HIDDEN), becomes=bf16)
    one.add(f"{place}.out_proj", (HIDDEN, HIDDEN), becomes=becomes)
    one.others(f"{place}.conv1d.weight", shape=(HIDDEN, 1, 4))
    one.others(f"{place}.A_log", f"{place}.dt_bias", f"{place}.norm.weight", shape=(2,))


@layout
def qwen3_next():
    """S04."""
    one = Layout([*ALL_NVFP4, *off("*in_proj_ba*")], model_type="qwen3_next")
    linear_attention(one, "model.layers.0.linear_attn", nvfp4)
    one.attention(1, becomes=nvfp4)
    for layer in range(2):
        one.experts(f"model.layers.{layer}.mlp", becomes=nvfp4)
        one.mlp(f"model.layers.{layer}.mlp.shared_expert", becomes=nvfp4)
        one.add(f"model.layers.{layer}.mlp.shared_expert_gate", (1, HIDDEN))
    one.add("mtp.fc", (HIDDEN, 2 * HIDDEN))
    one.attention(0, place="mtp.layers")
    one.experts("mtp.layers.0.mlp")
    one.others("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight")
    return one


@layout
def qwen3_5_moe_with_fused_experts():
    """S08: apart in the checkpoint; those of the MTP layer stay fused and BF16."""
    one = Layout([*ALL_NVFP4, *off("*visual*")], model_type="qwen3_5_moe")
    for layer in range(2):
        place = f"model.language_model.layers.{layer}"
        one.attention(layer, becomes=nvfp4, place="model.language_model.layers")
        one.fused_experts(f"{place}.mlp")
    one.add("model.visual.blocks.0.attn.qkv", (3 * HIDDEN, HIDDEN))
    one.add("mtp.fc", (HIDDEN, 2 * HIDDEN))
    one.others("mtp.layers.0.mlp.experts.gate_up_proj", shape=(EXPERTS, 2 * INNER, HIDDEN))
    one.others("mtp.layers.0.mlp.experts.down_proj", shape=(EXPERTS, HIDDEN, INNER))
    one.excluded.append("mtp*")
    return one


@layout
def qwen3_5_moe_in_shards():
    """S11."""
    one = qwen3_5_moe_with_fused_experts()
    one.is_sharded = True
    return one


@layout
def qwen3_vl_moe_with_transposed_experts():
    one = Layout(EXPERTS_NVFP4, model_type="qwen3_vl_moe")
    for layer in range(2):
        one.attention(layer, place="model.language_model.layers")
        one.fused_experts(f"model.language_model.layers.{layer}.mlp", is_transposed=True)
    return one


def nemotron_h(**config):
    patterns = [*OFF, *quantized("*", E4M3), *quantized("*experts*", E2M1, False)]
    patterns = [*patterns, *off("*experts*input_quantizer", "*mixer.gate.*", "*embed*")]
    patterns.append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": E4M3, "enable": True})
    one = Layout(patterns, model_type="nemotron_h", num_hidden_layers=3, **config)
    one.add("lm_head", (VOCABULARY, HIDDEN), becomes=fp8)
    one.add("backbone.layers.0.mixer.in_proj", (3 * HIDDEN, HIDDEN), becomes=fp8)
    one.add("backbone.layers.0.mixer.out_proj", (HIDDEN, HIDDEN), becomes=fp8)
    one.others("backbone.layers.0.mixer.conv1d.weight", shape=(HIDDEN, 1, 4))
    one.others(*(f"backbone.layers.0.mixer.{leaf}" for leaf in ("A_log", "D", "dt_bias")), shape=(2,))
    for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
        one.add(f"backbone.layers.1.mixer.{leaf}", (HIDDEN, HIDDEN), becomes=fp8)
    one.experts("backbone.layers.2.mixer", becomes=w4a16_nvfp4, leaves=("up_proj", "down_proj"))
    one.others("backbone.layers.2.mixer.gate.e_score_correction_bias", shape=(EXPERTS,), dtype="F32")
    one.kv_cache = "FP8"
    for part in ("k", "v"):
        one.output[f"backbone.layers.1.mixer.{part}_proj.{part}_scale"] = scalar(0.5)
    return one


@layout
def nemotron_h_in_two_precisions():
    """S05."""
    return nemotron_h()


@layout
def experts_in_blocks_of_fp8_and_the_rest_in_nvfp4():
    """S02b: vLLM takes FP8_PB_WO for experts of mixed precision."""
    patterns = [*OFF, *quantized("*", E2M1), *quantized("*experts*", BLOCKS), *off("*experts*input_quantizer")]
    one = Layout([*patterns, *EXCEPTIONS])
    for layer in range(2):
        one.attention(layer, becomes=nvfp4)
        one.experts(f"model.layers.{layer}.mlp", becomes=fp8_pb_wo, inner=128)
    return one


@layout
def input_scales_pinned_to_one():
    """S13."""
    one = dense()
    one.output.update({name: scalar(1.0) for name in one.output if name.endswith("input_scale")})
    return one


@layout
def llama_with_an_index_that_lacks_scales():
    one = dense(becomes=fp8, patterns=[*OFF, *quantized("*", E4M3), *EXCEPTIONS])
    one.is_sharded = True
    one.unindexed = [name for name in one.output if name.endswith("input_scale")]
    return one


@layout
def llama_from_fp8_by_row():
    return dense(by_row)


@layout
def llama_without_a_recipe_from_fp8():
    return dense(by_row, patterns=None)


@layout
def experts_apart_in_the_source_and_fused_in_the_checkpoint():
    one = gpt_oss(EXPERTS_NVFP4)
    for name in [name for name in one.source if ".experts." in name]:
        if not name.endswith("bias"):
            del one.source[name]
    for layer in range(2):
        for number in range(EXPERTS):
            block = f"model.layers.{layer}.mlp.experts.{number}"
            one.source.update(
                {k: v for leaf in ("gate_proj", "up_proj") for k, v in bf16(f"{block}.{leaf}", (INNER, HIDDEN)).items()}
            )
            one.source.update(bf16(f"{block}.down_proj", (HIDDEN, INNER)))
    return one


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_that_engines_serve_passes(tmp_path, name):
    one = LAYOUTS[name]()
    assessment = one.assess(tmp_path)
    assert assessment["pass"], assessment["detail"]
    size = next(check for check in assessment["checks"] if check["name"] == "size")
    assert size["expected_bytes"] == assessment["output_bytes"]
    held = sum(algorithm is not None for algorithm in one.algorithms.values())
    assert sum(family["quantized"] for family in assessment["families"].values()) == held
