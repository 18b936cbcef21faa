"""Checkpoints of other tools than ModelOpt: sound ones pass, each fault of theirs is found by its check and named.

Declarations and tensors are those of real exports: llm-compressor 0.14.0.1 with compressed-tensors 0.19.0, AutoRound
0.16.1; the matrices are [256, 128].
"""

import copy
import json
import struct

import pytest
from test_assess import CONFIG, evaluate_checkpoint, recorded, save

from day0.checkpoint import assess
from day0.checkpoint.formats import AWQ, FORMATS, GPTQ, compressed
from day0.checkpoint.fused_scales import check_fused_scales
from day0.checkpoint.methods import read_method
from day0.checkpoint.summary import Layer
from day0.checkpoint.vllm_rules import MINIMUM_CAPABILITY_OF_OTHER_TOOLS

OUT, IN = 256, 128
LINEARS = [f"model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.o_proj", "mlp.up_proj")]
ONE, TWO = struct.pack("<f", 0.5), struct.pack("<f", 2.0)


def args(bits, kind, strategy, **changes):
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False} | changes


def group(style, weights, inputs=None, targets=("Linear",)):
    return {"format": style, "weights": weights, "input_activations": inputs, "targets": list(targets)}


def declared(style, weights, inputs=None, **changes):
    return {
        "quant_method": "compressed-tensors",
        "format": style,
        "config_groups": {"group_0": group(style, weights, inputs)},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
    } | changes


