"""tools/python -m tools.sweep_tiles reduce|scan: GPU time of tiles of reductions and scans, beside ATen's.

How the constants in `gems_ops/reduce/geometry.py` and `gems_ops/scan/engine.py` were chosen. `--compile I N` only
compiles every N-th tile from the I-th, so that N processes fill Triton's cache first.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import triton

from gems_ops.reduce import engine as reduce_engine
from gems_ops.reduce import geometry, sums
from gems_ops.scan import cumulative
from gems_ops.scan import engine as scan_engine
from tools import measure

DTYPES = (torch.float32, torch.bfloat16)
ROUNDS = 15


@dataclass(frozen=True)
class ReduceTiles:
    """Tiles of block_m outputs and block_n reduced elements, and how many programs a multiprocessor gets."""

    block_m: int
    block_n: int
    num_warps: int = 8
    per_sm: int = 4

    def __call__(self, g: geometry.Geometry, sm_count: int, interpreted: bool, itemsize: int, states: int = 1) -> geometry.Tiling:
        if sm_count == 1:
            return geometry.tiling(g, sm_count, interpreted, itemsize, states)
        block_m = min(self.block_m, triton.next_power_of_2(g.col.size))
        block_n = min(self.block_n, triton.next_power_of_2(g.n.size))
        return replace(geometry.cut(g, block_m, block_n, sm_count * self.per_sm), num_warps=self.num_warps)


@dataclass(frozen=True)
class ScanTiles:
    """Tiles of block_r rows and block_n elements, and how many parts a row is cut into."""

    block_r: int
    block_n: int
    num_warps: int = 8
    parts: int = 1
    stages: int = 1

    def __call__(self, rows: scan_engine.Rows, across: bool, processors: int, two_values: bool) -> scan_engine.Tiling:
        return replace(scan_engine.cut(rows, self.block_r, self.block_n, self.parts), num_warps=self.num_warps, stages=self.stages)


R, S = ReduceTiles, ScanTiles
_COLUMNS = [R(64, 64, 4), R(64, 64), R(128, 32, 4), R(128, 64), R(64, 128), R(256, 16, 4)]
REDUCE = [
    ((8192, 8192), [0, 1], [R(1, 4096, 4), R(1, 4096), R(1, 8192, 4, 2), R(1, 8192), R(1, 16384, 8, 1), R(1, 2048, 4, 8)]),
    ((8192, 8192), [1], [R(1, 4096, 4), R(1, 4096), R(1, 8192), R(1, 2048, 4), R(1, 1024, 1)]),
    ((8192, 8192), [0], _COLUMNS),
    ((64, 1024, 1024), [1], _COLUMNS),
    ((1000000, 32), [1], [R(128, 32, 4), R(64, 32, 2), R(64, 32, 4), R(256, 32)]),
    ((32, 256, 56, 56), [0, 2, 3], [R(1, 4096, 4), R(1, 4096), R(1, 2048, 4, 8), R(1, 1024, 2, 16)]),
    ((16, 4194304), [1], [R(1, 4096, 4), R(1, 4096), R(1, 8192), R(1, 16384, 8, 2)]),
]
SCAN = [
    ((8192, 8192), 1, [S(1, 8192, 4), S(1, 8192), S(1, 8192, 16), S(1, 4096, 4, 1, 3), S(1, 2048, 2, 1, 3)]),
    ((8192, 8192), 0, [
        S(16, 256, 4), S(16, 256, 4, 1, 2), S(32, 128, 4), S(32, 128, 4, 1, 2), S(32, 128, 4, 1, 3), S(32, 64, 4, 1, 3), S(32, 32, 2, 1, 3),
        S(32, 64, 2, 1, 3), S(16, 128, 4, 1, 3), S(16, 128, 2, 1, 3), S(16, 64, 2, 1, 4), S(32, 128, 8, 1, 2), S(32, 32, 2, 4, 3), S(64, 32, 4, 4, 3),
    ]),
    ((1, 10000000), 1, [
        S(1, 4096, 4, 1221), S(1, 4096, 4, 1221, 2), S(1, 4096, 4, 611, 3), S(1, 8192, 4, 611, 2), S(1, 2048, 2, 1221, 3), S(1, 4096, 4, 815, 2),
    ]),
    ((1000000, 32), 1, [S(128, 32), S(32, 32, 2), S(128, 32, 4)]),
    ((64, 1024, 1024), 1, [
        S(32, 128, 4), S(32, 128, 4, 1, 2), S(32, 128, 4, 1, 3), S(32, 32, 2), S(32, 32, 2, 1, 3), S(32, 64, 2, 1, 3), S(32, 64, 4, 1, 3),
        S(16, 256, 4, 1, 2),
    ]),
    ((16, 1000000), 1, [S(1, 4096, 4, 128), S(1, 4096, 4, 64, 3), S(1, 8192, 4, 32, 2), S(1, 4096, 4, 128, 2)]),
]  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One tile of one workload."""

    kind: str
    shape: tuple[int, ...]
    dim: object
    tiles: Callable

    def ours(self, x: torch.Tensor) -> Callable:
        module = reduce_engine if self.kind == "reduce" else scan_engine
        before, module.tiling = module.tiling, self.tiles
        try:
            plan = sums._plan_sum(x, self.dim, False, None) if self.kind == "reduce" else cumulative._plan_cumsum(x, self.dim, None)
        finally:
            module.tiling = before
        args = (self.dim, False, None) if self.kind == "reduce" else (self.dim, None)
        return lambda: plan(x, *args)

    def aten(self, x: torch.Tensor) -> Callable:
        return (lambda: torch.sum(x, self.dim)) if self.kind == "reduce" else (lambda: torch.cumsum(x, self.dim))


