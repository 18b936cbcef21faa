"""What the stages that run ModelOpt share: the source model as they load it, calibration batches, and failures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import random
import resource
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

from day0.base.cli import UnusableInput
from day0.recipe.failures import Unsupported, is_transient, unsupported
from day0.records.failure_class import FailureClass
from day0.records.recipe import Calibration
from day0.source.model_folder import SourceModel
from day0.source.recorded_files import RecordedFiles
from nvfp4_emulation import emulate_nvfp4_on_cpu

PACKAGES = ("torch", "nvidia-modelopt", "transformers", "safetensors", "tokenizers")


def prepare_process() -> None:
    """Settings of a process that will run ModelOpt, to be made before torch is imported."""
    # Spinning threads cost a machine that is shared by jobs most of its time; waiting ones cost nothing measurable.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # ModelOpt shows its batches by tqdm, ten times a second where they are quick, into a log that keeps every line.
    os.environ.setdefault("TQDM_MININTERVAL", "5")
    warnings.filterwarnings("ignore", category=FutureWarning)


def import_modelopt() -> None:
    """Import what takes long, and let ModelOpt round to NVFP4 on a CPU too."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    emulate_nvfp4_on_cpu()


def versions() -> dict[str, str]:
    """Versions of Python and the main packages, for a record."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}


def model_class(config: Any, trust_remote_code: bool) -> Any:
    """The transformers class that loads a model, by its ``config.architectures``.

    Raises:
        Unsupported: transformers has no class of that name.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    architecture = (getattr(config, "architectures", None) or [None])[0]
    if architecture is None:
        raise Unsupported("config.json names no architecture ('architectures')")
    if trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return transformers.AutoModelForCausalLM
    if architecture in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return transformers.AutoModelForCausalLM
    if architecture in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values():
        return transformers.AutoModelForImageTextToText
    found = getattr(transformers, architecture, None)
    if found is None:
        raise Unsupported(f"transformers {transformers.__version__} has no architecture {architecture}")
    return found


def load_model(source: SourceModel, device: str) -> tuple[Any, Any]:
    """Load model and tokenizer from local files only.

    Raises:
        Unsupported: transformers does not know the model.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    folder, trust = str(source.folder), source.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except (ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise Unsupported(
                f"{folder} brings its own Python code; set trust_remote_code for this model if you trust it",
                FailureClass.USER_CONFIG_ERROR,
            ) from error
        raise Unsupported(f"transformers does not know this model: {' '.join(str(error).split())}") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UnusableInput(
            "--device cuda: torch finds no CUDA device here; use cpu, or the CUDA environment on a GPU node"
        )
    device_map = (
        {"device_map": "auto"} if device == "device_map" else {"device_map": {"": 0}} if device == "cuda" else {}
    )
    model = model_class(config, trust).from_pretrained(
        folder, dtype="auto", trust_remote_code=trust, local_files_only=True, use_safetensors=True, **device_map
    )
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def load_recorded(source: SourceModel, recorded: RecordedFiles, device: str) -> tuple[Any, Any]:
    """Load model and tokenizer while the files are hashed that they are loaded from.

    Raises:
        Unsupported: the model cannot be loaded.
        UnusableInput: the source is not what its record says.
    """
    with failures_recorded("the model cannot be loaded", device):
        recorded.begin()
        try:
            return load_model(source, device)
        finally:  # what another file than the recorded one does to the loader is no failure of the model
            recorded.check_digests()


def read_shapes(source: SourceModel) -> dict[str, list[int]]:
    """Shapes of the source's tensors, by their names in the files; none of a model that has no safetensors."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for file in sorted(source.folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return shapes


def make_batches(calibration: Calibration, texts: list[str], tokenizer: Any, device: Any, labels: bool) -> Any:
    """Calibration batches of input_ids and attention_mask of shape [batch_size, tokens], padded left to the longest.

    With ``labels``, also those: input_ids with -100 for padding.
    """
    import torch

    if not texts:
        from modelopt.torch.utils.dataset_utils import get_dataset_dataloader

        return get_dataset_dataloader(
            calibration.dataset,
            tokenizer,
            calibration.batch_size,
            calibration.samples,
            calibration.sequence_length,
            device,
            labels,
        )
    if len(texts) < calibration.samples:
        print(
            f"[quantize] {calibration.dataset} holds {len(texts)} texts, fewer than the {calibration.samples} asked for"
        )
    batches = []
    for start in range(0, len(texts), calibration.batch_size):
        encoded = tokenizer(
            texts[start : start + calibration.batch_size],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=calibration.sequence_length,
        )
        batch = {key: encoded[key].to(device) for key in ("input_ids", "attention_mask")}
        if labels:
            batch["labels"] = torch.where(batch["attention_mask"] > 0, batch["input_ids"], -100)
        batches.append(batch)
    return batches


@contextlib.contextmanager
def failures_recorded(what: str, device: str) -> Iterator[None]:
    """Turn an error of ModelOpt or transformers that a second run would only repeat into Unsupported."""
    import torch

    try:
        yield
    except (Unsupported, UnusableInput):
        raise
    except Exception as error:
        if is_transient(error):
            raise
        traceback.print_exc()
        raise unsupported(what, error, has_gpu=device != "cpu" and torch.cuda.is_available()) from error


def peak_memory() -> tuple[int, int | None]:
    """Largest resident memory of this process, and largest allocation on the GPUs together, in bytes."""
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return of_process, sum(map(torch.cuda.max_memory_allocated, gpus)) if gpus else None


def set_seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
