"""What a model folder holds beside its weights, and what of it goes into a checkpoint made of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import files_below, read_json, read_text
from day0.base.cli import UnusableInput
from day0.base.secret_texts import kind_of_secret
from day0.records.files import CODE, DISGUISED, why_left_behind
from day0.source.safetensors_headers import INDEX_FILE

WEIGHTS_DECLARATION = (INDEX_FILE, "hf_quant_config.json", "config.json")
WEIGHT_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".pkl",
    ".index.json",
)
# Texts up to this size are looked through for secrets; vocabularies are larger.
MOST_READ_BYTES = 1 << 20
MOST_TEMPLATE_BYTES = 4 << 20  # the largest known have some 100 KiB
_NOT_READ = (".model", ".tiktoken", ".vocab", ".bpe", ".pdf")
LAYER_LISTS = ("layer_types", "mlp_layer_types")
CARD = "README.md"
_NOT_CARRIED = (CARD, *WEIGHTS_DECLARATION)


def side_files(folder: str | Path, trust_remote_code: bool) -> list[str]:
    """Relative names of a source's files that go into its checkpoint as they are.

    These are configurations, tokenizers, templates, preprocessors and licences, and Python code where it is trusted.
    """
    left = left_behind(folder, trust_remote_code)
    return [name for name in _besides_weights(folder) if name not in left]


def left_behind(folder: str | Path, trust_remote_code: bool) -> dict[str, str]:
    """Files of a source that stay behind, though they are neither weights nor their declarations, and why."""
    found = {}
    for name in _besides_weights(folder):
        if why := why_left_behind(name, trust_remote_code) or why_not_carried(Path(folder), name):
            found[name] = why
    return found


def _besides_weights(folder: str | Path) -> list[str]:
    return [name for name in files_below(folder) if name not in _NOT_CARRIED and not name.endswith(WEIGHT_SUFFIXES)]


def secret_in_declarations(folder: Path) -> str | None:
    """A sentence where a file that every checkpoint has holds a secret: it cannot stay behind."""
    for name in WEIGHTS_DECLARATION:
        path = folder / name
        is_read = path.is_file() and path.stat().st_size <= MOST_READ_BYTES
        if is_read and (kind := kind_of_secret(path.read_text(encoding="utf-8", errors="replace"))):
            return f"{path} holds {kind}, and would go into the release; remove it there"
    return None


def why_not_carried(folder: Path, name: str) -> str | None:
    """Why a file of an allowed kind stays behind for what it is: a link out of the folder, no text, or a secret's."""
    target, root = (folder / name).resolve(), folder.resolve()
    # The hub's cache holds nothing but links to its own blobs.
    is_blob = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not (target.is_relative_to(root) or is_blob):
        return "a link to a file outside of the folder"
    with target.open("rb") as stream:
        if not name.endswith(CODE) and DISGUISED.match(stream.read(9)):
            return "a program, an archive or a pickle, whatever it is called"
    if target.suffix not in _NOT_READ and target.stat().st_size <= MOST_READ_BYTES:
        text = target.read_text(encoding="utf-8", errors="replace")
        return f"holds {kind}" if (kind := kind_of_secret(text)) else None
    return None


def merged_config(source: Mapping[str, Any], exported: Mapping[str, Any]) -> dict[str, Any]:
    """The source's config.json with what the export says about quantization, instead of all the export rewrote.

    A list of the layers' types that the export cut to the number of layers stays cut: transformers 5 and vLLM refuse
    any other length.
    """
    kept = {key: value for key, value in source.items() if key != "quantization_config"}
    added = {key: exported[key] for key in ("quantization_config", "sparse_attention_config") if key in exported}
    return {**kept, **_cut_lists(kept, exported), **added}


def _cut_lists(source: Mapping[str, Any], exported: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a configuration, and of those within it, with the lists of layers as the export cut them."""
    cut: dict[str, Any] = {}
    for key, old in source.items():
        new = exported.get(key)
        if key in LAYER_LISTS and isinstance(old, list) and isinstance(new, list):
            if len(new) == source.get("num_hidden_layers") and new == old[: len(new)]:
                cut[key] = new
        elif key.endswith("_config") and isinstance(old, dict) and isinstance(new, dict):
            cut[key] = {**old, **_cut_lists(old, new)}
    return cut


def carry_side_files(source: Path, checkpoint: Path, trust_remote_code: bool) -> None:
    """Make all of a checkpoint but the weights and their declarations that of the source, byte for byte.

    Args:
        source: folder of the source model.
        checkpoint: folder that ModelOpt exported to; what else it holds is replaced.
        trust_remote_code: whether the source's Python code goes along.

    Raises:
        UnusableInput: a config.json cannot be read, or holds a secret.
    """
    if problem := secret_in_declarations(source):
        raise UnusableInput(problem)
    config = merged_config(read_json(source / "config.json"), read_json(checkpoint / "config.json"))
    for path in list(checkpoint.iterdir()):
        if path.suffix != ".safetensors" and path.name not in WEIGHTS_DECLARATION:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (checkpoint / "config.json").write_text(text, encoding="utf-8")
    for name in side_files(source, trust_remote_code):
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, checkpoint / name)
    for file in checkpoint.rglob("*.safetensors"):
        file.chmod(0o644)


def effective_chat_template(folder: Path) -> Any:
    """The chat template that transformers would use: chat_template.jinja, chat_template.json, tokenizer_config.json.

    Several are a mapping by name: files of additional_chat_templates stand beside chat_template.jinja, the default.

    Raises:
        UnusableInput: one cannot be read, or is too large for one.
    """
    jinja = folder / "chat_template.jinja"
    more = [path for path in sorted((folder / "additional_chat_templates").glob("*.jinja")) if path.is_file()]
    named = {file.stem: read_text(file, MOST_TEMPLATE_BYTES) for file in more}
    if jinja.is_file():
        default = read_text(jinja, MOST_TEMPLATE_BYTES)
        return {"default": default, **named} if named else default
    if named:
        return named
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (template := read_json(folder / name).get("chat_template")) is not None:
            if isinstance(template, list):
                listed = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
                return listed.get("default", listed) if len(listed) == 1 else listed
            return template
    return None
