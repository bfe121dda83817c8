"""Running one candidate configuration: bind it, compile it, launch it with its hooks, name the way in which it fails."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import triton
from triton.compiler.errors import CompilationError
from triton.errors import TritonError
from triton.runtime._async_compile import AsyncCompileMode, FutureKernel
from triton.runtime.autotuner import Autotuner
from triton.runtime.errors import OutOfResources, PTXASError

from gems_runtime import compat, device, launch, settings
from gems_runtime.bench import Launch
from gems_runtime.chain import unwrap
from gems_runtime.fingerprint import config_fields
from gems_runtime.records import Json, canonical
from gems_runtime.store.seeds import Seed

# What a launch with a bad configuration raises; anything else is the caller's mistake and is passed on.
LAUNCH_ERRORS = (TritonError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class Call:
    """One call of an autotuned kernel, as the user made it."""

    tuner: Autotuner
    args: tuple[object, ...]
    kwargs: dict[str, object]
    grid: object

    @property
    def named(self) -> dict[str, object]:
        """The arguments by name, without launch options."""
        both = {**dict(zip(self.tuner.arg_names, self.args)), **self.kwargs}
        return {n: v for n, v in both.items() if n in self.tuner.arg_names}

    @property
    def run_kwargs(self) -> dict[str, object]:
        """What `kernel[grid](...)` hands to `run`; pruning functions and hooks of the user's see the same."""
        return {**self.kwargs, "grid": self.grid, "warmup": False}

    def stock_key(self) -> tuple[object, ...]:
        """The key under which Triton's Autotuner looks for this call in its own cache."""
        named = self.named
        key = [named[name] for name in self.tuner.keys if name in named]
        return tuple(key + [str(value.dtype) for value in named.values() if hasattr(value, "dtype")])

    def candidates(self) -> list[triton.Config]:
        """The configurations left after the user's pruning. Raises ValueError if the call sets what they set."""
        self.tuner.nargs = dict(zip(self.tuner.arg_names, self.args))
        try:
            configs = list(self.tuner.prune_configs(self.run_kwargs))
        finally:
            self.tuner.nargs = None
        conflicts = {name for config in configs for name in config.all_kwargs() if name in self.kwargs}
        if conflicts:
            raise ValueError(f"{', '.join(sorted(conflicts))}: given in the call, but the autotuner chooses it")
        return configs

    def hook_arguments(self, config: triton.Config) -> dict[str, object]:
        """What Triton passes to a hook: every argument by name, with the configuration's."""
        return {**dict(zip(self.tuner.arg_names, self.args)), **self.run_kwargs, **config.all_kwargs()}

    def restored_bytes(self) -> int:
        """Memory for the copies from which arguments are restored around each launch that is timed."""
        return sum(getattr(self.named.get(name), "nbytes", 0) for name in self.tuner.restore_value)

    def launch(self, config: triton.Config) -> Launch:
        """The launch of one configuration, with the hooks that stock Triton runs around it when it benchmarks."""
        hook_arguments = self.hook_arguments(config)
        run_kwargs = {**self.run_kwargs, **config.all_kwargs()}

        def before() -> None:
            if config.pre_hook is not None:
                config.pre_hook(hook_arguments)
            self.tuner.pre_hook(hook_arguments)

        def run() -> None:
            try:
                self.tuner.fn.run(*self.args, **run_kwargs)
            except LAUNCH_ERRORS as error:
                self.tuner.post_hook(hook_arguments, exception=error)
                raise

        return Launch(run, before, lambda: self.tuner.post_hook(hook_arguments, exception=None))

    def compile(self, config: triton.Config) -> object:
        """Compile without launching; under an AsyncCompileMode, begin to."""
        if config.pre_hook is not None:
            # it may set a tensor descriptor's block shape, which is part of what is compiled
            config.pre_hook(self.hook_arguments(config))
        return self.tuner.fn.run(*self.args, **{**self.run_kwargs, **config.all_kwargs(), "warmup": True})


