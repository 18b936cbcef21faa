"""The source model as it is: its files, digests, precisions, configuration and licence."""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from day0.base.artefacts import read_json
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.records.file_states import FileStates
from day0.records.files import Files, digest_of_files
from day0.records.source import FolderLocation, HubLocation, Source, SourceCard
from day0.source.recorded_files import RecordedFiles, hash_files
from day0.source.safetensors_headers import payload_bytes, read_tensors
from day0.source.side_files import side_files


def check_model_folder(path: str) -> str | None:
    """Say what keeps a local folder from being a source model, or None."""
    folder = Path(path)
    if not os.path.isdir(folder):
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


@dataclass(frozen=True)
class SourceModel:
    """What a stage needs to read the source model.

    ``digest``, ``files`` and ``record`` (the record's file) are empty where its folder alone was given.
    """

    name: str
    folder: Path
    digest: str | None = None
    trust_remote_code: bool = False
    files: Files = field(default_factory=dict)
    record: Path | None = None

    def recorded_files(self) -> RecordedFiles:
        """The files that the record names, to be compared while they are loaded; none without a record."""
        present = model_files(self.folder, self.trust_remote_code) if self.record else []
        return RecordedFiles(self.folder, self.files, self.record or self.folder, present)


def open_source(path: Path) -> SourceModel:
    """The source model, by its record (source.json) or by its folder alone, whose Python code is then not trusted.

    Raises:
        UnusableInput: the record cannot be used, or there is no model folder.
    """
    if os.path.isdir(path):
        return SourceModel(path.name, path)
    source = Source.read(path)
    if not (Path(source.path) / "config.json").is_file():
        raise UnusableInput(
            f"{path}: 'path': found {source.path!r}; expected the folder of the source model, with config.json in it"
        )
    return SourceModel(source.model, Path(source.path), source.digest, source.trust_remote_code, source.files, path)


def describe_source(
    folder: Path, model: str, location: HubLocation | FolderLocation, trust_remote_code: bool = False
) -> tuple[Source, FileStates]:
    """Describe a model folder: every file is hashed, of the weights only the headers are parsed.

    Args:
        folder: the Hugging Face model folder.
        model: the model's name in the configuration.
        location: where the configuration says that the model is.
        trust_remote_code: whether the model's Python files are part of it.

    Returns:
        the description, and how the files were when they were hashed.

    Raises:
        UnusableInput: config.json or a safetensors file cannot be read, or a file changed while it was hashed.
    """
    files, states = hash_files(folder, model_files(folder, trust_remote_code))
    tensors = read_tensors(folder)
    dtypes: Counter[str] = Counter()
    for tensor in tensors.values():
        dtypes[tensor.dtype] += tensor.elements
    source = Source(
        model=model,
        location=location,
        path=str(folder),
        files=files,
        digest=digest_of_files(files),
        payload_bytes=payload_bytes(tensors),
        parameters=sum(dtypes.values()),
        dtypes=dict(sorted(dtypes.items())),
        config=read_json(folder / "config.json"),
        trust_remote_code=trust_remote_code,
        card=_card(folder),
    )
    return source, states


def model_files(folder: Path, trust_remote_code: bool) -> list[str]:
    """Names of the files that are part of a model, sorted; of the folders below its own what goes into a checkpoint."""
    names = {path.name for path in folder.iterdir() if path.is_file() and _belongs(path.name, trust_remote_code)}
    return sorted(names | set(side_files(folder, trust_remote_code)))


def _belongs(name: str, trust_remote_code: bool) -> bool:
    """Whether a file is part of the model: weights only as safetensors, code only where it is trusted."""
    if name.startswith("."):
        return False
    suffix = Path(name).suffix
    return suffix not in {".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".gguf", ".onnx"} and (
        suffix != ".py" or trust_remote_code
    )


def _card(folder: Path) -> SourceCard:
    """What the front matter of the model card says; of one that is broken nothing, with a line on standard error."""
    from huggingface_hub.repocard import metadata_load  # half a second, and only this stage reads a card
    from yaml import YAMLError

    card = folder / "README.md"
    try:
        content = mapping_or_empty(metadata_load(card) if card.is_file() else None)
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        print(
            f"warning: {card}: its front matter cannot be read, so no licence is taken from it: {error}",
            file=sys.stderr,
        )
        return SourceCard()
    license_, languages = content.get("license"), content.get("language")
    several = [entry for entry in license_ if isinstance(entry, str)] if isinstance(license_, list) else []
    return SourceCard(
        license=license_ if isinstance(license_, str) else several or None,
        languages=[str(one) for one in (languages if isinstance(languages, list) else [languages]) if _is_word(one)],
        **{key: content[key] for key in ("license_name", "license_link", "pipeline_tag") if _is_word(content.get(key))},
    )


def _is_word(value: object) -> bool:
    """Whether a value is a text; YAML 1.1 reads the language `no` as false."""
    return isinstance(value, str) and bool(value)
