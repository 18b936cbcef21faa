"""Stand-in: the same loss for every format of one group, or a recorded failure."""

import argparse
import json
from pathlib import Path

from day0.records.sensitivity import LayerGroup, Sensitivity
from day0.records.source import Source
from stand_in import called

parser = argparse.ArgumentParser()
parser.add_argument("--source", type=Path)
parser.add_argument("--formats", nargs="+")
parser.add_argument("--calibration", type=json.loads)
parser.add_argument("--device")
parser.add_argument("--seed", type=int)
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

failure = called("sensitivity", arguments.output.parent.name).get("failure_class")
module = "model.layers.0.self_attn.q_proj"
quantizers = [f"{module}.input_quantizer", f"{module}.weight_quantizer"]
group = LayerGroup(modules=[module], quantizers=quantizers, weights=8, scores=dict.fromkeys(arguments.formats, 1.0))
Sensitivity(
    status="failed" if failure else "done",
    failure_class=failure,
    detail=f"stand-in: {failure}" if failure else "",
    model="stand-in",
    source_digest=Source.read(arguments.source).digest,
    calibration=arguments.calibration,
    scored_texts=1,
    formats={} if failure else dict.fromkeys(arguments.formats, 4.5),
    groups=[] if failure else [group],
    emulated=[],
    seed=arguments.seed,
    device=arguments.device,
    versions={"nvidia-modelopt": "0"},
    duration_seconds={},
).write(arguments.output)
