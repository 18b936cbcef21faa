"""The speed of a server, small, as the evaluate stage records it."""

from decision_input import sha

from day0.records.speed import Speed

LOAD = {"requests": 16, "input_tokens": 24, "output_tokens": 16, "concurrency": 4, "warmup": 4, "repeats": 3}
SERVER = {
    "engine": "vllm",
    "engine_version": "0.32.0",
    "served": "checkpoint",
    "image": None,
    "device_name": "NVIDIA B200",
    "gpu": "NVIDIA B200",
    "chat_template_digest": None,
    "max_model_len": 64,
    "options_digest": sha("options"),
    "command": "",
    "device": "cuda",
}
MEMORY = {"host_bytes": 3 * 10**9, "gpu_bytes": 150 * 10**9, "weights_bytes_of_a_gpu": 16 * 10**9} | {
    "kv_cache_tokens": 400_000
}
IDENTITY = {"model": "m", "candidate": "fp8", "suite": "s", "checkpoint_digest": sha("checkpoint")}


def repeat_of(rate, load=LOAD):
    """A repeat with so many output tokens per second."""
    tokens = load["requests"] * load["output_tokens"]
    first, each = (
        {"mean": ms, "median": ms, "p99": 2 * ms} for ms in (20_000 / rate, 1000 * load["concurrency"] / rate)
    )
    return {
        "seconds": tokens / rate,
        "requests": load["requests"],
        "input_tokens": load["requests"] * load["input_tokens"],
        "output_tokens": tokens,
        "requests_per_second": rate / load["output_tokens"],
        "output_tokens_per_second": rate,
        "time_to_first_token_ms": first,
        "time_per_output_token_ms": each,
    }


def speed_of(*rates, load=None, server=None, **changes):
    """The record of a server with these output tokens per second, one for each repeat."""
    wanted = LOAD | {"repeats": len(rates)} | (load or {})
    content = {
        "status": "MEASURED",
        "detail": "measured",
        "identity": IDENTITY,
        "load": wanted,
        "seed": 1234,
        "client": "vllm bench serve 0.32.0",
        "server": SERVER | (server or {}),
        "gpus": 1,
        "nodes": 1,
        "memory": MEMORY,
        "repeats": [repeat_of(rate, wanted) for rate in rates],
    }
    return Speed.model_validate(content | changes)


def unmeasured(status="FAILED", detail="repeat 2: 3 of 16 requests were answered", **changes):
    """The record of a server whose load failed, or never came."""
    return speed_of(status=status, detail=detail, load={"repeats": 3}, **{"memory": None} | changes)
