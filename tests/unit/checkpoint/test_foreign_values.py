"""Values of checkpoints made elsewhere: what GPTQ, AWQ, SmoothQuant and QAD do to weights passes, faults do not."""

import json
import struct

import numpy
import pytest
from test_assess import CONFIG, evaluate_checkpoint, recorded, save
from test_methods import INT4, NVFP4, TOKEN, args, declared

from day0.checkpoint import assess
from day0.checkpoint.dequantize import _E2M1
from day0.source.safetensors_headers import e4m3

E4M3 = numpy.array([e4m3(code) for code in range(256)], numpy.float32)
HIDDEN, INNER = 128, 256
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
NORMS = ("input_layernorm", "post_attention_layernorm")
BEHIND = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
LAYERS = 2
LARGEST = 0.5  # of all weights, so that those that an engine fuses share a global scale


def bf16(values):
    """Bytes of the nearest BF16, and the values that they stand for."""
    bits = values.astype("<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2").tobytes(), (rounded << 16).astype("<u4").view("<f4")


def nearest(values, table):
    """Codes of the nearest values of a table."""
    order = numpy.argsort(table, kind="stable")
    middles = (table[order][1:] + table[order][:-1]) / 2
    return order[numpy.searchsorted(middles, values)].astype("u1")


def as_integers(weight, bits):
    """Symmetric integers in groups of 128, packed into I32 as compressed-tensors does."""
    groups = weight.reshape(len(weight), -1, 128)
    top = 2 ** (bits - 1)
    raw, scale = bf16(numpy.abs(groups).max(2) / (top - 0.5))
    codes = numpy.clip(numpy.rint(groups / scale.reshape(*groups.shape[:2], 1)), -top, top - 1) + top
    codes = codes.reshape(len(weight), -1, 32 // bits).astype("<u4")
    packed = (codes << (numpy.arange(32 // bits, dtype="<u4") * bits)).sum(2).astype("<u4")
    return {
        "weight_packed": ("I32", packed.shape, packed.tobytes()),
        "weight_scale": ("BF16", groups.shape[:2], raw),
        "weight_shape": ("I64", (2,), numpy.array(weight.shape, "<i8").tobytes()),
    }


def as_nvfp4(weight):
    """E2M1 in groups of 16 with E4M3 scales under a global divisor, as compressed-tensors has it."""
    groups = weight.reshape(len(weight), -1, 16)
    scales, divisor = numpy.abs(groups).max(2) / 6, 448 * 6 / LARGEST
    table = E4M3
    table = numpy.where(numpy.isnan(table) | (table < 0), numpy.float32(numpy.inf), table)
    codes = nearest(scales * divisor, table)
    values = groups / (table[codes][..., None] / divisor)
    nibbles = nearest(values, _E2M1).reshape(len(weight), -1, 2)
    packed = (nibbles[..., 0] | (nibbles[..., 1] << 4)).astype("u1")
    one = struct.pack("<f", divisor)
    return {
        "weight_packed": ("U8", packed.shape, packed.tobytes()),
        "weight_scale": ("F8_E4M3", codes.shape, codes.tobytes()),
        "weight_global_scale": ("F32", (1,), one),
    }


def as_fp8(weight):
    """E4M3 with a scale for each row."""
    scale = numpy.abs(weight).max(1, keepdims=True) / 448
    table = E4M3
    table = numpy.where(numpy.isnan(table), numpy.float32(numpy.inf), table)
    codes = nearest(weight / scale, table)
    return {
        "weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        "weight_scale": ("F32", scale.shape, scale.astype("<f4").tobytes()),
    }


FORMATS = {
    "W4A16": (declared("pack-quantized", INT4), lambda weight: as_integers(weight, 4)),
    "W8A16": (declared("pack-quantized", INT4 | {"num_bits": 8}), lambda weight: as_integers(weight, 8)),
    "NVFP4A16": (declared("nvfp4-pack-quantized", NVFP4), as_nvfp4),
    "FP8_DYNAMIC": (declared("float-quantized", args(8, "float", "channel"), TOKEN), as_fp8),
}


class Made:
    """A model of two layers; a test changes ``weights`` and ``norms``, of which :meth:`assess` makes a checkpoint."""

    def __init__(self, folder, name):
        self.source, self.output = folder / "source", folder / "output"
        self.declared, self.quantized = FORMATS[name]
        chance = numpy.random.default_rng(7)
        self.weights, self.norms, self.rest = {}, {}, {}
        for layer in range(LAYERS):
            for module, shape in SHAPES.items():
                weight = chance.normal(0, 0.05, shape).astype("f4")
                self.weights[f"model.layers.{layer}.{module}"] = bf16(weight)[1].reshape(shape)
            for norm in NORMS:
                self.norms[f"model.layers.{layer}.{norm}"] = bf16(chance.uniform(0.5, 1.5, HIDDEN))[1]
        for key in ("model.embed_tokens", "lm_head"):
            self.rest[f"{key}.weight"] = ("BF16", (8, HIDDEN), bf16(chance.normal(0, 1, 8 * HIDDEN))[0])
        plain = {f"{key}.weight": ("BF16", one.shape, bf16(one)[0]) for key, one in self.weights.items()}
        self.source.mkdir()
        self.output.mkdir()
        self.write(self.source, plain, CONFIG)
        self.chance = chance

    def write(self, folder, tensors, config):
        norms = {f"{key}.weight": ("BF16", one.shape, bf16(one)[0]) for key, one in self.norms.items()}
        save(folder / "model.safetensors", tensors | norms | self.rest)
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")

    def assess(self, change=None):
        tensors = {
            f"{key}.{part}": tensor for key, one in self.weights.items() for part, tensor in self.quantized(one).items()
        }
        if change is not None:
            change(tensors)
        self.write(self.output, tensors, CONFIG | {"quantization_config": self.declared})
        summary = assess.read_summary(self.output, self.source, "unknown", recorded(None), deep=True, engine="vllm")
        found = evaluate_checkpoint(summary)
        return found, {check["name"]: check for check in found["checks"]}

    def smooth_norms(self, strength):
        """Move a vector from each norm into the matrices behind it."""
        for layer in range(LAYERS):
            for norm, modules in BEHIND.items():
                vector = numpy.exp(self.chance.normal(0, strength, HIDDEN)).astype("f4")
                self.norms[f"model.layers.{layer}.{norm}"] = self.norms[f"model.layers.{layer}.{norm}"] / vector
                for module in modules:
                    key = f"model.layers.{layer}.{module}"
                    self.weights[key] = self.weights[key] * vector

    def smooth_pairs(self, strength, takes=True):
        """Move a vector from the rows of v_proj and up_proj into the columns of what takes their outputs."""
        for layer in range(LAYERS):
            for giver, taker in (("self_attn.v_proj", "self_attn.o_proj"), ("mlp.up_proj", "mlp.down_proj")):
                key, other = f"model.layers.{layer}.{giver}", f"model.layers.{layer}.{taker}"
                vector = numpy.exp(self.chance.normal(0, strength, len(self.weights[key]))).astype("f4")
                self.weights[key] = self.weights[key] / vector[:, None]
                if takes:
                    self.weights[other] = self.weights[other] * vector


@pytest.mark.parametrize(
    ("name", "error"), [("W4A16", 0.14), ("W8A16", 0.009), ("NVFP4A16", 0.11), ("FP8_DYNAMIC", 0.03)]
)
def test_sound_values_are_the_sources(tmp_path, name, error):
    found, checks = Made(tmp_path, name).assess()
    assert found["pass"], found["detail"]
    values = checks["values"]
    assert values["compared"] == 12 and "not compared" not in values["detail"]
    (errors,) = values["errors"].values()
    assert 0 < errors["median"] < error


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_what_smoothing_moves_is_undone(tmp_path, strength):
    made = Made(tmp_path, "W8A16")
    made.smooth_norms(strength)
    made.smooth_pairs(strength)
    found, _ = made.assess()
    assert found["pass"], found["detail"]


def test_a_vector_that_is_moved_out_and_nowhere_in_is_found(tmp_path):
    made = Made(tmp_path, "W8A16")
    made.smooth_pairs(1.0, takes=False)
    found, checks = made.assess()
    assert not checks["values"]["pass"]
    assert {f"model.layers.{n}.mlp.up_proj" for n in range(LAYERS)} <= set(found["offenders"])


def test_weights_that_were_trained_further_pass_and_are_said_to_be(tmp_path):
    made = Made(tmp_path, "NVFP4A16")
    for weight in made.weights.values():
        weight *= 1 + made.chance.normal(0, 0.1, weight.shape)
    for norm in made.norms.values():
        norm *= 1 + made.chance.uniform(-0.04, 0.04, HIDDEN)
    found, checks = made.assess()
    assert found["pass"], found["detail"]
    assert "4 of these differ by up to 10% of their largest value" in checks["unquantized"]["detail"]


def inverted(tensors):
    """Global scales as ModelOpt has them, not as divisors."""
    for name, (dtype, shape, raw) in tensors.items():
        if name.endswith("global_scale"):
            tensors[name] = (dtype, shape, struct.pack("<f", 1 / struct.unpack("<f", raw)[0]))


def exchanged(tensors):
    for part in ("weight_packed", "weight_scale"):
        one, other = f"model.layers.0.mlp.up_proj.{part}", f"model.layers.0.mlp.gate_proj.{part}"
        tensors[one], tensors[other] = tensors[other], tensors[one]


def halved(tensors):
    name = "model.layers.1.mlp.down_proj.weight_scale"
    dtype, shape, raw = tensors[name]
    tensors[name] = (dtype, shape, (numpy.frombuffer(raw, "<u2") - 0x80 * 2).astype("<u2").tobytes())


def offset(tensors):
    """Codes as ModelOpt packs INT4: two's complement, not value + 8."""
    name = "model.layers.0.self_attn.o_proj.weight_packed"
    dtype, shape, raw = tensors[name]
    tensors[name] = (dtype, shape, (numpy.frombuffer(raw, "<u4") ^ 0x88888888).astype("<u4").tobytes())


@pytest.mark.parametrize(
    ("name", "change", "offender"),
    [
        ("NVFP4A16", inverted, "model.layers.0.mlp.up_proj"),
        ("W4A16", exchanged, "model.layers.0.mlp.up_proj"),
        ("W8A16", halved, "model.layers.1.mlp.down_proj"),
        ("W4A16", offset, "model.layers.0.self_attn.o_proj"),
    ],
)
def test_a_fault_of_values_is_found(tmp_path, name, change, offender):
    found, checks = Made(tmp_path, name).assess(change)
    assert not checks["values"]["pass"] and offender in found["offenders"]


def test_a_norm_that_gained_one_is_no_training(tmp_path):
    made = Made(tmp_path, "W4A16")
    made.norms["model.layers.0.input_layernorm"] = made.norms["model.layers.0.input_layernorm"] + 1
    found, checks = made.assess()
    assert not checks["unquantized"]["pass"]
    assert found["offenders"] == ["model.layers.0.input_layernorm.weight"]
