"""`@libtuner`: Triton's `@autotune` with its results in the store and a strategy for each tuning key."""

from __future__ import annotations

from collections.abc import Callable

import triton
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import KernelInterface

from gems_runtime.candidates import Call
from gems_runtime.chain import launches_as_autotuner
from gems_runtime.strategy import Bucketing, Choice, by_key
from gems_runtime.tuner import prime


@launches_as_autotuner
class LibTuner(Bucketing):
    """An Autotuner that benchmarks a problem once for all processes. It needs no LibEntry, and works under one.

    Values of a key that its strategy maps to the same share a decision; the first of them met is the one timed.
    """

    def __init__(
        self,
        fn: KernelInterface,
        configs: list[triton.Config],
        key: list[str],
        strategy: Choice = None,
        **options: object,
    ) -> None:
        reset, restore = options.pop("reset_to_zero", None), options.pop("restore_value", None)
        super().__init__(fn, fn.arg_names, configs, key, reset, restore, **options)
        self.strategies = by_key(key, strategy)

    def run(self, *args: object, grid: object, warmup: bool = False, **kwargs: object) -> object:
        """Launch with the configuration of the store, tuning first if it has none."""
        if len(self.configs) > 1 and Call(self, args, kwargs, grid).stock_key() not in self.cache:
            prime(self, args, kwargs, grid)
        return super().run(*args, grid=grid, warmup=warmup, **kwargs)


def libtuner(
    configs: list[triton.Config], key: list[str], strategy: Choice = None, **options: object
) -> Callable[[KernelInterface], LibTuner]:
    """Decorator that takes what `triton.autotune` takes, and `strategy`: exact, log, align32 or a function, per key."""
    return lambda fn: LibTuner(fn, configs, key, strategy, **options)
