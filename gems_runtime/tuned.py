"""`@libtuner`: Triton's `@autotune` with its results in the store, a strategy for each tuning key, and a policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

import triton
from triton.runtime.jit import KernelInterface

from gems_runtime import policy as policies
from gems_runtime import strategy as strategies
from gems_runtime import transfer as transfers
from gems_runtime.candidates import Call
from gems_runtime.chain import launches_as_autotuner
from gems_runtime.options import Optioned, Options
from gems_runtime.tuner import launch_with, prime


@launches_as_autotuner
class LibTuner(Optioned):
    """An Autotuner that benchmarks a problem once for all processes. It needs no LibEntry, and works under one.

    Values of a key that its strategy maps to the same share a decision; the first of them met is the one timed.
    """

    def __init__(
        self,
        fn: KernelInterface,
        configs: list[triton.Config],
        key: Sequence[str],
        prune_configs_by: dict[str, object] | None = None,
        reset_to_zero: Sequence[str] | None = None,
        restore_value: Sequence[str] | None = None,
        pre_hook: Callable[..., None] | None = None,
        post_hook: Callable[..., None] | None = None,
        warmup: float | None = None,
        rep: float | None = None,
        use_cuda_graph: bool = False,
        do_bench: Callable[..., object] | None = None,
        strategy: strategies.Choice = None,
        policy: str = "default",
        transfer: transfers.Choice | None = None,
        valid: Callable[..., bool] | None = None,
        collective: bool = False,
    ) -> None:
        keys = list(key)
        super().__init__(
            *(fn, fn.arg_names, configs, keys, reset_to_zero, restore_value, pre_hook, post_hook, prune_configs_by),
            do_bench=do_bench,
        )
        policies.known(policy)
        by_key = strategies.by_key(keys, strategy)
        self.options = Options(by_key, policy, warmup, rep, use_cuda_graph, transfers.by_key(keys, transfer), valid, collective)

    def run(self, *args: object, grid: object, warmup: bool = False, **kwargs: object) -> object:
        """Launch with the configuration of the store, tuning first if it has none."""
        call = Call(self, args, kwargs, grid)
        if len(self.configs) > 1 and call.stock_key() not in self.cache:
            config = prime(self, args, kwargs, grid)
            if call.stock_key() not in self.cache:
                return launch_with(config, self, args, {**kwargs, "grid": grid, "warmup": warmup})
        return super().run(*args, grid=grid, warmup=warmup, **kwargs)

    @staticmethod
    def register_strategy(name: str) -> Callable[[strategies.Strategy], strategies.Strategy]:
        """Decorator: `strategy=name` then means this function of a key's value."""
        return _register(strategies.STRATEGIES, name)

    @staticmethod
    def get_strategy(name: str) -> strategies.Strategy:
        return strategies.known(name)

    @staticmethod
    def register_policy(name: str) -> Callable[[policies.Policy], policies.Policy]:
        """Decorator: `policy=name` then means this function of a `policy.Race`."""
        return _register(policies.POLICIES, name)

    @staticmethod
    def get_policy(name: str) -> policies.Policy:
        return policies.known(name)


def _register(table: dict[str, Callable[..., object]], name: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    def add(function: Callable[..., object]) -> Callable[..., object]:
        table[name] = function
        return function

    return add


P = ParamSpec("P")


def _decorator(make: Callable[Concatenate[KernelInterface, P], LibTuner]) -> Callable[P, Callable[[KernelInterface], LibTuner]]:
    """The decorator whose parameters are those of `make` after the kernel."""

    def libtuner(*args: P.args, **kwargs: P.kwargs) -> Callable[[KernelInterface], LibTuner]:
        return lambda fn: make(fn, *args, **kwargs)

    signature = inspect.signature(make)
    libtuner.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])
    libtuner.__doc__ = """Decorator that takes what `triton.autotune` takes, and how sizes share what is found.

    `strategy`: exact, log, align32, a registered name or a function, for all keys, in their order, or by name.
    `policy`: screen-then-pair (the default), exhaustive, or a registered name. `warmup` and `rep` are milliseconds spent on
    each candidate; `use_cuda_graph` times replays of a graph. `transfer`: keys along which a call that may not be tuned
    takes a neighbour's configuration, `{"M": "up"}`, if `valid(config, arguments)` has nothing against it.
    """
    return libtuner


libtuner = _decorator(LibTuner)
