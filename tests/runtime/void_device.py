"""A device of CPU tensors for tests of tuning: kernels are compiled for cuda:90, and a Python function stands for them."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
import triton

from gems_runtime import settings, store
from gems_runtime.target import CompileOnlyDriver

Effect = Callable[..., None]


class VoidDriver(CompileOnlyDriver):
    """Launches call `effect` with the kernel's arguments, in order."""

    compile_only = False

    def __init__(self, effect: Effect) -> None:
        super().__init__("cuda:90")
        self.launcher_cls = lambda source, metadata: lambda *call: effect(*call[9:])

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def device_with(effect: Effect = lambda *args: None) -> Iterator[None]:
    drivers = triton.runtime.driver
    before, drivers._active = drivers._active, VoidDriver(effect)
    try:
        # the native tier looks for the real driver's library
        with settings.override(native=settings.Native.OFF):
            yield
    finally:
        drivers._active = before


class Bench:
    """A benchmark function that times nothing: the n-th configuration it is given takes `times[n]` ms, in turn."""

    def __init__(self) -> None:
        self.count = 0
        self.times: Iterator[float] = itertools.count(1.0)

    def __call__(self, launch: Callable[[], None], quantiles: object) -> list[float]:
        launch()
        self.count += 1
        return [next(self.times)] * 3

    def reset(self, *times: float) -> None:
        self.count, self.times = 0, iter(times) if times else itertools.count(1.0)


bench = Bench()

KERNEL = '''
import triton
import triton.language as tl
from void_device import bench

STEP = tl.constexpr(1)

@triton.jit
def callee(x):
    return x + 1

@triton.autotune(
    configs=[triton.Config({"BLOCK": b}, num_warps=4) for b in (64, 128, 256)],
    key=["n"],
    do_bench=bench,
)
@triton.jit
def kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, callee(tl.load(x_ptr + i)) + STEP)
'''
_numbers = itertools.count()


def load(folder: Path, source: str = KERNEL) -> ModuleType:
    """A new module with this source; Triton reads a kernel's text from its file."""
    name = f"edited_{next(_numbers)}"
    (folder / f"{name}.py").write_text(source)
    return run(folder / f"{name}.py")


def run(path: Path) -> ModuleType:
    """The module in a file."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def forget() -> None:
    """Let the process forget what it read from the store, as a new process would begin."""
    store._current = None
