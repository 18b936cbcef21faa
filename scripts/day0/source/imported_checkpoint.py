"""A checkpoint that was made elsewhere: its files, and who made it by its own words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import files_below, read_json
from day0.base.cli import UnusableInput
from day0.base.numbers import mapping_or_empty
from day0.records.file_states import FileState
from day0.records.files import why_left_behind
from day0.source.side_files import CARD, WEIGHT_SUFFIXES, WEIGHTS_DECLARATION, why_not_carried


def files_of_checkpoint(folder: Path, trust_remote_code: bool) -> list[str]:
    """Relative names of the files that belong to a checkpoint, sorted: its weights, and what travels with them.

    Weights in other forms than safetensors count as files of it, so that the gate finds them; no script, hidden file or
    file named like a secret does (day0/records/files.py).
    """
    return [
        name
        for name in files_below(folder)
        if why_left_behind(name, trust_remote_code) is None or _is_weights(name) or name == CARD
    ]


def carried_files(folder: Path, trust_remote_code: bool) -> tuple[list[str], dict[str, str]]:
    """Relative names of the files of a checkpoint made elsewhere that go into a release; and why each other does not.

    Weights and their declarations go whatever they are: the gate looks at them.
    """
    carried, left = [], {}
    for name in files_below(folder):
        why = None
        if not (_is_weights(name) or name == CARD):
            why = why_left_behind(name, trust_remote_code)
            if why is None and name not in WEIGHTS_DECLARATION:
                why = why_not_carried(folder, name)
        if why is None:
            carried.append(name)
        else:
            left[name] = why
    return carried, left


def _is_weights(name: str) -> bool:
    is_hidden = any(part.startswith(".") for part in Path(name).parts)
    return name.endswith(WEIGHT_SUFFIXES) and not is_hidden


def file_states(files: Iterable[str | Path]) -> dict[str, list[int]]:
    """Size, time of the last change in nanoseconds, and inode of files: one that is replaced differs in one of them."""
    states = {str(file): FileState.of(file) for file in files}
    return {name: [state.bytes, state.mtime_ns, state.inode] for name, state in states.items()}


def link_files(folder: Path, names: list[str], target: Path) -> None:
    """Give the files of a folder a second place by symbolic links: no byte is copied, whatever the file systems.

    Hard links would need one file system and the ownership of the files; the bundle makes them, or copies, once.
    """
    for name in names:
        link = target / name
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink((folder / name).absolute(), link)


def declared_versions(folder: Path) -> dict[str, str]:
    """Versions of the tools that made a checkpoint, as it declares them; empty where it declares none.

    ModelOpt writes ``producer`` (name and version) into hf_quant_config.json and ``quantization_config`` of
    config.json, compressed-tensors ``version``, AutoRound ``autoround_version``, GPTQModel ``meta.quantizer`` as
    ``NAME:VERSION``.
    """
    config = mapping_or_empty(_read(folder / "config.json").get("quantization_config"))
    producers = [_read(folder / "hf_quant_config.json").get("producer"), config.get("producer")]
    found = {}
    for producer in map(mapping_or_empty, producers):
        if producer.get("name"):
            found[_distribution(str(producer["name"]))] = str(producer.get("version"))
    if config.get("quant_method") == "compressed-tensors" and config.get("version"):
        found["compressed-tensors"] = str(config["version"])
    if config.get("autoround_version"):
        found["auto-round"] = str(config["autoround_version"])
    quantizers: Any = mapping_or_empty(config.get("meta")).get("quantizer")
    for quantizer in quantizers if isinstance(quantizers, list) else [quantizers] if quantizers else []:
        name, _, version = str(quantizer).partition(":")
        found[name] = version
    return found


def _distribution(name: str) -> str:
    """The name that the quantize stage records ModelOpt by, too."""
    return "nvidia-modelopt" if name.lower() == "modelopt" else name


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except UnusableInput:
        return {}
