"""The C launcher of a new signature, built while its kernel is compiled, and after that if another path can launch."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import ModuleType

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


_NAME = "gems launcher"


class StillBuilding(Exception):
    """A kernel is ready to be launched and its launcher is not."""


class _Here(threading.local):
    """What this thread does without a launcher that is still being built: None, and it waits; False, and it raises StillBuilding."""

    stands_in: bool | None = None


_here = _Here()


@contextlib.contextmanager
def may_be_unfinished(stands_in: bool) -> Iterator[None]:
    """Loading a kernel here waits for no launcher: it raises StillBuilding, or has one that waits when it is called."""
    before, _here.stands_in = _here.stands_in, stands_in
    try:
        yield
    finally:
        _here.stands_in = before


class _Unfinished:
    """Stands for the module of a launcher that a thread is building."""

    def __init__(self, built: Callable[[], ModuleType]) -> None:
        self._built = built

    def launch(self, *args: object) -> None:
        self._built().launch(*args)


def build_meanwhile() -> None:
    """Have Triton's C compiler build the launcher of a new signature while Triton compiles the kernel, not after it.

    The launcher takes 0.13 s of a cold first call here (EPYC, 2026-11-27), kernels 0.04 to 0.15, and an H200's host about
    twice that: `tril` took 0.49 s. Ends when no signature has a launcher of its own (NVIDIA's have none since 3.8).
    """
    from triton.backends.amd import driver as amd
    from triton.backends.nvidia import driver as nvidia

    stock, drivers = ASTSource.make_ir, [m for m in (nvidia, amd) if hasattr(m, "compile_module_from_src")]
    if stock.__module__ == __name__ or not drivers:
        return
    locks: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
    builders: dict[int, threading.Thread] = {}
    # Triton loads it anew for each kernel, 0.3 ms of a first call (EPYC, 2026-11-27).
    loaded: dict[tuple[str, str], ModuleType] = {}
    begun: set[tuple[object, ...]] = set()
    names = {m.__name__ for m in drivers}

    def make_ir(self: ASTSource, target: GPUTarget, *args: object, **kwargs: object) -> object:
        # only on the way to a kernel that no cache has
        try:
            launcher = triton.runtime.driver.active.launcher_cls
        except RuntimeError:  # no device: whoever compiles launches elsewhere
            return stock(self, target, *args, **kwargs)
        key = (launcher, *self.signature.values())
        if launcher.__module__ in names and key not in begun and "tensordesc" not in str(key):
            begun.add(key)
            threading.Thread(target=_build_launcher, args=(launcher, self, target), name=_NAME).start()
        return stock(self, target, *args, **kwargs)

    def one_at_a_time(build: Callable[..., ModuleType]) -> Callable[..., ModuleType | _Unfinished]:
        def compile_module_from_src(src: str, *args: object, **kwargs: object) -> ModuleType | _Unfinished:
            what = src, repr((args, kwargs))

            def built() -> ModuleType:
                if what not in loaded:
                    with locks[hash(src)]:  # who comes second finds the first one's in Triton's cache
                        loaded[what] = build(src, *args, **kwargs)
                return loaded[what]

            if threading.current_thread().name == _NAME:
                builders[hash(src)] = threading.current_thread()
            elif _here.stands_in is not None and what not in loaded and hash(src) in builders and builders[hash(src)].is_alive():
                if not _here.stands_in:
                    raise StillBuilding
                return _Unfinished(built)
            return built()

        return compile_module_from_src

    for module in drivers:
        module.compile_module_from_src = one_at_a_time(module.compile_module_from_src)
    ASTSource.make_ir = make_ir
    os.register_at_fork(after_in_child=locks.clear)  # a thread of the parent may hold one


class _Unknown:
    """Stands for the metadata of a kernel that is being compiled: the text of its launcher needs but one."""

    tensordesc_meta = None

    def __init__(self, warp_size: int) -> None:
        self.warp_size = warp_size

    def __getattr__(self, name: str) -> int:
        return 0


def _build_launcher(launcher: Callable[..., object], source: ASTSource, target: GPUTarget) -> None:
    """Leave a launcher in Triton's cache. What is wrong with it, Triton says when it makes its own."""
    with contextlib.suppress(Exception):
        launcher(source, _Unknown(target.warp_size))
