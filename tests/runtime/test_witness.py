"""Results of a GPU that slowed down or was shared while they were taken: seen through NVIDIA's tool, and not kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from void_device import KERNEL, bench, device_with, forget, load

from gems_runtime import device, jobs, settings, stats, store, tuner, warm, witness
from gems_runtime.records import Decision

pytestmark = pytest.mark.usefixtures("triton_cache")
Say = Callable[..., None]
TOOL = """#!/bin/sh
case "$*" in
  *pmon*) cat {folder}/users; touch {folder}/told-users ;;
  *"-i GPU-1 "*clocks.sm*) cat {folder}/clocks; touch {folder}/told-clocks ;;
  *) exit 6 ;;
esac
exec sleep 60
"""
STEADY = "1980, 0x0000000000000000, 700.00\n1975, 0x0000000000000004, 700.00\n"
HOT = "1980, 0x0000000000000000, 700.00\n1410, 0x0000000000000020, 700.00\n1900, 0x0000000000000000, 700.00\n"
CAPPED = "345, 0x0000000000000001, 700.00\n1980, 0x0000000000000000, 700.00\n1410, 0x0000000000000004, 700.00\n"
USERS = """# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command
# Idx           #    C/G      %      %      %      %      %      %    name
"""
ALONE = USERS + "    0        777     C     93     20      -      -      -      -    python\n    0        778     C      3      -      -      -      -      -    idle\n"
SHARED = ALONE + "    0       4242     C     37     20      -      -      -      -    train.py\n"
NOBODY = USERS + "    0          -     -      -      -      -      -      -      -    -\n"


@pytest.fixture(autouse=True)
def _watching() -> Iterator[None]:
    with settings.override(quiet_gpu=True):
        yield


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Have the tool say this of the device."""
    folder = tmp_path / "tool"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(TOOL.replace("{folder}", str(folder)))
    (folder / "nvidia-smi").chmod(0o700)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(device, "serial", lambda: "GPU-1")
    stats.reset()

    def told(clocks: str, users: str) -> None:
        for name, text in (("clocks", clocks), ("users", users)):
            (folder / name).write_text(text)
            (folder / f"told-{name}").unlink(missing_ok=True)

    return told


@pytest.fixture
def wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What a launch does: wait until the tool has said what it has to say."""
    begun: list[object] = []
    started = witness._started
    monkeypatch.setattr(witness, "_started", lambda command: begun.append(command) or started(command))

    def until_told(*args: object) -> None:
        if not begun:  # a launch before the times are taken
            return
        end = time.monotonic() + 10
        while not all((tmp_path / "tool" / f"told-{name}").exists() for name in ("clocks", "users")) and time.monotonic() < end:
            time.sleep(0.01)
        begun.clear()

    return until_told


@pytest.mark.parametrize(
    ("clocks", "users", "said"),
    [
        (STEADY, ALONE, ""),
        (STEADY, NOBODY, ""),
        (CAPPED, ALONE, ""),
        (HOT, ALONE, "the clock fell from 1980 to 1410 MHz (it is hot)"),
        (STEADY, SHARED, "process 4242 used 37 % of the GPU"),
        (STEADY, SHARED.replace("777", str(os.getpid())).replace("37 ", "99 "), "process 4242 used 99 % of the GPU"),
        ("[N/A], [N/A], [N/A]\n1980, 0x00", "Not supported\n", ""),
        ("", "", ""),
    ],
    ids=["steady", "nobody known", "power cap", "hot", "shared", "busier than this", "nothing known", "silent"],
)
def test_what_the_tool_says_is_understood(say: Say, wait: Callable[..., None], clocks: str, users: str, said: str) -> None:
    say(clocks, users)
    seen = witness.Witness()
    wait()
    assert seen.testify() == said
    assert seen.facts() == ({"clock_mhz": float(clocks.splitlines()[-1].split(",")[0]), "power_cap_w": 700.0} if "700" in clocks else {})


def test_without_the_tool_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "serial", lambda: "GPU-1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert witness.Witness().testify() == ""
    monkeypatch.undo()
    with device_with():  # of the CPU
        assert device.serial() == ""


def tuned(folder: Path, effect: Callable[..., None]) -> object:
    bench.reset(3.0, 1.0, 2.0)
    forget()
    with device_with(effect):
        return tuner.prime(load(folder, KERNEL).kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,)).kwargs["BLOCK"]


def test_a_result_of_a_disturbed_gpu_is_used_and_not_kept(
    tmp_path: Path, own_store: Path, say: Say, wait: Callable[..., None], caplog: pytest.LogCaptureFixture
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


def test_nobody_looks_unless_asked_to(tmp_path: Path, own_store: Path, say: Say) -> None:
    say(HOT, SHARED)
    with settings.override(quiet_gpu=False):
        assert tuned(tmp_path, lambda *args: None) == 128
    (decision,) = (r for r in store.open(own_store).records() if isinstance(r, Decision))
    assert "clock_mhz" not in decision.soft and not (tmp_path / "tool" / "told-clocks").exists()


def test_warm_says_which_call_was_disturbed(
    tmp_path: Path, own_store: Path, say: Say, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
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
