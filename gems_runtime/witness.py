"""What happened to the GPU while candidates were timed, as NVML, NVIDIA's own library, has it: its clock, and who else used it.

A thread looks at the clock ten times a second; who used the GPU the library remembers itself. Where it is missing (nvidia-ml-py), or does
not know the device, nothing is known. The tool nvidia-smi says the same and took 0.9 s for each problem that is tuned (H100, 2026-11-27).
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gems_runtime import device

if TYPE_CHECKING:
    from types import ModuleType

_PERIOD_S = 0.1
# A clock that falls by more than this share, or a share of the GPU's time that another process takes, spoils a result.
_FALL, _SHARE = 0.10, 0.05
# Bits of the reasons. A clock that only the power cap lowers is not among them: a large matrix product lowers it
# on its own, whichever configuration computes it, and the rounds meet all of them alike.
_REASONS = {0x08: "the hardware slowed down", 0x20: "it is hot", 0x40: "it is too hot", 0x80: "its power supply slowed it down"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """The GPU at one moment."""

    clock_mhz: float
    reasons: int
    power_cap_w: float


class Witness:
    """Looks at the current device from when it is made until `testify`."""

    def __init__(self) -> None:
        self._nvml, self._gpu = _opened(device.serial())
        self._began_us = int(time.time() * 1e6)
        self._samples: list[Sample] = []
        self._ended = threading.Event()
        self._thread = None
        if self._gpu is not None and self._took_a_sample():
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def testify(self) -> str:
        """What spoiled the timing since this witness was made; the empty text if nothing did, or nobody knows."""
        if self._gpu is None:
            return ""
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
        return _fall(self._samples) or _other_user(self._shares())

    def facts(self) -> dict[str, float]:
        """For the record, once it has testified: the clock and the cap on power, as last seen."""
        last = self._samples[-1:]
        return {"clock_mhz": last[0].clock_mhz, "power_cap_w": last[0].power_cap_w} if last else {}

    def _watch(self) -> None:
        while not self._ended.wait(_PERIOD_S) and self._took_a_sample():
            pass
        self._took_a_sample()

    def _took_a_sample(self) -> bool:
        try:
            self._samples.append(self._sample())
        except self._nvml.NVMLError:  # something that this GPU does not tell
            return False
        return True

    def _sample(self) -> Sample:
        nvml, gpu = self._nvml, self._gpu
        clock = nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)
        # the name that all versions of the library have; it is "event reasons" in later ones
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)
        return Sample(float(clock), int(reasons), nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)

    def _shares(self) -> dict[int, float]:
        """The largest share of the multiprocessors' time that each process had, by its number."""
        found: dict[int, float] = {}
        try:
            for use in self._nvml.nvmlDeviceGetProcessUtilization(self._gpu, self._began_us):
                if use.pid:
                    found[use.pid] = max(found.get(use.pid, 0.0), use.smUtil / 100)
        except self._nvml.NVMLError:  # nobody used it, as far as is known
            pass
        return found


@functools.lru_cache(maxsize=None)
def _opened(serial: str) -> tuple[ModuleType | None, object]:
    """(the library, its handle of this device), or None for what there is not. Said once."""
    if not serial:
        return None, None
    try:
        import pynvml
    except ImportError:
        _log.warning("GEMS_TUNE_QUIET needs the package nvidia-ml-py: pip install gems-runtime[quiet]; without it the GPU is not watched")
        return None, None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(serial)
    except pynvml.NVMLError as error:
        _log.warning("GEMS_TUNE_QUIET: NVML does not know the device %s (%s); it is not watched", serial, error)
        return None, None


def _fall(samples: list[Sample]) -> str:
    """A clock that fell from its highest for a reason other than the power cap."""
    top = max(samples, key=lambda s: s.clock_mhz, default=None)
    slow = [s for s in samples[samples.index(top) :] if s.clock_mhz < (1 - _FALL) * top.clock_mhz] if top else []
    for sample in slow:
        reason = next((text for bit, text in _REASONS.items() if sample.reasons & bit), "")
        if reason:
            return f"the clock fell from {top.clock_mhz:.0f} to {sample.clock_mhz:.0f} MHz ({reason})"
    return ""


def _other_user(shares: dict[int, float]) -> str:
    """The busiest process but this one, if it took enough to matter."""
    ranked = sorted(shares, key=lambda pid: -shares[pid])
    # in a container our own number is another one outside: there the busiest counts as this process
    own = os.getpid() if os.getpid() in shares else next(iter(ranked), None)
    busy = [pid for pid in ranked if pid != own and shares[pid] > _SHARE]
    return f"process {busy[0]} used {100 * shares[busy[0]]:.0f} % of the GPU" if busy else ""
