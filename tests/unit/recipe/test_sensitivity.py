"""A format for each group of layers by what it loses: the bits are kept to, and the largest loss is the least."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.base.artefacts import read_json
from day0.recipe.failures import Unsupported
from day0.recipe.formats import format_of, setting_of
from day0.recipe.forms import BySensitivity
from day0.recipe.resolve import read_format, resolve_configuration
from day0.recipe.sensitivity import choose_formats, formats_to_measure, most_sensitive
from day0.records.sensitivity import LayerGroup, Sensitivity

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = read_json(ROOT / "envs" / "modelopt_catalogue.json")
BITS = {"nvfp4": 4.5, "fp8": 8.0}


def group(name, weights, **scores):
    return LayerGroup(
        modules=[name],
        quantizers=[f"{name}.input_quantizer", f"{name}.weight_quantizer"],
        weights=weights,
        scores=scores,
    )


def measured(*groups, **changes):
    record = {
        "status": "done",
        "failure_class": None,
        "detail": "",
        "model": "m",
        "source_digest": None,
        "calibration": {},
        "scored_texts": 1,
        "formats": BITS,
        "groups": list(groups),
        "emulated": [],
        "seed": 0,
        "device": "cpu",
        "versions": {},
        "duration_seconds": {},
    }
    return Sensitivity(**{**record, **changes})


ATTENTION, MLP = "model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj"
TWO = measured(
    group(ATTENTION, 100, nvfp4=9, fp8=1), group(MLP, 300, nvfp4=2, fp8=0.5), group("lm_head", 400, nvfp4=1, fp8=1)
)


def wanted(bits, **changes):
    return BySensitivity(**{"formats": ["nvfp4", "fp8"], "bits": bits, **changes})


@pytest.mark.parametrize(
    ("bits", "chosen", "achieved"),
    [
        (4.5, ["nvfp4", "nvfp4"], 4.5),
        (5.0, ["nvfp4", "nvfp4"], 4.5),
        (5.375, ["fp8", "nvfp4"], 5.375),
        (7.0, ["fp8", "nvfp4"], 5.375),
        (8.0, ["fp8", "fp8"], 8.0),
        (10.0, [None, "fp8"], 10.0),
        (15.9, [None, "fp8"], 10.0),
    ],
)
def test_the_most_sensitive_group_keeps_the_most_bits(bits, chosen, achieved):
    choice = choose_formats(TWO, wanted(bits))
    assert [name for _, name in choice.formats] == chosen
    assert choice.bits == pytest.approx(achieved)


def test_lm_head_is_left_alone_unless_it_is_asked_for():
    assert [one.modules for one, _ in choose_formats(TWO, wanted(5.0)).formats] == [[ATTENTION], [MLP]]
    with_head = choose_formats(TWO, wanted(5.0, lm_head=True))
    assert [one.modules[0] for one, _ in with_head.formats] == [ATTENTION, MLP, "lm_head"]
    assert with_head.bits == pytest.approx((100 * 8 + 700 * 4.5) / 800)


FAILED = {
    "status": "failed",
    "failure_class": "MODEL_UNSUPPORTED",
    "detail": "no attention",
    "formats": {},
    "groups": [],
}


@pytest.mark.parametrize(
    ("sensitivity", "asked", "failure_class", "says"),
    [
        (measured(**FAILED), wanted(5.0), "MODEL_UNSUPPORTED", "could not be measured: no attention"),
        (TWO, wanted(5.0, formats=["nvfp4", "mxfp8"]), "USER_CONFIG_ERROR", "for nvfp4, fp8, not for mxfp8"),
        (TWO, wanted(4.4), "USER_CONFIG_ERROR", "4.4 cannot be reached: .* take 4.50 bits"),
        (TWO, wanted(7.0, formats=["fp8"]), "USER_CONFIG_ERROR", "7 cannot be reached: .* take 8.00 bits"),
        (measured(TWO.groups[0]), wanted(5.0, lm_head=True), "USER_CONFIG_ERROR", "has no lm_head of its own"),
        (measured(), wanted(5.0), "MODEL_UNSUPPORTED", "holds no layer"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_what_was_found(sensitivity, asked, failure_class, says):
    with pytest.raises(Unsupported, match=says) as caught:
        choose_formats(sensitivity, asked)
    assert caught.value.failure_class == failure_class


SCORES = st.floats(0, 100, allow_nan=False)
GROUPS = st.lists(st.tuples(st.integers(1, 1000), SCORES, SCORES), min_size=1, max_size=5)


@settings(max_examples=60)
@given(GROUPS, st.floats(4.5, 15.9))
def test_no_choice_within_the_bits_has_a_smaller_largest_loss(groups, bits):
    found = measured(*(group(f"model.layers.{n}.x", w, nvfp4=a, fp8=b) for n, (w, a, b) in enumerate(groups)))
    choice = choose_formats(found, wanted(bits))
    losses = [0.0 if name is None else one.scores[name] for one, name in choice.formats]
    total = sum(one.weights for one in found.groups)
    assert choice.bits <= bits
    for other in itertools.product((None, "nvfp4", "fp8"), repeat=len(found.groups)):
        pairs = list(zip(found.groups, other, strict=True))
        taken = sum(one.weights * (BITS[name] if name else 16) for one, name in pairs) / total
        if taken <= bits:
            assert max(losses) <= max(0.0 if name is None else one.scores[name] for one, name in pairs)


def test_the_resolved_recipe_gives_every_quantizer_its_format_and_no_other_one():
    definition = {"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 5.5}}
    resolved = resolve_configuration(definition, CATALOGUE, "x", "fp8", None, TWO).quantize
    formats = {name: read_format(name, CATALOGUE) for name in BITS}
    entries = resolved["quant_cfg"]
    assert resolved["algorithm"] == "max" and entries[0] == {"quantizer_name": "*", "enable": False}
    for module, name in ((ATTENTION, "fp8"), (MLP, "nvfp4")):
        assert setting_of(entries, f"{module}.weight_quantizer") == formats[name].weight
        assert setting_of(entries, f"{module}.input_quantizer") == formats[name].input
    for other in (
        "lm_head.weight_quantizer",
        f"{MLP}.output_quantizer",
        "model.layers.10.self_attn.o_proj.weight_quantizer",
    ):
        assert setting_of(entries, other) is None
    assert setting_of(entries, "model.layers.0.self_attn.k_bmm_quantizer") is not None


def test_before_it_is_measured_the_recipe_is_a_search_of_its_formats():
    definition = {"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 5.5}}
    search = resolve_configuration(definition, CATALOGUE, "x").auto_quantize
    assert search["constraints"] == {"effective_bits": 5.5} and len(search["candidate_formats"]) == 2
    assert "*lm_head*" in search["disabled_layers"] and "*router*" in search["disabled_layers"]


@pytest.mark.parametrize(
    ("definition", "formats"),
    [
        ({"preset": "fp8"}, []),
        ({"sensitivity": {"formats": ["nvfp4", "fp8"], "bits": 5.5}}, ["fp8", "nvfp4"]),
        ({"base": {"preset": "nvfp4"}, "protect": [{"modules": "attention"}, {"first": 1}], "by": "fp8"}, []),
        ({"base": {"preset": "nvfp4"}, "protect": [{"modules": "attention"}, {"groups": 1}], "by": "fp8"}, ["nvfp4"]),
    ],
)
def test_which_recipes_need_a_measurement(definition, formats):
    assert formats_to_measure(definition) == formats


def test_the_most_sensitive_groups_come_first_and_lm_head_is_none():
    assert [one.modules for one in most_sensitive(TWO)] == [[ATTENTION], [MLP]]


@pytest.mark.parametrize(
    ("preset", "bits", "has_inputs"),
    [("nvfp4", 4.5, True), ("w4a16_nvfp4", 4.5, False), ("fp8", 8, True), ("int4_blockwise_weight_only", 4, False)],
)
def test_bits_and_quantizers_of_a_preset(preset, bits, has_inputs):
    found = read_format(preset, CATALOGUE)
    assert found.bits == bits and (found.input is not None) is has_inputs


@pytest.mark.parametrize("preset", ["nvfp4_awq_lite", "nvfp4_svdquant", "int8_smoothquant", "nvfp4_mlp_only"])
def test_presets_that_cannot_be_given_to_some_layers_only(preset):
    with pytest.raises(ValueError, match=r"calibrated by|certain names"):
        read_format(preset, CATALOGUE)


def test_the_last_entry_of_a_preset_counts():
    body = {
        "quant_cfg": [
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8}},
            {"quantizer_name": "*", "enable": False},
        ]
    }
    assert format_of(body).weight is None
