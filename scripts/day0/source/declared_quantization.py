"""Whether a source model is quantized as it was published, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from day0.base.numbers import mapping_or_empty


def native_quantization(source: Mapping[str, Any]) -> str | None:
    """Method by which a source model is quantized as it was published, or None.

    Read from config.json's ``quantization_config`` (Hugging Face) or ``compression_config`` (compressed-tensors before
    0.10), else seen by tensors of an 8-bit or 4-bit floating-point type.
    """
    config = mapping_or_empty(source.get("config"))
    text_config = mapping_or_empty(config.get("text_config"))
    for holder in (config, text_config):
        for key in ("quantization_config", "compression_config"):
            found = holder.get(key)
            if isinstance(found, Mapping) and found:
                names = (found.get("quant_algo"), found.get("quant_method"), found.get("format"))
                return next((str(name) for name in names if name), "method not named")
    dtypes = mapping_or_empty(source.get("dtypes"))
    return next((name for name in sorted(map(str, dtypes)) if name.startswith(("F8", "F4", "F6"))), None)
