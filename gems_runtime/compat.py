"""Every difference between Triton and torch versions, as a named function or constant with its end condition.

Features are detected, never guessed from a version number: a shape nobody here has seen is "unknown", and the caller
takes the slower path that works everywhere.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from triton.compiler import CompiledKernel
from triton.runtime._async_compile import FutureKernel
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

if TYPE_CHECKING:
    from triton.knobs import CompileTimes

_log = logging.getLogger(__name__)
# First and last release that this project is made for.
SUPPORTED = {"triton": ((3, 6), (3, 9)), "torch": ((2, 10), (2, 13))}
# Of a CUtensorMap.
MAP_BYTES = 128
# First release that nobody here has run. Only a cross-check: what a launcher takes is seen from the launcher itself.
UNTRIED = (3, SUPPORTED["triton"][1][1] + 1)


@dataclass(frozen=True)
class LaunchForm:
    """How a kernel's launcher is called: source text of each argument, the kernel's own where it says ARGUMENTS."""

    parts: tuple[str, ...]
    packs: bool  # the kernel's arguments come in one tuple

    ARGUMENTS = "*"
    # What an entry keeps for its calls, by the name the launch text gives it.
    FIELDS = {
        "_function": lambda kernel: kernel.function,
        "_packed": lambda kernel: kernel.packed_metadata,
        "_cooperative": lambda kernel: kernel.run.launch_cooperative_grid,
        "_pdl": lambda kernel: kernel.run.launch_pdl,
        "_annotations": lambda kernel: kernel.run.arg_annotations,
        "_signature": lambda kernel: kernel.run.kernel_signature,
        "_warp_size": lambda kernel: kernel.run.warp_size,
    }
    CALL = ("_g0", "_g1", "_g2", "_stream")

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part in self.FIELDS)

    def text(self, arguments: list[str]) -> str:
        """The call's arguments as source text."""
        own = [f"({', '.join(arguments)}{',' * bool(arguments)})"] if self.packs else arguments
        return ", ".join(piece for part in self.parts for piece in (own if part == self.ARGUMENTS else [part]))

    def taken_apart(self, values: tuple[object, ...]) -> tuple[list[object], tuple[object, ...]]:
        """Grid and stream, and the kernel's arguments, of a call made in this form."""
        at = self.parts.index(self.ARGUMENTS)
        own = values[at] if self.packs else values[at:]
        return [values[self.parts.index(name)] for name in self.CALL], own


# Takes the same as `CompiledKernel.run`: where there is no C launcher that we know.
RUN_FORM = LaunchForm(("_g0", "_g1", "_g2", "_stream", "_function", "_packed", "None", "None", "None", "*"), packs=False)


def launch_form() -> LaunchForm | None:
    """The form of the active driver's C launcher; None, said once, if it is one that nobody here has seen."""
    launcher = triton.runtime.driver.active.launcher_cls
    return _form_of(launcher.__call__)


@functools.cache
def _form_of(call: Callable[..., None]) -> LaunchForm | None:
    seen = _passed_on(call)
    known = {*LaunchForm.FIELDS, *LaunchForm.CALL, "None", "_a", "_b", ("_a", "_b")}
    packs = bool(seen) and seen[-1] == ("_a", "_b")
    own = 1 if packs else 2
    fits = seen is not None and set(seen) <= known and (packs or seen[-2:] == ("_a", "_b"))
    if fits and release(triton.__version__) < UNTRIED and set(LaunchForm.CALL) <= set(seen):
        return LaunchForm((*seen[:-own], LaunchForm.ARGUMENTS), packs)
    text = "Triton %s launches kernels in a way not known here; launches go through CompiledKernel.run, which is slower"
    _log.warning(text, triton.__version__)
    return None


def _passed_on(call: Callable[..., None]) -> tuple[object, ...] | None:
    """What a launcher's `__call__` gives the C function, each argument being its own name; None if it asks for more."""
    seen: list[tuple[object, ...]] = []
    stand_in = SimpleNamespace(
        launch=lambda *values: seen.append(tuple("None" if value is None else value for value in values)),
        num_ctas=1,
        gsan_enabled=False,
        launch_cooperative_grid="_cooperative",
        launch_pdl="_pdl",
        arg_annotations="_annotations",
        kernel_signature="_signature",
        warp_size="_warp_size",
        **{f"{kind}_scratch_{what}": 0 for kind in ("global", "profile") for what in ("size", "align")},
    )
    try:
        call(stand_in, *LaunchForm.CALL, "_function", "_packed", None, None, None, "_a", "_b")
    except (AttributeError, TypeError, ValueError):
        return None
    return seen[0] if len(seen) == 1 else None


