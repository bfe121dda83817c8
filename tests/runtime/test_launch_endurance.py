"""Very many launches: by many threads at once, and with very many keys.

`pytest` makes a share of them; all of them, 1.6 million by 16 threads and a million with 10,000 keys, are made with
`--full`, and on each supported Triton by tools/triton_matrix.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import launch_zoo as zoo
import pytest
import torch
import triton
import triton.language as tl
from launch_tiers import Tier

from gems_runtime.launch import TABLE_LIMIT
from tools.fake_cuda import FakeCuda

X = torch.zeros(4096)
THREADS = 16


@pytest.fixture(params=["N", "P"])
def tier(request: pytest.FixtureRequest) -> str:
    return request.param


def test_threads_lose_and_cross_no_arguments(tier: str, fake_cuda: FakeCuda, request: pytest.FixtureRequest) -> None:
    """Each thread looks at what its own launch put to the driver, and all launches arrive."""
    each = 100_000 if request.config.getoption("full") else 2000
    ours, failures, before = Tier(tier, zoo.plain), [], fake_cuda.launch_count
    last_param, start = fake_cuda.last_param, threading.Barrier(THREADS)

    def work(seed: int) -> None:
        entry, start_at = ours.entry, X[4 * seed :].data_ptr()
        aligned, shifted = X[4 * seed :], X[4 * seed + 1 :]
        start.wait()
        for i in range(each):
            # Numbers that no other thread passes, of several classes, by position and by name.
            n, shift = 16 * (THREADS * i + seed + 1) + (i & 1), i & 2
            x = shifted if shift else aligned
            kernel = entry[(1 + seed,)](x, X, n, m=32, BLOCK=64) if i % 3 else entry[lambda meta: (n,)](m=32, y_ptr=X, n=n, x_ptr=x, BLOCK=16)
            passed = last_param(0) == start_at + 2 * shift and last_param(2) == n
            if not passed or kernel.src.constants[(4,)] != (64 if i % 3 else 16):
                failures.append((seed, i, n, last_param(0), last_param(2)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ours.alone():
            threads = [threading.Thread(target=work, args=(seed,)) for seed in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert fake_cuda.launch_count - before == THREADS * each
    assert ours.entry.stats()[tier] >= THREADS * each * 0.9


@triton.jit
def _halved(x_ptr, n, EVEN: tl.constexpr):
    pass


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_over_many_launches_and_keys(
    tier: str, fake_cuda: FakeCuda, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """A heuristic reads n, so each n is a key. The table takes so many of them, and stock Triton the rest."""
    # Most of the time of all of them is stock Triton's, so once is enough.
    full = request.config.getoption("full") and tier == "N"
    keys, rounds = (10_000, 100) if full else (TABLE_LIMIT + 500, 4)
    ours = Tier(tier, triton.heuristics({"EVEN": lambda args: args["n"] % 2 == 0})(_halved))

    def launch_all() -> None:
        by_function = ours.entry[lambda meta: (meta["n"],)]
        for n in range(2, keys + 2):
            by_function(X, n) if n % 2 else ours.entry[(n,)](X, n)

    with ours.alone(), fake_cuda.unrecorded():
        launch_all()
        launch_all()
        before = ours.entry.stats()
        tracemalloc.start()
        try:
            gc.collect()
            traced, resident = tracemalloc.get_traced_memory()[0], _resident()
            for _ in range(rounds):
                launch_all()
            gc.collect()
            traced, resident = tracemalloc.get_traced_memory()[0] - traced, _resident() - resident
        finally:
            tracemalloc.stop()
    after = ours.entry.stats()
    assert after["entries"] == TABLE_LIMIT
    assert (after[tier] - before[tier], after["S"] - before["S"]) == (rounds * TABLE_LIMIT, rounds * (keys - TABLE_LIMIT))
    assert traced < 200_000 and resident < 8 << 20
    assert len([r for r in caplog.records if "launch entries" in r.getMessage()]) == 1
