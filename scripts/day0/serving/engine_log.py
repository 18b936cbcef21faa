"""What a vLLM server's log says: its error, how it ended, and what it loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from day0.serving.container import runtime_error
from day0.serving.processes import TRANSIENT_SIGNALS

END_LINE = "day0: all tasks are done; the server is stopped"
FREE_GPU_SHARE = 0.95  # of a GPU's memory, the share that is free at least on an unused GPU (H100: 0.993)
EMULATION_SENTENCE = (
    "The quantized format was emulated: values are rounded as the format does, the products are those of a higher "
    "precision; speed says nothing, and a score on hardware that has the format may differ in the last digits."
)
WEIGHT_ONLY_SENTENCE = (
    "The GPU has no {format} arithmetic, so only the weights were quantized ({kernel}); where the checkpoint quantizes "
    "the activations too, a score on a GPU that has it may differ."
)
_PREFIX = re.compile(r"^(\(\w+( pid=\d+)?\)\s*)?((ERROR|CRITICAL|INFO|WARNING)\s+[\d-]+ [\d:]+ \[[^\]]*\]\s*)?")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*|^[a-z_.]+\.ValidationError.*")
_ERROR = re.compile(r"\b([Ee]rror|ERROR|CRITICAL)\b")
_WRAPPERS = ("Engine core initialization failed", "EngineCore encountered an issue", "cancelled")
# What dash, bash and busybox say where the command of a container is none that they can start.
_NOT_FOUND = r"(?:not found|No such file or directory|Permission denied|cannot execute.*)"
_NO_COMMAND = re.compile(rf"^.*\b(?:exec|line \d+): .*{_NOT_FOUND}$", re.MULTILINE)
# Errors 28, 122, 5 and 116 of a file system that is full or broken.
_NODE = re.compile(r"No space left on device|Disk quota exceeded|Input/output error|Stale file handle")
# An image's runtime on its own failure; pyxis quotes enroot. The engine's lines follow a start that went well.
_IMAGE = re.compile(r"^(?:\[ERROR\]|FATAL: |enroot-\w+: |.*\bpyxis: ).*", re.MULTILINE)
_STARTED = re.compile(r"^(\(\w+ pid=\d+\)|(INFO|WARNING|ERROR) [\d-]+ [\d:]+ \[)", re.MULTILINE)


def error_line(log: str) -> str | None:
    """The engine's own error: the first exception line of its log that does not merely point to another one."""
    found = None
    lines = log.splitlines()
    for number, line in enumerate(lines):
        text = _PREFIX.sub("", line).strip()
        if not _EXCEPTION.match(text):
            continue
        if text.endswith("ModelConfig") or "validation error" in text:
            text = " ".join([text, *(_PREFIX.sub("", after).strip() for after in lines[number + 1 : number + 2])])
        text = text.split(" [type=")[0]
        if not any(wrapper in text for wrapper in _WRAPPERS):
            return text[:500]
        found = found or text[:500]
    if found is None:
        # srun adds to what a job step says that it failed.
        said = [line.strip() for line in lines if not line.startswith("srun: ")]
        failed = [line for line in said if _ERROR.search(line) or _NO_COMMAND.search(line)]
        found = runtime_error(log) or (failed[-1] if failed else None)
        found = found and found[:500]
    return found


@dataclass(frozen=True)
class TransientCause:
    """What ended a server from outside.

    Attributes:
        detail: the end of a sentence, which may quote the log.
        was_killed: whether a signal ended the server or its engine.
    """

    detail: str
    was_killed: bool = False

    def __str__(self) -> str:
        return self.detail


def transient_cause(returncode: int | None, log: str, is_proven_image: bool = True) -> TransientCause | None:
    """What ended a server from outside, which says nothing about its checkpoint; None where it ended by itself.

    Args:
        returncode: exit status, negative for a signal.
        is_proven_image: preflight has started the image that it runs in, if any; another may be a wrong one.
    """
    if returncode is not None and max(-returncode, returncode - 128) in TRANSIENT_SIGNALS:
        return TransientCause("it was killed", was_killed=True)  # 128 and more: as a container runtime reports a signal
    if returncode is not None and returncode < 0:
        return None
    error = error_line(log) or ""
    if re.search(r"OSError: \[Errno 98\]|[Aa]ddress already in use", log):
        return TransientCause("its port, which was free, was taken by another")
    if gpu_memory_is_taken(log):
        return TransientCause(f"others use its GPU's memory: {error}")
    if _NODE.search(error):
        return TransientCause(f"its node cannot keep or give its files: {error}")
    if is_proven_image and not _STARTED.search(log) and (found := _IMAGE.search(log) or _NO_COMMAND.search(log)):
        return TransientCause(f"its image did not start: {runtime_error(log) or found.group().strip()}")
    engine_killed = TransientCause("its engine was killed", was_killed=True)
    codes = re.findall(r"Failed core proc\(s\): \{[^}]*?: (-\d+)", log)
    if codes:
        return engine_killed if any(-int(code) in TRANSIENT_SIGNALS for code in codes) else None
    # An engine that fails by itself says why, and Python's fault handler speaks for one that may not.
    died_silently = not re.search(r"\(EngineCore[^)]*\) (ERROR|CRITICAL)|^Fatal Python error", log, re.MULTILINE)
    return engine_killed if "engine core exited unexpectedly" in log and died_silently else None