class Data:
    """Tensors of one shape and dtype, together larger than the L2 cache."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype = shape, dtype

    @cached_property
    def sets(self) -> list[torch.Tensor]:
        return [torch.randn(self.shape, device="cuda").to(self.dtype) for _ in range(2)]


def microseconds(calls: list[Callable]) -> float:
    """The median of graph replays."""
    graph, repeats = measure.capture(measure.Side(calls))
    return statistics.median([measure._replay_us(graph) / repeats for _ in range(ROUNDS)][1:])


def rows(kind: str) -> Iterator[tuple[tuple[int, ...], object, list]]:
    yield from REDUCE if kind == "reduce" else SCAN


def compile_some(kind: str, first: int, step: int) -> None:
    trials = [(Trial(kind, s, d, t), dtype) for s, d, tiles in rows(kind) for t in tiles for dtype in DTYPES]
    for trial, dtype in trials[first::step]:
        x = torch.empty(trial.shape, dtype=dtype, device="cuda")
        try:
            trial.ours(x)()
        except triton.OutOfResources:
            continue


def report(kind: str) -> None:
    copy = measure.copy_rate()
    print(f"{torch.cuda.get_device_name()}, copy {copy / 1e12:.2f} TB/s; us (share of the copy rate, times ATen's speed)")
    for shape, dim, tiles in rows(kind):
        for dtype in DTYPES:
            data = Data(shape, dtype).sets
            moved = data[0].nbytes * (1 if kind == "reduce" else 2)
            native = microseconds([Trial(kind, shape, dim, None).aten(x) for x in data])
            print(f"{shape} {dim} {str(dtype)[6:]}: ATen {native:.1f} ({moved / native * 1e6 / copy:.0%})", flush=True)
            found = []
            for t in tiles:
                trial = Trial(kind, shape, dim, t)
                try:
                    us = microseconds([trial.ours(x) for x in data])
                except triton.OutOfResources:
                    continue
                found.append((us, f"{us:8.1f} ({moved / us * 1e6 / copy:.0%}, {native / us:.2f} x) {t}"))
            print("\n".join(text for _, text in sorted(found)[:8]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("reduce", "scan"))
    parser.add_argument("--compile", nargs=2, type=int, metavar=("I", "N"))
    options = parser.parse_args()
    measure.require_gpu("tools.sweep_tiles")
    if options.compile:
        compile_some(options.kind, *options.compile)
    else:
        report(options.kind)


if __name__ == "__main__":
    main()
