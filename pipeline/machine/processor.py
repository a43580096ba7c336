"""The processor's name, without torch: a measured time says whose it is."""

import platform
from pathlib import Path


def processor_name() -> str:
    """As the system calls it; names no host."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