def compile_all(call: Call, configs: Sequence[triton.Config]) -> list[Exception | None]:
    """Compile every configuration, several at a time; for each the error, or None."""
    errors = _compile(call, configs, settings.current().compile_jobs or len(os.sched_getaffinity(0)))
    # CPython's parser is not safe to run in several threads (3.11.7: one of 30 compilations in parallel ended in
    # "AST constructor recursion depth mismatch"), so a failure of the front end counts when it happens alone.
    doubtful = [i for i, e in enumerate(errors) if e is not None and not isinstance(e, (PTXASError, OutOfResources))]
    compat.forget_failed_kernels(unwrap(call.tuner).jit)
    again = _compile(call, [configs[i] for i in doubtful], 1)
    for i, error in zip(doubtful, again):
        errors[i] = error
    return errors


def _compile(call: Call, configs: Sequence[triton.Config], workers: int) -> list[Exception | None]:
    with ThreadPoolExecutor(max(1, min(len(configs), workers))) as pool, AsyncCompileMode(pool, ignore_errors=True):
        kernels = [_begin(call, config) for config in configs]
    return [_error_of(kernel) for kernel in kernels]


def _error_of(kernel: object) -> Exception | None:
    if isinstance(kernel, Future):
        return kernel.exception()
    return kernel if isinstance(kernel, Exception) else None


def _begin(call: Call, config: triton.Config) -> object:
    try:
        kernel = call.compile(config)
    except LAUNCH_ERRORS as error:
        return error
    # Triton 3.9's FutureKernel drops its future once it is done.
    return kernel.future if isinstance(kernel, FutureKernel) else kernel


def first_usable(call: Call, configs: Sequence[triton.Config]) -> triton.Config:
    """The first configuration that compiles and fits the device; the very first if none does or nothing is compiled."""
    return next((config for config in configs if failure_of(call, config) is None), configs[0])


def failure_of(call: Call, config: triton.Config) -> Exception | None:
    """Why a configuration does not compile, or not fit the device; None if it does, or nothing is compiled."""
    if device.interpreted():
        return None
    try:
        kernel = compat.resolve(call.compile(config))
        if kernel is not None:
            kernel._init_handles()
    except (*LAUNCH_ERRORS, AssertionError) as error:
        return error
    return None


def seeded(candidates: Sequence[triton.Config], seeds: Sequence[Seed]) -> list[triton.Config]:
    """The seeds as configurations: those that set what the kernel's own set, each once, and none where those have hooks."""
    names, hooked = set(candidates[0].kwargs), any(config.pre_hook is not None for config in candidates)
    fitting = [] if hooked else [one for one in seeds if set(one.kwargs) == names]
    taken = {canonical(config_fields(config)) for config in candidates}
    found = {}
    for one in fitting:
        config = triton.Config(dict(one.kwargs), **one.options)
        found.setdefault(canonical(config_fields(config)), config)
    return [config for text, config in found.items() if text not in taken]


def facts_of(call: Call, config: triton.Config) -> dict[str, Json]:
    """What is known of the compiled code of a configuration that was launched."""
    if device.interpreted():
        return {}
    kernel = compat.resolve(call.compile(config))
    if kernel is None:
        return {}
    found = {
        "registers": getattr(kernel, "n_regs", None),
        "spills": getattr(kernel, "n_spills", None),
        "shared_bytes": kernel.metadata.shared,
        "compile_ms": launch.compile_ms(kernel),
    }
    return {name: value for name, value in found.items() if value is not None}


def status_of(error: Exception) -> str:
    """The store's word for how a configuration failed."""
    if isinstance(error, OutOfResources):
        return "oor"
    if isinstance(error, PTXASError):
        return "ptxas"
    if isinstance(error, CompilationError) or not isinstance(error, LAUNCH_ERRORS):
        return "compile"  # the compiler's own assertions are of any type
    return "runtime"
