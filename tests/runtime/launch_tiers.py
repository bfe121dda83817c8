"""One call through stock Triton and through every tier of ours, and what each did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from unittest import mock

import launch_families
import triton
from launch_calls import Call, Seen, _listing, _noting, show
from launch_families import Family
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import KernelInterface

from gems_runtime import LibEntry, compat, native_status, settings
from tools.fake_cuda import FakeDriver, Launch


@dataclass(frozen=True)
class Outcome:
    """All that a call does: what it raises, what reaches the driver, what hooks and grids see."""

    error: tuple[type, str] | None
    kernel: str | None  # hash of what was given back
    launches: int
    launch: Launch | None
    seen: Seen
    config: str


class Tier:
    """An entry that is served by one tier and those under it."""

    def __init__(self, name: str, kernel: KernelInterface) -> None:
        self.name = name
        self.entry = LibEntry(kernel)
        # One record for all calls: an entry notices another.
        native = settings.Native.ON if name == "N" else settings.Native.OFF
        self._settings = replace(settings.current(), native=native, fast_launch=name != "S")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, launches take this tier where they may."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(settings, "_current", self._settings))
            if self.name == "R":
                stack.enter_context(mock.patch.object(compat, "takes_direct_launch", lambda kernel: False))
            yield


def names() -> list[str]:
    """The tiers, the fastest first: all of them, on every Triton."""
    assert native_status().serves, native_status().reason
    return ["N", "P", "R", "S"]


class Comparison:
    """A family's kernel, once as stock Triton launches it and once for each tier."""

    def __init__(self, fake: FakeDriver, family: Family) -> None:
        self._fake, self._stream, self._device = fake, 0, 0
        driver = triton.runtime.driver.active
        driver.get_current_stream = lambda device: self._stream
        driver.get_current_device = lambda: fake.first_device + self._device
        self._stock = family.make()
        self._jit = self._stock
        while not isinstance(self._jit, triton.JITFunction):
            self._jit = self._jit.fn
        self.tiers = [Tier(name, family.make()) for name in names()]

    def check(self, call: Call) -> None:
        """Every tier does what stock Triton does, also when it has met such a call before."""
        self._stream, self._device = call.stream, call.device
        with self._hooks(call) as seen:
            self._settle(call, seen)
            expected = self._outcome(self._stock, call, seen)
            for tier in self.tiers:
                with tier.alone():
                    misses = tier.entry.stats()["miss"]
                    found = self._outcome(tier.entry, call, seen)
                    if found == expected and tier.entry.stats()["miss"] != misses:
                        found = self._outcome(tier.entry, call, seen)
                assert found == expected, f"tier {tier.name} of {self._jit.__name__}{call}" + _differences(found, expected)

    def _settle(self, call: Call, seen: Seen) -> None:
        """Let every autotuner choose its config: how is no part of a launch."""
        if isinstance(self._stock, triton.JITFunction):
            return
        self._outcome(self._stock, call, seen)
        for tier in self.tiers:
            with tier.alone():
                self._outcome(tier.entry, call, seen)

    @contextlib.contextmanager
    def _hooks(self, call: Call) -> Iterator[Seen]:
        seen: Seen = []
        runtime = triton.knobs.runtime
        hooks = [(chain, _launch_hook(seen, name)) for chain, name in ((runtime.launch_enter_hook, "enter"), (runtime.launch_exit_hook, "exit"))]
        for chain, hook in hooks * call.hooks:
            chain.add(hook)
        if call.pre_run:
            # By name: an entry may pass by position what its caller named.
            names = self._jit.arg_names
            self._jit.add_pre_run_hook(lambda *args, **kwargs: seen.append(("pre-run", show({**dict(zip(names, args)), **kwargs}))))
        try:
            yield seen
        finally:
            self._jit.pre_run_hooks.clear()
            for chain, hook in hooks * call.hooks:
                chain.remove(hook)

    def _outcome(self, kernel: KernelInterface, call: Call, seen: Seen) -> Outcome:
        # Stock Triton takes a constexpr 1, 1.0 and True for the same kernel unless it derives its key afresh.
        for cache in list(self._jit.device_caches.values()):
            cache[1].clear()
        seen.clear()
        launch_families.pre_hook_calls.clear()
        grid = call.grid(seen) if call.grid in (_noting, _listing) else call.grid
        before, error, given = self._fake.launch_count, None, None
        try:
            given = kernel[grid](*call.args, **call.kwargs)
        except Exception as raised:  # whatever stock Triton raises is what ours must
            # Its launcher for AMD calls exit hooks with an error set, which ends as a SystemError caused by that error.
            raised = raised.__cause__ if type(raised) is SystemError and raised.__cause__ else raised
            error = type(raised), str(raised)
        launches = self._fake.launch_count - before
        launch = self._fake.last() if launches else None
        if launch is not None and given is not None:
            assert launch.function == given.function
        seen += [("pre_hook", show(named)) for named in launch_families.pre_hook_calls]
        tuners = [w for w in _wrappers(kernel) if isinstance(w, Autotuner)]
        config = "".join(str(getattr(t, "best_config", None)) for t in tuners if error is None)
        # A call that stock Triton refuses passes its hooks first, and may be refused by us before; where it is tuned, it
        # is tuned for again each time.
        seen = [] if call.mistake or (error and tuners) else list(seen)
        return Outcome(error, given and given.hash, launches, launch and replace(launch, function=0), seen, config)


def _differences(found: Outcome, expected: Outcome) -> str:
    pairs = [(f.name, getattr(found, f.name), getattr(expected, f.name)) for f in fields(Outcome)]
    return "".join(f"\n{name}: {ours}\n{'stock Triton':>{len(name)}}: {stocks}" for name, ours, stocks in pairs if ours != stocks)


def _launch_hook(seen: Seen, name: str) -> Callable:
    def hook(metadata: object) -> None:
        # Two compilations of the same thing have functions of their own.
        seen.append((name, show({k: v for k, v in metadata.get().items() if k != "function"})))

    return hook


def _wrappers(kernel: KernelInterface) -> Iterator[KernelInterface]:
    while not isinstance(kernel, triton.JITFunction):
        yield kernel
        kernel = kernel.fn
