"""Values against the source: what is read, what counts as sound, what is named; and what was to stay."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.checkpoint import values
from day0.checkpoint.blocks import BlockScan
from day0.checkpoint.contents import compare_contents
from day0.checkpoint.dequantize import open_files
from day0.checkpoint.fused_scales import check_fused_scales
from day0.checkpoint.intentions import Patterns
from day0.checkpoint.layers import sort_tensors
from day0.checkpoint.source_weights import SourceWeights
from day0.checkpoint.summary import Layer, Layers
from day0.checkpoint.values import BOUNDS, MATRICES, Compared, Sums, compare_values
from day0.recipe.modules import FUSED_GROUPS
from day0.source.safetensors_headers import read_scalars, read_tensors

ITEM = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I8": 1}
E4M3 = np.array([c / 8 * 2.0**-6 if c < 8 else (1 + c % 8 / 8) * 2.0 ** (c // 8 - 7) for c in range(127)])


def bf16(values):
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype("<u2")


def rounded(values):
    return (np.asarray(values, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def fp8(values, scale):
    """Codes of FP8 by rounding to the nearest of all values."""
    size = np.abs(values) / scale
    middle = (E4M3[:-1] + E4M3[1:]) / 2
    return (np.searchsorted(middle, size) | np.where(values < 0, 0x80, 0)).astype(np.uint8)


def save(folder, tensors):
    """Write {name: (dtype, array)} as a safetensors file in a folder, and read its headers."""
    folder.mkdir(exist_ok=True)
    header, payload = {}, b""
    for name, (dtype, array) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(payload), len(payload) + len(raw)],
        }
        payload += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + payload)
    return read_tensors(folder)


class Model:
    """A source of a few matrices, and a checkpoint of it in FP8 with one scale each."""

    def __init__(self, folder, modules=("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"), shape=(64, 256)):
        random = np.random.default_rng(7)
        self.folder = folder
        self.weights = {name: rounded(random.standard_normal(shape) * 0.02) for name in modules}
        self.source = {f"{name}.weight": ("BF16", bf16(weight)) for name, weight in self.weights.items()}
        self.checkpoint = {}
        for name, weight in self.weights.items():
            self.quantize(name, weight)

    def quantize(self, name, weight, scale=None):
        scale = np.abs(weight).max() / 448 if scale is None else scale
        self.checkpoint[f"{name}.weight"] = ("F8_E4M3", fp8(weight, scale))
        self.checkpoint[f"{name}.weight_scale"] = ("F32", np.array(scale, np.float32))

    def compare(self, precision="FP8", patterns=None, every=True, seed=0, config=None):
        after, before = save(self.folder / "c", self.checkpoint), save(self.folder / "s", self.source)
        names = sort_tensors(after)
        layers = {
            module: Layer(precision if f"{module}.weight_scale" in after else after[name].dtype)
            for module, name in names.modules().items()
        }
        layers, scalars = Layers.of(layers, names.tensors, names.rows), read_scalars(after)
        stated = config if config is not None else {"dtype": "bfloat16"}
        scan = BlockScan(after, before, scalars) if every else None
        return compare_contents(layers, names, after, SourceWeights(before), scalars, stated, patterns, scan, seed)


UP = "model.layers.1.mlp.up_proj"


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path)


@pytest.mark.parametrize("every", [True, False])
def test_a_sound_checkpoint_is_the_sources(model, every):
    found = model.compare(every=every)
    assert (found.off, found.changed, found.not_compared) == ({}, {}, {})
    assert (found.compared, found.matrices) == (2, 2) and (found.seed is None) == every
    assert found.errors["FP8"].median == pytest.approx(BOUNDS["FP8"].typical, rel=0.05)


def test_one_row_of_another_matrix_is_found_by_reading_everything(model):
    _, codes = model.checkpoint[f"{UP}.weight"]
    codes[17] = codes[18]
    found = model.compare(every=True)
    assert list(found.off) == [UP] and "in 1 of 64 rows that were read, first row 17" in found.off[UP]


@pytest.mark.parametrize("is_shared", [False, True])
def test_processes_that_share_the_work_find_what_one_does(model, monkeypatch, is_shared):
    """Of a row of other values, a NaN and a hole, and of the bytes that were read."""
    monkeypatch.setattr(values, "MANY_ELEMENTS", 0 if is_shared else 1 << 40)
    monkeypatch.setattr(values, "LONG_ELEMENTS", 4096)
    monkeypatch.setattr(values, "CHUNK_ELEMENTS", 1024)
    (first, second) = (codes for _, codes in (model.checkpoint[f"{name}.weight"] for name in model.weights))
    second[17] = second[18]
    first[40, 3], first[9] = 0x7F, 0
    found = model.compare()
    assert found.off[UP].startswith("in 1 of 4 rows that were read, first row 17")
    assert list(found.blocks.problems) == [f"{UP.replace('1', '0')}.weight"]
    assert all(what in found.blocks.problems[f"{UP.replace('1', '0')}.weight"] for what in ("NaN", "blocks of zeros"))
    assert found.bytes_read >= 2 * 3 * 64 * 256 and found.blocks.bytes_read == 2 * 64 * 256
    assert found.errors["FP8"].matrices == 2


def test_small_values_beside_a_large_one_are_what_the_format_loses(model):
    """A row whose values are below the smallest step of the one scale rounds to zero: no fault of the checkpoint."""
    weight = model.weights[UP].copy()
    weight[3] *= 1e-6
    weight[0, 0] = 4.0
    weight = rounded(weight)
    model.source[f"{UP}.weight"] = ("BF16", bf16(weight))
    model.quantize(UP, weight)
    assert model.compare().off == {}


@pytest.mark.parametrize("factor", [0.5, 100.0, 1e6])
def test_a_scale_that_the_source_does_not_need_is_no_excuse(model, factor):
    weight = model.weights[UP]
    model.quantize(UP, weight, np.abs(weight).max() / 448 * (100.0 if factor > 1 else factor))
    scale = model.checkpoint[f"{UP}.weight_scale"][1]
    model.checkpoint[f"{UP}.weight_scale"] = ("F32", np.array(scale * factor, np.float32))
    assert list(model.compare().off) == [UP]


def test_what_a_seed_chooses_is_the_same_each_time(tmp_path):
    model = Model(tmp_path, shape=(512, 256))
    assert model.compare(every=False, seed=4).bytes_read == model.compare(every=False, seed=4).bytes_read
    whole = model.compare(every=True).bytes_read
    assert model.compare(every=False).bytes_read < whole


MANY = [f"model.layers.{n}.mlp.up_proj" for n in range(60)]


def test_another_source_is_seen_in_more_matrices_than_are_examined(tmp_path):
    model = Model(tmp_path, MANY, (32, 64))
    assert model.compare(every=False).unrelated == []
    noise = np.random.default_rng(2).standard_normal((len(MANY), 32, 64)) * 0.02
    model.source = {f"{name}.weight": ("BF16", bf16(each)) for name, each in zip(MANY, noise, strict=True)}
    found = model.compare(every=False)
    assert set(found.unrelated) == set(found.off) == set(MANY)


def test_layers_that_all_changed_places_are_of_this_source(tmp_path):
    model = Model(tmp_path, MANY, (32, 64))
    weights = [model.weights[name] for name in MANY]
    for name, weight in zip(MANY, weights[1:] + weights[:1], strict=True):
        model.quantize(name, weight)
    found = model.compare(every=False)
    assert set(found.off) == set(MANY) and found.unrelated == []
    assert f"it holds what the source has in {MANY[1]}" in found.off[MANY[0]]


def test_rotated_weights_are_not_compared_and_that_is_said(model):
    patterns = Patterns(({"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": (4, 3), "rotate": True}},))
    model.checkpoint[f"{UP}.weight"][1][:] = 7
    found = model.compare(patterns=patterns)
    assert found.off == {} and found.compared == 0
    assert list(found.not_compared.values()) == [sorted(model.weights)]


def test_a_module_that_the_source_lacks_is_not_compared_and_that_is_said(model):
    del model.source[f"{UP}.weight"]
    assert model.compare().not_compared == {"are not in the source": [UP]}


def test_what_another_check_found_is_not_found_again(model):
    model.checkpoint[f"{UP}.weight_scale"] = ("F32", np.array(np.nan, np.float32))
    assert model.compare().off == {}
    model.quantize(UP, -model.weights[UP])
    found = model.compare()
    assert list(found.off) == [UP] and found.blocks.problems == {}
    model.checkpoint[f"{UP}.weight"][1][5, 7] = 0x7F
    found = model.compare()
    assert found.off == {} and found.blocks.problems == {f"{UP}.weight": "holds NaN"}


def test_svdquant_is_compared_with_its_factors(tmp_path):
    """The low-rank part is added to the weight, and both were divided by the smoothing vector."""
    model = Model(tmp_path, modules=(UP,))
    weight, vector = model.weights[UP], np.exp2(np.arange(256) % 3 - 1).astype(np.float32)
    smooth = weight / vector
    left, right = (np.random.default_rng(1).standard_normal(shape) * 0.1 for shape in ((64, 4), (4, 256)))
    left, right = rounded(left), rounded(right)
    rest = smooth - left @ right
    groups = np.abs(rest.reshape(64, 16, 16)).max(-1)
    second = groups.max() / (448 * 6)
    scales = fp8(groups / 6, second)
    levels = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    size = np.abs(rest) / np.repeat(E4M3[scales] * second, 16, axis=1)
    codes = np.searchsorted((levels[:-1] + levels[1:]) / 2, size) | np.where(rest < 0, 8, 0)
    model.checkpoint = {
        f"{UP}.weight": ("U8", (codes[:, 0::2] | (codes[:, 1::2] << 4)).astype(np.uint8)),
        f"{UP}.weight_scale": ("F8_E4M3", scales),
        f"{UP}.weight_scale_2": ("F32", np.array(second, np.float32)),
        f"{UP}.pre_quant_scale": ("BF16", bf16(vector)),
        f"{UP}.svdquant_lora_a": ("BF16", bf16(right)),
        f"{UP}.svdquant_lora_b": ("BF16", bf16(left)),
    }
    sound = model.compare("NVFP4_SVD")
    assert sound.off == {} and sound.compared == 1
    model.checkpoint[f"{UP}.svdquant_lora_b"] = ("BF16", bf16(-left))
    assert list(model.compare("NVFP4_SVD").off) == [UP]


def test_every_layer_and_experts_that_look_alike_are_read_by_default(tmp_path):
    modules = [f"model.layers.{n}.mlp.experts.{e}.up_proj" for n in range(4) for e in range(MATRICES // 2)]
    model = Model(tmp_path, modules=modules[:1], shape=(16, 16))
    first = model.checkpoint[f"{modules[0]}.weight"], model.source[f"{modules[0]}.weight"]
    for number, name in enumerate(modules):
        model.checkpoint[f"{name}.weight"], model.source[f"{name}.weight"] = first
        model.checkpoint[f"{name}.weight_scale"] = ("F32", np.array(1 + number, np.float32))
    copied = modules[7 :: MATRICES // 2]
    for name in copied:
        model.checkpoint[f"{name}.weight_scale"] = model.checkpoint[
            f"{name.replace('experts.7.', 'experts.9.')}.weight_scale"
        ]
    after, before = save(tmp_path / "c", model.checkpoint), save(tmp_path / "s", model.source)
    names = sort_tensors(after)
    layers = Layers.of(dict.fromkeys(names.modules(), Layer("FP8")), names.tensors, names.rows)
    compared = Compared(layers, names, after, SourceWeights(before), read_scalars(after))
    with open_files() as files:
        found = compare_values(compared, files)
    read = {part.pair.module for part in found.off}
    assert found.compared <= MATRICES < found.matrices
    assert set(copied) <= read and {name.split(".")[2] for name in read} == {"0", "1", "2", "3"}


@settings(max_examples=200)
@given(st.floats(width=32), st.integers(0, 63), st.floats(0, 1))
def test_no_value_makes_an_error_of_the_sums(value, place, limit):
    held = np.ones((2, 64), np.float32)
    held[1, place] = value
    with np.errstate(all="ignore"):
        sums = Sums.of(held, np.ones_like(held))
        off = sums.is_off(limit)
        sums.error()
    assert not off[0] and (np.isfinite(value) or off[1])


# ---- what was to stay


def kept(model, name, before, after, **options):
    model.source[name], model.checkpoint[name] = before, after
    return model.compare(**options).changed


NORM = np.linspace(0.5, 2, 256, dtype=np.float32)


NAN, INFINITY = np.full(256, np.nan, np.float32), np.full(256, np.inf, np.float32)
WIDE = ("F32", rounded(NORM))
PLAIN = ("BF16", bf16(NORM))
HOLES = ("F16", NAN.astype("<f2"))


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("norm.weight", PLAIN, PLAIN, None),
        ("norm.weight", PLAIN, WIDE, None),
        ("norm.weight", WIDE, PLAIN, None),
        ("norm.weight", WIDE, ("F16", NORM.astype("<f2")), "config.json states BF16"),
        ("layers.1.mlp.gate.e_score_correction_bias", WIDE, PLAIN, "need it as it was"),
        ("layers.1.mixer.A_log", WIDE, PLAIN, None),
        ("norm.weight", PLAIN, ("BF16", bf16(NORM + 1)), "256 of 256 elements"),
        ("norm.weight", PLAIN, ("BF16", bf16(NORM * 0)), "is zero in all 256"),
        ("norm.weight", PLAIN, ("BF16", bf16(NAN)), "holds NaN or infinity"),
        ("norm.weight", WIDE, ("F32", INFINITY), "holds NaN or infinity"),
        ("norm.weight", HOLES, HOLES, "as the source does"),
        ("norm.weight", ("BF16", bf16(NORM * 0)), ("BF16", bf16(NORM * 0)), None),
        ("rotary_emb.inv_freq", ("F32", INFINITY), ("F32", INFINITY), None),
        ("table", ("I8", np.arange(9, dtype=np.int8)), ("I8", np.arange(1, 10, dtype=np.int8)), "the source's bytes"),
    ],
)
def test_what_is_not_quantized_is_the_sources_or_its_stated_cast(model, name, before, after, said):
    found = kept(model, f"model.{name}", before, after)
    assert found == {} if said is None else list(found) == [f"model.{name}"] and said in found[f"model.{name}"]


@pytest.mark.parametrize(
    ("dtype", "sound", "broken"),
    [
        ("BF16", bf16(NORM), {"NaN": bf16(NAN), "infinity": bf16(INFINITY)}),
        ("F16", NORM.astype("<f2"), {"NaN": NAN.astype("<f2"), "infinity": INFINITY.astype("<f2")}),
        ("F32", NORM, {"NaN": NAN, "infinity": INFINITY}),
        ("F64", NORM.astype("<f8"), {"NaN": NAN.astype("<f8"), "infinity": INFINITY.astype("<f8")}),
        ("F8_E4M3", np.full(256, 0x38, np.uint8), {"NaN": np.full(256, 0x7F, np.uint8)}),
    ],
)
@pytest.mark.parametrize("every", [True, False])
def test_holes_and_zeros_are_found_in_every_floating_type(model, dtype, sound, broken, every):
    """One bad element among others, and nothing but zeros."""
    for what, bad in broken.items():
        one = sound.copy()
        one[7] = bad[7]
        found = kept(model, "model.norm.weight", (dtype, sound), (dtype, one), every=every)
        assert "holds NaN or infinity" in found["model.norm.weight"], what
        assert kept(model, "model.norm.weight", (dtype, one), (dtype, one), every=every), what
    zero = kept(model, "model.norm.weight", (dtype, sound), (dtype, sound * 0), every=every)
    assert "is zero in all 256" in zero["model.norm.weight"]


def test_a_cast_that_config_json_states_is_named(model):
    model.source["model.norm.weight"], model.checkpoint["model.norm.weight"] = WIDE, PLAIN
    assert model.compare().cast == {"F32 to BF16": ["model.norm.weight"]}


def test_a_cast_rounds_to_the_nearest(model):
    values = np.linspace(-3, 3, 256, dtype=np.float32)
    bits = values.view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    assert kept(model, "model.norm.weight", ("F32", values), ("BF16", nearest)) == {}
    cut = kept(model, "model.norm.weight", ("F32", values), ("BF16", bf16(values)))
    assert "differ from the source's values cast to BF16" in cut["model.norm.weight"]


def test_a_change_in_a_long_tensor_is_found_by_reading_everything(model):
    before = np.ones((1024, 256), np.float32)
    after = before.copy()
    after[700, 3] = 2
    name = "model.embed_tokens.weight"
    found = kept(model, name, ("BF16", bf16(before)), ("BF16", bf16(after)))
    assert f"first element {700 * 256 + 3}" in found[name]


# ---- scales that an engine fuses


def fused(precision="NVFP4", **scalars):
    place = "model.layers.0.mlp."
    layers = {f"{place}{leaf}_proj": Layer(precision) for leaf in ("gate", "up", "down")}
    names = {f"{place}{name.replace('__', '_proj.')}": value for name, value in scalars.items()}
    return check_fused_scales(layers, names)


@pytest.mark.parametrize(
    ("precision", "gate", "up", "is_found"),
    [
        ("NVFP4", 1e-4, 1e-4, False),
        ("NVFP4", 1e-4, 1.0005e-4, False),
        ("NVFP4", 1e-4, 4e-4, True),
        ("W4A16_NVFP4", 1e-4, 0.99e-4, True),
        ("FP8", 1e-4, 4e-4, False),
    ],
)
def test_global_scales_of_a_fused_group_must_agree(precision, gate, up, is_found):
    found = fused(precision, gate__weight_scale_2=gate, up__weight_scale_2=up)
    assert list(found.problems) == (["model.layers.0.mlp.up_proj.weight_scale_2"] if is_found else [])


@pytest.mark.parametrize("group", FUSED_GROUPS, ids=lambda group: group[0])
def test_scales_are_compared_in_every_group_that_an_engine_fuses(group):
    modules = [f"model.layers.0.block.{leaf}" for leaf in group]
    layers = dict.fromkeys(modules, Layer("NVFP4"))
    for scale, factor in (("weight_scale_2", 4), ("input_scale", 1000)):
        values = {f"{module}.{scale}": 1e-4 for module in modules}
        assert check_fused_scales(layers, values).problems == {}
        for other in modules[1:]:
            found = check_fused_scales(layers, values | {f"{other}.{scale}": 1e-4 * factor})
            assert list(found.problems) == [f"{other}.{scale}"] and group[0] in found.problems[f"{other}.{scale}"]


@pytest.mark.parametrize(
    ("value", "is_found"), [(1e-3, False), (1.0, False), (100.0, False), (1e-12, True), (1e9, True)]
)
def test_an_input_scale_is_one_of_activations(value, is_found):
    assert bool(fused(down__input_scale=value).problems) == is_found


def test_input_scales_that_differ_are_a_remark_and_far_apart_a_fault():
    near, far = fused(gate__input_scale=0.1, up__input_scale=0.2), fused(gate__input_scale=0.1, up__input_scale=1e-4)
    assert not near.problems and "1 input scales differ" in near.remarks[0]
    assert list(far.problems) == ["model.layers.0.mlp.up_proj.input_scale"]


def test_scales_of_the_kv_cache_that_are_all_one_are_a_remark():
    name = "model.layers.0.self_attn.k_proj.k_scale"
    assert "exactly 1.0" in check_fused_scales({}, {name: 1.0}).remarks[0]
    assert check_fused_scales({}, {name: 0.9}).remarks == []
