"""Measuring two implementations side by side on a GPU: graph replays, host bursts, and the machine's ceilings."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache

import torch
import triton
from torch import Tensor
from torch.utils._pytree import tree_leaves

Call = Callable[[], object]
Scope = Callable[[], AbstractContextManager[object]]

_GRAPH_US = 400.0  # a graph holds as many calls as take about this long, so that starting a replay does not show
_MAX_CALLS = 64
_ROUNDS = 25
_BURST = 100


@dataclass(frozen=True)
class Side:
    """One implementation of a call: what to run, inside which scope."""

    calls: list[Call]  # the same call on different data, so that the cache does not answer for the memory
    scope: Scope = nullcontext


def require_gpu(command: str) -> None:
    """End with one sentence where there is no GPU to measure."""
    if not torch.cuda.is_available():
        sys.exit(f"{command}: no CUDA device was found, and this measures one; run it on a GPU machine.")


def machine() -> dict[str, str]:
    """What every result file says about where and with what it was measured."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU, {platform.machine()}",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "command": " ".join(["tools/bench", *sys.argv[1:]]),
    }


def tensors(value: object) -> list[Tensor]:
    """The tensors in nested arguments or results."""
    return [t for t in tree_leaves(value) if isinstance(t, Tensor)]


def _one_call_us(call: Call) -> float:
    call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / 3 * 1e6


def capture(side: Side) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of many calls, and how many."""
    with side.scope():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is cold compiles and tunes here: capturing may not
            for call in side.calls * 2:
                call()
        torch.cuda.current_stream().wait_stream(stream)
        each = _one_call_us(side.calls[0])
        repeats = max(1, min(_MAX_CALLS, int(_GRAPH_US / max(each, 1.0))) // len(side.calls)) * len(side.calls)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(repeats):
                side.calls[i % len(side.calls)]()
    return graph, repeats


def _replay_us(graph: torch.cuda.CUDAGraph) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000


def waits(side: Side) -> bool:
    """True if the host waits for the device in a call, which no graph captures: trying to would spoil torch's generators."""
    with side.scope():
        side.calls[0]()  # compiles and tunes
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            side.calls[0]()
        except RuntimeError as error:
            if "synchronizing" not in str(error):
                raise
            return True
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return False


def gpu_times(sides: list[Side]) -> list[float]:
    """GPU microseconds of one call of each side: the median of interleaved graph replays; `stream_times` if one waits."""
    if any(map(waits, sides)):
        return stream_times(sides)
    graphs = [capture(side) for side in sides]
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(_ROUNDS + 2):
        for times, (graph, calls) in zip(taken, graphs, strict=True):
            us = _replay_us(graph) / calls
            if round_ >= 2:  # the first replays upload the graph
                times.append(us)
    return [statistics.median(times) for times in taken]


def stream_times(sides: list[Side]) -> list[float]:
    """As `gpu_times` for calls that no graph captures: microseconds between events around bursts, calls that wait included."""
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(_ROUNDS + 2):
        for times, side in zip(taken, sides, strict=True):
            with side.scope():
                us = _stream_us(side.calls)
            if round_ >= 2:
                times.append(us)
    return [statistics.median(times) for times in taken]


def _stream_us(calls: list[Call]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    repeats = 2 * len(calls)
    calls[0]()  # the device has work while the host gets ahead of it
    start.record()
    for i in range(repeats):
        calls[i % len(calls)]()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000 / repeats


def _burst_us(call: Call) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_BURST):
        call()
    spent = time.perf_counter() - started
    torch.cuda.synchronize()
    return spent / _BURST * 1e6


def host_times(sides: list[Side]) -> list[float]:
    """Host microseconds of one call of each side: the median of interleaved bursts, the GPU idle before each.

    The inputs must be small: a full launch queue would make the host wait for the GPU.
    """
    taken: list[list[float]] = [[] for _ in sides]
    for round_ in range(_ROUNDS + 1):
        for times, side in zip(taken, sides, strict=True):
            with side.scope():
                side.calls[0]()
                us = _burst_us(side.calls[0])
            if round_:
                times.append(us)
    return [statistics.median(times) for times in taken]


@lru_cache
def copy_rate() -> float:
    """Bytes read and written per second by a kernel that copies 1 GiB.

    A kernel, not `copy_`: inside a graph that is a memcpy node, at 2.7 TB/s on an H200 where kernels reach 4.2.
    """
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    (us,) = gpu_times([Side([lambda: torch.neg(source, out=target)])])
    return 2 * source.nbytes / us * 1e6


@lru_cache
def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second of cuBLAS on 8192 x 8192 x 8192 random numbers, in torch's precision mode of now."""
    a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    (us,) = gpu_times([Side([lambda: torch.mm(a, b)])])
    return 2 * 8192.0**3 / us * 1e6


def fresh_sets(make: Callable[[], tuple[tuple, dict]], most: int = 4) -> Iterator[tuple[tuple, dict]]:
    """Argument sets that together are larger than the L2 cache, or `most` of them."""
    l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    held = 0
    for _ in range(most):
        made = make()
        held += sum(t.nbytes for t in tensors(made))
        yield made
        if held > 2 * l2:
            return
