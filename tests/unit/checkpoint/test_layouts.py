"""Layouts that publishers use and engines serve pass the checkpoint gate, and a fault planted in each is found.

Each layout is rebuilt small, with the names, dtypes and shapes of a published model and of a checkpoint made of it. The
field cases are those of reports on ModelOpt and vLLM: S01a, S02, S03 and so on.
"""

import functools
import json
import math
import struct
import zlib

import numpy
import pytest
from test_assess import save, scalar

from day0.checkpoint import assess
from day0.records.quantization import ModelOptConfiguration

INPUT_SCALE = 0.01
HIDDEN, INNER, EXPERTS, VOCABULARY = 128, 32, 2, 8
INDEX = "model.safetensors.index.json"


# ---- numbers that every format here holds exactly: E2M1's times a power of two for each 32 of a row

EXPONENT = 6
E2M1_VALUES = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
WHOLE = numpy.array([0, 1, 2, 3, 4, 6], numpy.float32)
E4M3_OF = {0.0: 0} | {(1 + m / 8) * 2.0 ** (e - 7): e << 3 | m for e in range(1, 15) for m in range(8)}
E4M3_VALUES, E4M3_CODES = numpy.array(list(E4M3_OF)), numpy.array(list(E4M3_OF.values()))


@functools.cache
def numbers(name, shape):
    """Values of a weight, [..., out, in], and the exponents of two that each 32 of a row share."""
    chance = numpy.random.default_rng(zlib.crc32(name.encode()))
    codes = chance.choice(WHOLE, shape) * chance.choice([-1, 1], shape)
    exponents = chance.integers(0, 2, (*shape[:-1], -(-shape[-1] // 32)))
    return codes * 2.0 ** -(EXPONENT + numpy.repeat(exponents, 32, -1)[..., : shape[-1]]), exponents


def values_of(module, shape):
    return numbers(module, shape)[0]


def as_bf16(values):
    return (numpy.ascontiguousarray(values, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


def as_e4m3(values):
    """Values times 2 ** EXPONENT as E4M3, to be scaled by 2 ** -EXPONENT."""
    scaled = values * 2.0**EXPONENT
    codes = E4M3_CODES[numpy.searchsorted(E4M3_VALUES, numpy.abs(scaled))]
    return (codes | numpy.where(scaled < 0, 0x80, 0)).astype(numpy.uint8).tobytes()


def as_e2m1(values, exponents):
    """Values as E2M1, the first of two in the low bits of a byte."""
    scaled = values * 2.0 ** (EXPONENT + numpy.repeat(exponents, 32, -1)[..., : values.shape[-1]])
    codes = numpy.searchsorted(E2M1_VALUES, numpy.abs(scaled)) | numpy.where(scaled < 0, 8, 0)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(numpy.uint8)


def filled(dtype, shape, value):
    """A tensor of one value throughout."""
    raw = {
        "F32": struct.pack("<f", value),
        "BF16": struct.pack("<f", value)[2:],
        "F8_E8M0": bytes([round(math.log2(value)) + 127]),
    }
    return (dtype, shape, raw[dtype] * math.prod(shape))


SCALE = 2.0**-EXPONENT

# ---- how a source stores a matrix


def bf16(module, shape):
    return {f"{module}.weight": ("BF16", shape, as_bf16(values_of(module, shape)))}


def in_blocks(module, shape, scale="weight_scale_inv", dtype="F32"):
    blocks = tuple(-(-extent // 128) for extent in shape)
    return {**e4m3(module, shape), f"{module}.{scale}": filled(dtype, blocks, SCALE)}


def e4m3(module, shape):
    return {f"{module}.weight": ("F8_E4M3", shape, as_e4m3(values_of(module, shape)))}


def in_ue8m0_blocks(module, shape):
    """As DeepSeek-V4 has its FP8."""
    return in_blocks(module, shape, "scale", "F8_E8M0")


def by_tensor(module, shape):
    """As Mistral has its FP8."""
    parts = {f"{module}.{part}": filled("BF16", (), SCALE) for part in ("weight_scale_inv", "activation_scale")}
    return {**e4m3(module, shape), **parts}


def by_row(module, shape):
    """As compressed-tensors has FP8, with dynamic activations."""
    return {**e4m3(module, shape), f"{module}.weight_scale": filled("BF16", (shape[0], 1), SCALE)}


def int4(module, shape):
    """As compressed-tensors packs INT4, Kimi-K2's experts among them."""
    (out, inputs), (values, exponents) = shape, numbers(module, shape)
    codes = (values * 2.0 ** (EXPONENT + numpy.repeat(exponents, 32, -1)) + 8).astype("<u4").reshape(out, -1, 8)
    packed = (codes << numpy.arange(0, 32, 4, dtype="<u4")).sum(-1, dtype="<u4")
    return {
        f"{module}.weight_packed": ("I32", (out, inputs // 8), packed.tobytes()),
        f"{module}.weight_scale": ("BF16", (out, inputs // 32), as_bf16(2.0 ** -(EXPONENT + exponents.astype(float)))),
        f"{module}.weight_shape": ("I32", (2,), struct.pack("<ii", out, inputs)),
    }


def mxfp4(module, shape):
    """Codes and scales of MXFP4."""
    values, exponents = numbers(module, shape)
    return as_e2m1(values, exponents).tobytes(), (127 - EXPONENT - exponents).astype(numpy.uint8).tobytes()


def packed_mxfp4(module, shape):
    """As compressed-tensors packs MXFP4."""
    (out, inputs), (codes, scales) = shape, mxfp4(module, shape)
    weight = {f"{module}.weight_packed": ("U8", (out, inputs // 2), codes)}
    return {**weight, f"{module}.weight_scale": ("U8", (out, inputs // 32), scales)}


def fp4_of_deepseek(module, shape):
    """As DeepSeek-V4 has its experts."""
    (out, inputs), (codes, scales) = shape, mxfp4(module, shape)
    weight = {f"{module}.weight": ("I8", (out, inputs // 2), codes)}
    return {**weight, f"{module}.scale": ("F8_E8M0", (out, inputs // 32), scales)}


# ---- what becomes of it


def nvfp4_parts(module, shape):
    """Codes [..., out, in / 2] and scales [..., out, in / 16] of NVFP4, as bytes."""
    values, exponents = numbers(module, shape)
    scales = numpy.repeat(numpy.where(exponents == 0, E4M3_OF[1.0], E4M3_OF[0.5]), 2, -1).astype(numpy.uint8)
    return as_e2m1(values, exponents), scales


def nvfp4(module, shape):
    (out, inputs), (codes, scales) = shape, nvfp4_parts(module, shape)
    return {
        f"{module}.weight": ("U8", (out, inputs // 2), codes.tobytes()),
        f"{module}.weight_scale": ("F8_E4M3", (out, inputs // 16), scales.tobytes()),
        f"{module}.weight_scale_2": scalar(SCALE),
        f"{module}.input_scale": scalar(INPUT_SCALE),
    }


def w4a16_nvfp4(module, shape):
    return {name: tensor for name, tensor in nvfp4(module, shape).items() if not name.endswith("input_scale")}


def fp8(module, shape):
    return {
        **e4m3(module, shape),
        f"{module}.weight_scale": scalar(SCALE),
        f"{module}.input_scale": scalar(INPUT_SCALE),
    }


def fp8_pb_wo(module, shape):
    rows, columns = (-(-extent // 128) for extent in shape)
    return {**e4m3(module, shape), f"{module}.weight_scale": filled("F32", (rows, 1, columns, 1), SCALE)}


ALGORITHM = {
    bf16: None,
    in_blocks: None,
    in_ue8m0_blocks: None,
    nvfp4: "NVFP4",
    w4a16_nvfp4: "W4A16_NVFP4",
    fp8: "FP8",
    fp8_pb_wo: "FP8_PB_WO",
}
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
        self.kv_cache, self.is_mixed, self.is_sharded, self.spelled = None, False, False, {}
        self.unindexed, self.ghosts, self.declared_in_config = [], [], None
        self.is_declared_in_config, self.config_of_output = True, {}
        self.others("model.embed_tokens.weight", shape=(VOCABULARY, HIDDEN))
        self.add("lm_head", (VOCABULARY, HIDDEN))
        self.others("model.norm.weight")

    def others(self, *names, shape=(HIDDEN,), dtype="BF16"):
        """Add tensors that are no linear layer's."""
        for name in names:
            values = values_of(name, shape)
            raw = as_bf16(values) if dtype == "BF16" else values.astype("<f4").tobytes()
            self.source[name] = self.output[name] = (dtype, shape, raw)

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
        shapes = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
        for fused, leaves in {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.items():
            each = [
                numpy.concatenate([values_of(f"{block}.experts.{number}.{leaf}", shapes[leaf]) for leaf in leaves])
                for number in range(EXPERTS)
            ]
            values = numpy.stack([one.T if is_transposed else one for one in each])
            self.source[f"{block}.experts.{fused}"] = ("BF16", values.shape, as_bf16(values))
        self.add(f"{block}.gate", (EXPERTS, HIDDEN))
        before = dict(self.source)
        for number in range(EXPERTS):
            self.mlp(f"{block}.experts.{number}", becomes=becomes)
        self.source = before

    def declarations(self):
        """What hf_quant_config.json and config.json declare."""
        named = {m: self.spelled.get(algorithm, algorithm) for m, algorithm in self.algorithms.items() if algorithm}
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
            declared = self.declared_in_config or {**second, "quant_method": "modelopt"}
            inner = {"quantization_config": declared} if self.is_declared_in_config else {}
            inner = inner | self.config_of_output if side == "output" else {}
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
            weight_map.update(dict.fromkeys(self.ghosts if side == "output" else (), file))
            (folder / side / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (folder / "output" / "hf_quant_config.json").write_text(
            json.dumps(
                {
                    "producer": {"name": "modelopt", "version": "0.47.0"},
                    "quantization": {"kv_cache_quant_algo": None, **first},
                }
            )
        )

    def assess(self, folder):
        self.write(folder)
        configuration = ModelOptConfiguration(quantize={"quant_cfg": self.patterns}) if self.patterns else None
        return assess.assess_checkpoint(
            folder / "output", folder / "source", recipe="r", engine="vllm", configuration=configuration
        ).as_plain()


# ---- the layouts

LAYOUTS = {}
# The source has these experts apart, the checkpoint fused: their values are not compared.
ENDS = ("", "_scale", "_scale_inv", "_weight_scale")
NOT_COMPARED = {"experts_apart_in_the_source_and_fused_in_the_checkpoint"}


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
            shape = (EXPERTS, out, inputs)
            turned = numpy.swapaxes(values_of(name, shape), 1, 2)
            if is_mxfp4:
                codes, scales = mxfp4(name, shape)
                one.source[f"{name}_blocks"] = ("U8", (EXPERTS, out, inputs // 32, 16), codes)
                one.source[f"{name}_scales"] = ("U8", (EXPERTS, out, inputs // 32), scales)
            else:
                one.source[name] = ("BF16", turned.shape, as_bf16(turned))
            if to_fp8:
                one.output[name] = ("F8_E4M3", turned.shape, as_e4m3(turned))
            else:
                codes, scales = (numpy.swapaxes(part, 1, 2) for part in nvfp4_parts(name, shape))
                one.output[name] = ("U8", codes.shape, codes.tobytes())
                one.output[f"{name}_weight_scale"] = ("F8_E4M3", scales.shape, scales.tobytes())
            for part in ("weight_scale", "input_scale") if to_fp8 else ("weight_scale_2", "input_scale"):
                one.output[f"{name}_{part}"] = scalar(SCALE if part.startswith("weight") else INPUT_SCALE)
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


@layout
def gpt_oss_with_experts_apart():
    """As llm-compressor parts them: gate and up alternate in the source's rows."""
    one = gpt_oss(EXPERTS_NVFP4)
    for block in (f"model.layers.{layer}.mlp.experts" for layer in range(2)):
        for name in [name for name in one.output if name.startswith(block)]:
            del one.output[name]
            one.algorithms.pop(name, None)
        for leaf, fused, rows in (
            ("gate_proj", "gate_up_proj", slice(0, None, 2)),
            ("up_proj", "gate_up_proj", slice(1, None, 2)),
            ("down_proj", "down_proj", slice(None)),
        ):
            inputs = INNER if leaf == "down_proj" else HIDDEN
            shape = (EXPERTS, HIDDEN if leaf == "down_proj" else 2 * INNER, inputs)
            for number in range(EXPERTS):
                codes, scales = (part[number][rows] for part in nvfp4_parts(f"{block}.{fused}", shape))
                module = f"{block}.{number}.{leaf}"
                one.output |= nvfp4(module, (codes.shape[0], inputs))
                one.output[f"{module}.weight"] = ("U8", codes.shape, codes.tobytes())
                one.output[f"{module}.weight_scale"] = ("F8_E4M3", scales.shape, scales.tobytes())
                one.output[f"{module}.bias"] = ("BF16", (codes.shape[0],), None)
                one.algorithms[module] = "NVFP4"
    return one


@layout
def deepseek_v4_with_attention_kept_in_fp8():
    """S09c: vLLM's loader of DeepSeek-V4 takes the source's FP8 for all but the experts."""
    one = Layout(EXPERTS_NVFP4, model_type="deepseek_v4", expert_dtype="fp4")
    for place in ("layers.0", "layers.1", "mtp.0"):
        for leaf in ("wq_a", "wq_b", "wkv", "wo_a", "wo_b"):
            one.add(f"{place}.attn.{leaf}", (HIDDEN, HIDDEN), in_ue8m0_blocks, in_ue8m0_blocks)
        one.others(f"{place}.attn_norm.weight", f"{place}.hc_attn_base")
        one.experts(f"{place}.ffn", fp4_of_deepseek, nvfp4, leaves=("w1", "w2", "w3"))
        one.mlp(f"{place}.ffn.shared_experts", in_ue8m0_blocks, in_ue8m0_blocks, leaves=("w1", "w2", "w3"))
    one.add("mtp.0.e_proj", (HIDDEN, HIDDEN), in_ue8m0_blocks, in_ue8m0_blocks)
    one.patterns = [*EXPERTS_NVFP4, *off("*shared_experts*")]
    one.is_mixed = True
    one.declared_in_config = {"quant_method": "fp8", "weight_block_size": [128, 128], "moe_quant_algo": "NVFP4"}
    return one


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
    """S02b: vLLM takes FP8_PB_WO for experts of mixed precision, whose scales it looks for as weight_scale_inv."""
    patterns = [*OFF, *quantized("*", E2M1), *quantized("*expert*", BLOCKS), *off("*expert*input_quantizer")]
    one = Layout([*patterns, *EXCEPTIONS])
    for layer in range(2):
        one.attention(layer, becomes=nvfp4)
        one.experts(f"model.layers.{layer}.mlp", becomes=in_blocks, inner=128)
        one.mlp(f"model.layers.{layer}.mlp.shared_expert", becomes=fp8_pb_wo, inner=128)
    one.algorithms |= {module: "FP8_PB_WO" for module in one.algorithms if ".experts." in module}
    return one


@layout
def experts_in_blocks_of_fp8_by_its_older_name():
    """S02: nvidia/Qwen3.8-Flash-Next-NVFP4, whose experts are those of the source in FP8, as FP8_BLOCK_SCALES."""
    one = Layout([*OFF, *quantized("*self_attn*", E2M1), *quantized("*experts*", BLOCKS, False)])
    for layer in range(2):
        one.attention(layer, in_blocks, nvfp4)
        one.experts(f"model.layers.{layer}.mlp", in_blocks, in_blocks, inner=128)
    one.algorithms |= {module: "FP8_BLOCK_SCALES" for module in one.algorithms if ".experts." in module}
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
def declared_in_hf_quant_config_alone():
    """S01b, S07: nvidia/Qwen3-235B-A22B-NVFP4."""
    one = dense()
    one.is_declared_in_config = False
    return one


@layout
def layer_types_trimmed_by_the_exporter():
    """S16: the source lists more layers than it has."""
    one = dense(layer_types=["full_attention"] * 3)
    one.config_of_output = {"layer_types": ["full_attention"] * 2}
    return one


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
    values = next(check for check in assessment["checks"] if check["name"] == "values")
    assert name in NOT_COMPARED or values["compared"] >= held
    assert all(errors["largest"] == 0 for errors in values["errors"].values())


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in NOT_COMPARED])
def test_exchanged_weights_are_found_in_every_layout(tmp_path, name):
    one = LAYOUTS[name]()
    forms = {}
    for module in (module for module, algorithm in one.algorithms.items() if algorithm):
        weight = module if module in one.output else f"{module}.weight"
        scales = tuple(end for end in ENDS if weight + end in one.output)
        forms.setdefault((one.output[weight][:2], scales), []).append(weight)
    first, *_, last = max(forms.values(), key=len)
    for end in (end for end in ENDS if first + end in one.output):
        one.output[first + end], one.output[last + end] = one.output[last + end], one.output[first + end]
    assessment = one.assess(tmp_path)
    failed = {check["name"]: check for check in assessment["checks"] if not check["pass"]}
    assert failed.keys() == {"values"}
    assert {name.partition("[")[0] for name in failed["values"]["offenders"]} == {
        first.removesuffix(".weight"),
        last.removesuffix(".weight"),
    }


# ---- a fault in each of them


def drop(*names):
    def change(one):
        for name in names:
            del one.output[name]

    return change


def put(**tensors):
    return lambda one: one.output.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})


def stays(module, shape, stored=bf16):
    """Leave a layer as it was, and declare it so."""

    def change(one):
        for name in [name for name in one.output if name.startswith(f"{module}.")]:
            del one.output[name]
        one.output.update(stored(module, shape))
        one.algorithms[module] = None
        one.excluded.append(module)

    return change


def undeclared(module):
    return lambda one: one.excluded.remove(module)


def becomes(module, shape, form):
    """Quantize a layer that was to stay, and declare it so."""

    def change(one):
        one.output.update(form(module, shape))
        one.algorithms[module] = ALGORITHM[form]
        one.excluded = [name for name in one.excluded if name != module]

    return change


def reshaped(name, shape):
    def change(one):
        one.output[name] = (one.output[name][0], shape, None)

    return change


def as_f32(*names):
    def change(one):
        for name in names:
            _, shape, raw = one.output[name]
            wide = numpy.frombuffer(raw, "<u2").astype("<u4") << 16
            one.output[name] = ("F32", shape, wide.astype("<u4").tobytes())

    return change


def with_patterns(*patterns):
    return lambda one: one.patterns.extend(patterns)


def ghost_in_the_index(one):
    one.ghosts = ["model.layers.9.mlp.up_proj.weight"]


def weight_not_in_the_index(one):
    one.unindexed = [*one.unindexed, "model.layers.0.self_attn.o_proj.weight"]


def consolidated_in_the_checkpoint(one):
    one.in_output = one.in_source


Q, OUT, FIRST = (
    f"model.layers.0.{leaf}" for leaf in ("self_attn.q_proj", "self_attn.o_proj", "mlp.experts.0.gate_proj")
)
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
SQUARE, EXPERT = (HIDDEN, HIDDEN), (INNER, HIDDEN)
SHARED = "model.layers.0.mlp.shared_expert.up_proj"
FUSED = "model.language_model.layers.1.mlp.experts"
LEFT_BLOCKS = ("U8", (EXPERTS, 2 * INNER, HIDDEN // 32, 16), None)
V4 = "layers.1.ffn.experts.1.w2"

FAULTS = [
    (
        "deepseek_v3_from_fp8_with_attention_dequantized",
        "FP8 left",
        stays(Q, SQUARE, in_blocks),
        "format",
        "the source's own FP8",
    ),
    (
        "deepseek_v3_from_fp8_with_attention_dequantized",
        "scale left beside a dequantized weight",
        put(**{f"{Q}.weight_scale_inv": ("F32", (1, 1), None)}),
        "format",
        Q,
    ),
    (
        "deepseek_v3_from_fp8_with_attention_dequantized",
        "scale of the source left beside NVFP4",
        put(**{f"{FIRST}.weight_scale_inv": ("F32", (1, 1), None)}),
        "format",
        FIRST,
    ),
    (
        "deepseek_v3_from_fp8_with_attention_dequantized",
        "attention lost",
        drop(f"{Q}.weight"),
        "inventory",
        f"{Q}.weight",
    ),
    (
        "deepseek_v3_from_fp8_with_attention_dequantized",
        "attention in F32",
        as_f32(*(f"model.layers.{n}.self_attn.{leaf}_proj.weight" for n in range(3) for leaf in "qkvo")),
        "size",
        "the source is FP8 itself",
    ),
    ("deepseek_v3_from_fp8_with_attention_dequantized", "expert left", stays(FIRST, EXPERT), "coverage", FIRST),
    ("deepseek_v3_of_the_example_script", "weight not in the index", weight_not_in_the_index, "integrity", OUT),
    ("deepseek_v3_of_the_example_script", "ghost in the index", ghost_in_the_index, "integrity", "model.layers.9"),
    (
        "deepseek_v3_with_mtp_in_bf16",
        "MTP layer lost",
        drop("model.layers.2.eh_proj.weight"),
        "inventory",
        "model.layers.2.eh_proj.weight",
    ),
    (
        "deepseek_v3_with_mtp_in_bf16",
        "MTP layer not excluded",
        undeclared("model.layers.2.eh_proj"),
        "format",
        "model.layers.2.eh_proj",
    ),
    (
        "deepseek_v3_with_mtp_in_bf16",
        "layer before the MTP layer left",
        stays("model.layers.1.self_attn.o_proj", SQUARE),
        "coverage",
        "model.layers.1.self_attn.o_proj",
    ),
    (
        "deepseek_v3_with_mtp_in_bf16",
        "recipe that names the MTP layer",
        with_patterns(*quantized("*layers.2.*", E2M1)),
        "coverage",
        "model.layers.2.eh_proj",
    ),
    (
        "deepseek_v3_from_fp8_to_blocks_of_modelopt",
        "scales by 64 x 64",
        reshaped(f"{Q}.weight_scale", (2, 1, 2, 1)),
        "format",
        Q,
    ),
    (
        "glm_from_fp8_of_compressed_tensors",
        "layer as it is in the source",
        stays(Q, SQUARE, by_row),
        "format",
        Q,
    ),
    (
        "minimax_from_fp8",
        "router quantized",
        becomes("model.layers.0.block_sparse_moe.gate", (EXPERTS, HIDDEN), nvfp4),
        "coverage",
        "model.layers.0.block_sparse_moe.gate",
    ),
    ("gpt_oss_with_experts_apart", "bias lost", drop(f"{FIRST}.bias"), "inventory", f"{FIRST}.bias"),
    ("gpt_oss_with_experts_apart", "bias cut", reshaped(f"{FIRST}.bias", (3,)), "inventory", f"{FIRST}.bias"),
    ("gpt_oss_from_mxfp4", "blocks left", put(**{f"{GATE_UP}_blocks": LEFT_BLOCKS}), "inventory", f"{GATE_UP}_blocks"),
    ("gpt_oss_from_mxfp4", "bias of the experts lost", drop(f"{GATE_UP}_bias"), "inventory", f"{GATE_UP}_bias"),
    ("gpt_oss_from_mxfp4", "experts lost", drop(GATE_UP), "inventory", GATE_UP),
    (
        "gpt_oss_from_mxfp4",
        "an expert fewer",
        lambda one: [
            reshaped(GATE_UP, (EXPERTS - 1, HIDDEN // 2, 2 * INNER))(one),
            reshaped(f"{GATE_UP}_weight_scale", (EXPERTS - 1, HIDDEN // 16, 2 * INNER))(one),
        ],
        "inventory",
        GATE_UP,
    ),
    (
        "gpt_oss_from_mxfp4_to_fp8",
        "attention in F32",
        as_f32(*(f"model.layers.{n}.self_attn.{leaf}_proj.weight" for n in range(2) for leaf in "qkvo")),
        "size",
        "the source is MXFP4 itself",
    ),
    (
        "gpt_oss_from_bf16",
        "experts transposed",
        lambda one: [
            reshaped(GATE_UP, (EXPERTS, INNER, HIDDEN))(one),
            reshaped(f"{GATE_UP}_weight_scale", (EXPERTS, 2 * INNER // 16, HIDDEN))(one),
        ],
        "inventory",
        GATE_UP,
    ),
    ("kimi_k2_from_int4", "expert as it is in the source", stays(FIRST, EXPERT, int4), "inventory", FIRST),
    (
        "kimi_k2_from_int4",
        "shape of the source left",
        put(**{f"{FIRST}.weight_shape": ("I32", (2,), None)}),
        "inventory",
        f"{FIRST}.weight_shape",
    ),
    ("kimi_k2_from_int4", "experts dequantized", stays(FIRST, EXPERT), "coverage", FIRST),
    (
        "kimi_k25_with_vision",
        "vision lost",
        drop("mm_projector.proj.0.weight"),
        "inventory",
        "mm_projector.proj.0.weight",
    ),
    (
        "experts_from_mxfp4_of_compressed_tensors",
        "half of an expert",
        lambda one: one.output.update(nvfp4(FIRST, (INNER // 2, HIDDEN))),
        "inventory",
        FIRST,
    ),
    (
        "mistral_with_consolidated_weights_and_no_index",
        "scale of the source's inputs left",
        put(**{f"{Q}.activation_scale": ("BF16", (), None)}),
        "inventory",
        f"{Q}.activation_scale",
    ),
    (
        "mistral_with_consolidated_weights_and_no_index",
        "consolidated weights in the checkpoint, too",
        consolidated_in_the_checkpoint,
        "integrity",
        "consolidated.safetensors",
    ),
    (
        "mistral_with_consolidated_weights_and_an_index",
        "consolidated weights in the checkpoint, too",
        consolidated_in_the_checkpoint,
        "integrity",
        "consolidated.safetensors",
    ),
    (
        "mistral3_with_vision",
        "projector quantized",
        becomes("multi_modal_projector.linear_1", SQUARE, nvfp4),
        "coverage",
        "multi_modal_projector.linear_1",
    ),
    ("qwen3_next", "MTP not excluded", undeclared("mtp.fc"), "format", "mtp.fc"),
    (
        "qwen3_next",
        "gates of the linear attention quantized",
        becomes("model.layers.0.linear_attn.in_proj_ba", (16, HIDDEN), nvfp4),
        "coverage",
        "model.layers.0.linear_attn.in_proj_ba",
    ),
    (
        "qwen3_next",
        "decay lost",
        drop("model.layers.0.linear_attn.A_log"),
        "inventory",
        "model.layers.0.linear_attn.A_log",
    ),
    (
        "qwen3_5_moe_with_fused_experts",
        "matrix of an expert lost",
        drop(*nvfp4(f"{FUSED}.1.up_proj", EXPERT)),
        "inventory",
        f"{FUSED}.1.up_proj.weight",
    ),
    (
        "qwen3_5_moe_with_fused_experts",
        "an expert too many",
        put(**nvfp4(f"{FUSED}.{EXPERTS}.up_proj", EXPERT)),
        "inventory",
        f"{FUSED}.{EXPERTS}.up_proj.weight",
    ),
    (
        "qwen3_5_moe_with_fused_experts",
        "gate and up in one",
        lambda one: one.output.update(nvfp4(f"{FUSED}.1.up_proj", (2 * INNER, HIDDEN))),
        "inventory",
        f"{FUSED}.1.up_proj.weight",
    ),
    (
        "qwen3_5_moe_with_fused_experts",
        "fused experts left beside",
        put(**{f"{FUSED}.down_proj": ("BF16", (EXPERTS, HIDDEN, INNER), None)}),
        "inventory",
        f"{FUSED}.0.down_proj.weight",
    ),
    (
        "qwen3_5_moe_in_shards",
        "experts of the MTP layer lost",
        drop("mtp.layers.0.mlp.experts.down_proj"),
        "inventory",
        "mtp.layers.0.mlp.experts.down_proj",
    ),
    (
        "qwen3_vl_moe_with_transposed_experts",
        "expert transposed",
        lambda one: one.output.update(nvfp4(f"{FUSED}.1.up_proj", EXPERT[::-1])),
        "inventory",
        f"{FUSED}.1.up_proj.weight",
    ),
    ("nemotron_h_in_two_precisions", "head left", stays("lm_head", (VOCABULARY, HIDDEN)), "coverage", "lm_head"),
    (
        "nemotron_h_in_two_precisions",
        "scale of the KV cache lost",
        drop("backbone.layers.1.mixer.v_proj.v_scale"),
        "format",
        "backbone.layers.1.mixer.v_proj.v_scale",
    ),
    (
        "experts_in_blocks_of_fp8_and_the_rest_in_nvfp4",
        "expert in NVFP4",
        lambda one: [drop(*in_blocks(FIRST, SQUARE))(one), becomes(FIRST, SQUARE, nvfp4)(one)],
        "coverage",
        FIRST,
    ),
    (
        "experts_in_blocks_of_fp8_and_the_rest_in_nvfp4",
        "scale of an expert by ModelOpt's name",
        lambda one: [drop(*in_blocks(FIRST, SQUARE))(one), becomes(FIRST, SQUARE, fp8_pb_wo)(one)],
        "engine",
        FIRST,
    ),
    (
        "experts_in_blocks_of_fp8_and_the_rest_in_nvfp4",
        "scale of a shared expert by the source's name",
        lambda one: [
            drop(*fp8_pb_wo(SHARED, SQUARE))(one),
            one.output.update(in_blocks(SHARED, SQUARE)),
        ],
        "engine",
        SHARED,
    ),
    (
        "experts_in_blocks_of_fp8_by_its_older_name",
        "scale of the experts lost",
        drop(f"{FIRST}.weight_scale_inv"),
        "format",
        FIRST,
    ),
    ("input_scales_pinned_to_one", "one is 0", put(**{f"{Q}.input_scale": scalar(0.0)}), "scales", f"{Q}.input_scale"),
    ("llama_with_an_index_that_lacks_scales", "weight not in the index", weight_not_in_the_index, "integrity", OUT),
    ("llama_with_an_index_that_lacks_scales", "scale lost", drop(f"{Q}.weight_scale"), "format", Q),
    ("llama_from_fp8_by_row", "layer in F32", as_f32("lm_head.weight", "model.embed_tokens.weight"), "size", "FP8"),
    ("llama_without_a_recipe_from_fp8", "layer as in the source", stays(Q, SQUARE, by_row), "format", Q),
    (
        "experts_apart_in_the_source_and_fused_in_the_checkpoint",
        "twice as wide",
        lambda one: [
            reshaped(GATE_UP, (EXPERTS, HIDDEN // 2, 4 * INNER))(one),
            reshaped(f"{GATE_UP}_weight_scale", (EXPERTS, HIDDEN // 16, 4 * INNER))(one),
        ],
        "inventory",
        GATE_UP,
    ),
    (
        "deepseek_v4_with_attention_kept_in_fp8",
        "scale lost",
        drop("layers.1.attn.wq_a.scale"),
        "coverage",
        "layers.1.attn.wq_a",
    ),
    ("declared_in_hf_quant_config_alone", "layer left", stays(Q, SQUARE), "coverage", Q),
    (
        "layer_types_trimmed_by_the_exporter",
        "one too few",
        lambda one: one.config_of_output.update(layer_types=["full_attention"]),
        "metadata",
        "layer_types",
    ),
    (
        "deepseek_v4_with_attention_kept_in_fp8",
        "expert as it is in the source",
        lambda one: [drop(*nvfp4(V4, (HIDDEN, INNER)))(one), stays(V4, (HIDDEN, INNER), fp4_of_deepseek)(one)],
        "coverage",
        V4,
    ),
    (
        "deepseek_v4_with_attention_kept_in_fp8",
        "experts of another algorithm by config.json",
        lambda one: one.declared_in_config.update(moe_quant_algo="MXFP4"),
        "declaration",
        "MXFP4",
    ),
    (
        "deepseek_v4_with_attention_kept_in_fp8",
        "another model, whose loader takes no FP8 of the source",
        lambda one: one.config.update(model_type="deepseek_v3"),
        "format",
        "layers.1.attn.wq_a",
    ),
]


@pytest.mark.parametrize(("name", "fault", "change", "check", "named"), FAULTS, ids=[f"{f[0]}: {f[1]}" for f in FAULTS])
def test_a_fault_in_a_layout_is_found(tmp_path, name, fault, change, check, named):
    one = LAYOUTS[name]()
    change(one)
    assessment = one.assess(tmp_path)
    assert not assessment["pass"]
    failed = {check["name"]: check for check in assessment["checks"] if not check["pass"]}
    assert check in failed, assessment["detail"]
    assert named in "; ".join([failed[check]["detail"], *failed[check]["offenders"]])


def test_a_source_in_fp8_that_was_left_alone_is_not_taken_for_quantized(tmp_path):
    one = deepseek(in_blocks, EXPERTS_NVFP4)
    for module in [module for module, algorithm in one.algorithms.items() if algorithm]:
        stays(module, one.source[f"{module}.weight"][1], in_blocks)(one)
    one.algorithms["model.layers.0.mlp.experts.0.gate_proj"] = "NVFP4"
    assessment = one.assess(tmp_path)
    assert assessment["failure_class"] == "MODEL_UNSUPPORTED"
    assert assessment["layer_precision_counts"]["FP8, as in the source"] == 18


def test_each_layout_has_a_fault():
    assert {fault[0] for fault in FAULTS} == LAYOUTS.keys()
