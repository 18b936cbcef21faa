"""Stand-in: a model folder with one layer of zeros."""

import argparse
import json
from pathlib import Path

from stand_in import called, write_safetensors

parser = argparse.ArgumentParser()
parser.add_argument("--data", type=Path)
parser.add_argument("--output", type=Path)
arguments = parser.parse_args()

called("train", "demo")
arguments.output.mkdir(parents=True, exist_ok=True)
(arguments.output / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
    (arguments.output / name).write_text("{}")
(arguments.output / "chat_template.jinja").write_text("{{ messages }}")
tensors = {"model.layers.0.self_attn.q_proj.weight": ("BF16", (4, 4))}
write_safetensors(arguments.output / "model.safetensors", tensors)
