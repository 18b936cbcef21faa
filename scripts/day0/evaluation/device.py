"""The device that a server runs on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path


def name_device(on_cpu: bool) -> str | None:
    """Name of the processor or of the GPUs that the server sees; None where the machine does not name them."""
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
