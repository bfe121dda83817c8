"""The trial launch before a process leaves stock Triton's path."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import launch_zoo as zoo
import pytest
import torch

from gems_runtime import LibEntry, device, entry, native_status, stats, trial
from tools.fake_cuda import FakeCuda

X = torch.zeros(256)
ARGS = (X, X, 17, 33)


@pytest.fixture(autouse=True)
def untried(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has launched nothing."""
    monkeypatch.setattr(trial, "_fault", None)
    # The stand-in for the driver runs no kernel: what it was told stands for what the kernel would write.
    monkeypatch.setattr(trial, "_arrived", lambda out: list(fake_cuda.last().params[1:]))
    return


def test_every_path_is_tried_once_and_uncounted(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: dict[str, list[object]] = {}
    made = entry._fast_paths

    def paths(*args: object) -> dict[str, object]:
        def noting(name: str, launch: object) -> object:
            return lambda *args: tried.setdefault(name, []).append((launch(*args), fake_cuda.last()))

        return {name: noting(name, launch) for name, launch in made(*args).items()}

    monkeypatch.setattr(entry, "_fast_paths", paths)
    before, kernel = stats.snapshot(), LibEntry(zoo.plain)
    for _ in range(3):
        kernel[(1,)](*ARGS, BLOCK=64)
    assert {name: len(launches) for name, launches in tried.items()} == ({"Python": 1, "C": 1} if native_status().serves else {"Python": 1})
    for ((_, launch),) in tried.values():
        assert launch.grid == (3, 2, 2)
        # out and x, 1 is a constant, and the eight bytes that follow are scratch memory's
        assert launch.params[1:8] == (launch.params[1], 17, 32, 2**64 - 2**40, 2**63 + 8, 0x40200000, 1)
    assert stats.snapshot()["miss"] - before["miss"] == 1
    assert kernel.stats()[zoo.fast_tier()] == 2


def test_a_path_that_passes_something_else_is_not_taken(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen = iter(range(10))
    monkeypatch.setattr(trial, "_arrived", lambda out: [next(seen)])
    kernel = LibEntry(zoo.plain)
    with caplog.at_level(logging.WARNING):
        kernel[(1,)](*ARGS, BLOCK=64)
        zoo.assert_launches_as_stock(fake_cuda, kernel, (1,), ARGS, {"BLOCK": 64}, tier="S")
    assert [r.getMessage() for r in caplog.records if "trial" in r.getMessage()] == [
        "every launch goes through stock Triton, because a trial launch went wrong: Python passes [1], stock Triton [0]"
    ]
    assert kernel.stats()["S"] == 3 and "Python passes" in (trial.fault() or "")


def test_a_trial_that_cannot_be_made_leaves_launches_to_stock_triton(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(out: torch.Tensor) -> list[int]:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(trial, "_arrived", fail)
    kernel = LibEntry(zoo.plain)
    for _ in range(2):
        kernel[(1,)](*ARGS, BLOCK=64)
    assert kernel.stats()["S"] == 2
    assert trial.fault() == "OutOfMemoryError: no memory"


def test_nothing_is_tried_while_a_graph_is_captured(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = LibEntry(zoo.plain)
    with monkeypatch.context() as capture:
        capture.setattr(device, "is_capturing", lambda: True)
        before = fake_cuda.launch_count
        kernel[(1,)](*ARGS, BLOCK=64)
        assert fake_cuda.launch_count == before + 1 and kernel.stats()["S"] == 1
    assert trial.fault() is None
    for _ in range(2):
        kernel[(1,)](*ARGS, BLOCK=64)
    assert trial.fault() == "" and kernel.stats()[zoo.fast_tier()] == 1


def test_modes_of_the_caller_are_not_the_trials(fake_cuda: FakeCuda) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watching():
        LibEntry(zoo.plain)[(1,)](*ARGS, BLOCK=64)
    assert trial.fault() == "" and not seen
