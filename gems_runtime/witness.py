"""What happened to the GPU while candidates were timed, by NVIDIA's own tool: its clock, and who else used it.

The tool runs beside the timing and is read at its end. Where it is missing, or does not know the device, nothing is known.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from gems_runtime import device

_TOOL = "nvidia-smi"
_CLOCKS = "--query-gpu=clocks.sm,clocks_throttle_reasons.active,enforced.power.limit"
_PERIOD_MS = 100
# A clock that falls by more than this share, or a share of the GPU's time that another process takes, spoils a result.
_FALL, _SHARE = 0.10, 0.05
# Bits of the reasons. A clock that only the power cap lowers is not among them: a large matrix product lowers it
# on its own, whichever configuration computes it, and the rounds meet all of them alike.
_REASONS = {0x08: "the hardware slowed down", 0x20: "it is hot", 0x40: "it is too hot", 0x80: "its power supply slowed it down"}


@dataclass(frozen=True)
class Sample:
    """The GPU at one moment."""

    clock_mhz: float
    reasons: int
    power_cap_w: float


class Witness:
    """Looks at the current device from when it is made until `testify`."""

    def __init__(self) -> None:
        serial = device.serial()
        clocks = [_TOOL, "-i", serial, _CLOCKS, "--format=csv,noheader,nounits", "-lms", str(_PERIOD_MS)]
        self._clocks = _started(clocks) if serial else None
        self._users = _started([_TOOL, "pmon", "-i", serial, "-s", "u"]) if serial else None
        self._samples: list[Sample] = []
        self._shares: dict[int, float] = {}

    def testify(self) -> str:
        """What spoiled the timing since this witness was made; the empty text if nothing did, or nobody knows."""
        self._samples = list(_samples(_ended(self._clocks)))
        self._shares = _shares(_ended(self._users))
        return _fall(self._samples) or _other_user(self._shares)

    def facts(self) -> dict[str, float]:
        """For the record, once it has testified: the clock and the cap on power, as last seen."""
        last = self._samples[-1:]
        return {"clock_mhz": last[0].clock_mhz, "power_cap_w": last[0].power_cap_w} if last else {}


def _started(command: list[str]) -> subprocess.Popen[str] | None:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None


def _ended(process: subprocess.Popen[str] | None) -> str:
    """What it said until now."""
    if process is None:
        return ""
    process.terminate()
    try:
        return process.communicate(timeout=1.0)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]


def _samples(text: str) -> Iterator[Sample]:
    for line in text.splitlines():
        found = re.fullmatch(r"([\d.]+), (0x[0-9a-fA-F]+), ([\d.]+)", line.strip())
        if found:  # else a field that this GPU does not have, or a line cut short
            yield Sample(float(found[1]), int(found[2], 16), float(found[3]))


def _fall(samples: list[Sample]) -> str:
    """A clock that fell from its highest for a reason other than the power cap."""
    top = max(samples, key=lambda s: s.clock_mhz, default=None)
    slow = [s for s in samples[samples.index(top) :] if s.clock_mhz < (1 - _FALL) * top.clock_mhz] if top else []
    for sample in slow:
        reason = next((text for bit, text in _REASONS.items() if sample.reasons & bit), "")
        if reason:
            return f"the clock fell from {top.clock_mhz:.0f} to {sample.clock_mhz:.0f} MHz ({reason})"
    return ""


def _shares(text: str) -> dict[int, float]:
    """The largest share of the multiprocessors' time that each process had, by its number. Columns: gpu, pid, type, sm."""
    found: dict[int, float] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > 3 and words[1].isdecimal() and words[3].isdecimal():
            found[int(words[1])] = max(found.get(int(words[1]), 0.0), int(words[3]) / 100)
    return found


def _other_user(shares: dict[int, float]) -> str:
    """The busiest process but this one, if it took enough to matter."""
    ranked = sorted(shares, key=lambda pid: -shares[pid])
    # in a container our own number is another one outside: there the busiest counts as this process
    own = os.getpid() if os.getpid() in shares else next(iter(ranked), None)
    busy = [pid for pid in ranked if pid != own and shares[pid] > _SHARE]
    return f"process {busy[0]} used {100 * shares[busy[0]]:.0f} % of the GPU" if busy else ""
