"""Whole Triton launches for an AMD GPU on a machine without one: a recording stand-in for HIP's library.

Triton compiles real gfx942 code and builds its real launcher; only the driver call at the end is ours. The driver's
tensors live on the CPU. Never load it in a process that uses a real GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from tools.fake_cuda import FakeDriver, built

_SOURCE = Path(__file__).with_name("fake_hip.c")
DEVICE = 64


@cache
def library_path() -> Path:
    """The built stand-in. Triton's package has HIP's headers."""
    include = Path(triton.__file__).parent / "backends/amd/include"
    return built(_SOURCE, "libamdhip64.so", f"-I{include}")


class FakeHip(FakeDriver):
    """The stand-in for HIP's library."""

    first_device = DEVICE

    def __init__(self) -> None:
        super().__init__(library_path())

    def describe(self, function: int, sizes: list[int]) -> None:
        """Say how many bytes each parameter of a function has."""
        self.library.fake_describe(ctypes.c_void_p(function), len(sizes), (ctypes.c_uint16 * len(sizes))(*sizes))


def parameter_sizes(code: bytes, kernel: str) -> list[int]:
    """What a code object's metadata, MessagePack in an ELF note, says of a kernel's explicit arguments."""
    at = code.index(b"AMDGPU\0\0") - 12
    name_size, size, _ = struct.unpack_from("<III", code, at)
    start = at + 12 + (name_size + 3) // 4 * 4
    metadata, _ = _unpacked(code[start : start + size], 0)
    found = next(k for k in metadata["amdhsa.kernels"] if k[".name"] == kernel)
    return [a[".size"] for a in found[".args"] if not a[".value_kind"].startswith("hidden_")]


def _unpacked(data: bytes, at: int) -> tuple[object, int]:
    """The MessagePack value at a place, and the place after it; of the format what code objects use."""
    kind = data[at]
    if kind < 0x80:
        return kind, at + 1
    if kind < 0x90 or kind in (0xDE, 0xDF):
        n, at = (kind & 15, at + 1) if kind < 0x90 else _number(data, at, 2 << (kind - 0xDE))
        pairs = {}
        for _ in range(n):
            key, at = _unpacked(data, at)
            pairs[key], at = _unpacked(data, at)
        return pairs, at
    if kind < 0xA0 or kind in (0xDC, 0xDD):
        n, at = (kind & 15, at + 1) if kind < 0xA0 else _number(data, at, 2 << (kind - 0xDC))
        items = []
        for _ in range(n):
            item, at = _unpacked(data, at)
            items.append(item)
        return items, at
    if kind < 0xC0 or 0xD9 <= kind <= 0xDB:
        n, at = (kind & 31, at + 1) if kind < 0xC0 else _number(data, at, 1 << (kind - 0xD9))
        return data[at : at + n].decode(), at + n
    if kind in (0xC2, 0xC3):
        return kind == 0xC3, at + 1
    if 0xCC <= kind <= 0xCF:
        return _number(data, at, 1 << (kind - 0xCC))
    raise ValueError(f"MessagePack of kind {kind:#x} is not read here")


def _number(data: bytes, at: int, size: int) -> tuple[int, int]:
    return int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size


@cache
def _driver_class() -> type:
    # Importing the driver module looks the library up, so the path must be set before.
    from triton.backends.amd.driver import HIPDriver, HIPLauncher, HIPUtils

    class FakeHipDriver(HIPDriver):
        """Triton's HIP driver on the stand-in. `stream` and `device` are what a test sets them to."""

        def __init__(self, fake: FakeHip) -> None:
            self.utils = HIPUtils()
            if not hasattr(self.utils, "described"):  # one for the whole process
                self.utils.load_binary = _describing(fake, self.utils.load_binary)
                self.utils.described = True
            self.launcher_cls = HIPLauncher

        get_current_stream = staticmethod(([0] * (DEVICE + 1)).__getitem__)
        get_current_device = staticmethod(DEVICE.conjugate)

        def set_current_device(self, device: int) -> None:
            self.get_current_device = device.__index__

        def set_current_stream(self, stream: int) -> None:
            self.get_current_stream = lambda device: stream

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("hip", "gfx942", 64)

        def get_active_torch_device(self) -> torch.device:
            return torch.device("cpu")

    return FakeHipDriver


def _describing(fake: FakeHip, load: Callable[..., tuple]) -> Callable[..., tuple]:
    def load_binary(name: str, code: bytes, *more: object) -> tuple:
        loaded = load(name, code, *more)
        fake.describe(loaded[1], parameter_sizes(code, name))
        return loaded

    return load_binary


@contextlib.contextmanager
def active() -> Iterator[FakeHip]:
    """Make a driver on the stand-in Triton's active one for a `with` block."""
    before = triton.runtime.driver._active
    with triton.knobs.amd.scope():
        triton.knobs.amd.libhip_path = str(library_path())
        fake = FakeHip()
        triton.runtime.driver.set_active(_driver_class()(fake))
        try:
            yield fake
        finally:
            triton.runtime.driver._active = before
