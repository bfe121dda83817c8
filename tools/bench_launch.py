"""tools/bench launch: host time of one warm launch, beside a C loop of the driver's own call and stock Triton.

Without a GPU the launches go to a recording stand-in for the driver; what is left is the time above the driver.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.compiler import CompiledKernel
from triton.runtime.jit import KernelInterface

from gems_runtime import LibEntry, native_status, settings
from tools import fake_cuda, measure, report

# Short enough that the launch queue (about 1000 deep) never fills before the synchronisation between bursts.
BURST = 250
COLUMNS = (
    report.Column("launch", "case"),
    report.Column("raw us", "raw_us", ".2f"),
    report.Column("Triton", "stock_us", ".2f"),
    report.Column("CompiledKernel.run", "run_us", ".2f"),
    report.Column("LibEntry, Python", "python_us", ".2f"),
    report.Column("above raw", "python_above_raw_us", ".2f"),
    report.Column("x raw", "python_over_raw", ".2f"),
    report.Column("x Triton", "python_over_stock", ".2f"),
    report.Column("LibEntry, native", "native_us", ".2f"),
    report.Column("above raw", "native_above_raw_us", ".2f"),
    report.Column("x raw", "native_over_raw", ".2f"),
    report.Column("x Triton", "native_over_stock", ".3f"),
)


def _first_config(kernel_call: Callable[[], object], quantiles: object) -> list[float]:
    """A benchmark that times nothing: which config wins does not matter here."""
    kernel_call()
    return [1.0, 1.0, 1.0]


@triton.autotune(
    configs=[triton.Config({"BLOCK_M": m, "BLOCK_N": 64, "BLOCK_K": 32}) for m in (64, 128)],
    key=["M", "N", "K"],
    do_bench=_first_config,
)
@triton.heuristics({"EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0})
@triton.jit
def _mm_like(
    a_ptr, b_ptr, c_ptr, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """The signature of a matrix product; like every kernel here it does nothing, so that the GPU keeps up."""


@dataclass(frozen=True)
class Case:
    """One kernel and one call of it."""

    name: str
    kernel: KernelInterface
    grid: str  # source text, evaluated at each call, as a caller's would be
    args: tuple[object, ...]
    constants: dict[str, object]


def _wide(folder: Path, name: str, tensors: int, ints: int, constants: int) -> Case:
    """A kernel of that many arguments; Triton wants its source in a file."""
    runtime = [f"p{i}" for i in range(tensors)] + [f"n{i}" for i in range(ints)]
    constexprs = [f"C{i}" for i in range(constants)]
    signature = ", ".join(runtime + [f"{c}: tl.constexpr" for c in constexprs])
    path = folder / f"wide_{tensors}_{ints}_{constants}.py"
    path.write_text(f"import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef wide({signature}):\n    pass\n")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    args = (*_tensors(tensors), *[1000 + 17 * i for i in range(ints)])
    return Case(name, module.wide, "(1,)", args, {c: 64 + i for i, c in enumerate(constexprs)})


def _tensors(n: int) -> list[torch.Tensor]:
    return [torch.zeros(64, device="cuda" if torch.cuda.is_available() else "cpu") for _ in range(n)]


def cases(folder: Path) -> Iterator[Case]:
    yield _wide(folder, "0 arguments", 0, 0, 0)
    yield _wide(folder, "3 tensors + 1 int", 3, 1, 0)
    yield _wide(folder, "3 tensors + 4 ints + constexpr", 3, 4, 1)
    sizes = (64, 64, 32, 32, 1, 64, 1, 64, 1)
    grid = 'lambda meta: (triton.cdiv(meta["M"], meta["BLOCK_M"]) * triton.cdiv(meta["N"], meta["BLOCK_N"]),)'
    name = "17 parameters, autotune + heuristics, callable grid"
    yield Case(name, _mm_like, grid, (*_tensors(3), *sizes), {"GROUP": 8})
    yield _wide(folder, "19 arguments", 5, 9, 5)
    yield _wide(folder, "58 arguments", 14, 26, 18)


def _burst(case: Case, kernel: object) -> Callable[[], object]:
    """A function that makes BURST calls written out as a caller writes them."""
    names = [f"a{i}" for i in range(len(case.args))]
    constants = [f"{name}={value!r}" for name, value in case.constants.items()]
    call = f"kernel[{case.grid}]({', '.join(names + constants)})"
    text = f"def make({', '.join(['kernel', *names])}):\n    def burst():\n        for _ in range({BURST}):\n            out = {call}\n        return out\n    return burst\n"
    scope: dict[str, object] = {"triton": triton}
    exec(text, scope)
    return scope["make"](kernel, *case.args)


def _run_burst(case: Case, compiled: CompiledKernel) -> Callable[[], object]:
    """BURST calls of `CompiledKernel.run`, given everything it takes."""
    stream = triton.runtime.driver.active.get_current_stream(triton.runtime.driver.active.get_current_device())
    args = (*case.args, *[None] * (len(compiled.src.signature) - len(case.args)))
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata

    def burst() -> None:
        for _ in range(BURST):
            run(1, 1, 1, stream, function, metadata, None, None, None, *args)

    return burst


@cache
def _raw_library() -> ctypes.CDLL:
    library = Path(tempfile.mkdtemp()) / "raw_launch.so"
    source = Path(__file__).with_name("raw_launch.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.launch_loop.restype = ctypes.c_int64
    return loaded


def _raw_burst(case: Case, compiled: CompiledKernel) -> Callable[[], float]:
    """BURST launches in C; gives back microseconds per launch."""
    values = [v.data_ptr() if isinstance(v, torch.Tensor) else v for v in case.args]
    types = list(compiled.src.signature.values())[: len(values)]
    slots = [struct.pack("<Q", v % 2**64) for v, ty in zip(values, types, strict=True) if ty != "constexpr"] + [bytes(8)] * 2
    storage = (ctypes.c_uint64 * len(slots))(*[struct.unpack("<Q", s)[0] for s in slots])
    params = (ctypes.c_void_p * len(slots))(*[ctypes.addressof(storage) + 8 * i for i in range(len(slots))])
    stream = triton.runtime.driver.active.get_current_stream(triton.runtime.driver.active.get_current_device())
    threads, shared = 32 * compiled.metadata.num_warps, compiled.metadata.shared

    def burst() -> float:
        loop = _raw_library().launch_loop
        taken = loop(BURST, ctypes.c_void_p(compiled.function), ctypes.c_void_p(stream), threads, shared, params)
        if taken < 0:
            raise SystemExit(f"the driver refused a raw launch of {case.name} ({taken})")
        return taken / BURST / 1000

    # The parameters point into storage that nothing else holds.
    burst.storage = storage
    return burst


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(burst: Callable[[], object], own_clock: bool) -> float:
    """Microseconds per launch of one burst, the device idle before it."""
    _synchronize()
    start = time.perf_counter()
    own = burst()
    spent = (time.perf_counter() - start) / BURST * 1e6
    _synchronize()
    return own if own_clock else spent


def measure_case(case: Case, rounds: int) -> dict[str, object]:
    """Medians of interleaved bursts; ends the benchmark if a call did not take the fast tier or launched another kernel."""
    bursts: dict[str, Callable[[], object]] = {"stock": _burst(case, case.kernel)}
    compiled, entries = bursts["stock"](), {}
    for name, entry in _entries(case).items():
        bursts[name] = _burst(case, entry)
        if bursts[name]().hash != compiled.hash:
            raise SystemExit(f"{case.name}: LibEntry launched another kernel than stock Triton")
        # After the first burst: its misses are not what is measured.
        entries[name] = entry, entry.stats()[_TIERS[name]]
    bursts |= {"run": _run_burst(case, compiled), "raw": _raw_burst(case, compiled)}
    times: dict[str, list[float]] = {name: [] for name in bursts}
    order = list(bursts)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name].append(_timed(bursts[name], own_clock=name == "raw"))
    for name, (entry, before) in entries.items():
        if entry.stats()[_TIERS[name]] - before != rounds * BURST:
            raise SystemExit(f"{case.name}: the launches left the {name} tier: {entry.stats()}, {before} there before")
    return _row(case, times)


_TIERS = {"python": "P", "native": "N"}


def _entries(case: Case) -> dict[str, LibEntry]:
    """One entry per tier over the same kernel, each launched once; the native one only where that tier serves."""
    with settings.override(native=settings.Native.OFF):
        entries = {"python": LibEntry(case.kernel)}
        _burst(case, entries["python"])()
    if native_status().serves:
        entries["native"] = LibEntry(case.kernel)
    return entries


def _row(case: Case, times: dict[str, list[float]]) -> dict[str, object]:
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    row: dict[str, object] = {"case": case.name, **{f"{name}_us": us for name, us in middle.items()}}
    row |= {f"{name}_min_us": min(taken) for name, taken in times.items()}
    # Beside a stand-in that does nothing, a ratio to the driver says nothing.
    for tier in _TIERS:
        ours = middle.get(tier)
        row[f"{tier}_us"] = ours
        row[f"{tier}_over_raw"] = ours / middle["raw"] if ours and torch.cuda.is_available() else None
        row[f"{tier}_above_raw_us"] = ours - middle["raw"] if ours else None
        row[f"{tier}_over_stock"] = ours / middle["stock"] if ours else None
    return row


@contextlib.contextmanager
def _silent_driver() -> Iterator[None]:
    with fake_cuda.active() as fake, fake.unrecorded():
        yield


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench launch", description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds (default 60)")
    options = parser.parse_args(argv)
    has_gpu = torch.cuda.is_available()
    if not has_gpu:
        print("No GPU: launches go to a stand-in for the driver, so these are times above the driver.")
    rows = []
    random.seed(0)
    gc.disable()
    driver = contextlib.nullcontext() if has_gpu else _silent_driver()
    with tempfile.TemporaryDirectory() as folder, driver, settings.override(store=False):
        for case in cases(Path(folder)):
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            rows.append(measure_case(case, options.rounds))
    gc.enable()
    report.print_table(COLUMNS, rows)
    report.finish(options.json, "launch", rows, {"burst": BURST, "rounds": options.rounds})
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
