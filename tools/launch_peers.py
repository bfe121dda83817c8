"""Other ways to launch a kernel that Triton has compiled, timed beside ours where they are installed."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import triton
from triton.compiler import CompiledKernel

from tools.launch_cases import BURST, Case

Burst = Callable[[], object]


def stream() -> int:
    driver = triton.runtime.driver.active
    return driver.get_current_stream(driver.get_current_device())


def run_burst(case: Case, compiled: CompiledKernel) -> Burst:
    """BURST calls of `CompiledKernel.run`, given everything it takes."""
    args = (*case.args, *[None] * (len(compiled.src.signature) - len(case.args)))
    run, function, metadata, on = compiled.run, compiled.function, compiled.packed_metadata, stream()

    def burst() -> None:
        for _ in range(BURST):
            run(1, 1, 1, on, function, metadata, None, None, None, *args)

    return burst


def plain_values(case: Case, compiled: CompiledKernel) -> list[int] | None:
    """The kernel's own parameters as 64-bit numbers, with the two scratch pointers; None if one is a descriptor."""
    types = list(compiled.src.signature.values())[: len(case.args)]
    if not all(isinstance(v, (torch.Tensor, int)) for v in case.args):
        return None
    own = [v.data_ptr() if isinstance(v, torch.Tensor) else v % 2**64 for v, ty in zip(case.args, types, strict=True) if ty != "constexpr"]
    return [*own, 0, 0]


@cache
def _raw_library() -> ctypes.CDLL:
    library = Path(tempfile.mkdtemp()) / "raw_launch.so"
    source = Path(__file__).with_name("raw_launch.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.launch_loop.restype = ctypes.c_int64
    return loaded


def raw_burst(case: Case, compiled: CompiledKernel) -> Callable[[], float] | None:
    """BURST launches in C; gives back microseconds per launch."""
    values = plain_values(case, compiled)
    if values is None:
        return None
    storage = (ctypes.c_uint64 * len(values))(*values)
    params = (ctypes.c_void_p * len(values))(*[ctypes.addressof(storage) + 8 * i for i in range(len(values))])
    threads, shared, on = 32 * compiled.metadata.num_warps, compiled.metadata.shared, stream()

    def burst() -> float:
        taken = _raw_library().launch_loop(BURST, ctypes.c_void_p(compiled.function), ctypes.c_void_p(on), threads, shared, params)
        if taken < 0:
            raise SystemExit(f"the driver refused a raw launch of {case.name} ({taken})")
        return taken / BURST / 1000

    # The parameters point into storage that nothing else holds.
    burst.storage = storage
    return burst


def torch_burst(case: Case, compiled: CompiledKernel) -> Burst | str:
    """torch.compile's static launcher."""
    try:
        from torch._C import _StaticCudaLauncher as launcher
    except ImportError:
        return "this torch is built without CUDA"
    types = [ty for ty in compiled.src.signature.values() if ty != "constexpr"]
    if plain_values(case, compiled) is None:
        return "it takes no tensor descriptors"
    signature = list(compiled.src.signature.values())[: len(case.args)]
    args = (*(v for v, ty in zip(case.args, signature, strict=True) if ty != "constexpr"), None, None)
    letters = "".join("O" if ty.startswith("*") else {"i32": "i", "i64": "l"}[ty] for ty in types) + "OO"
    function, warps, shared, on = compiled.function, compiled.metadata.num_warps, compiled.metadata.shared, stream()

    def burst() -> None:
        for _ in range(BURST):
            launcher._launch_kernel(function, 1, 1, 1, warps, shared, letters, args, on)

    return burst


def tvm_burst(case: Case, compiled: CompiledKernel) -> Burst | str:
    """tvm-ffi's call of a C function that does nothing: it reads the arguments and launches nothing."""
    try:
        import tvm_ffi
    except ImportError:
        return "apache-tvm-ffi is not installed"
    if plain_values(case, compiled) is None:
        return "it takes no tensor descriptors"
    nothing = tvm_ffi.get_global_func("testing.nop")
    names = [f"a{i}" for i in range(len(case.args))]
    text = f"def make(nothing, {', '.join(names)}):\n    def burst():\n        for _ in range({BURST}):\n            nothing({', '.join(names)})\n    return burst\n"
    scope: dict[str, object] = {}
    exec(text, scope)
    return scope["make"](nothing, *case.args)


def cuda_burst(case: Case, compiled: CompiledKernel) -> Burst | str:
    """cuda-bindings' `cuLaunchKernel`, given packed parameters as one has to give it."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return "cuda-bindings is not installed"
    values = plain_values(case, compiled)
    if values is None:
        return "it takes no tensor descriptors"
    threads, shared = 32 * compiled.metadata.num_warps, compiled.metadata.shared
    function, on = driver.CUfunction(compiled.function), driver.CUstream(stream())
    # ctypes types, because cuda-bindings packs by them; a pointer and a number are eight bytes to it alike.
    types = tuple(ctypes.c_uint64 for _ in values)
    packed = tuple(values), types

    def burst() -> None:
        for _ in range(BURST):
            (error,) = driver.cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, shared, on, packed, 0)
        if error:
            raise SystemExit(f"cuda-bindings: {error} launching {case.name}")

    return burst


PEERS = {"torch": torch_burst, "tvm": tvm_burst, "cuda": cuda_burst}
