"""Stand-in: a checkpoint of zeros, or a recorded failure."""

import argparse
import json
from pathlib import Path

from day0.base.artefacts import digest_of_file
from day0.records.files import digest_of_files, list_files
from day0.records.quantization import Quantization
from day0.records.source import Source
from stand_in import called, write_safetensors

parser = argparse.ArgumentParser()
parser.add_argument("--source", type=Path)
parser.add_argument("--recipe-json", type=json.loads)
parser.add_argument("--calibration", type=json.loads)
parser.add_argument("--sensitivity", type=Path)
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
    (arguments.output / "tokenizer.json").write_text("{}")
    tensors = {"model.layers.0.self_attn.q_proj.weight": ("U8", (4, 2))}
    write_safetensors(arguments.output / "model.safetensors", tensors)
files, source = list_files(arguments.output), Source.read(arguments.source)
Quantization(
    status="failed" if failure else "done",
    failure_class=failure,
    detail=f"stand-in: {failure}",
    model=source.model,
    source_digest=source.digest,
    sensitivity_sha256=arguments.sensitivity and digest_of_file(arguments.sensitivity),
    recipe=arguments.recipe_json,
    kv_cache=None,
    calibration=arguments.calibration,
    seed=arguments.seed,
    device=arguments.device,
    versions={"nvidia-modelopt": "0"},
    duration_seconds={},
    peak_memory_bytes=None,
    peak_gpu_memory_bytes=None,
    search=None,
    quantizers=None,
    files=files,
    checkpoint_digest=digest_of_files(files),
).write(arguments.record)
