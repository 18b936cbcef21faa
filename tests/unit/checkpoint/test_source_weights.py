"""Where a source has the weights of a checkpoint's matrix, for the ways in which publishers store them."""

import math

import pytest

from day0.checkpoint.source_weights import SourceWeights, Storage
from day0.source.safetensors_headers import BITS, Tensor

HIDDEN, INNER, EXPERTS = 256, 96, 4
MLP = "model.layers.0.mlp"


def tensors(**forms):
    """Headers of {name with __ for dots: (dtype, shape)}."""
    return {
        name.replace("__", "."): Tensor(dtype, shape, "file", 0, math.prod(shape) * BITS[dtype] // 8)
        for name, (dtype, shape) in forms.items()
    }


PLAIN = tensors(x__weight=("BF16", (64, 256)))
ROWS = {"gate_proj": (INNER, HIDDEN), "up_proj": (INNER, HIDDEN), "down_proj": (HIDDEN, INNER)}
UPRIGHT = tensors(
    **{
        f"{MLP}.experts.gate_up_proj": ("BF16", (EXPERTS, 2 * INNER, HIDDEN)),
        f"{MLP}.experts.down_proj": ("BF16", (EXPERTS, HIDDEN, INNER)),
    }
)
TURNED = tensors(
    **{
        f"{MLP}.experts.gate_up_proj": ("BF16", (EXPERTS, HIDDEN, 2 * INNER)),
        f"{MLP}.experts.down_proj": ("BF16", (EXPERTS, INNER, HIDDEN)),
    }
)
GPT_OSS = tensors(
    **{
        f"{MLP}.experts.gate_up_proj_blocks": ("U8", (EXPERTS, 2 * INNER, HIDDEN // 32, 16)),
        f"{MLP}.experts.gate_up_proj_scales": ("U8", (EXPERTS, 2 * INNER, HIDDEN // 32)),
        f"{MLP}.experts.gate_up_proj_bias": ("BF16", (EXPERTS, 2 * INNER)),
        f"{MLP}.experts.down_proj_blocks": ("U8", (EXPERTS, HIDDEN, INNER // 32, 16)),
        f"{MLP}.experts.down_proj_scales": ("U8", (EXPERTS, HIDDEN, INNER // 32)),
    }
)


@pytest.mark.parametrize(
    ("stored", "storage", "weight", "scale"),
    [
        (PLAIN, Storage.PLAIN, "x.weight", None),
        (
            tensors(x__weight=("F8_E4M3", (64, 256)), x__weight_scale_inv=("F32", (1, 2))),
            Storage.FP8,
            "x.weight",
            "x.weight_scale_inv",
        ),
        (
            tensors(
                x__weight=("F8_E4M3", (64, 256)), x__weight_scale_inv=("BF16", ()), x__activation_scale=("BF16", ())
            ),
            Storage.FP8,
            "x.weight",
            "x.weight_scale_inv",
        ),
        (
            tensors(x__weight=("F8_E4M3", (64, 256)), x__weight_scale=("BF16", (64, 1))),
            Storage.FP8,
            "x.weight",
            "x.weight_scale",
        ),
        (
            tensors(x__weight=("F8_E4M3", (64, 256)), x__scale=("F8_E8M0", (1, 2))),
            Storage.FP8,
            "x.weight",
            "x.scale",
        ),
        (
            tensors(x__weight=("I8", (64, 128)), x__scale=("F8_E8M0", (64, 8))),
            Storage.MXFP4,
            "x.weight",
            "x.scale",
        ),
        (
            tensors(x__weight_packed=("U8", (64, 128)), x__weight_scale=("U8", (64, 8))),
            Storage.MXFP4,
            "x.weight_packed",
            "x.weight_scale",
        ),
        (
            tensors(
                x__weight_packed=("I32", (64, 32)), x__weight_scale=("BF16", (64, 8)), x__weight_shape=("I32", (2,))
            ),
            Storage.INT4,
            "x.weight_packed",
            "x.weight_scale",
        ),
    ],
)
def test_a_matrix_is_found_however_it_is_stored(stored, storage, weight, scale):
    source = SourceWeights(stored)
    found = source.weight("x", (64, 256))
    assert (found.storage, found.weight, found.scale, found.shape) == (storage, weight, scale, (64, 256))
    assert list(source.logical) == ["x.weight"] and source.parameters == 64 * 256
    assert source.logical["x.weight"][:2] == ("BF16", (64, 256)) and source.logical["x.weight"].bytes == 64 * 256 * 2
    assert sorted(source.parts.get("x.weight", ["x.weight"])) == sorted(stored)
    assert source.weight("x", (256, 64)) is None and source.weight("y", (64, 256)) is None


@pytest.mark.parametrize(
    "strange",
    [
        tensors(x__weight=("BF16", (64, 256)), x__scale=("F32", ())),
        tensors(x__weight=("U8", (64, 128)), x__scale=("U8", (64, 9))),
        tensors(x__scale=("F32", ())),
        tensors(x__weight=("U8", (64, 128)), x__weight_scale=("F8_E4M3", (64, 16))),
    ],
)
def test_what_is_no_known_format_stays_as_it_is(strange):
    source = SourceWeights(strange)
    assert source.logical == strange and source.formats == ""


@pytest.mark.parametrize("leaf", ROWS)
@pytest.mark.parametrize(("stored", "is_transposed"), [(UPRIGHT, False), (TURNED, True)])
def test_an_expert_is_a_part_of_the_fused_ones(stored, is_transposed, leaf):
    found = SourceWeights(stored).weight(f"{MLP}.experts.3.{leaf}", ROWS[leaf])
    assert (found.expert, found.is_transposed) == (3, is_transposed)
    part = {"gate_proj": slice(0, INNER), "up_proj": slice(INNER, 2 * INNER), "down_proj": None}
    assert found.rows == part[leaf]
    assert SourceWeights(stored).weight(f"{MLP}.experts.{EXPERTS}.{leaf}", ROWS[leaf]) is None


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("hidden", [INNER, 2 * INNER])
def test_a_square_lies_as_the_experts_other_tensor(hidden, is_transposed):
    forms = {"gate_up_proj": (2 * INNER, hidden), "down_proj": (hidden, INNER)}
    shapes = {leaf: (EXPERTS, *(form[::-1] if is_transposed else form)) for leaf, form in forms.items()}
    source = SourceWeights(tensors(**{f"{MLP}.experts.{leaf}": ("BF16", shape) for leaf, shape in shapes.items()}))
    for leaf, shape in {"up_proj": (INNER, hidden), "down_proj": (hidden, INNER)}.items():
        assert source.weight(f"{MLP}.experts.0.{leaf}", shape).is_transposed is is_transposed


def test_experts_of_gpt_oss_are_stored_the_other_way_around_and_alternate():
    source = SourceWeights(GPT_OSS)
    assert source.formats == "MXFP4"
    assert source.logical.keys() == {
        f"{MLP}.experts.{leaf}" for leaf in ("gate_up_proj", "gate_up_proj_bias", "down_proj")
    }
    whole = source.weight(f"{MLP}.experts.gate_up_proj", (EXPERTS, HIDDEN, 2 * INNER))
    assert whole.is_transposed and whole.expert is None and whole.shape == (EXPERTS, 2 * INNER, HIDDEN)
    one = source.weight(f"{MLP}.experts.1.up_proj", (INNER, HIDDEN))
    assert (one.expert, one.is_transposed, one.rows) == (1, False, slice(1, 2 * INNER, 2))
    assert one.scale == f"{MLP}.experts.gate_up_proj_scales"