def release(version: str) -> tuple[int, int]:
    """(3, 6) of "3.6.0"."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def drops_large_grids() -> bool:
    """True if Triton's launcher multiplies a grid's numbers in 32 bits, and launches nothing where that is below one.

    Ends with the first Triton whose launcher does not (3.6 to 3.9 do: github.com/triton-lang/triton/issues/7260). Its
    launcher for AMD launches nothing where the product is zero, which `drops_even_grids` says.
    """
    return release(triton.__version__) < UNTRIED and not is_hip()


def drops_even_grids() -> bool:
    """True if Triton's launcher takes a grid whose product is a multiple of 2**32 for an empty one: AMD's, 3.6 to 3.9."""
    return release(triton.__version__) < UNTRIED and is_hip()


def is_hip() -> bool:
    """True if the active driver's kernels are for AMD's GPUs."""
    return triton.runtime.driver.active.get_current_target().backend == "hip"


def bounds_tensors() -> bool:
    """True if Triton compiles for tensors whose storage is below 2 GiB otherwise than for larger ones: for AMD's GPUs."""
    return is_hip() and bool(triton.knobs.amd.use_buffer_ops)


def watched_knobs() -> tuple[tuple[dict[str, object], str], ...]:
    """Dicts of knobs, and names in them, that the active backend looks at on each launch besides the runtime's."""
    return ((vars(triton.knobs.amd), "use_buffer_ops"),) if is_hip() else ()


def hip_library() -> str:
    """The path of the HIP library that Triton's driver has loaded."""
    from triton.backends.amd import driver

    return driver._get_path_to_hip_runtime_dylib()


def takes_direct_launch(kernel: CompiledKernel) -> bool:
    """True if `kernel.run.launch` is called as `launch_form` says and gets nothing else from `run`.

    Scratch memory and the sanitizer's state are what `run` adds.
    """
    run = kernel.run
    return (
        type(run) is triton.runtime.driver.active.launcher_cls
        and launch_form() is not None
        and not getattr(run, "global_scratch_size", 0)
        and not run.profile_scratch_size
        and not getattr(run, "gsan_enabled", False)  # since 3.8
        and len(kernel.packed_metadata) == 3
    )


def encoded_map(kernel: CompiledKernel, index: int, descriptor: TensorDescriptor) -> bytes:
    """The 128 bytes that Triton's launcher passes for the kernel's descriptor argument of this number."""
    driver = sys.modules[type(kernel.run).__module__]
    encode, more = driver.make_tensordesc_arg, ()
    if len(inspect.signature(encode).parameters) == 3:  # since 3.8, for backends that have a use for it
        more = (None,)
    found = encode(descriptor, kernel.metadata.tensordesc_meta[index], *more)[0]
    # A Python object that ends in the map.
    return ctypes.string_at(id(found) + type(found).__basicsize__ - MAP_BYTES, MAP_BYTES)


def encodes_maps(kernel: CompiledKernel) -> bool:
    """True if each descriptor argument becomes a map as `encoded_map` gives it, its extents and its strides.

    Not on devices without tensor maps, nor for packed 4-bit floats (3.6 passes other extents) and image columns (3.8).
    """
    described = getattr(kernel.metadata, "tensordesc_meta", None)
    return bool(described) and not any(d is None or d["fp4_padded"] or d.get("is_im2col") for d in described)


def resolve(kernel: object) -> CompiledKernel | None:
    """The compiled kernel that `JITFunction.run` gave back, waiting for it if an AsyncCompileMode still compiles it.

    None if there is none: a compile hook declined. Ends when Triton resolves futures itself.
    """
    if hasattr(kernel, "result"):
        kernel = kernel.result()
    return kernel if type(kernel) is CompiledKernel else None


