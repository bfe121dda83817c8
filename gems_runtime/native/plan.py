"""What the native module is told: the shape of a kernel's calls, and how the kernel of one entry is launched."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from types import ModuleType

import torch
import triton

from gems_runtime import compat, device
from gems_runtime.grid import answer
from gems_runtime.launch import Entry, call_pre_hook, launches_here
from gems_runtime.signature import UNSET, Shape

# The flags of a slot in launch.c: in the key by type and value; by class and value; may be left out.
CONSTANT, BY_VALUE, OPTIONAL = 1, 2, 4
# DLPack's numbers.
DEVICE_TYPES = {"cpu": 1, "cuda": 10 if torch.version.hip else 2}
_MAX_SLOTS = 128
# Above it Triton 3.8's launcher sets an attribute of its own.
_MAX_SHARED = 228 * 1024
# A larger cluster is not portable: the function must allow it.
_PORTABLE_CLUSTER, _MAX_CLUSTER, _ALLOW_CLUSTER = 8, 16, 14

Values = dict[str, object]


def plan_of(module: ModuleType, shape: Shape, bound: Values, limit: int) -> object | None:
    """The plan for calls of this shape, `bound` being what its launch text is bound to; None if the Python path must see each."""
    slots = slot_names(shape)
    place = device.torch_device().type
    if len(slots) + len(shape.live) > _MAX_SLOTS or place not in DEVICE_TYPES or not launches_here():
        return None
    params = {p.name: p for p in shape.params}
    flags = [_flags(shape, name) for name in slots]
    return module.Plan(
        names=slots,
        flags=bytes(flags),
        defaults=tuple(params[name].default if name in params and flag & OPTIONAL else None for name, flag in zip(slots, flags)),
        named_count=len(shape.passed()),
        positional=next((i for i, p in enumerate(shape.params) if p.supplied), len(shape.params)),
        params=tuple(params),
        param_slots=tuple(-1 if p.supplied else slots.index(p.name) for p in shape.params),
        runtime=bound["_runtime"],
        runtime_seen=bound["_runtime_seen"] if shape.knobs_set else None,
        compilation=bound["_compilation"],
        hooks=(bound["_enter"], bound["_exit"], bound["_pre_run"]),
        settings=vars(bound["_settings"]),
        settings_seen=bound["_settings_seen"],
        globals=tuple((bound[f"_globals_{i}"], bound[f"_global_name_{i}"], bound[f"_global_{i}"]) for i in range(shape.used_globals)),
        current_device=bound["_current_device"],
        stream=bound["_stream"],
        tuner=bound["_tuner"],
        exact=bound["_exact"],
        answer=answer,
        encode=compat.encoded_map,
        before=functools.partial(call_pre_hook, shape.hook_sees) if shape.has_pre_hooks else None,
        live=tuple((name, bound["_heuristics"][name]) for name in shape.live),
        is_cuda=place == "cuda" and device.is_torchs() and not compat.is_hip(),
        is_hip=compat.is_hip(),
        bounded=shape.bounded,
        device_type=DEVICE_TYPES[place],
        limit=limit,
        driver=_hip_driver(compat.hip_library()) if compat.is_hip() else _driver(triton.knobs.nvidia.libcuda_path),
    )


def launch_of(shape: Shape, record: Entry) -> tuple[object, ...] | bool:
    """How the kernel of an entry is launched, as launch.c's `fill` reads it; False if only the Python path knows."""
    kernel = record.kernel
    if record.tier != "P":
        return False
    warps, clusters, shared = kernel.packed_metadata
    if clusters > _MAX_CLUSTER or shared > _MAX_SHARED:
        return False
    if any(ty.startswith("tensordesc") for ty in kernel.src.signature.values()) and not compat.encodes_maps(kernel):
        return False
    run = kernel.run
    # HIP has functions of their own for them.
    if compat.is_hip() and (clusters > 1 or run.launch_cooperative_grid):
        return False
    if clusters > _PORTABLE_CLUSTER:
        # Triton's launcher says so at each launch; a function remembers it.
        _library(triton.knobs.nvidia.libcuda_path).cuFuncSetAttribute(ctypes.c_void_p(kernel.function), _ALLOW_CLUSTER, 1)
    slots = {name: i for i, name in enumerate(slot_names(shape))}
    arguments = tuple((slots[name], ty) for name, ty in kernel.src.signature.items() if ty != "constexpr")
    attributes = run.launch_cooperative_grid, getattr(run, "launch_pdl", False)
    return kernel, kernel.function, kernel.metadata.target.warp_size * warps, shared, clusters, *attributes, arguments, record.config, record.supplied, record


def slot_names(shape: Shape) -> tuple[str, ...]:
    """The names of the slots of a call."""
    # Interned, because the names of keyword arguments are: they are compared as objects first.
    return tuple(map(sys.intern, shape.names()))


def _flags(shape: Shape, name: str) -> int:
    param = next((p for p in shape.params if p.name == name), None)
    if param is None:
        return CONSTANT | OPTIONAL
    kind = CONSTANT if param.is_constexpr else BY_VALUE if name in shape.by_value else 0
    return kind | (OPTIONAL if param.default is not UNSET else 0)


@functools.cache
def _library(folder: str | None) -> ctypes.CDLL:
    """The driver's library that Triton's launcher uses."""
    return ctypes.CDLL(os.path.join(folder, "libcuda.so.1") if folder else "libcuda.so.1")


@functools.cache
def _driver(folder: str | None) -> tuple[int, ...]:
    """Addresses of the driver's functions."""
    return _addresses(_library(folder), "cuLaunchKernelEx", "cuGetErrorString", "cuCtxGetDevice")


@functools.cache
def _hip_driver(path: str) -> tuple[int, ...]:
    """The same of HIP's."""
    return _addresses(ctypes.CDLL(path), "hipModuleLaunchKernel", "hipGetErrorString", "hipGetDevice")


def _addresses(library: ctypes.CDLL, *names: str) -> tuple[int, ...]:
    return tuple(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names)
