"""The size of a core's second-level cache, from the operating system."""

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

# Assumed where the operating system says nothing: the second-level cache of many laptop cores has this size, or twice or half.
DEFAULT = 512 << 10
_SYSTEM = Path("/sys/devices/system/cpu/cpu0/cache")  # Linux: one folder for each cache of the first core


@cache
def second_level_cache() -> int:
    """Bytes of the second-level cache of the first core; DEFAULT where the operating system does not tell.

    MINIGRAD_L2_CACHE, in bytes or like "512K", overrides it, to compile for another processor's cache.
    """
    setting = os.environ.get("MINIGRAD_L2_CACHE", "")
    if setting:
        size = _bytes(setting)
        if not size:
            raise ValueError(f"MINIGRAD_L2_CACHE: expected a size such as 512K or 2M, got {setting!r}")
        return size
    return (_macos() if sys.platform == "darwin" else _linux(_SYSTEM)) or DEFAULT


def _bytes(text: str) -> int:
    """Bytes in "512K", "2M" or "524288"; 0 if the text is none of these."""
    match = re.fullmatch(r"(\d+)([KM]?)", text.strip())
    return int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2]] if match else 0


def _linux(folder: Path) -> int:
    for index in sorted(folder.glob("index*")):
        try:
            if (index / "level").read_text().strip() == "2":
                return _bytes((index / "size").read_text())
        except OSError:
            pass  # a kernel without this file
    return 0


def _macos() -> int:
    try:
        return _bytes(subprocess.check_output(["sysctl", "-n", "hw.l2cachesize"], text=True, stderr=subprocess.DEVNULL))
    except (OSError, subprocess.CalledProcessError):
        return 0
