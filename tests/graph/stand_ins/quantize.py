"""Stand-in: a checkpoint of zeros, or a recorded failure."""

import argparse
import json
from pathlib import Path

from day0.base.artefacts import digest_of_inventory, inventory, read_json, write_json
from stand_in import called, write_safetensors

parser = argparse.ArgumentParser()
parser.add_argument("--source", type=Path)
parser.add_argument("--recipe-json", type=json.loads)
parser.add_argument("--calibration", type=json.loads)
parser.add_argument("--device")
parser.add_argument("--seed")
parser.add_argument("--output", type=Path)
parser.add_argument("--record", type=Path)
arguments = parser.parse_args()

name = arguments.recipe_json["name"]
failure = called("quantize", name).get("failure_class")
arguments.output.mkdir(parents=True, exist_ok=True)
if failure is None:
    (arguments.output / "config.json").write_text(json.dumps({"recipe": arguments.recipe_json}))
    tensors = {"model.layers.0.self_attn.q_proj.weight": ("U8", (4, 2))}
    write_safetensors(arguments.output / "model.safetensors", tensors)
files = inventory(arguments.output)
write_json(
    arguments.record,
    {
        "status": "failed" if failure else "done",
        "failure_class": failure,
        "detail": f"stand-in: {failure}",
        "source_digest": read_json(arguments.source)["digest"],
        "recipe": arguments.recipe_json,
        "calibration": arguments.calibration,
        "kv_cache": None,
        "versions": {"nvidia-modelopt": "0"},
        "files": files,
        "checkpoint_digest": digest_of_inventory(files),
    },
)