def forget_failed_kernels(jit: object) -> None:
    """Make the next call compile again what failed to compile under an AsyncCompileMode.

    Triton 3.7 and 3.8 keep the failed future in the kernel's cache, so that it raises the same for ever; 3.9 takes it out.
    """
    for entry in jit.device_caches.values() if isinstance(jit, JITFunction) else ():
        for key, kernel in list(entry[0].items()):
            future = getattr(kernel, "future", None) if isinstance(kernel, FutureKernel) else None
            if future is not None and future.done() and future.exception() is not None:
                del entry[0][key]


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


def chain_compile_listener(callback: Callable[[bool, str, float], None]) -> None:
    """Have `callback(found_in_cache, hash, milliseconds)` called after every compilation, besides the listener that is there."""
    before = triton.knobs.compilation.listener

    def listen(*, metadata: Mapping[str, object], times: CompileTimes, cache_hit: bool, **others: object) -> None:
        callback(cache_hit, str(metadata.get("hash")), times.total / 1000)
        if before is not None:
            before(metadata=metadata, times=times, cache_hit=cache_hit, **others)

    triton.knobs.compilation.listener = listen


def replace_identity(stock_key: Callable[[], str], key: Callable[[], str], assembler_version: Callable[[int], str]) -> None:
    """Have Triton ask us for what it hashes all of its files for, 0.7 s of a first call, and starts ptxas for, 5 ms.

    Ends when Triton remembers them on disk (3.6 to 3.9 remember them for one process).
    """
    from triton.backends.nvidia import compiler
    from triton.runtime import autotuner, cache

    for module in (cache, autotuner):
        if getattr(module, "triton_key", None) is stock_key:
            module.triton_key = key
    asks = getattr(compiler, "get_ptxas_version", None)
    if asks is not None and list(inspect.signature(asks).parameters) == ["arch"]:
        compiler.get_ptxas_version = assembler_version


def load_argument_types() -> None:
    """Import what Triton's C code imports when it looks at the first argument of a process: 0.1 s of a first call.

    Ends when Triton's native specialisation finds the types of tensor descriptors without it (3.6 to 3.9 do not).
    """
    import triton.experimental.gluon.nvidia.hopper  # noqa: F401


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


def let_interpreter_fold_in_blocks() -> None:
    """Make interpreted `tl.reduce` and `tl.associative_scan` call their function on halves of a block, not on each pair of elements.

    The results are the same, in log(n) calls: 1,024 elements took 60 ms. Ends when Triton's interpreter does so (3.6 to
    3.9 do not).
    """
    import numpy as np
    from triton.runtime import interpreter

    def combined(self: object, left: list[np.ndarray], right: list[np.ndarray], types: list[tl.dtype]) -> list[np.ndarray]:
        operands = [self.to_tensor(values, kind) for half in (left, right) for values, kind in zip(half, types, strict=True)]
        result = self.combine_fn.fn(*operands)
        return [r.handle.data for r in (result if isinstance(result, tuple) else (result,))]

    def reduce(self: object, given: tuple) -> list[object]:
        axis, types = self.axis, [t.dtype for t in given]
        arrays = [t.handle.data if axis is not None else t.handle.data.reshape(-1) for t in given]
        rank, axis = given[0].handle.data.ndim, axis or 0
        while arrays[0].shape[axis] > 1:
            even, odd = ([np.take(a, range(i, a.shape[axis], 2), axis) for a in arrays] for i in (0, 1))
            arrays = combined(self, even, odd, types)
        if not self.keep_dims:
            arrays = [np.squeeze(a, axis) for a in arrays]
        elif self.axis is None:
            arrays = [a.reshape((1,) * rank) for a in arrays]
        return [self.to_tensor(a if a.ndim else a.item(), kind) for a, kind in zip(arrays, types, strict=True)]

    def scan(self: object, given: tuple) -> list[object]:
        types, arrays = [t.dtype for t in given], [t.handle.data for t in given]
        size = arrays[0].shape[self.axis]
        place = np.arange(size).reshape([size if d == self.axis else 1 for d in range(arrays[0].ndim)])
        distance = 1
        while distance < size:
            moved = combined(self, [np.roll(a, distance, self.axis) for a in arrays], arrays, types)
            arrays = [np.where(place >= distance, m, a) for m, a in zip(moved, arrays, strict=True)]
            distance *= 2
        return [self.to_tensor(a, kind) for a, kind in zip(arrays, types, strict=True)]

    interpreter.ReduceOps.generic_reduce = reduce
    interpreter.ScanOps.generic_scan = scan


