"""Failures of the quantize stage: which are recorded, and which another run could cure."""

from __future__ import annotations

import re

from day0.records.failure_class import FailureClass

TRANSIENT_SIGNS = ("out of memory", "outofmemory", "cuda error", "cublas", "nccl", "can't allocate memory")


class Unsupported(Exception):
    """A failure that a second run would only repeat; ``failure_class`` says who can correct it."""

    def __init__(self, detail: str, failure_class: FailureClass = FailureClass.MODEL_UNSUPPORTED) -> None:
        super().__init__(detail)
        self.failure_class = failure_class


def is_transient(error: BaseException) -> bool:
    """Whether another run, with more memory or on a healthy machine, could succeed where this one failed."""
    if isinstance(error, MemoryError | OSError | KeyboardInterrupt):
        return True
    text = f"{type(error).__name__}: {error}".lower()
    return any(sign in text for sign in TRANSIENT_SIGNS)


def unsupported(what: str, error: Exception, has_gpu: bool) -> Unsupported:
    """An error of ModelOpt or transformers as a failure to record.

    Args:
        what: what failed, as the beginning of a sentence.
        error: the error.
        has_gpu: whether it happened on a GPU; elsewhere an error that asks for CUDA is the user's to correct.
    """
    sentence = f"{what}: {type(error).__name__}: {' '.join(str(error).split())}"
    if not has_gpu and re.search(r"\b(cuda|triton)\b", str(error), re.IGNORECASE):
        return Unsupported(
            f"{sentence}; this recipe needs a CUDA device: quantize on a GPU", FailureClass.USER_CONFIG_ERROR
        )
    return Unsupported(sentence)
