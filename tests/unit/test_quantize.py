"""A recipe reaches ModelOpt as it was written."""

import json

import yaml

from day0.recipes import Recipe
from quantize import with_number_keys

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
