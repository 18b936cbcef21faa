"""The source model as it is: its files, digests, precisions, configuration and licence."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of_inventory, inventory, read_json
from day0.source.safetensors_headers import payload_bytes, read_tensors


def check_model_folder(path: str) -> str | None:
    """Say what keeps a local folder from being a source model, or None."""
    folder = Path(path)
    if not folder.is_dir():
        return f"found no folder {path}; expected one with config.json, a tokenizer and *.safetensors"
    if not (folder / "config.json").is_file():
        return f"{path} holds no config.json; expected a Hugging Face model folder"
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
        found = f" (found {', '.join(pickles[:3])})" if pickles else ""
        return (
            f"{path} holds no *.safetensors{found}; convert the weights with save_pretrained(safe_serialization=True)"
        )
    return None


def describe_source(folder: Path, trust_remote_code: bool = False) -> dict[str, Any]:
    """Describe a model folder for source.json.

    ``parameters`` counts the elements of all tensors, ``payload_bytes`` their bytes, ``dtypes`` elements by data type.

    Raises:
        UnusableInput: config.json or a safetensors file cannot be read.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _belongs(path.name, trust_remote_code))
    files = inventory(folder, names)
    tensors = read_tensors(folder)
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[tensor.dtype] += tensor.elements
    return {
        "path": str(folder),
        "files": files,
        "digest": digest_of_inventory(files),
        "payload_bytes": payload_bytes(tensors),
        "parameters": sum(dtypes.values()),
        "dtypes": dict(sorted(dtypes.items())),
        "config": read_json(folder / "config.json"),
        "trust_remote_code": trust_remote_code,
        "license": _license(folder),
    }


def _belongs(name: str, trust_remote_code: bool) -> bool:
    """Whether a file is part of the model: weights only as safetensors, code only where it is trusted."""
    if name.startswith("."):
        return False
    suffix = Path(name).suffix
    return suffix not in {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf", ".onnx"} and (
        suffix != ".py" or trust_remote_code
    )


def _license(folder: Path) -> str | None:
    """The licence that the model card's front matter names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