TOKEN = args(8, "float", "token", dynamic=True)
NVFP4 = args(4, "float", "tensor_group", group_size=16, scale_dtype="torch.float8_e4m3fn")
MX = {"group_size": 32, "scale_dtype": "torch.uint8"}
INT4 = args(4, "int", "group", group_size=128)
ROUND = {"quant_method": "auto-round", "bits": 4, "data_type": "int", "group_size": 128, "sym": True}
ROUND |= {"block_name_to_quantize": "model.layers", "autoround_version": "0.16.1"}
FP8 = {"weight": ("F8_E4M3", (OUT, IN))}
PACKED = {"weight_packed": ("U8", (OUT, IN // 2)), "weight_scale": ("F8_E4M3", (OUT, IN // 16))}
INTEGERS = {"weight_packed": ("I32", (OUT, IN // 8)), "weight_scale": ("BF16", (OUT, 1)), "weight_shape": ("I64", (2,))}
AS_GPTQ = {"qweight": ("I32", (IN // 8, OUT)), "qzeros": ("I32", (1, OUT // 8)), "scales": ("F16", (1, OUT))}
AS_AWQ = {"qweight": ("I32", (IN, OUT // 8)), "qzeros": ("I32", (1, OUT // 8)), "scales": ("F16", (1, OUT))}

# name: declaration, tensors of a matrix, the row of the table
SOUND = {
    "FP8": (
        declared("float-quantized", args(8, "float", "tensor"), args(8, "float", "tensor")),
        FP8 | {"weight_scale": ("BF16", (1,)), "input_scale": ("BF16", (1,))},
        compressed("FP8_TENSOR"),
    ),
    "FP8 of AutoRound": (
        declared("float-quantized", args(8, "float", "channel"), args(8, "float", "tensor"), ignore=[]),
        FP8 | {"weight_scale": ("F32", (OUT, 1)), "input_scale": ("F32", (1,))},
        compressed("FP8_CHANNEL"),
    ),
    "FP8_DYNAMIC": (
        declared("float-quantized", args(8, "float", "channel"), TOKEN),
        FP8 | {"weight_scale": ("BF16", (OUT, 1))},
        compressed("FP8_DYNAMIC_CHANNEL"),
    ),
    "FP8_BLOCK": (
        declared("float-quantized", args(8, "float", "block", block_structure=[128, 128]), TOKEN),
        FP8 | {"weight_scale": ("BF16", (2, 1))},
        compressed("FP8_DYNAMIC_BLOCK"),
    ),
    "FP8 weights only": (
        declared("naive-quantized", args(8, "float", "tensor")),
        FP8 | {"weight_scale": ("F32", (1,))},
        compressed("FP8A16_TENSOR"),
    ),
    "NVFP4": (
        declared("nvfp4-pack-quantized", NVFP4, NVFP4 | {"dynamic": "local"}),
        PACKED | {"weight_global_scale": ("F32", (1,)), "input_global_scale": ("F32", (1,))},
        compressed("NVFP4"),
    ),
    "NVFP4A16": (
        declared("nvfp4-pack-quantized", NVFP4),
        PACKED | {"weight_global_scale": ("F32", (1,))},
        compressed("NVFP4A16"),
    ),
    "MXFP4": (
        declared("mxfp4-pack-quantized", args(4, "float", "group", **MX), args(4, "float", "group", **MX)),
        PACKED | {"weight_scale": ("U8", (OUT, IN // 32))},
        compressed("MXFP4"),
    ),
    "MXFP8": (
        declared("mxfp8-quantized", args(8, "float", "group", **MX), args(8, "float", "group", **MX)),
        FP8 | {"weight_scale": ("U8", (OUT, IN // 32))},
        compressed("MXFP8"),
    ),
    "W4A16": (declared("pack-quantized", INT4), INTEGERS, compressed("W4A16")),
    "W4A16 of AutoRound": (
        declared("pack-quantized", INT4),
        INTEGERS | {"weight_scale": ("F32", (OUT, 1))},
        compressed("W4A16"),
    ),
    "W4A16_ASYM": (
        declared("pack-quantized", INT4 | {"symmetric": False}),
        INTEGERS | {"weight_zero_point": ("I32", (OUT // 8, 1))},
        compressed("W4A16_ASYM"),
    ),
    "W4A16 in the order of activations": (
        declared("pack-quantized", INT4 | {"actorder": "weight"}),
        INTEGERS | {"weight_g_idx": ("I32", (IN,))},
        compressed("W4A16"),
    ),
    "W4A16 by channel": (
        declared("pack-quantized", args(4, "int", "channel")),
        INTEGERS,
        compressed("W4A16_CHANNEL"),
    ),
    "W8A16": (
        declared("pack-quantized", INT4 | {"num_bits": 8}),
        INTEGERS | {"weight_packed": ("I32", (OUT, IN // 4))},
        compressed("W8A16"),
    ),
    "W8A8": (
        declared("int-quantized", args(8, "int", "channel"), args(8, "int", "token", dynamic=True)),
        {"weight": ("I8", (OUT, IN)), "weight_scale": ("BF16", (OUT, 1))},
        compressed("W8A8_DYNAMIC_CHANNEL"),
    ),
    "AutoRound": (ROUND | {"packing_format": "auto_round:auto_gptq"}, AS_GPTQ, GPTQ[4]),
    "AutoRound as AWQ": (ROUND | {"packing_format": "auto_round:auto_awq"}, AS_AWQ, AWQ),
    "AutoRound MXFP4": (
        ROUND | {"data_type": "mx_fp", "group_size": 32, "packing_format": "auto_round:llm_compressor"},
        PACKED | {"weight_scale": ("U8", (OUT, IN // 32))},
        compressed("MXFP4"),
    ),
    "AutoRound FP8": (
        ROUND | {"data_type": "fp", "bits": 8, "group_size": [128, 128], "packing_format": "auto_round:fp8"},
        FP8 | {"weight_scale_inv": ("F32", (2, 1))},
        compressed("FP8_DYNAMIC_BLOCK"),
    ),
    "GPTQ": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "desc_act": False},
        AS_GPTQ | {"g_idx": ("I32", (IN,))},
        GPTQ[4],
    ),
    "GPTQ of 8 bits by row": (
        {"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True, "desc_act": False},
        {"qweight": ("I32", (IN // 4, OUT)), "qzeros": ("I32", (1, OUT // 4)), "scales": ("F16", (1, OUT))},
        GPTQ[8],
    ),
    "AWQ": (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
        AS_AWQ,
        AWQ,
    ),
}


class Made:
    """A source of two layers, and a checkpoint of it; a test breaks ``tensors`` or ``declared``, then assesses."""

    def __init__(self, folder, name):
        self.source, self.output = folder / "source", folder / "output"
        self.declared, parts, self.row = copy.deepcopy(SOUND[name])
        rest = {"model.embed_tokens.weight": (8, IN), "lm_head.weight": (8, IN), "model.norm.weight": (IN,)}
        plain = {name: ("BF16", shape, None) for name, shape in rest.items()}
        before = plain | {f"{name}.weight": ("BF16", (OUT, IN), None) for name in LINEARS}
        self.tensors = plain | {
            f"{module}.{part}": (dtype, shape, ONE if (dtype, shape) == ("F32", (1,)) else None)
            for module in LINEARS
            for part, (dtype, shape) in parts.items()
        }
        for key, (dtype, shape, _) in self.tensors.items():
            if dtype == "BF16" and shape == (1,):
                self.tensors[key] = (dtype, shape, ONE[2:])
        for side, tensors in ((self.source, before), (self.output, self.tensors)):
            side.mkdir()
            (side / "config.json").write_text(json.dumps(CONFIG))
            (side / "tokenizer.json").write_text("{}")
            save(side / "model.safetensors", tensors)

    def assess(self):
        save(self.output / "model.safetensors", self.tensors)
        config = CONFIG | {"quantization_config": self.declared}
        (self.output / "config.json").write_text(json.dumps(config))
        summary = assess.read_summary(self.output, self.source, "unknown", recorded(None), deep=True, engine="vllm")
        return evaluate_checkpoint(summary)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_checkpoint_of_another_tool_passes(tmp_path, name):
    made = Made(tmp_path, name)
    found = made.assess()
    assert found["pass"], found["detail"]
    assert found["layer_precision_counts"] == {made.row: 4, "BF16": 2}
    size = next(check for check in found["checks"] if check["name"] == "size")
    assert size["expected_bytes"] == pytest.approx(found["output_bytes"], rel=0.001)


def test_every_row_has_the_engines_word():
    assert MINIMUM_CAPABILITY_OF_OTHER_TOOLS.keys() == {name for name in FORMATS if name.endswith(")")}


FIRST = LINEARS[0]


def without(part):
    return lambda made: made.tensors.pop(f"{FIRST}.{part}")


def holds(part, dtype, shape, value=None):
    return lambda made: made.tensors.update({f"{FIRST}.{part}": (dtype, shape, value)})


def declares(**changes):
    return lambda made: made.declared.update(changes)


def scheme(**changes):
    return lambda made: made.declared["config_groups"]["group_0"]["weights"].update(changes)


def retargeted(*targets):
    return lambda made: made.declared["config_groups"]["group_0"].update(targets=list(targets))


# what: sound checkpoint, fault, check that fails, words of its sentence
FAULTS = {
    "global scale lost": ("NVFP4", without("weight_global_scale"), "format", "without weight_global_scale"),
    "input scale lost": ("NVFP4", without("input_global_scale"), "format", "without input_global_scale"),
    "input scale not asked for": ("NVFP4A16", holds("input_global_scale", "F32", (1,), ONE), "format", "does not have"),
    "global scale of zero": ("NVFP4", holds("weight_global_scale", "F32", (1,), bytes(4)), "scales", f"{FIRST}."),
    "static inputs without a scale": ("FP8", without("input_scale"), "format", "without input_scale"),
    "scales of another group": ("W4A16", holds("weight_scale", "BF16", (OUT, 2)), "format", "groups of 128"),
    "recorded shape lost": ("W4A16", without("weight_shape"), "format", "without weight_shape"),
    "zero points lost": ("W4A16_ASYM", without("weight_zero_point"), "format", "without weight_zero_point"),
    "zero points of another shape": ("W4A16_ASYM", holds("weight_zero_point", "I32", (1, 32)), "format", "[32, 1]"),
    "zero points not declared": ("W4A16", holds("weight_zero_point", "I32", (32, 1)), "format", "weight_zero_point"),
    "order of another length": ("GPTQ", holds("g_idx", "I32", (IN // 2,)), "format", "weight_g_idx"),
    "a matrix is AWQ's": ("GPTQ", holds("qweight", "I32", (IN, OUT // 8)), "format", FIRST),
    "scales lost": ("GPTQ", without("scales"), "format", "without weight_scale"),
    "weights lost": ("W4A16", without("weight_packed"), "inventory", f"{FIRST}.weight"),
    "weights of another width": ("W4A16", holds("weight_packed", "I32", (OUT, 8)), "inventory", f"{FIRST}.weight"),
    "a layer left in BF16": (
        "NVFP4",
        lambda made: [
            made.tensors.pop(f"{FIRST}.{part}") for part in [*PACKED, "weight_global_scale", "input_global_scale"]
        ]
        and made.tensors.update({f"{FIRST}.weight": ("BF16", (OUT, IN), None)}),
        "format",
        f"yet hold BF16 (1 attention; model.layers.*.self_attn.o_proj in layer 0): {FIRST}",
    ),
    "a quantized layer is ignored": ("W4A16", declares(ignore=["lm_head", FIRST]), "format", "declared excluded"),
    "quantized layers are ignored by a pattern": ("W4A16", declares(ignore=["re:.*o_proj"]), "format", FIRST),
    "no target reaches a layer": ("W4A16", retargeted("re:.*up_proj$"), "format", "are not declared yet quantized"),
    "a target without the start of a name": (
        "W4A16", retargeted("layers.0.self_attn.o_proj", "re:.*up_proj"), "format", "not declared yet quantized"
    ),
    "no groups": ("FP8", declares(config_groups={}), "declaration", "config_groups"),
    "no scheme of vLLM": ("NVFP4", scheme(group_size=32), "declaration", "no scheme that vLLM 0.32.0 has"),
    "bits that no row has": ("W4A16", scheme(num_bits=3), "declaration", "no scheme"),
    "an order that vLLM refuses": ("W4A16", scheme(actorder="group"), "declaration", "actorder"),
    "no regular expression": ("W4A16", declares(ignore=["re:(("]), "declaration", "compressed-tensors"),
    "sparse": ("FP8", declares(sparsity_config={"targets": ["Linear"]}), "declaration", "sparse"),
    "of another tool": ("FP8", declares(quant_method="bitsandbytes"), "declaration", "found 'bitsandbytes'"),
    "AWQ of 8 bits": ("AWQ", declares(bits=8), "declaration", "vLLM 0.32.0 takes 4"),
    "GPTQ with zero points": ("GPTQ", declares(sym=False), "declaration", "symmetric"),
    "AutoRound of 3 bits": ("AutoRound", declares(bits=3), "declaration", "bits 3"),
    "AutoRound left a layer out": (
        "AutoRound", declares(extra_config={FIRST: {"bits": 16}}), "format", "declared excluded"
    ),
    "a cache that is not declared": (
        "FP8",
        lambda made: made.tensors.update({"model.layers.0.self_attn.k_scale": ("F32", (1,), ONE)}),
        "format",
        "not declared",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_by_its_check_and_named(tmp_path, what):
    name, fault, check, words = FAULTS[what]
    made = Made(tmp_path, name)
    fault(made)
    found = made.assess()
    failed = {entry["name"]: entry["detail"] for entry in found["checks"] if not entry["pass"]}
    assert check in failed and words in failed[check], failed
    assert found["failure_class"] == "QUANT_COVERAGE_FAILURE"


def test_groups_that_do_not_divide_the_inputs_are_the_engines_to_refuse(tmp_path):
    made = Made(tmp_path, "W4A16")
    made.declared["config_groups"]["group_0"]["weights"]["group_size"] = 48
    for module in LINEARS:
        made.tensors[f"{module}.weight_scale"] = ("BF16", (OUT, 3), None)
    found = made.assess()
    assert found["failure_class"] == "DEPLOYMENT_HEALTH_FAILED" and "compressed_tensors" in found["detail"]


def test_a_declaration_of_modelopt_beside_it_is_a_contradiction(tmp_path):
    made = Made(tmp_path, "NVFP4")
    (made.output / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    found = made.assess()
    assert not found["pass"] and "hf_quant_config.json is ModelOpt's" in found["detail"]


def test_a_group_for_each_kind_of_layer_and_the_names_of_layers_decide_before_their_class(tmp_path):
    made = Made(tmp_path, "W4A16")
    made.declared["config_groups"] = {
        "group_0": group("pack-quantized", INT4),
        "group_1": group("float-quantized", args(8, "float", "channel"), TOKEN, ["re:.*up_proj$"]),
    }
    for module in LINEARS:
        if module.endswith("up_proj"):
            for part in INTEGERS:
                del made.tensors[f"{module}.{part}"]
            made.tensors[f"{module}.weight"] = ("F8_E4M3", (OUT, IN), None)
            made.tensors[f"{module}.weight_scale"] = ("BF16", (OUT, 1), None)
    found = made.assess()
    assert found["pass"], found["detail"]
    counts = {compressed("W4A16"): 2, compressed("FP8_DYNAMIC_CHANNEL"): 2, "BF16": 2}
    assert found["layer_precision_counts"] == counts


def test_one_experts_layer_may_be_declared_differently():
    config = declared("pack-quantized", INT4, ignore=["re:.*experts[.]3[.].*"])
    declaration, conflicts = read_method({"quantization_config": config}, None)
    assert not conflicts and declaration.names_experts
    modules = [f"model.layers.0.mlp.experts.{number}.up_proj" for number in (2, 3)]
    assert [declaration.of(module) for module in modules] == [(compressed("W4A16"), False), (None, True)]


@pytest.mark.parametrize(
    "config", [{}, {"quantization_config": {"quant_method": "modelopt"}}, {"quantization_config": 1}]
)
def test_modelopts_own_declarations_are_left_to_their_reader(config):
    assert read_method(config, None) is None


def test_global_scales_that_an_engine_fuses_must_be_equal():
    layer = Layer(compressed("NVFP4"))
    layers = {f"model.layers.0.self_attn.{name}": layer for name in ("q_proj", "k_proj", "v_proj")}
    scales = {f"{name}.weight_global_scale": 4000.0 for name in layers}
    assert not check_fused_scales(layers, scales).problems
    scales["model.layers.0.self_attn.v_proj.weight_global_scale"] = 1000.0
    (name,) = check_fused_scales(layers, scales).problems
    assert name == "model.layers.0.self_attn.v_proj.weight_global_scale"