def let_interpreter_patch_once() -> None:
    """Make an interpreted kernel patch `triton.language` once, not again in every function that it calls.

    Each time took about 1 ms, most of the time of a kernel made of functions. Ends when Triton's interpreter does so
    (3.6 to 3.9 do not).
    """
    from triton.runtime import interpreter

    stock = interpreter._patch_lang
    patched: set[int] = set()  # modules, while a kernel runs

    def patch(fn: Callable[..., object]) -> object:
        modules = {id(value) for value in fn.__globals__.values() if value is tl or value is tl.core}
        if modules <= patched:
            return interpreter._LangPatchScope()
        kernel = not patched
        patched.update(modules)
        scope = stock(fn)
        if kernel:  # functions that a kernel calls never restore
            restore = scope.restore
            scope.restore = lambda: (patched.clear(), restore())
        return scope

    if stock.__module__ == interpreter.__name__ and hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = patch


def let_interpreter_call_libdevice() -> None:
    """Give `triton.language.extra.libdevice` functions that interpreted kernels can call; its own return None there.

    Ends when the interpreter's `create_extern_elementwise` is more than an error (3.6 to 3.9 raise).
    """
    import math

    import numpy as np
    from triton.language.extra import libdevice
    from triton.runtime.interpreter import TensorHandle

    found = {name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "hypot", "fmod")}
    found |= {name: getattr(np, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "trunc", "copysign")}
    found |= {"a" + name: getattr(np, "arc" + name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "tan2")}
    found |= {"pow": np.power, "nearbyint": np.rint, "fast_dividef": np.divide}
    found |= {name: np.vectorize(getattr(math, name), otypes=[np.float64]) for name in ("erf", "erfc")}

    def elementwise(function: Callable[..., object]) -> Callable[..., tl.tensor]:
        def call(*args: tl.tensor | float, _semantic: object = None) -> tl.tensor:
            tensors = [a for a in args if isinstance(a, tl.tensor)]
            kind = tensors[0].dtype.scalar
            with np.errstate(all="ignore"):
                data = np.asarray(function(*(a.handle.data if isinstance(a, tl.tensor) else a for a in args)))
            data = data.astype(tensors[0].handle.data.dtype)
            shape = list(data.shape) if any(a.type.is_block() for a in tensors) else []
            return tl.tensor(TensorHandle(data, kind), tl.block_type(kind, shape) if shape else kind)

        return call

    for name, function in found.items():
        setattr(libdevice, name, elementwise(function))


def let_interpreter_compare_scalars() -> None:
    """Mark what interpreted comparisons give as int1, so that one of scalars can be combined with one of blocks.

    Triton's interpreter marks it with the operands' dtype. Ends when its `binary_op` does not (3.6 to 3.9 do).
    """
    from triton.runtime import interpreter

    stock = interpreter.InterpreterBuilder.binary_op

    def binary_op(self: object, lhs: object, rhs: object, op: object) -> object:
        handle = stock(self, lhs, rhs, op)
        if handle.data.dtype == bool:
            handle.dtype = tl.int1
        return handle

    if stock.__module__ == interpreter.__name__:
        interpreter.InterpreterBuilder.binary_op = binary_op


def let_interpreter_fuse() -> None:
    """Make interpreted `tl.fma` round once, as a GPU does: the sign of what it leaves is often all that is wanted of it.

    Triton's interpreter rounds the product too. Ends when its `create_fma` does not (3.6 to 3.9 do).
    """
    import numpy as np
    from triton.runtime import interpreter

    wider = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}

    def fma(self: object, x: object, y: object, z: object) -> object:
        kind = wider.get(x.data.dtype, x.data.dtype)
        exact = x.data.astype(kind) * y.data.astype(kind) + z.data.astype(kind)
        return interpreter.TensorHandle(exact.astype(x.data.dtype), x.dtype.scalar)

    interpreter.InterpreterBuilder.create_fma = fma


def let_interpreter_overflow() -> None:
    """Leave out the check of every interpreted integer operation for overflow, as compiled kernels do unless debugged.

    It makes interpreted index arithmetic 1.6 times slower. Ends when `InterpreterOptions` no longer asks for it (3.6 to
    3.9 do).
    """
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    if getattr(builder.options, "sanitize_overflow", False):
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
