"""How many texts are calibrated on where the configuration does not say: fewer on a CPU, and never without a word."""

from pathlib import Path

import pytest

from day0.plan.check import make_plan
from day0.plan.plan import CPU_SAMPLES

ROOT = Path(__file__).parents[3]


def planned(has_gpu=False, calibration=None, model=None, recipe=None, **changes):
    raw = {
        "models": {"m": {"path": "results/demo/model", "calibration": model}},
        "quantization": {"calibration": {"dataset": "cnn_dailymail"} | (calibration or {})},
        "recipes": {"mine": {"preset": "fp8"} | ({"calibration": recipe} if recipe else {})},
        "releases": [{"model": "m", "recipe": "mine", "suite": "demo"}],
    }
    for key, value in changes.items():
        raw[key] = raw.get(key, {}) | value if isinstance(value, dict) else value
    made = make_plan(raw, is_produced=lambda path: True, root=ROOT, has_gpu=has_gpu)
    return made.calibration("m", "mine")["samples"], made.has_cpu_samples("m", "mine"), made


@pytest.mark.parametrize(
    ("has_gpu", "changes", "samples"),
    [
        (True, {}, 512),
        (False, {}, CPU_SAMPLES),
        (False, {"accelerator": "cuda"}, 512),
        (True, {"accelerator": "cpu"}, CPU_SAMPLES),
    ],
)
def test_the_default_follows_where_the_model_is_quantized(has_gpu, changes, samples):
    assert planned(has_gpu, **changes)[:2] == (samples, samples == CPU_SAMPLES)


def test_a_model_quantized_on_the_cpu_of_a_gpu_node_takes_fewer():
    raw = {"quantization": {"device": "cpu", "calibration": {"dataset": "cnn_dailymail"}}}
    assert planned(True, **raw)[:2] == (CPU_SAMPLES, True)


@pytest.mark.parametrize("place", ["calibration", "model", "recipe"])
def test_a_number_that_is_given_is_the_same_everywhere(place):
    assert [planned(has_gpu, **{place: {"samples": 512}})[:2] for has_gpu in (True, False)] == [(512, False)] * 2


def test_the_number_is_part_of_what_defines_a_candidate():
    on_cpu, on_gpu = (planned(has_gpu)[2] for has_gpu in (False, True))
    assert on_cpu.definition_digest("m", "mine") != on_gpu.definition_digest("m", "mine")
    assert on_cpu.sensitivity_calibration("m")["samples"] == CPU_SAMPLES
    said = planned(False, calibration={"samples": CPU_SAMPLES})[2]
    assert said.definition_digest("m", "mine") == on_cpu.definition_digest("m", "mine")
