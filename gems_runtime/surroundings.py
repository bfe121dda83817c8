"""What may matter to a result and does not make it invalid: versions and the driver. Recorded and compared, never hashed."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from gems_runtime.records import Json

# Where a kernel driver says its version, and how.
_DRIVERS = (
    (Path("/proc/driver/nvidia/version"), r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)*)\s"),
    (Path("/sys/module/amdgpu/version"), r"(\S+)"),
)


@functools.lru_cache(maxsize=None)
def here() -> Mapping[str, Json]:
    """The surroundings of this process, as records keep them. None stands for what is not known. Imports nothing."""
    torch = sys.modules.get("torch")
    version = getattr(torch, "version", None)
    return {
        # asking for the installed version takes a millisecond of a first call
        "torch": installed("torch") if torch is None else str(torch.__version__),
        "cuda": getattr(version, "cuda", None),
        "hip": getattr(version, "hip", None),
        "driver": _driver(),
    }


def installed(package: str) -> str | None:
    """Its version, without the second that importing torch takes."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def drift(recorded: Mapping[str, Json]) -> dict[str, tuple[Json, Json]]:
    """What differs from here, as it was and as it is. What either side does not know does not differ."""
    both = {name: (recorded.get(name), now) for name, now in here().items()}
    return {name: (was, now) for name, (was, now) in both.items() if was is not None and now is not None and was != now}


def _driver() -> str | None:
    for path, pattern in _DRIVERS:
        try:
            found = re.search(pattern, path.read_text())
        except OSError:
            continue
        if found:
            return found[1]
    return None
