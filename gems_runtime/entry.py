"""LibEntry: the path from `kernel[grid](...)` to a launch."""

from __future__ import annotations

from collections.abc import Callable

from triton.runtime.jit import KernelInterface


class LibEntry(KernelInterface):
    """A Triton kernel (JITFunction, Autotuner, Heuristics or any nesting of them) behind one launch path."""

    def __init__(self, kernel: KernelInterface) -> None:
        self.fn = kernel.fn if isinstance(kernel, LibEntry) else kernel
        self.arg_names = self.fn.arg_names

    def run(self, *args: object, **kwargs: object) -> object:
        """Launch (or, with `warmup=True`, only compile) as Triton's own `run` does."""
        return self.fn.run(*args, **kwargs)


def libentry() -> Callable[[KernelInterface], LibEntry]:
    """Decorator form: `@libentry()` above `@triton.jit`."""
    return LibEntry
