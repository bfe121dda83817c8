"""Whole Triton launches on a machine with no GPU: a recording stand-in for libcuda, and a Triton driver that uses it.

Triton compiles real sm_90 code with its own ptxas and builds its real launcher; only the driver call at the end is
ours. The driver's tensors live on the CPU. Never load it in a process that uses a real GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

_SOURCE, _HEADER = Path(__file__).with_name("fake_cuda.c"), Path(__file__).with_name("recorded.h")
_MAX_PARAMS, _MAX_BYTES, _MAX_ATTRIBUTES = 256, 4096, 6


class RawLaunch(ctypes.Structure):
    """A launch as the stand-ins keep it."""

    _fields_ = [
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("attribute_count", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32 * 4 * _MAX_ATTRIBUTES),
        ("param_count", ctypes.c_uint32),
        ("sizes", ctypes.c_uint16 * _MAX_PARAMS),
        ("params", ctypes.c_uint8 * _MAX_BYTES),
    ]


@dataclass(frozen=True)
class Launch:
    """What the driver was asked to launch."""

    function: int
    stream: int
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    attributes: tuple[tuple[int, ...], ...]  # id and first words of the value
    params: tuple[int | bytes, ...]  # scalars and pointers as unsigned numbers, tensor maps as bytes


def built(source: Path, soname: str, *flags: str) -> Path:
    """A stand-in as a shared library, compiled once per version of its source."""
    name = hashlib.sha256(source.read_bytes() + _HEADER.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"gems-{source.stem.replace('_', '-')}-{os.getuid()}" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    library = folder / soname
    if not library.exists():
        part = folder / f"part.{os.getpid()}"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", f"-Wl,-soname,{soname}", *flags, str(source), "-o", str(part)], check=True)
        part.replace(library)
    return library


@cache
def library_path() -> Path:
    """The built stand-in for libcuda."""
    return built(_SOURCE, "libcuda.so.1")


class FakeDriver:
    """A stand-in library: counts launches and knows each thread's last one."""

    first_device = 0  # Triton keeps compiled kernels by the device's number: each backend has its own

    def __init__(self, path: Path) -> None:
        # PyDLL holds the GIL, so that asking between launches does not make threads take turns.
        self.library = ctypes.PyDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        for name in ("fake_launch_count", "fake_pointer_queries", "fake_map_count", "fake_last_param"):
            getattr(self.library, name).restype = ctypes.c_uint64
        self.library.fake_last.restype = ctypes.POINTER(RawLaunch)
        self.last_param: Callable[[int], int] = self.library.fake_last_param
        self.library.fake_record(True)

    @property
    def launch_count(self) -> int:
        return self.library.fake_launch_count()

    @property
    def pointer_queries(self) -> int:
        """How often a launcher asked the driver about a pointer; integer pointers need no question."""
        return self.library.fake_pointer_queries()

    @property
    def map_count(self) -> int:
        """How many tensor maps were made."""
        return self.library.fake_map_count()

    @contextlib.contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Launches are only counted inside, which is the least a driver can do."""
        self.library.fake_record(False)
        try:
            yield
        finally:
            self.library.fake_record(True)

    def last(self) -> Launch:
        """This thread's last launch, with the parameters that the kernel's code says it has."""
        raw = self.library.fake_last().contents
        attributes = tuple(tuple(words) for words in raw.attributes[: raw.attribute_count])
        return Launch(raw.function, raw.stream, tuple(raw.grid), tuple(raw.block), raw.shared, attributes, tuple(_params(raw)))

    def fail_next(self, code: int) -> None:
        """Make the next launch return this error code."""
        self.library.fake_fail_next(code)


class FakeCuda(FakeDriver):
    """The stand-in for libcuda."""

    def __init__(self) -> None:
        super().__init__(library_path())


def _params(raw: RawLaunch) -> Iterator[int | bytes]:
    data, at = bytes(raw.params), 0
    for size in raw.sizes[: raw.param_count]:
        value = data[at : at + size]
        yield int.from_bytes(value, "little") if size <= 8 else value
        at += size


@cache
def _driver_class() -> type:
    # Importing the driver module looks libcuda up, so the path must be set before.
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils

    class FakeCudaDriver(CudaDriver):
        """Triton's CUDA driver on the stand-in. `stream` and `device` are what a test sets them to."""

        def __init__(self) -> None:
            self.utils = CudaUtils()
            self.launcher_cls = CudaLauncher
            self.stream, self.device = 0, 0
            self.get_device_capability = lambda device: (9, 0)

        # C functions of one argument and of none, as torch's readers are; a test that moves the stream or device replaces them.
        get_current_stream = staticmethod(([0] * 8).__getitem__)
        get_current_device = staticmethod((0).conjugate)

        def set_current_device(self, device: int) -> None:
            self.get_current_device = device.__index__

        def set_current_stream(self, stream: int) -> None:
            self.get_current_stream = lambda device: stream

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    return FakeCudaDriver


@contextlib.contextmanager
def active() -> Iterator[FakeCuda]:
    """Make a driver on the stand-in Triton's active one for a `with` block."""
    fake = FakeCuda()
    before = triton.runtime.driver._active
    with triton.knobs.nvidia.scope():
        triton.knobs.nvidia.libcuda_path = str(library_path().parent)
        triton.runtime.driver.set_active(_driver_class()())
        try:
            yield fake
        finally:
            # `None` again if no driver was chosen yet: asking for the default one fails on a machine with no GPU.
            triton.runtime.driver._active = before
