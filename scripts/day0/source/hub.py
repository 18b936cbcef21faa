"""What a model hub holds of a repository at a commit, before anything of the model's size is fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from day0.source.safetensors_headers import INDEX_FILE, Tensor

Answer = TypeVar("Answer")
# What shows whether a model can be used, without its weights.
TEXTS = (
    "config.json",
    INDEX_FILE,
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
)


class HubError(Exception):
    """The hub gave no answer, or refused one.

    Attributes:
        is_refusal: it answered that there is no such repository or commit, or that it may not be read.
    """

    def __init__(self, error: Exception, is_refusal: bool) -> None:
        super().__init__(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        self.is_refusal = is_refusal


def cached_folder(hub: str, revision: str) -> Path | None:
    """The folder of a commit in the hub's cache, which may hold a part of it; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub, "config.json", revision=revision)
    return Path(cached).parent if isinstance(cached, str) else None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def fetch_texts(hub: str, revision: str) -> Path:
    """Fetch :data:`TEXTS`, as far as a commit has them, into the hub's cache; returns the folder.

    Raises:
        HubError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    return _asked(lambda: Path(snapshot_download(hub, revision=revision, allow_patterns=list(TEXTS))))


def sizes_of(hub: str, revision: str) -> dict[str, int]:
    """Bytes of all files of a commit, by name.

    Raises:
        HubError: they cannot be had.
    """
    from huggingface_hub import HfApi

    info = _asked(lambda: HfApi().model_info(hub, revision=revision, files_metadata=True))
    return {file.rfilename: file.size or 0 for file in info.siblings or []}


def remote_tensors(hub: str, revision: str) -> dict[str, Tensor]:
    """The tensors of a commit by the headers of its files, which are read by range.

    Raises:
        HubError: they cannot be had.
    """
    from huggingface_hub import HfApi

    found = _asked(lambda: HfApi().get_safetensors_metadata(hub, revision=revision))
    return {
        name: Tensor(one.dtype, tuple(one.shape), file, one.data_offsets[0], one.data_offsets[1] - one.data_offsets[0])
        for file, header in found.files_metadata.items()
        for name, one in header.tensors.items()
    }


def _asked(ask: Callable[[], Answer]) -> Answer:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return ask()
    except LocalEntryNotFoundError as error:
        raise HubError(error, False) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 500)
        raise HubError(error, status < 500 and status != 429) from error
    except Exception as error:  # every network library has its own family of connection errors
        raise HubError(error, False) from error
