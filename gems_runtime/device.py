"""The one place that knows which device kernels run on: torch.cuda, the interpreter, or a target with no device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton

from gems_runtime.errors import NoDevice


@dataclass(frozen=True)
class DeviceIdentity:
    """What a tuned result depends on. Index and serial number are left out: equal cards share results."""

    vendor: str
    name: str
    arch: str
    sm_count: int
    l2_bytes: int
    memory_bytes: int

    def fields(self) -> dict[str, object]:
        return dict(vars(self))


def interpreted() -> bool:
    """True if Triton interprets kernels on the CPU (TRITON_INTERPRET=1)."""
    return triton.knobs.runtime.interpret


def has_gpu() -> bool:
    """True if torch can run CUDA or ROCm kernels. Starts no context in this process."""
    return torch.cuda.is_available()


def torch_device() -> torch.device:
    """The device whose tensors kernels take now: the CPU when interpreted, else what Triton's driver says.

    Raises NoDevice where there is neither.
    """
    if interpreted():
        return torch.device("cpu")
    try:
        driver = triton.runtime.driver.active
    except RuntimeError as error:
        hint = "to run kernels on the CPU, set TRITON_INTERPRET=1 before Python starts"
        raise NoDevice(f"Triton found no GPU ({error}); {hint}") from None
    return torch.device(driver.get_active_torch_device())


def dispatch_key() -> str:
    """The ATen backend key that operators for `torch_device()` are registered at."""
    return {"cpu": "CPU", "cuda": "CUDA", "meta": "Meta"}[torch_device().type]


def can_launch() -> bool:
    """False if the active driver only compiles (a target with no device)."""
    return interpreted() or not getattr(triton.runtime.driver.active, "compile_only", False)


def can_benchmark() -> bool:
    """True if timing a kernel here means something."""
    return not interpreted() and can_launch()


def current_index() -> int:
    """Ordinal of the current device."""
    return 0 if interpreted() else triton.runtime.driver.active.get_current_device()


def is_capturing() -> bool:
    """True while the current stream records a CUDA graph."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def capture_reader() -> Callable[[], bool]:
    """The cheapest way to ask `is_capturing` on a GPU."""
    return torch.cuda.is_current_stream_capturing


def synchronize() -> None:
    """Wait for the device; nothing to do where kernels run on the CPU."""
    if torch_device().type == "cuda":
        torch.cuda.synchronize()


def works() -> bool:
    """False once a kernel has broken this process's context (an illegal address, say): every later call fails too."""
    try:
        synchronize()
    except RuntimeError:
        return False
    return True


def identity() -> DeviceIdentity:
    """Identity of the current device, or of the compile target when there is no device."""
    if interpreted():
        return DeviceIdentity("interpreter", "triton-interpreter", "cpu", 1, 0, 0)
    target = triton.runtime.driver.active.get_current_target()
    arch = f"{target.backend}:{target.arch}"
    vendor = {"cuda": "nvidia", "hip": "amd"}.get(target.backend, target.backend)
    if torch_device().type != "cuda":
        return DeviceIdentity(vendor, "no-device", arch, 0, 0, 0)
    p = torch.cuda.get_device_properties(current_index())
    return DeviceIdentity(vendor, p.name, arch, p.multi_processor_count, p.L2_cache_size, p.total_memory)


def serial() -> str:
    """The current NVIDIA device's name among all of them, as NVIDIA's tools know it; the empty text for any other."""
    if interpreted() or torch_device().type != "cuda" or torch.version.hip:
        return ""
    return f"GPU-{torch.cuda.get_device_properties(current_index()).uuid}"


def default_generator(where: torch.device) -> torch.Generator:
    """The generator that ATen draws from on a device when it is given none."""
    if where.type == "cpu":
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device() if where.index is None else where.index]


def resident_threads() -> int:
    """Threads that the current device holds at a time."""
    if interpreted():
        return 4096
    if torch_device().type != "cuda":
        return 132 * 2048  # a target with no device: any number serves, for nothing is launched
    p = torch.cuda.get_device_properties(current_index())
    return p.multi_processor_count * p.max_threads_per_multi_processor


def count() -> int:
    """How many devices the process sees."""
    return torch.cuda.device_count() if has_gpu() else 1


def using(index: int) -> torch.cuda.device:
    """A `with` scope in which device `index` is current."""
    return torch.cuda.device(index)


def index_reader() -> Callable[[], int] | None:
    """The cheapest reader of the current device's ordinal for a process that has launched; None if it is always 0."""
    driver = triton.runtime.driver.active
    if driver.get_current_device is not torch.cuda.current_device:
        return driver.get_current_device
    # torch.cuda.current_device is this call behind a check that CUDA is initialised.
    return None if torch.cuda.device_count() == 1 else torch._C._cuda_getDevice


def stream_reader() -> Callable[[int], int]:
    """Reads the current stream's handle for a device ordinal."""
    return triton.runtime.driver.active.get_current_stream


def is_torchs() -> bool:
    """True if device and stream are torch's own, so that they may be read from the driver and from torch's C interface."""
    driver = triton.runtime.driver.active
    raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return driver.get_current_stream is raw_stream and driver.get_current_device is torch.cuda.current_device


def timing_event() -> torch.cuda.Event:
    """An event whose distance to another, once both have passed, `elapsed_time` tells in milliseconds."""
    return torch.cuda.Event(enable_timing=True)


def captured(run: Callable[[], object]) -> Callable[[], None]:
    """What `run` enqueues, as a CUDA graph: the function that replays it. Raises RuntimeError if it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def free_bytes() -> int | None:
    """Memory that new tensors may take on the current device; None where the host's is used."""
    if torch_device().type != "cuda":
        return None
    # a server has nearly all of the device in torch's pool, and that may be empty
    return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def has_room(needed: int) -> bool:
    """True if tensors of so many bytes may be made. A fifth is left: what is free lies in pieces, and others need some."""
    free = free_bytes()
    return free is None or needed < 0.8 * free
