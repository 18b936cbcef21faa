"""A recipe reaches ModelOpt as it was written, and its failures are told for what they are."""

import json
import sys
from types import SimpleNamespace

import pytest
import yaml

from day0.recipe.failures import Unsupported, is_transient
from day0.recipe.modelopt_form import with_number_keys
from day0.recipe.recipes import Recipe
from quantize import failures_recorded

PER_TOKEN = """
quantize:
  algorithm: max
  quant_cfg:
    - quantizer_name: "*input_quantizer"
      cfg: {num_bits: [4, 3], type: dynamic, block_sizes: {-1: null, -2: 128, scale_bits: [8, 0]}}
"""


def test_numbered_block_sizes_survive_the_way_as_json():
    written = yaml.safe_load(PER_TOKEN)
    sent = json.loads(json.dumps(Recipe.model_validate(written).model_dump(mode="json", exclude_defaults=True)))
    assert sent != written
    assert with_number_keys(sent) == written


@pytest.mark.parametrize(
    ("device", "has_gpu", "failure_class"),
    [
        ("cpu", False, "USER_CONFIG_ERROR"),
        ("auto", False, "USER_CONFIG_ERROR"),
        ("cpu", True, "USER_CONFIG_ERROR"),
        ("auto", True, "MODEL_UNSUPPORTED"),
        ("cuda", True, "MODEL_UNSUPPORTED"),
    ],
)
def test_a_recipe_that_needs_a_gpu_and_was_given_none_is_no_fault_of_the_model(
    monkeypatch, device, has_gpu, failure_class
):
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: has_gpu))
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(Unsupported) as caught, failures_recorded("ModelOpt cannot quantize", device):
        raise AssertionError("amax must be a CUDA tensor for dynamic block quantization.")
    assert caught.value.failure_class == failure_class


@pytest.mark.parametrize(
    ("error", "is_cured"),
    [
        (MemoryError(), True),
        (OSError(28, "No space left on device"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (NotImplementedError("llama4forcausallm not supported"), False),
    ],
)
def test_a_failure_that_another_run_could_cure_is_not_recorded(error, is_cured):
    assert is_transient(error) is is_cured
