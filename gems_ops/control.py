"""Switching operators on and off, and saying which implementation serves a call."""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gems_ops import register
from gems_ops.op import Declined, Op, all_ops, find
from gems_ops.variants import Form, forms
from gems_runtime import device, native_status, toolchain
from gems_runtime.errors import UsageError

# What is switched on now, innermost scope last: (operators, log). Process-wide, because backward runs on autograd's
# own threads.
_scopes: list[tuple[tuple[Op, ...], Callable[[str], None] | None]] = []


def _named(names: Iterable[str]) -> set[str]:
    """The schema names that user-given names mean. Unknown names are an error: a typo must not silently do nothing."""
    out: set[str] = set()
    for name in names:
        found = find(name)
        if not found:
            raise UsageError(f"no operator is called {name!r}; flag_gems.all_registered_ops() lists them")
        out |= {o.name for o in found}
    return out


def _selection(include: Iterable[str] | None, exclude: Iterable[str] | None) -> tuple[Op, ...]:
    wanted = _named(include) if include is not None else None
    unwanted = _named(exclude or ())
    return tuple(o for o in all_ops() if (wanted is None or o.name in wanted) and o.name not in unwanted)


def _apply() -> None:
    ops, log = _scopes[-1] if _scopes else ((), None)
    register.install(ops, log)


def _logger(record: bool, once: bool, path: str | Path | None) -> Callable[[str], None] | None:
    """Writes one line per decision of a router to `path` (default: ./gems_ops.log); `once` drops repeated lines."""
    if not record:
        return None
    file, seen = Path(path or "gems_ops.log"), set()

    def write(line: str) -> None:
        if not (once and line in seen):
            seen.add(line)
            with file.open("a") as f:
                f.write(line + "\n")

    return write


def enable(
    unused: Iterable[str] | None = None, record: bool = False, once: bool = False, path: str | Path | None = None
) -> None:
    """Serve every declared operator but `unused` with our kernels, in the whole process, until `disable()`.

    Names may be schema names ("aten::mm"), ATen base names ("add": all its overloads) or function names. Calling it
    again replaces the earlier choice. `record` writes which operators were reached to `path`.
    """
    _scopes[:1] = [(_selection(None, unused), _logger(record, once, path))]
    _apply()
    _settle_once()


@functools.cache
def _settle_once() -> None:
    """What one of the first calls would else wait for; nothing here touches a device.

    Garbage: the objects of the declarations make Python collect it soon, 58 ms of a first call of 111 (host of an H200,
    Python 3.12, November 2026). The native module, and what is remembered of the compiler.
    """
    gc.collect()
    if not device.interpreted():
        native_status()
        toolchain.recall()


def only_enable(
    include: Iterable[str], record: bool = False, once: bool = False, path: str | Path | None = None
) -> None:
    """As `enable()`, for the operators named in `include` alone."""
    _scopes[:1] = [(_selection(include, None), _logger(record, once, path))]
    _apply()


def disable() -> None:
    """Restore the native kernels."""
    _scopes.clear()
    _apply()


@contextlib.contextmanager
def use_gems(
    exclude: Iterable[str] | None = None,
    include: Iterable[str] | None = None,
    record: bool = False,
    once: bool = False,
    path: str | Path | None = None,
    *,
    extend: bool = False,
) -> Iterator[None]:
    """Serve operators with our kernels inside a `with` block; what was before is back after it, also on an exception.

    Blocks nest. The inner block's choice replaces the outer one's; with `extend` it is added to it. The switch is
    process-wide.
    """
    ops, log = _selection(include, exclude), _logger(record, once, path)
    if extend and _scopes:
        outer, outer_log = _scopes[-1]
        ops, log = tuple(dict.fromkeys(outer + ops)), log or outer_log
    scope = (ops, log)
    _scopes.append(scope)
    try:
        _apply()
        yield
    finally:
        if scope in _scopes:
            _scopes.remove(scope)
        _apply()


def all_registered_ops() -> list[str]:
    """Names of the declared operators, as functions are called: "add", "softmax", "rms_norm"."""
    return sorted({o.function_name for o in all_ops()})


def all_registered_keys() -> list[str]:
    """Every overload that `enable()` routes: "aten::add.Tensor", "aten::add_.Tensor", "aten::add.out", ..."""
    return sorted(f.name for o in all_ops() if o.name.startswith("aten::") for f in forms(o))


@dataclass(frozen=True)
class Explanation:
    """Who would serve one ATen call, and why."""

    overload: str
    served_by: str  # "gems" or "native"
    reason: str

    def __str__(self) -> str:
        return f"{self.overload}: {self.served_by} ({self.reason})"


class _Explain(TorchDispatchMode):
    """Notes, for every ATen call below autograd, what its router would decide; the call itself runs."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, Form] = {f.name: f for o in all_ops() for f in forms(o)}
        self.found: list[Explanation] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's own protocol
        self.found.append(explain_overload(self.forms.get(func._name), func._name, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def explain_overload(form: Form | None, name: str, args: tuple, kwargs: dict) -> Explanation:
    """Who would serve a call of one overload with these arguments."""
    if form is None:
        return Explanation(name, "native", "not declared")
    values = [kwargs.get(a.name, args[i] if i < len(args) else a.default_value) for i, a in enumerate(form.arguments)]
    outs = tuple(kwargs[a.name] for a in form.outputs)
    try:
        register.plan_call(form, tuple(values), outs)
    except Declined as reason:
        return Explanation(name, "native", str(reason))
    return Explanation(name, "gems", f"declared in {form.op.fn.__module__}")


def explain(op: Callable[..., object] | str, *args: object, **kwargs: object) -> list[Explanation]:
    """Run `op(*args, **kwargs)` and say for each ATen call it makes who would serve it with everything enabled.

    `op` is any callable or the name of a function of torch: `explain("softmax", x, -1)`.
    """
    if isinstance(op, str):
        name, op = op, getattr(torch, op, None) or getattr(torch.nn.functional, op, None)
        if op is None:
            raise UsageError(f"neither torch nor torch.nn.functional has a function {name!r}")
    mode = _Explain()
    with mode:
        op(*args, **kwargs)
    return mode.found
