"""One tuner per key: among threads, among processes, and when the tuner is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from void_device import bench, device_with, load

from gems_runtime import flight, libtuner, settings, store, tuner
from gems_runtime.flight.local import FileLock


def children(count: int, work: Callable[[int], None]) -> list[int]:
    """Fork `count` processes that each do `work` and leave; their process ids."""
    started = []
    for i in range(count):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(i)
                code = 0
            finally:
                os._exit(code)
        started.append(pid)
    return started


def wait(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def wait_for(path: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def append(path: Path, line: str) -> None:
    with path.open("a") as out:
        out.write(f"{line}\n")


def prime(kernel: object) -> dict[str, object]:
    return tuner.prime(kernel, (torch.zeros(1024), torch.zeros(1024), 1024), {}, (8,)).kwargs


def test_eight_cold_processes_make_one_set_of_benchmarks_and_one_winner(tmp_path: Path, triton_cache: None) -> None:
    kernel = load(tmp_path).kernel
    timed, winners = tmp_path / "timed", tmp_path / "winners"

    def slow(launch: Callable[[], None], quantiles: object) -> list[float]:
        append(timed, str(os.getpid()))
        time.sleep(0.05)
        return [os.getpid() % 7 + len(timed.read_text())] * 3

    kernel._do_bench = slow
    with device_with():
        exits = wait(children(8, lambda i: append(winners, str(prime(kernel)))))
    assert exits == [0] * 8
    lines = timed.read_text().split()
    assert len(lines) == 3 and len(set(lines)) == 1
    found = winners.read_text().splitlines()
    assert len(found) == 8 and len(set(found)) == 1
    assert not list((settings.current().cache_dir / "locks").iterdir())


def test_a_killed_tuner_frees_the_key_and_its_measurements_are_not_lost(tmp_path: Path, triton_cache: None) -> None:
    kernel, timed = load(tmp_path).kernel, tmp_path / "timed"

    def stuck_at_the_second(launch: Callable[[], None], quantiles: object) -> list[float]:
        append(timed, str(os.getpid()))
        if len(timed.read_text().split()) == 2:
            (tmp_path / "stuck").touch()
            time.sleep(60)
        return [1.0] * 3

    kernel._do_bench = stuck_at_the_second
    with device_with():
        victim = children(1, lambda i: prime(kernel))[0]
        wait_for(tmp_path / "stuck")
        others = children(3, lambda i: prime(kernel))
        time.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        assert wait(others) == [0, 0, 0]
    assert time.monotonic() - killed < 5
    lines = timed.read_text().split()
    assert lines[:2] == [str(victim)] * 2
    # the first configuration was published before the kill; another process timed the other two, once
    assert len(lines) == 4 and len(set(lines[2:])) == 1 and lines[2] != str(victim)
    wait([victim])


def test_waiters_read_what_the_holder_publishes_soon_after(tmp_path: Path) -> None:
    published: list[str] = []
    made: list[int] = []

    def make() -> str:
        made.append(1)
        time.sleep(0.3)
        published.append("x")
        return "x"

    results: list[str] = []
    find = lambda: published[0] if published else None
    work = lambda: results.append(flight.single([FileLock(tmp_path / "locks")], "k", find, make, 10.0))
    threads = [threading.Thread(target=work) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["x"] * 4 and len(made) == 1
    assert time.monotonic() - began < 0.6


def test_keys_do_not_wait_for_each_other(tmp_path: Path) -> None:
    inner = lambda: flight.single([FileLock(tmp_path)], "b", lambda: None, lambda: "inner", 1.0)
    assert flight.single([FileLock(tmp_path)], "a", lambda: None, inner, 1.0) == "inner"


def test_waiting_has_an_end(tmp_path: Path) -> None:
    inner = lambda: flight.single([FileLock(tmp_path)], "a", lambda: None, lambda: "never", 0.1)
    with pytest.raises(flight.WaitedTooLong):
        flight.single([FileLock(tmp_path)], "a", lambda: None, inner, 1.0)


def test_after_waiting_too_long_the_default_is_taken(tmp_path: Path, triton_cache: None) -> None:
    kernel = load(tmp_path).kernel
    release = tmp_path / "release"

    def hold(launch: Callable[[], None], quantiles: object) -> list[float]:
        (tmp_path / "held").touch()
        wait_for(release)
        return [1.0] * 3

    kernel._do_bench = hold
    with device_with():
        holder = children(1, lambda i: prime(kernel))
        wait_for(tmp_path / "held")
        with settings.override(tune_wait_s=0.1):
            assert prime(kernel) == {"BLOCK": 64}
        release.touch()
        assert wait(holder) == [0]


def test_an_error_frees_the_key(tmp_path: Path) -> None:
    def fail() -> str:
        raise ValueError("no")

    with pytest.raises(ValueError):
        flight.single([FileLock(tmp_path)], "a", lambda: None, fail, 1.0)
    assert flight.single([FileLock(tmp_path)], "a", lambda: None, lambda: "fine", 1.0) == "fine"


def test_without_a_place_for_locks_the_work_is_done_all_the_same(tmp_path: Path, triton_cache: None) -> None:
    (tmp_path / "file").write_text("")
    assert flight.single([FileLock(tmp_path / "file" / "locks")], "a", lambda: None, lambda: "made", 1.0) == "made"
    bench.reset()
    with settings.override(cache_dir=tmp_path / "file" / "gems"), device_with():
        kernel = load(tmp_path).kernel
        assert prime(kernel) == prime(kernel) == {"BLOCK": 64}
        assert bench.count == 3 and store.current().directory is None


@pytest.mark.parametrize("collective", [False, True])
def test_a_kernel_that_meets_other_ranks_waits_for_no_other_process(tmp_path: Path, triton_cache: None, collective: bool) -> None:
    kernel = load(tmp_path).kernel
    tuned = libtuner(kernel.configs, kernel.keys, do_bench=bench, collective=collective)(kernel.fn)
    taken: list[str] = []

    class Taken(FileLock):
        def take(self, key: str) -> Callable[[], None] | None:
            taken.append(key)
            return super().take(key)

    with device_with(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(flight, "FileLock", Taken)
        bench.reset()
        prime(tuned)
    assert bench.count == 3 and len(taken) == (0 if collective else 1)
