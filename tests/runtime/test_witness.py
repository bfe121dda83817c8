"""Results of a GPU that slowed down or was shared while they were taken: seen through NVML, and not kept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import device, jobs, settings, stats, store, tuner, warm, witness
from gems_runtime.records import Decision

pytestmark = pytest.mark.usefixtures("triton_cache")
# The clock in MHz and why it is not higher, one after the other; the last for as long as it is asked.
STEADY = ((1980, 0x0), (1975, 0x4))
HOT = ((1980, 0x0), (1410, 0x20), (1900, 0x0))
CAPPED = ((345, 0x1), (1980, 0x0), (1410, 0x4))
# Share of the multiprocessors' time in %, by process.
ALONE = {777: 93, 778: 3}
SHARED = {**ALONE, 4242: 37}


class NVMLError(Exception):
    """As the library raises for what a device does not tell."""


@dataclass
class Nvml:
    """The part of the library nvidia-ml-py that is used, for the device GPU-1."""

    clocks: tuple[tuple[int, int], ...] = STEADY
    users: dict[int, int] = field(default_factory=dict)
    asked: int = 0
    NVML_CLOCK_SM: int = 1
    NVMLError: type = NVMLError

    def nvmlInit(self) -> None:  # noqa: N802  the library's names
        pass

    def nvmlDeviceGetHandleByUUID(self, serial: str) -> str:  # noqa: N802
        if serial != "GPU-1":
            raise NVMLError("not found")
        return serial

    def nvmlDeviceGetClockInfo(self, gpu: str, which: int) -> int:  # noqa: N802
        if not self.clocks:
            raise NVMLError("not supported")
        self.asked += 1
        return self.clocks[min(self.asked, len(self.clocks)) - 1][0]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:  # noqa: N802
        return self.clocks[min(self.asked, len(self.clocks)) - 1][1]

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: str) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetProcessUtilization(self, gpu: str, since_us: int) -> list[SimpleNamespace]:  # noqa: N802
        assert abs(time.time() - since_us / 1e6) < 60
        if not self.users:
            raise NVMLError("not found")
        return [SimpleNamespace(pid=pid, smUtil=share) for pid, share in {**self.users, 0: 99}.items()]


@pytest.fixture(autouse=True)
def _watching() -> Iterator[None]:
    with settings.override(quiet_gpu=True):
        yield


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    """The library, of a device that changes its clock a hundred times as fast as it is looked at otherwise."""
    library = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(device, "serial", lambda: "GPU-1")
    monkeypatch.setattr(witness, "_PERIOD_S", 0.001)
    witness._opened.cache_clear()
    stats.reset()
    yield library
    witness._opened.cache_clear()


@pytest.fixture
def say(nvml: Nvml) -> Callable[..., None]:
    """Have the library say this of the device."""

    def told(clocks: tuple[tuple[int, int], ...], users: dict[int, int]) -> None:
        nvml.clocks, nvml.users, nvml.asked = clocks, users, 0

    return told


@pytest.fixture
def wait(nvml: Nvml) -> Callable[..., None]:
    """What a launch does: wait until all clocks were seen, where anybody looks."""

    def until_told(*args: object) -> None:
        end = time.monotonic() + 10
        while 0 < nvml.asked < len(nvml.clocks) and time.monotonic() < end:
            time.sleep(0.001)

    return until_told


@pytest.mark.parametrize(
    ("clocks", "users", "said"),
    [
        (STEADY, ALONE, ""),
        (STEADY, {}, ""),
        (CAPPED, ALONE, ""),
        (HOT, ALONE, "the clock fell from 1980 to 1410 MHz (it is hot)"),
        (STEADY, SHARED, "process 4242 used 37 % of the GPU"),
        (STEADY, {os.getpid(): 93, 778: 3, 4242: 99}, "process 4242 used 99 % of the GPU"),
        ((), {}, ""),
    ],
    ids=["steady", "nobody known", "power cap", "hot", "shared", "busier than this", "nothing known"],
)
def test_what_the_library_says_is_understood(
    say: Callable[..., None], wait: Callable[..., None], clocks: tuple, users: dict[int, int], said: str
) -> None:
    say(clocks, users)
    seen = witness.Witness()
    wait()
    assert seen.testify() == said
    assert seen.facts() == ({"clock_mhz": float(clocks[-1][0]), "power_cap_w": 700.0} if clocks else {})


def test_without_the_library_or_of_an_unknown_device_nothing_is_known(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "serial", lambda: "GPU-2")
    assert [witness.Witness().testify() for _ in "ab"] == ["", ""] and len(caplog.records) == 1
    witness._opened.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert witness.Witness().testify() == "" and "gems-runtime[quiet]" in caplog.records[1].message
    monkeypatch.undo()
    with device_with():  # of the CPU
        assert device.serial() == ""


def tuned(folder: Path, effect: Callable[..., None]) -> object:
    bench.reset(3.0, 1.0, 2.0)
    forget()
    with device_with(effect):
        return tuner.prime(load(folder, KERNEL).kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,)).kwargs["BLOCK"]


def test_a_result_of_a_disturbed_gpu_is_used_and_not_kept(
    tmp_path: Path, own_store: Path, say: Callable[..., None], wait: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    for clocks, users in ((HOT, ALONE), (STEADY, SHARED)):
        say(clocks, users)
        assert tuned(tmp_path, wait) == 128 and bench.count == 3
        assert len(store.current().in_use()[0]) == 1  # this process keeps to it
        assert not list(store.open(own_store).records())
    assert stats.snapshot()["disturbed"] == 2
    assert [r.message.split("while it was tuned, ")[1] for r in caplog.records] == [
        "the clock fell from 1980 to 1410 MHz (it is hot); GEMS_TUNE_QUIET=0 would keep it",
        "process 4242 used 37 % of the GPU; GEMS_TUNE_QUIET=0 would keep it",
    ]
    say(STEADY, ALONE)
    assert tuned(tmp_path, wait) == 128 and bench.count == 3
    (decision,) = (r for r in store.open(own_store).records() if isinstance(r, Decision))
    assert decision.soft["clock_mhz"] == 1975.0 and decision.soft["power_cap_w"] == 700.0


def test_nobody_looks_unless_asked_to(tmp_path: Path, own_store: Path, nvml: Nvml, say: Callable[..., None]) -> None:
    say(HOT, SHARED)
    with settings.override(quiet_gpu=False):
        assert tuned(tmp_path, lambda *args: None) == 128
    (decision,) = (r for r in store.open(own_store).records() if isinstance(r, Decision))
    assert "clock_mhz" not in decision.soft and nvml.asked == 0


def test_warm_says_which_call_was_disturbed(
    tmp_path: Path, own_store: Path, say: Callable[..., None], wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    say(STEADY, SHARED)
    job = jobs.kernel_job(load(tmp_path).__name__ + ":kernel", "*fp32[1024], *fp32[1024], 1024", "cdiv(n, BLOCK)")
    bench.reset()
    with device_with(wait):
        report = warm.run([job], None)
    assert report.tuned == 1 and "disturbed while it was tuned" in report.failed[0]["error"]
    say(STEADY, ALONE)
    jobs._kernel(job.name).clear()
    forget()
    bench.reset()
    with device_with(wait):
        assert not warm.run([job], None, resume=True).failed and bench.count == 3
