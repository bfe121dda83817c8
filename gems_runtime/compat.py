"""Every difference between Triton and torch versions, as a named function or constant with its end condition.

Features are detected, never guessed from a version number: a shape nobody here has seen is "unknown", and the caller
takes the slower path that works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

# What CudaLauncher.launch takes before the kernel's own arguments:
# grid x y z, stream, function, cooperative, pdl, global scratch, profile scratch, packed metadata, launch metadata,
# enter hook, exit hook. Triton 3.5 and 3.6; 3.7.1 moves the scratch pointers and packs the arguments in a tuple.
_DIRECT_FORMAT = "iiiKKppOOOOOO"


def takes_direct_launch(kernel: CompiledKernel) -> bool:
    """True if `kernel.run.launch` is the C function described by `_DIRECT_FORMAT` and the kernel needs no scratch memory.

    Triton 3.7.1 and later answer False (its launcher has `arg_annotations`); ends when our own native launcher replaces
    Triton's.
    """
    run = kernel.run
    module = _launcher_module(run)
    return (
        module is not None
        and getattr(module, "_BASE_ARGS_FORMAT", None) == _DIRECT_FORMAT
        and type(run) is module.CudaLauncher
        # A launcher of tensor descriptors is a Python function around the C one.
        and type(run.launch) is type(len)
        and run.global_scratch_size == 0
        and run.profile_scratch_size == 0
        and len(kernel.packed_metadata) == 3
    )


def _launcher_module(run: object) -> object | None:
    backend = triton.backends.backends.get("nvidia")
    if backend is None or type(run).__module__ != backend.driver.__module__:
        return None
    import triton.backends.nvidia.driver as module

    return module


def resolve(kernel: object) -> CompiledKernel | None:
    """The compiled kernel that `JITFunction.run` gave back, waiting for it if an AsyncCompileMode still compiles it.

    None if there is none: a compile hook declined. Ends when Triton resolves futures itself.
    """
    if hasattr(kernel, "result"):
        kernel = kernel.result()
    return kernel if type(kernel) is CompiledKernel else None


def forget_colliding_keys(jit: JITFunction, device: int) -> None:
    """Make the next stock call derive its key afresh.

    Triton 3.5 to 3.9 look keys up in a dict in which a constexpr 1, 1.0 and True are the same, and then launch the
    wrong kernel; the text key behind that dict is right. Ends with the first Triton whose `compute_cache_key` keeps
    constexpr types apart.
    """
    # Not device_caches[device]: it is a defaultdict, and the first launch must build its entry itself.
    entry = jit.device_caches.get(device)
    if entry is not None and len(entry) == 5 and type(entry[1]) is dict:
        entry[1].clear()


def launch_hooks() -> tuple[list[object], list[object]] | None:
    """The live lists of launch enter and exit hooks, or None if hooks are not kept in lists (before Triton 3.5)."""
    runtime = triton.knobs.runtime
    chains = runtime.launch_enter_hook, runtime.launch_exit_hook
    if not all(type(getattr(chain, "calls", None)) is list for chain in chains):
        return None
    return chains[0].calls, chains[1].calls


def knob_values(group: object) -> dict[str, object]:
    """The live dict of the knobs of a group that somebody set; empty in a program that sets none."""
    return vars(group)


def calls_are_default() -> bool:
    """True if no knob that stock Triton looks at on every launch differs from its default."""
    runtime, compilation = triton.knobs.runtime, triton.knobs.compilation
    hooks = launch_hooks()
    return (
        hooks is not None
        and not hooks[0]
        and not hooks[1]
        and not runtime.debug
        and not compilation.instrumentation_mode
        and getattr(runtime, "add_stages_inspection_hook", None) is None  # since 3.6
        and not getattr(compilation, "fpsan_homomorphic_casts", False)  # since 3.9
    )


def chain_compile_listener(callback: Callable[[bool], None]) -> None:
    """Have `callback(found_in_cache)` called after every compilation, besides the listener that is already there."""
    before = triton.knobs.compilation.listener

    def listen(*args: object, cache_hit: bool, **kwargs: object) -> None:
        callback(cache_hit)
        if before is not None:
            before(*args, cache_hit=cache_hit, **kwargs)

    triton.knobs.compilation.listener = listen


def tensor_flag(device_type: str) -> str | None:
    """The tensor attribute that is True on devices of this type (`is_cuda`), or None if torch has none for it."""
    name = f"is_{device_type}"
    return name if hasattr(torch.Tensor, name) else None


def let_interpreter_loops_run() -> None:
    """Make `range(scalar)` work in interpreted kernels: NumPy 2.4 no longer takes an array of one element for an int.

    Ends when Triton's interpreter stops calling `int()` on such arrays (3.6 to 3.9 do).
    """
    from triton.runtime import interpreter

    stock = interpreter._patch_lang_tensor

    def patch(tensor: type, scope: object) -> None:
        stock(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    if stock.__module__ == interpreter.__name__:
        interpreter._patch_lang_tensor = patch


def let_interpreter_round_bfloat16() -> None:
    """Make interpreted casts between float32 and bfloat16 what a GPU does: to nearest even, nan kept.

    Triton's interpreter truncates, one ulp off. Ends when its `cast_impl` rounds (3.6 to 3.9 do not).
    """
    import numpy as np
    from triton.runtime import interpreter

    stock = interpreter.InterpreterBuilder.cast_impl

    def bfloat16_bits(values: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)

    def cast(self: object, src: object, dst_type: object) -> object:
        kinds = (src.dtype.scalar, dst_type.scalar)
        if kinds == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(bfloat16_bits(src.data), tl.bfloat16)
        if kinds == (tl.bfloat16, tl.float32):
            wide = src.data.astype(np.uint32) << 16
            return interpreter.TensorHandle(wide.view(np.float32), tl.float32)
        return stock(self, src, dst_type)

    if stock.__module__ == interpreter.__name__:
        interpreter.InterpreterBuilder.cast_impl = cast
