"""Source models by their headers: names and shapes of what real architectures hold, with next to no bytes."""

import json
import math

from day0.source.safetensors_headers import BITS, Tensor


def _model(layers, hidden, of_layer):
    shapes = {"model.embed_tokens": (32, hidden), "lm_head": (32, hidden), "model.norm": (hidden,)}
    for layer in range(layers):
        place = f"model.layers.{layer}"
        shapes |= {f"{place}.{name}_layernorm": (hidden,) for name in ("input", "post_attention")}
        shapes |= {f"{place}.self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{place}.mlp.{name}": shape for name, shape in of_layer.items()}
    tensors, end = {}, 0
    for name, shape in shapes.items():
        size = math.prod(shape) * BITS["BF16"] // 8
        tensors[f"{name}.weight"] = Tensor("BF16", shape, "model.safetensors", end, size)
        end += size
    return tensors


def _mlp(hidden, inner):
    return {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}


def llama_like(layers=3, hidden=128, inner=256):
    """A dense model; by default with the layers of the embedded one."""
    return _model(layers, hidden, _mlp(hidden, inner))


def qwen3_moe_like(layers=2, hidden=128, inner=128, experts=4):
    """A model whose layers have a router and experts, one set of tensors each."""
    of_experts = {f"experts.{n}.{name}": shape for n in range(experts) for name, shape in _mlp(hidden, inner).items()}
    return _model(layers, hidden, {"gate": (experts, hidden), **of_experts})


def write_model(folder, tensors, **config):
    """Write headers as a model folder whose weights are a hole in a file."""
    folder.mkdir()
    header = json.dumps(
        {
            name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": [t.start, t.start + t.bytes]}
            for name, t in tensors.items()
        }
    ).encode()
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + sum(t.bytes for t in tensors.values()))
    (folder / "config.json").write_text(json.dumps({"tie_word_embeddings": False, **config}))
