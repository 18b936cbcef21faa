"""Layers that are read by kind are those that each module gives alone, in which expert or layer ever they differ."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from day0.checkpoint.declaration import Declaration
from day0.checkpoint.fused_scales import leaders_where
from day0.checkpoint.intentions import Patterns
from day0.checkpoint.layers import read_layers, sort_tensors
from day0.checkpoint.summary import Layers, distinct, first_experts_where, modules_where
from day0.checkpoint.vllm_rules import fused_with
from day0.source.safetensors_headers import BITS, Tensor

LEAVES = ("gate_proj", "up_proj", "down_proj")
MODULES = [f"model.layers.{n}.mlp.experts.{e}.{leaf}" for n in range(3) for e in range(5) for leaf in LEAVES]
MODULES += [f"model.layers.{n}.self_attn.q_proj" for n in range(3)] + ["lm_head", "model.layers.1.mlp.experts.up_proj"]
FORMS = {
    "weight": ("F8_E4M3", (32, 32)),
    "weight_scale": ("F32", ()),
    "input_scale": ("F32", ()),
}
OTHERS = {"weight": ("BF16", (32, 32)), "weight_scale": ("F32", (32,)), "input_scale": ("BF16", (1,))}
FP8 = {"num_bits": [4, 3], "axis": None}
PATTERNS = {
    "of no number": ["*lm_head*"],
    "of a layer": ["*layers.1.*"],
    "of an expert": ["*experts.2.*"],
    "of numbers": ["*layers.?.mlp*", "*[12].gate_proj*"],
}


def form_of(part, changes):
    return {"lost": None, "other": OTHERS[part]}.get(changes.get(part), FORMS[part])


def tensors_of(changes):
    """{module: {part: "lost" or "other"}} as the headers of a checkpoint in FP8."""
    found = {}
    for module in MODULES:
        for part in FORMS:
            form = form_of(part, changes.get(module, {}))
            if form is not None:
                dtype, shape = form
                found[f"{module}.{part}"] = Tensor(dtype, shape, "f", 0, math.prod(shape) * BITS[dtype] // 8)
    return found


def layers_of(tensors, patterns):
    entries = [{"quantizer_name": "*weight_quantizer", "cfg": FP8}]
    entries += [{"quantizer_name": name, "enable": False} for name in patterns]
    excluded = ["lm_head", "model.layers.2.mlp.experts.3.up_proj"]
    declaration = Declaration("FP8", kv_cache=None, layers=None, excluded=excluded)
    return read_layers(sort_tensors(tensors), declaration, Patterns(tuple(entries)), 3)


@pytest.mark.parametrize("patterns", PATTERNS)
@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(MODULES), st.dictionaries(st.sampled_from(list(FORMS)), st.sampled_from(["lost", "other"]))
    ),
    st.randoms(),
)
def test_layers_are_those_of_each_module_alone(patterns, changes, chance):
    tensors = tensors_of(changes)
    order = list(tensors)
    chance.shuffle(order)
    layers, orphans = layers_of({name: tensors[name] for name in order}, PATTERNS[patterns])
    expected = {}
    lost = set()
    for module in MODULES:
        alone = {name: one for name, one in tensors.items() if name.rpartition(".")[0] == module}
        found, without = layers_of(alone, PATTERNS[patterns])
        expected |= found.items()
        lost.update(without)
    assert dict(layers.items()) == expected and set(orphans) == lost and len(layers) == len(expected)
    assert all(layers[module] == layer for module, layer in expected.items())
    assert sum(count for _, count in distinct(layers)) == sum(count for *_, count in layers.cells()) == len(expected)
    plain = dict(layers.items())
    for is_wanted in (lambda layer: layer.problem, lambda layer: layer.is_excluded, lambda layer: layer.is_quantized):
        assert modules_where(layers, is_wanted) == [name for name in plain if is_wanted(plain[name])]
        first = [name for name in modules_where(layers, is_wanted) if ".experts." not in name or ".experts.0." in name]
        assert [name for name in first_experts_where(layers, is_wanted) if name in first] == first
    differs = lambda one, other: one.precision != other.precision  # noqa: E731
    pairs = [(module, plain[other]) for module in plain for other in fused_with(module) if other in plain]
    assert sorted(leaders_where(layers, differs)) == sorted({m for m, other in pairs if differs(plain[m], other)})


def test_a_layer_can_be_set():
    layers, _ = layers_of(tensors_of({}), [])
    other = layers["lm_head"]._replace(problem="x")
    layers["lm_head"] = other
    assert layers["lm_head"] is other and modules_where(layers, lambda layer: layer.problem == "x") == ["lm_head"]
    assert dict(Layers.of(dict(layers.items())).items()) == dict(layers.items())
    assert dict(Layers.of(dict(layers.items()), layers.tensors, layers.rows).items()) == dict(layers.items())
    with pytest.raises(KeyError):
        layers["no"]
