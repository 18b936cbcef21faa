"""Stand-in: a model folder with a block of zeros, whose shapes a search takes its costs from."""

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
linear = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
tensors = {f"model.layers.0.{name}.weight": ("BF16", (64, 64)) for name in linear}
tensors |= {name: ("BF16", (128, 64)) for name in ("model.embed_tokens.weight", "lm_head.weight")}
write_safetensors(arguments.output / "model.safetensors", tensors)
