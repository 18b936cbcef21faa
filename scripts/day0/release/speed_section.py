"""What the pages show of the speed of both sides' servers under one load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from day0.base.numbers import mapping_or_empty

NONE = "–"  # noqa: RUF001 (a dash on the page, where a number is absent)
MEASURES = {
    "output_tokens_per_second": "Output tokens per second",
    "time_to_first_token_ms": "Time to first token (ms)",
    "time_per_output_token_ms": "Time per output token (ms)",
}
MEMORY = {
    "host_bytes": "Memory at rest, processes",
    "gpu_bytes": "Memory at rest, GPUs",
    "weights_bytes_of_a_gpu": "Weights, of each GPU",
}


def speed_section(speed: Any) -> dict[str, Any] | None:
    """Variables of the section on speed: a sentence and rows.

    Args:
        speed: of a comparison or verdict, as JSON holds it; None where no side was put under load.
    """
    if not isinstance(speed, Mapping):
        return None
    rows = [_measure_row(title, speed[name]) for name, title in MEASURES.items() if speed.get(name)]
    rows += filter(None, (_memory_row(title, name, speed) for name, title in MEMORY.items()))
    return {
        "sentence": speed.get("sentence"),
        "ratio_title": "Ratio and its 95 % interval" if speed.get("is_native") else "Ratio, no speedup",
        "rows": rows,
    }


def ratio_of_speed(verdict: Mapping[str, Any]) -> tuple[float | None, bool | None]:
    """The ratio of throughputs, and whether it is of the format served natively; None where there is no ratio."""
    speed = mapping_or_empty(verdict.get("speed"))
    ratio = mapping_or_empty(speed.get("output_tokens_per_second")).get("ratio")
    return ratio, None if ratio is None else speed.get("is_native") is True


def _measure_row(title: str, measure: Mapping[str, Any]) -> dict[str, str]:
    low, high = measure["interval"]
    return {
        "name": title,
        **{side: _spread(measure[side]) for side in ("baseline", "candidate")},
        "ratio": f"{measure['ratio']:.3g} ({low:.3g} to {high:.3g})",
    }


def _spread(repeats: list[float]) -> str:
    return f"{sum(repeats) / len(repeats):,.1f} ({min(repeats):,.1f} to {max(repeats):,.1f})"


def _memory_row(title: str, name: str, speed: Mapping[str, Any]) -> dict[str, str] | None:
    held = {side: mapping_or_empty(speed.get(f"{side}_memory")).get(name) for side in ("baseline", "candidate")}
    if not any(held.values()):
        return None
    old, new = held.values()
    return {
        "name": title,
        **{side: NONE if found is None else f"{found / 1e9:,.2f} GB" for side, found in held.items()},
        "ratio": f"{new / old:.3g}" if old and new is not None else NONE,
    }