def gpu_memory_is_taken(log: str) -> bool:
    """Whether the engine found its GPU's memory in use by others; on a free GPU, too much was asked for."""
    free = re.search(r"ValueError: Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\) on startup", log)
    if free and float(free[1]) < FREE_GPU_SHARE * float(free[2]):
        return True
    return "AssertionError: Error in memory profiling. Initial free memory" in log


_KERNELS = (
    r"(?:Using|Selected) (\w+Kernel) for ",
    r"(\w+Kernel) emulates",  # scripts/vllm_plugin
    r"Using ('?[\w ]+'?[\w ]* M[Oo]E) backend",
    r"Using (FlashAttention version \d+)",
)
_NOT_NATIVE = re.compile(r"Your GPU does not have native support for (\w+) computation but \1 quantization is being")
# Marlin and Humming keep the activations of these formats in 16 bits, mostly without a word. By itself vLLM takes them
# where the GPU has no such arithmetic: Humming on Hopper, Marlin on others.
_WEIGHTS_ONLY = re.compile(r"(Marlin|Humming) ?(?:(NvFp4|MxFp4)|(MxFp8))", re.IGNORECASE)


def loaded_facts(log: str) -> dict[str, Any]:
    """What the engine logs about the model it loaded: types, kernels, emulation.

    The sentences are those of vLLM 0.32: v1/engine/core.py and config/vllm.py (types), platforms/cuda.py, rocm.py and
    cpu.py (attention), v1/attention/backends/flash_attn.py, model_executor/kernels/linear/__init__.py and what calls it
    in model_executor/layers/quantization (linear layers), model_executor/layers/fused_moe/oracle (experts),
    model_executor/layers/quantization/utils/marlin_utils_fp4.py, marlin_utils_fp8.py and humming/ (weights only).

    Returns:
        quantization, dtype, kv_cache_dtype, device, attention_backend (None where the log does not say, as on a CPU),
        kernels (sorted names), emulated, emulation (a sentence or None), engine_starts (how often an engine was
        initialized).
    """

    def said(pattern: str) -> str | None:
        found = re.search(pattern, log)
        return found.group(1) if found else None

    kernels = {name.replace("'", "") for pattern in _KERNELS for name in re.findall(pattern, log)}
    quantization = said(r"\bquantization=([\w.-]+)")
    emulated = any("emulation" in kernel.lower() for kernel in kernels)
    return {
        "quantization": None if quantization in (None, "None") else quantization,
        "dtype": said(r"\bdtype=torch\.(\w+)"),
        "kv_cache_dtype": said(r"\bkv_cache_dtype=([\w.]+)"),
        "device": said(r"\bdevice_config=(\w+)"),
        "attention_backend": said(
            r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]+)"
            r"(?: attention)? backend(?:\.| \(selected via| out of potential backends)"
        ),
        "kernels": sorted(kernels),
        "emulated": emulated,
        "emulation": EMULATION_SENTENCE if emulated else _weights_only(log, kernels),
        "engine_starts": len(re.findall(r"Initializing a V1 LLM engine", log)),
    }


def memory_facts(log: str) -> dict[str, int | None]:
    """What the engine logs about its memory.

    The sentences are those of vLLM 0.32: v1/worker/gpu/model_runner.py (weights, of each GPU; a CPU has none) and
    v1/core/kv_cache_utils.py.

    Returns:
        weights_bytes_of_a_gpu, the largest, and kv_cache_tokens; None where the log does not say.
    """
    weights = [float(found) for found in re.findall(r"Model loading took ([\d.]+) GiB memory", log)]
    tokens = [int(found.replace(",", "")) for found in re.findall(r"KV cache size: ([\d,]+) tokens", log)]
    return {
        "weights_bytes_of_a_gpu": round(max(weights) * 2**30) if weights else None,
        "kv_cache_tokens": min(tokens) if tokens else None,
    }


def _weights_only(log: str, kernels: Iterable[str]) -> str | None:
    """That the engine quantized the weights only, as the GPU lacks the checkpoint's format; None where it does not."""
    for kernel in sorted(kernels):
        if found := _WEIGHTS_ONLY.match(kernel):
            arithmetic = "FP4" if found[2] else "MXFP8"
            return WEIGHT_ONLY_SENTENCE.format(format=arithmetic, kernel=found[1].capitalize())
    found = _NOT_NATIVE.search(log)
    return found and WEIGHT_ONLY_SENTENCE.format(format=found[1], kernel="Marlin")


def effective_kv_cache_dtype(facts: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Type in which the engine keeps keys and values.

    "auto" is FP8 where the checkpoint declares a scheme for it, else the model's type: vLLM 0.32,
    vllm/model_executor/layers/attention/attention.py.

    Args:
        facts: see :func:`loaded_facts`.
        config: the checkpoint's config.json.
    """
    if facts["kv_cache_dtype"] != "auto":
        return facts["kv_cache_dtype"]
    declared = config.get("quantization_config")
    scheme = declared.get("kv_cache_scheme") if isinstance(declared, Mapping) else None
    return "fp8" if scheme is not None else facts["dtype"]
