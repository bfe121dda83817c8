"""One launch through the native module into a function of ours: what it would tell the driver must be what we expect."""

from __future__ import annotations

import ctypes
import struct
from types import ModuleType

import torch

from gems_runtime.native.plan import BY_VALUE, CONSTANT, DEVICE_TYPES, OPTIONAL


class _Config(ctypes.Structure):
    """The head of CUlaunchConfig."""

    _fields_ = [
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared", ctypes.c_uint32),
        ("stream", ctypes.c_uint64),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint32),
    ]


_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Config), ctypes.c_uint64, ctypes.POINTER(ctypes.POINTER(ctypes.c_uint64)), ctypes.c_void_p)
_TYPES = ("*fp32", "*fp32", "i32", "i64", "fp32", "u1")
_FUNCTION, _STREAM = 4096, 7


def fault_of(module: ModuleType) -> str:
    """What the module reads or launches wrongly on this machine; "" if nothing."""
    return _reading_fault(module) or _launching_fault(module)


def _reading_fault(module: ModuleType) -> str:
    x = torch.zeros(8)
    cases = {"a tensor": (x, (2, 32, 1)), "a view": (x[1:], (2, 32, 1)), "a parameter": (torch.nn.Parameter(x), (2, 32, 1))}
    cases["int8"] = (torch.zeros(3, dtype=torch.int8), (0, 8, 1))
    for name, (tensor, dtype) in cases.items():
        found = module.read(tensor)
        wanted = (tensor.data_ptr(), DEVICE_TYPES["cpu"], found[2], 1, *dtype)
        if found != wanted:
            return f"{name} reads as {found}, not {wanted}"
    return ""


def _launching_fault(module: ModuleType) -> str:
    seen: list[tuple[object, ...]] = []

    def record(config: object, function: int, params: object, extra: object) -> int:
        c = config.contents
        head = (tuple(c.grid), tuple(c.block), c.shared, c.stream, c.attribute_count, function)
        seen.append((*head, *(params[i].contents.value for i in range(len(_TYPES) + 2))))
        return 0

    callback = _LAUNCH(record)
    x = torch.zeros(8)
    args = (x, x[1:], 17, -(2**40), 2.5, True)
    kernel = object()
    arguments = tuple(enumerate(_TYPES))
    described = (kernel, _FUNCTION, 128, 1024, 1, False, False, arguments, None, {}, None)
    launcher = module.Launcher(lambda plan, args, kwargs: described)
    launcher.serve(lambda grid, *args, **kwargs: "python", _plan(module, ctypes.cast(callback, ctypes.c_void_p).value))
    results = [launcher((3, 2), *args, BLOCK=64), launcher((3, 2), *args, BLOCK=64), launcher((3, 2), *args, BLOCK=64.0)]
    if results != ["python", kernel, "python"]:
        return f"a call gives back {results}"
    numbers = (x.data_ptr(), x[1:].data_ptr(), 17, 2**64 - 2**40, struct.unpack("<I", struct.pack("<f", 2.5))[0], 1, 0, 0)
    wanted = ((3, 2, 1), (128, 1, 1), 1024, _STREAM, 0, _FUNCTION, *numbers)
    return "" if seen == [wanted] else f"the driver is told {seen}, not {[wanted]}"


def _plan(module: ModuleType, launch: int) -> object:
    """A plan for a kernel of one constant after the arguments, on the CPU."""
    names = (*(f"a{i}" for i in range(len(_TYPES))), "BLOCK")
    flags = bytes([0] * 2 + [BY_VALUE] + [0] * (len(_TYPES) - 3) + [CONSTANT | OPTIONAL])
    settings = object()
    return module.Plan(
        names=names,
        flags=flags,
        defaults=(None,) * len(names),
        named_count=len(names),
        positional=len(names),
        params=names,
        param_slots=tuple(range(len(names))),
        runtime={},
        runtime_seen=None,
        compilation={},
        hooks=([], [], []),
        settings={"_current": settings},
        settings_seen=settings,
        globals=(),
        current_device=None,
        stream=lambda device: _STREAM,
        tuner=None,
        exact=hash,
        answer=hash,
        encode=hash,
        before=None,
        live=(),
        is_cuda=False,
        is_hip=False,
        bounded=False,
        device_type=DEVICE_TYPES["cpu"],
        limit=8,
        driver=(launch, 0, 0),
    )
