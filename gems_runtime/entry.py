"""LibEntry: the path from `kernel[grid](...)` to a launch.

A hit runs one function generated for the kernel (`signature`); it is `entry.source`. Everything here is the miss path:
run stock Triton once, learn from what it compiled, write the entry.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType

import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner, Config
from triton.runtime.jit import KernelInterface
from triton.tools.tensor_descriptor import TensorDescriptor

from gems_runtime import binders, compat, device, launchers, native, settings, stats, toolchain, trial
from gems_runtime.binding import Binder, Call
from gems_runtime.chain import Chain, Trace, Values, at_autotuners, is_tuned, trace, unwrap
from gems_runtime.compiled import Compiled, compile_text, deferred
from gems_runtime.errors import UsageError
from gems_runtime.grid import Dims, Grid, is_dropped, noted, refuse, resolve
from gems_runtime.launch import TABLE_LIMIT, Entry, RunTier, count_compiles, global_checks, launches_here, tier_of
from gems_runtime.signature import CONTENTS, UNSET, IntClasses, IntRows, Shape, block_of
from gems_runtime.signature import exact, kind_of, texts
from gems_runtime.store import Store

_log = logging.getLogger(__name__)
# Combinations of types remembered to be stock Triton's, per kernel; deciding it anew costs 8 us (EPYC, Python 3.11).
_STOCK_TYPES_LIMIT = 256
_entries: weakref.WeakSet[LibEntry] = weakref.WeakSet()
_ints = IntClasses()
_int_rows = IntRows(_ints)
# What the generated function gives back, instead of going to the miss path, when the exact form of the call matters.
_MISSED = object()


@dataclass(frozen=True)
class Text:
    """The generated function in force, with the table it looks in."""

    shape: Shape
    source: str
    functions: Compiled
    table: dict[tuple, tuple]
    plan: object | None  # the native tier's, for calls of this shape


class LibEntry(KernelInterface):
    """A Triton kernel (JITFunction, Autotuner, Heuristics or any nesting of them) behind one launch path.

    `kernel[grid](...)` launches what stock Triton would launch. Heuristics and callable grids must be pure functions of
    their argument, as Triton's own caching of autotuned configs already asks of them.
    """

    def __init__(self, kernel: KernelInterface) -> None:
        self.fn = kernel.fn if isinstance(kernel, LibEntry) else kernel
        if not isinstance(self.fn, KernelInterface):
            raise UsageError(f"LibEntry wraps a Triton kernel, found {self.fn!r}; put @triton.jit under it")
        self.arg_names: list[str] = self.fn.arg_names
        self._chain: Chain = unwrap(self.fn)
        inner = self._chain.jit or self.fn
        self.__name__: str = getattr(inner, "__name__", type(inner).__name__)
        self.__module__ = getattr(getattr(inner, "fn", inner), "__module__", __name__)
        self.__doc__ = getattr(getattr(inner, "fn", inner), "__doc__", None)
        self._launcher: object | None = None  # the native tier's, once it has served
        self._bind: Callable[..., object] = MethodType
        self._text: Text | None = None
        self._reset(threading.RLock())
        _entries.add(self)

    def _reset(self, lock: threading.RLock) -> None:
        if self._text is not None:
            # A callable got from `entry[grid]` earlier still looks in this table.
            self._text.table.clear()
        self._lock = lock
        self._tuners = self._chain.autotuners()
        self._text = None
        self._run_tier = RunTier()
        self._counts = {"earlier": 0, "miss": 0, "stock": 0}
        self._stock_reason = self._chain.stock_reason
        self._is_full = False
        self._stock_types: set[tuple[object, ...]] = set()
        self._again = False  # under the lock: a call that missed is being launched once more
        self._binder = Binder(self._chain)
        self._params = self._binder.params
        launch = self._first
        if self._stock_reason and not self._tuners:
            launch = partial(_stock_launch, self.fn) if self._chain.interpreted else self._stock_call
        self._serve(launch, None)
        if self._launcher is not None:
            self._launcher.hits = 0

    def _serve(self, launch: Callable[..., object], plan: object | None) -> None:
        """Put a launch function in force: behind the native launcher once there is one, because callers keep that."""
        if plan is not None and self._launcher is None:
            self._launcher = native.module().Launcher(self._describe)
            self._bind = native.module().bind
        if self._launcher is not None:
            self._launcher.serve(launch, plan)
        self._launch: Callable[..., object] = self._launcher or launch

    # A bound method costs 70 ns to make and its call is inlined; a functools.partial 130 (EPYC, Python 3.11).
    def __getitem__(self, grid: Grid) -> Callable[..., object]:
        bind = self._bind
        try:
            return bind(self._launch, grid)
        except TypeError:
            # A method cannot be bound to None. Stock Triton refuses that grid when it launches.
            return partial(self._launch, grid)

    def run(self, *args: object, grid: Grid, warmup: bool = False, **kwargs: object) -> object:
        """Launch, or with `warmup=True` only compile."""
        if warmup:
            return self.fn.run(*args, grid=grid, warmup=True, **kwargs)
        return self._launch(grid, *args, **kwargs)

    def warmup(self, *args: object, grid: Grid, **kwargs: object) -> object:
        """Compile without launching, as Triton's `warmup` does; torch dtypes may stand for tensors."""
        return self.fn.warmup(*args, grid=grid, **kwargs)

    @property
    def best_config(self) -> Config | None:
        """The config of the last launch; None before it or if nothing is tuned."""
        tuners = [w for w in self._chain.wrappers if isinstance(w, Autotuner)]
        return getattr(tuners[0], "best_config", None) if tuners else None

    @property
    def source(self) -> str:
        """The generated launch function, or why there is none."""
        if self._text is not None:
            return self._text.source
        return f"# stock Triton: {self._stock_reason}\n" if self._stock_reason else "# not launched yet\n"

    def stats(self) -> dict[str, int]:
        """Entries held, launches by tier (N native, P direct, R through CompiledKernel.run, S stock on purpose) and misses."""
        hits = self._counts["earlier"] + (self._text.functions.hits() if self._text else 0)
        by_run = self._run_tier.hits
        entries = len(self._text.table) if self._text else 0
        native_hits = self._launcher.hits if self._launcher else 0
        return {"entries": entries, "N": native_hits, "P": hits - by_run, "R": by_run, "S": self._counts["stock"], "miss": self._counts["miss"]}

    def clear(self) -> None:
        """Forget every entry, and every tuned config that this process holds for the kernel."""
        with self._lock:
            for tuner in self._tuners:
                tuner.cache.clear()
            self._reset(self._lock)

    def __repr__(self) -> str:
        return f"<LibEntry {self.__module__}.{self.__name__} {self.stats()}>\n{self.source}"

    def __reduce__(self) -> str | tuple[object, ...]:
        """By name where a module holds it, as functions are pickled; else made anew around the same kernel."""
        if getattr(sys.modules.get(self.__module__), self.__name__, None) is self:
            return self.__name__
        return LibEntry, (self.fn,)

    def _first(self, grid: Grid, *args: object, **kwargs: object) -> object:
        # The caller may have kept `entry[grid]` from before the first launch.
        return self._slow(grid, args, kwargs) if self._text is None else self._launch(grid, *args, **kwargs)

    def _missed(self, shape: Shape, names: list[str], grid: Grid, *values: object) -> object:
        """From the function generated for `shape`: put the call back together, constants and options by keyword."""
        rest: tuple[object, ...] = values[-2]
        more: Values = values[-1]
        named = dict(zip(names, values[:-2]))
        args: list[object] = []
        for p in self._params:
            # With too many by position, all were.
            if p.supplied or not rest and (p.is_constexpr or named[p.name] is UNSET):
                break
            args.append(named.pop(p.name))
        args += rest
        kwargs = {name: value for name, value in named.items() if value is not UNSET} | more
        if self._text is None or self._text.shape is shape:
            return self._slow(grid, tuple(args), kwargs)
        # The caller kept `entry[grid]` from before a newer text.
        return self._launch(grid, *args, **kwargs)

    def _slow(self, grid: Grid, args: tuple[object, ...], kwargs: Values) -> object:
        """A call without an entry."""
        types = (*map(type, args), *kwargs, *map(type, kwargs.values()))
        if types not in self._stock_types and self._may_be_fast():
            call = self._binder.bind(args, kwargs)
            if call is None:
                if len(self._stock_types) < _STOCK_TYPES_LIMIT:
                    self._stock_types.add(types)
            elif self._binder.is_here(call) and trial.passes(_fast_paths):
                with self._lock:
                    return self._miss(grid, args, kwargs, call)
        return self._stock_call(grid, *args, **kwargs)

    def _may_be_fast(self) -> bool:
        """False while something that the launch function knows nothing about could change the launch."""
        if self._stock_reason or self._is_full or not settings.current().fast_launch:
            return False
        return not self._chain.jit.pre_run_hooks and compat.calls_are_default() and launches_here()

    def _stock_call(self, grid: Grid, *args: object, **kwargs: object) -> object:
        """Tier S: stock Triton, with its tuning done by ours."""
        self._counts["stock"] += 1
        stats.count("stock")
        count_compiles()
        read: list[Dims] = []
        result = self._run_stock(noted(grid, read), args, kwargs)
        if read and is_dropped(read[-1]):
            refuse(read[-1])
        return result

    def _run_stock(self, grid: Grid, args: tuple[object, ...], kwargs: Values) -> object:
        """Stock Triton, which finds every config chosen already and so benchmarks nothing itself."""
        if self._tuners:
            untuned: list[tuple[Autotuner, Values]] = []
            at_autotuners(self._chain, args, kwargs, lambda tuner, seen: untuned.append((tuner, seen)))
            tuner, seen = untuned[0]
            if not is_tuned(tuner, args, seen):
                from gems_runtime.tuner import launch_with, prime

                config = prime(tuner, args, seen, grid)
                if not is_tuned(tuner, args, seen):  # a CUDA graph is being captured
                    return launch_with(config, tuner, args, {**seen, "grid": grid, "warmup": False})
        return self.fn.run(*args, grid=grid, warmup=False, **kwargs)

    def _miss(self, grid: Grid, args: tuple[object, ...], kwargs: Values, call: Call) -> object:
        """Let stock Triton launch, and make the entry from what it launched."""
        self._counts["miss"] += 1
        stats.count("miss")
        count_compiles()
        compat.forget_colliding_keys(self._chain.jit, device.current_index())
        read: list[Dims] = []
        launched = True
        try:
            with launchers.may_be_unfinished(stands_in=False) if self._has_another_path() else contextlib.nullcontext():
                result = self._run_stock(noted(grid, read), args, kwargs)
        except launchers.StillBuilding:
            result = self.fn.run(*args, grid=grid, warmup=True, **kwargs)
            with launchers.may_be_unfinished(stands_in=True):
                launched = tier_of(compat.resolve(result)) != "P"
            if launched:
                self._run_stock(noted(grid, read), args, kwargs)
        kernel = compat.resolve(result)
        tier = "S" if kernel is None else tier_of(kernel)
        if tier != "S" and not (self._tuners and device.is_capturing()):
            self._remember(kernel, tier, trace(self._chain, args, kwargs), call, {**dict(zip(self.arg_names, args)), **kwargs})
            if self._launcher is not None:
                self._launcher.teach({**call.values, **call.options}, args, kwargs)
        if not launched:
            return self._launch_instead(grid, args, kwargs)
        if read and is_dropped(read[-1]):
            return self._launch_again(read[-1], grid, args, kwargs)
        return result

    def _has_another_path(self) -> bool:
        """True if a call that misses can be launched by the native tier, should Triton's launcher not be built yet."""
        return not self._again and not self._chain.wrappers and trial.fault() == "" and native.module() is not None

    def _launch_instead(self, grid: Grid, args: tuple[object, ...], kwargs: Values) -> object:
        """The launch of a miss that Triton's launcher was not there for: natively, or by that launcher once it is."""
        before = self.stats()
        self._again = True
        try:
            return self._launch(grid, *args, **kwargs)
        finally:
            self._again = False
            # It was counted as a miss.
            more = {tier: n - before[tier] for tier, n in self.stats().items()}
            self._counts["earlier"] -= more["P"] + more["R"]
            self._run_tier.hits -= more["R"]
            if self._launcher is not None:
                self._launcher.hits -= more["N"]

    def _launch_again(self, read: Dims, grid: Grid, args: tuple[object, ...], kwargs: Values) -> object:
        """After a miss that launched nothing: the native tier has no such limit, everything else refuses."""
        if self._launcher is None or self._again:
            refuse(read)
        self._again = True
        try:
            return self._launch(grid, *args, **kwargs)
        finally:
            self._again = False

    def _remember(self, kernel: triton.compiler.CompiledKernel, tier: str, found: Trace, call: Call, after: Values) -> None:
        """Make the entry of a call that launched `kernel`; widen the launch function first if it was too narrow.

        `after`: what was passed, by name, as a config's pre_hook may have left it.
        """
        globals_ = global_checks(self._chain.jit)
        if globals_ is None:
            return
        shape = self._shape_for(call, found, len(globals_) // 3)
        if shape is None:
            return
        text = self._text
        if text is None or text.shape != shape:
            text = self._write(shape, globals_)
        text.functions.settle(settings.current())
        if text.plan is not None and settings.current().native is not settings.Native.OFF:
            text.plan.settle(settings.current())
        if len(text.table) >= TABLE_LIMIT:
            self._is_full = True
            _log.warning("%s has %d launch entries; new calls go to stock Triton", self.__name__, TABLE_LIMIT)
            return
        constants = [v for v in (*call.values.values(), *call.options.values()) if kind_of(v, True) in "DX"]
        try:
            key = text.functions.key(None, **call.values, **call.options)
        except KeyError:
            return
        # A NaN equals nothing, so an entry under it would never be found.
        if all(element == element for element in key):
            blocks = tuple(block_of(after.get(name)) for name in text.shape.maps())
            entry = Entry(kernel, tier, found.config, found.supplied, tuple(constants), blocks)
            form = text.shape.form
            text.table[key] = entry.row(kernel.run.launch if tier == "P" else self._run_tier.bind(kernel, form), form)
        self._publish(text)

    def _shape_for(self, call: Call, found: Trace, used_globals: int) -> Shape | None:
        """The shape in force widened by this call; None, and stock Triton from now on, if a heuristic forbids it."""
        before = self._text.shape if self._text else None
        tensors = {p.name for p, kind in zip(self._params, call.kinds) if kind in CONTENTS}
        live = [name for name, reads in found.reads.items() if reads.names & tensors]
        known = {p.name for p in self._params} | call.options.keys()
        for name, reads in found.reads.items():
            from_key = name not in live or not reads.names & (self._chain.supplied() - set(live))
            if reads.opaque or not reads.names <= known or not from_key:
                self._stock_reason = f"the heuristic for {name} reads more than its arguments by name"
                self._serve(self._stock_call, None)
                return None
        options = {name: frozenset(kind_of(v, True)) for name, v in call.options.items()}
        kinds = tuple(map(frozenset, call.kinds))
        by_value = self._chain.tuning_names() | {n for name, r in found.reads.items() if name not in live for n in r.names}
        if before is not None:
            seen = dict(before.options)
            options = {n: seen.get(n, frozenset("U")) | options.get(n, frozenset("U")) for n in [*seen, *(options.keys() - seen)]}
            kinds = tuple(a | b for a, b in zip(before.kinds, kinds))
            by_value |= before.by_value
            live = [name for name in found.reads if name in live or name in before.live]
        return Shape(
            params=self._params,
            kinds=kinds,
            options=tuple(options.items()),
            by_value=frozenset(by_value),
            live=tuple(live),
            used_globals=used_globals,
            knobs_set=bool(compat.knob_values(triton.knobs.runtime)),
            tensor_flag=compat.tensor_flag(device.torch_device().type) or "",
            bounded=compat.bounds_tensors(),
            has_devices=device.index_reader() is not None,
            tunes=bool(self._tuners),
            has_pre_hooks=self._chain.has_pre_hooks(),
            form=compat.launch_form() or compat.RUN_FORM,
            hook_sees=self._chain.supplied_before_tuning(),
        )

    def _write(self, shape: Shape, globals_: Values) -> Text:
        """Generate the launch function for a shape, with an empty table."""
        table: dict[tuple, tuple] = {}
        source, key_text = texts(shape)
        bound = self._bound(table, shape) | globals_
        module = native.module()
        plan = module and native.plan_of(module, shape, bound, TABLE_LIMIT)
        functions = compile_text(source, bound) if plan is None else deferred(source, key_text, bound)
        return Text(shape, source, functions, table, plan)

    def _bound(self, table: dict[tuple, tuple], shape: Shape) -> Values:
        """What the names of the generated text stand for."""
        hooks = compat.launch_hooks()
        assert hooks is not None  # calls_are_default() was True
        constants = {p.name for p in self._params if p.is_constexpr or p.supplied}
        # What a remembered grid may depend on: constants belong to the entry, integers are in the memory's key.
        ints = {p.name for p, kinds in shape.passed() if kinds in ({"I"}, {"U"})}
        return {
            "_miss": (lambda *values: _MISSED) if self._chain.prunes() else partial(self._missed, shape, shape.names()),
            "_table": table,
            "_settings": settings,
            "_settings_seen": settings.current(),
            "_runtime": compat.knob_values(triton.knobs.runtime),
            "_runtime_seen": dict(compat.knob_values(triton.knobs.runtime)),
            "_compilation": compat.knob_values(triton.knobs.compilation),
            "_enter": hooks[0],
            "_exit": hooks[1],
            "_pre_run": self._chain.jit.pre_run_hooks,
            "_unset": UNSET,
            "_exact": exact,
            "_block_of": block_of,
            "_ints": _ints,
            "_int_rows": _int_rows,
            "_Tensor": torch.Tensor,
            "_Parameter": torch.nn.Parameter,
            "_Descriptor": TensorDescriptor,
            "_Function": FunctionType,
            "_dtype": tl.dtype,
            "_contents": operator.attrgetter("cell_contents"),
            "_refuse": refuse,
            "_resolve": partial(resolve, frozenset(constants | ints)),
            "_current_device": device.index_reader(),
            "_stream": device.stream_reader(),
            "_heuristics": self._chain.heuristics(),
            "_tuner": self._tuners[0] if self._tuners else None,
            **{f"_default_{p.name}": p.default for p in self._params if p.default is not UNSET},
        }

    def _publish(self, text: Text) -> None:
        """Put a text in force, once its first row is in place."""
        if text is self._text:
            return
        if self._text is not None:
            self._counts["earlier"] += self._text.functions.hits()
            # A callable got from `entry[grid]` earlier still looks there: now it finds its way here instead.
            self._text.table.clear()
        self._text = text
        launch = text.functions.launch
        self._serve(partial(_exact_call, launch, self._slow) if self._chain.prunes() else launch, text.plan)

    def _describe(self, plan: object, args: tuple[object, ...], kwargs: Values) -> tuple[object, ...] | bool | None:
        """For the native tier, after a call that it had no entry for: how to launch such calls.

        None if that is not known now, False if the Python path must see each.
        """
        text, call = self._text, self._binder.bind(args, kwargs)
        if call is None or text is None or text.plan is not plan or not _fits(call, text.shape) or not self._binder.is_here(call):
            return None
        try:
            row = text.table.get(text.functions.key(None, *args, **kwargs))
        except KeyError:
            return None
        return native.launch_of(text.shape, row[-1]) if row else None


def libentry() -> Callable[[KernelInterface], LibEntry]:
    """Decorator form: `@libentry()` above `@triton.jit`."""
    return LibEntry


def _fits(call: Call, shape: Shape) -> bool:
    """True if the text of this shape knows every kind of argument in the call."""
    options = dict(shape.options)
    known = all(kind in seen for kind, seen in zip(call.kinds, shape.kinds))
    return known and all(kind_of(v, True) in options.get(name, ()) for name, v in call.options.items())


def trial_fault() -> str | None:
    """What is wrong with launches by other paths than stock Triton's, tried now if nothing was yet; None if it cannot be."""
    if launches_here():
        trial.passes(_fast_paths)
    return trial.fault()


def _fast_paths(kernel: KernelInterface, grid: tuple[int, ...], args: tuple[object, ...]) -> dict[str, Callable[..., object]]:
    """The launch functions, by name, that a kernel has once it was launched with these arguments."""
    entry = LibEntry(kernel)
    entry[grid](*args)
    paths = {"Python": entry._text.functions.launch} if entry._text else {}
    return paths | ({"C": entry._launcher} if entry._launcher else {})


def _stock_launch(fn: KernelInterface, grid: Grid, *args: object, **kwargs: object) -> object:
    return fn.run(*args, grid=grid, warmup=False, **kwargs)


def _exact_call(launch: Callable, slow: Callable, grid: Grid, *args: object, **kwargs: object) -> object:
    """For kernels whose pruning function sees which arguments came by position: the miss path gets the call as made."""
    result = launch(grid, *args, **kwargs)
    return slow(grid, args, kwargs) if result is _MISSED else result


def clear_all() -> None:
    """Clear every LibEntry: after the device or target that their tuned configs were for has changed."""
    for entry in list(_entries):
        entry.clear()


def _forget_in_child() -> None:
    """Handles and streams belong to the parent, and another thread of it may have held a lock."""
    for entry in list(_entries):
        entry._reset(threading.RLock())


os.register_at_fork(after_in_child=_forget_in_child)


Store.listeners.append(clear_all)
compat.load_argument_types()
binders.share()
launchers.build_meanwhile()
# to find the first compiled kernel, Triton asks for its key
compat.replace_identity(toolchain.triton_key, toolchain.code_key, toolchain.assembler_version)
