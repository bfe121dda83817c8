"""Compiling for a device that is not here: a Triton driver for a named target whose launches go into the void."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from gems_runtime.entry import clear_all
from gems_runtime.errors import UsageError

# Shared memory one block may use, so that a configuration which cannot run there fails here as it would there.
_SHARED_BYTES = {"cuda:80": 166912, "cuda:86": 101376, "cuda:89": 101376, "cuda:90": 232448, "cuda:100": 232448}
_SHARED_BYTES_HIP = 65536
_SHARED_BYTES_UNKNOWN = 49152
# Triton keeps compiled kernels, and what it knows of a device, by device number: each target gets one of its own.
_numbers: dict[str, int] = {}


def parse_target(text: str) -> GPUTarget:
    """`cuda:90`, `hip:gfx942` as Triton's target. Raises UsageError."""
    cuda = re.fullmatch(r"cuda:(\d{2,3})", text)
    if cuda:
        return GPUTarget("cuda", int(cuda[1]), 32)
    if re.fullmatch(r"hip:gfx[0-9a-f]{3,4}", text):
        return GPUTarget("hip", text[4:], 64 if text[7] == "9" else 32)
    raise UsageError(f"unknown target {text!r}; targets look like cuda:80, cuda:90 or hip:gfx942")


def name_of(target: GPUTarget) -> str:
    """The text that `parse_target` reads."""
    return f"{target.backend}:{target.arch}"


class CompileOnlyDriver(DriverBase):
    """Stands for a device of `target`. Tensors are meta tensors; a launch compiles its kernel and does nothing else."""

    compile_only = True

    def __init__(self, target: str, before: DriverBase | None = None) -> None:
        super().__init__()
        self._target = parse_target(target)
        self._number = _numbers.setdefault(target, -1 - len(_numbers))
        self.utils = _NoDevice(target, before)
        self.launcher_cls = _NoLauncher

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def get_current_device(self) -> int:
        return self._number

    def set_current_device(self, device: int) -> None:
        """Nothing to switch."""

    def get_current_stream(self, device: int) -> int:
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty  # for building launchers, and there is none here

    def get_benchmarker(self) -> None:
        raise RuntimeError(f"nothing can be timed on {name_of(self._target)}: there is no such device here")


class _NoDevice:
    """What Triton asks of a device's driver library."""

    def __init__(self, target: str, before: DriverBase | None) -> None:
        self._before = before  # the driver that is active otherwise
        fallback = _SHARED_BYTES_HIP if target.startswith("hip") else _SHARED_BYTES_UNKNOWN
        self._shared = _SHARED_BYTES.get(target, fallback)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self._shared, "multiprocessor_count": 1, "warpSize": 32, "max_num_regs": 65536}

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[None, int, int, int, int]:
        return None, 0, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        """Triton asks it of the active driver since 3.8, when a kernel is collected: one that another driver has loaded."""
        if self._before is not None:
            self._before.utils.unload_module(module)


class _NoLauncher:
    """A launcher that does nothing."""

    def __init__(self, source: object, metadata: object) -> None:
        pass

    def __call__(self, *arguments: object) -> None:
        pass


def running_for(target: str | None) -> contextlib.AbstractContextManager[object]:
    """`compiling_for` a target, or nothing to change where the device that is here is meant."""
    return compiling_for(target) if target else contextlib.nullcontext()


@contextlib.contextmanager
def compiling_for(target: str) -> Iterator[CompileOnlyDriver]:
    """In the `with` block, kernels called with meta tensors are compiled for `target`; process-wide.

    What a kernel's autotuner chose for one target is forgotten at both ends: it may not fit another.
    """
    drivers = triton.runtime.driver
    before = drivers._active
    driver = CompileOnlyDriver(target, before)
    drivers.set_active(driver)
    clear_all()
    try:
        yield driver
    finally:
        drivers._active = before
        clear_all()
