"""How an entry launches: tier P calls Triton's C launcher, R calls `CompiledKernel.run`, S is stock Triton.

Stock Triton is the reference. P and R launch exactly what it would launch, with less work before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import triton
from triton.compiler import CompiledKernel
from triton.runtime.autotuner import Config
from triton.runtime.jit import JITFunction

from gems_runtime import compat, stats
from gems_runtime.grid import Dims

# Entries per kernel; beyond it new calls go to stock Triton.
TABLE_LIMIT = 4096


@dataclass
class Entry:
    """What one key stands for. Holds no tensor."""

    kernel: CompiledKernel
    tier: str
    config: Config | None
    supplied: dict[str, object]  # values of the parameters that a config or heuristic gives
    keep_alive: tuple[object, ...]  # constants keyed by identity
    blocks: tuple[tuple[int, ...], ...] = ()  # of the tensor descriptors, as the kernel was compiled for them
    grids: dict[tuple, Dims] = field(default_factory=dict)

    def row(self, launch: Callable[..., object], form: compat.LaunchForm) -> tuple[object, ...]:
        """The table row, in the order the launch function unpacks it."""
        fields = [compat.LaunchForm.FIELDS[name](self.kernel) for name in form.fields]
        return launch, *fields, self.kernel, self.grids, self


class RunTier:
    """Calls `CompiledKernel.run` with the arguments of the C launcher: for scratch memory and launchers unknown here."""

    def __init__(self) -> None:
        self.hits = 0

    def bind(self, kernel: CompiledKernel, form: compat.LaunchForm) -> Callable[..., None]:
        """A stand-in for the C launcher that runs this kernel."""

        def launch(*values: object) -> None:
            where, arguments = form.taken_apart(values)
            kernel.run(*where, kernel.function, kernel.packed_metadata, None, None, None, *arguments)
            self.hits += 1

        return launch


def tier_of(kernel: CompiledKernel) -> str:
    """P or R for a kernel whose arguments are pointers, scalars and tensor descriptors; S for tuples."""
    if not all(type(ty) is str for ty in kernel.src.signature.values()):
        return "S"
    return "P" if compat.takes_direct_launch(kernel) else "R"


def call_pre_hook(sees: tuple[str, ...], entry: Entry, passed: dict[str, object], grid: object) -> None:
    """Call the pre_hook of the entry's config with what Triton's autotuner shows it before each launch.

    `sees`: the names of supplied values that are known before the autotuner.
    """
    assert entry.config is not None and entry.config.pre_hook is not None
    supplied = {name: entry.supplied[name] for name in sees}
    entry.config.pre_hook({**passed, **supplied, "grid": grid, "warmup": False, **entry.config.all_kwargs()})


def launches_here() -> bool:
    """True if the active driver's kernels are keyed as ours are, NVIDIA's and AMD's; one that only compiles launches nothing."""
    driver = triton.runtime.driver.active
    return not getattr(driver, "compile_only", False) and driver.get_current_target().backend in ("cuda", "hip")


def global_checks(jit: JITFunction) -> dict[str, object] | None:
    """Names for the launch text that watch the module constants, and the knobs, that a kernel was compiled with.

    None if a constant has changed already, so that stock Triton raises its error. The launch function compares by
    identity: these are constants, so a new value is a new object.
    """
    if any(scope.get(name) != value for (name, _), (value, scope) in jit.used_global_vals.items()):
        return None
    watched = [(scope, name) for (name, _), (_, scope) in jit.used_global_vals.items()]
    names: dict[str, object] = {}
    for i, (scope, name) in enumerate([*watched, *compat.watched_knobs()]):
        names |= {f"_globals_{i}": scope, f"_global_name_{i}": name, f"_global_{i}": scope.get(name)}
    return names


_listening: list[bool] = []
_compile_ms: dict[str, float] = {}


def count_compiles() -> None:
    """Count Triton's compilations in `stats`, from the first call on."""
    if not _listening:
        _listening.append(True)
        compat.chain_compile_listener(_compiled)


def _compiled(found_in_cache: bool, key: str, ms: float) -> None:
    stats.count("load" if found_in_cache else "compile")
    if not found_in_cache:
        _compile_ms[key] = ms


def compile_ms(kernel: CompiledKernel) -> float | None:
    """How long compiling it took this process; None if it did not, or nobody counted."""
    return _compile_ms.get(kernel.hash)
