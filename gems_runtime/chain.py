"""What stands between `kernel[grid]` and the jitted function: autotuners and heuristics, in any nesting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

from triton.runtime.autotuner import Autotuner, Config, Heuristics
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, KernelInterface

from gems_runtime.grid import Reads
from gems_runtime.signature import is_reserved

Values = dict[str, object]

# Wrappers that launch what their parts say. A subclass may launch in a way of its own.
_plain: set[type] = {Autotuner, Heuristics}


def launches_as_autotuner(wrapper: type[Autotuner]) -> type[Autotuner]:
    """Class decorator: once the class has chosen a config, it launches as an Autotuner does."""
    _plain.add(wrapper)
    return wrapper


@dataclass(frozen=True)
class Chain:
    """A kernel taken apart. `stock_reason` says why it is left to stock Triton altogether; "" if it is not."""

    kernel: KernelInterface
    wrappers: tuple[Autotuner | Heuristics, ...]  # from the outside in
    jit: JITFunction | InterpretedFunction | None
    stock_reason: str

    @property
    def interpreted(self) -> bool:
        return isinstance(self.jit, InterpretedFunction)

    def autotuners(self) -> list[Autotuner]:
        """Those with a choice to make."""
        return [w for w in self.wrappers if isinstance(w, Autotuner) and len(w.configs) > 1]

    def supplied(self) -> frozenset[str]:
        """Names that a config or a heuristic gives."""
        return frozenset(name for w in self.wrappers for name in _supplied_by(w))

    def tuning_names(self) -> frozenset[str]:
        """Names whose values choose the config."""
        return frozenset(name for w in self.autotuners() for name in w.keys)

    def heuristics(self) -> dict[str, Callable[[Values], object]]:
        """Every heuristic by the name it gives."""
        return {name: f for w in self.wrappers if isinstance(w, Heuristics) for name, f in w.values.items()}

    def has_pre_hooks(self) -> bool:
        """True if some config has a function to call before each launch."""
        return any(c.pre_hook is not None for w in self.wrappers if isinstance(w, Autotuner) for c in w.configs)

    def supplied_before_tuning(self) -> tuple[str, ...]:
        """Names that heuristics around the autotuner give."""
        around = takewhile(lambda w: not isinstance(w, Autotuner), self.wrappers)
        return tuple(name for w in around for name in w.values)

    def prunes(self) -> bool:
        """True if a pruning function sees which arguments came by position and which by keyword."""
        return any(w.early_config_prune or w.perf_model for w in self.autotuners())


def unwrap(kernel: KernelInterface) -> Chain:
    """Take a kernel apart down to the jitted function."""
    wrappers: list[Autotuner | Heuristics] = []
    inner = kernel
    while type(inner) in _plain:
        wrappers.append(inner)
        inner = inner.fn
    if isinstance(inner, InterpretedFunction):
        return Chain(kernel, tuple(wrappers), inner, "interpreted")
    if type(inner) is not JITFunction:
        return Chain(kernel, tuple(wrappers), None, f"a {type(inner).__name__} launches in its own way")
    return Chain(kernel, tuple(wrappers), inner, _reason(wrappers, inner))


def _supplied_by(wrapper: Autotuner | Heuristics) -> set[str]:
    if isinstance(wrapper, Heuristics):
        return set(wrapper.values)
    return {name for config in wrapper.configs for name in config.kwargs}


def _reason(wrappers: list[Autotuner | Heuristics], jit: JITFunction) -> str:
    constants = {p.name for p in jit.params if p.is_constexpr}
    names = {p.name for p in jit.params}
    for w in wrappers:
        runtime = sorted(_supplied_by(w) & names - constants)
        if runtime:
            return f"a config or heuristic gives the run-time argument {runtime[0]!r}"
        if isinstance(w, Autotuner) and len({frozenset(c.kwargs) for c in w.configs}) > 1:
            return "its configs name different parameters"
    if any(p._param.kind is not p._param.POSITIONAL_OR_KEYWORD for p in jit.params):
        return "it has starred or positional-only parameters"
    tuners = [w for w in wrappers if isinstance(w, Autotuner)]
    if sum(len(w.configs) > 1 or w.configs[0].pre_hook is not None for w in tuners) > 1:
        return "it has one autotuner inside another"
    reserved = sorted(filter(is_reserved, names))
    return f"the launch function needs the name {reserved[0]!r} of a parameter for itself" if reserved else ""


@dataclass(frozen=True)
class Trace:
    """What the heuristics of one call read and gave."""

    supplied: Values
    reads: dict[str, Reads]  # heuristic -> what it read
    config: Config | None

    def read_names(self) -> set[str]:
        return {name for reads in self.reads.values() for name in reads.names}


def trace(chain: Chain, args: tuple[object, ...], kwargs: Values) -> Trace:
    """Repeat the heuristics of the call that stock Triton has just made, noting what they read."""
    values, reads, config = dict(kwargs), {}, None
    for wrapper in chain.wrappers:
        if isinstance(wrapper, Autotuner):
            config = wrapper.best_config
            values |= config.all_kwargs()
        else:
            for name, heuristic in wrapper.values.items():
                reads[name] = Reads({**dict(zip(wrapper.arg_names, args)), **values})
                values[name] = heuristic(reads[name])
    supplied = chain.supplied()
    return Trace({name: v for name, v in values.items() if name in supplied}, reads, config)


def at_autotuners(
    chain: Chain, args: tuple[object, ...], kwargs: Values, visit: Callable[[Autotuner, Values], None]
) -> None:
    """Call `visit(autotuner, kwargs as they reach it)` for the outermost autotuner that has a choice to make."""
    values = dict(kwargs)
    for wrapper in chain.wrappers:
        if isinstance(wrapper, Heuristics):
            for name, heuristic in wrapper.values.items():
                values[name] = heuristic({**dict(zip(wrapper.arg_names, args)), **values})
        elif len(wrapper.configs) > 1:
            visit(wrapper, values)
            return
        else:
            values |= wrapper.configs[0].all_kwargs()


def is_tuned(autotuner: Autotuner, args: tuple[object, ...], kwargs: Values) -> bool:
    """True if the autotuner already has a config for this call, so that its `run` will not benchmark."""
    passed = {k: v for k, v in {**dict(zip(autotuner.arg_names, args)), **kwargs}.items() if k in autotuner.arg_names}
    key = [passed[name] for name in autotuner.keys if name in passed]
    key += [str(value.dtype) for value in passed.values() if hasattr(value, "dtype")]
    return tuple(key) in autotuner.cache
