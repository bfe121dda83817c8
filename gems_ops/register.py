"""Registers declared operators with ATen's dispatcher: one router per overload, in front of the captured native kernel.

A router builds a key from what it may look at (types, dtypes, shapes, strides, integers), asks its table what to do
with such a call, and does it. Everything that needs thought happens once per key, in `Route.decide`.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gems_ops import native, signature
from gems_ops.layout import INT32_EXTENT, extent, has_overlap, same_elements, touches
from gems_ops.op import Declined, Op, all_ops
from gems_ops.plan import Code, Plan, Planned
from gems_ops.routing import TABLE_LIMIT, native_router, state
from gems_ops.variants import Form, Kind, forms
from gems_runtime import aside, device
from gems_runtime.errors import UnsupportedOperator


# What ATen's kernels behind `Op.native` reach with a tensor that no Python kernel can be called with.
_COPIES = frozenset({"aten::_to_copy", "aten::copy_"})
_SHARES = "the result shares memory with an input"


@dataclass
class Counts:
    """What a router did. `reasons` counts decisions (not calls) by why they declined."""

    cells: array[int] = field(default_factory=lambda: array("q", (0, 0)))  # where routers count: served, declined
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def served(self) -> int:
        return self.cells[0]

    @property
    def declined(self) -> int:
        return self.cells[1]


_counts: dict[str, Counts] = {}
_routes: dict[str, Route] = {}
_lock = threading.RLock()


def counters() -> dict[str, Counts]:
    """Calls served and declined per overload (custom operators too), since the process began or `reset_counters()`."""
    return {name: c for name, c in _counts.items() if c.served or c.declined}


def counts_of(name: str) -> Counts:
    """The counter cell of one overload, made on first use."""
    return _counts.setdefault(name, Counts())


def reset_counters() -> None:
    """Set every counter to zero, in place: routers hold their cells."""
    for c in _counts.values():
        c.cells[:] = array("q", (0, 0))
        c.reasons.clear()


class Route:
    """The router of one overload at one backend key, from install to remove.

    A `guard` serves nothing: it keeps an operator that was not chosen from ATen's kernel, which fails while others are routed.
    """

    def __init__(self, form: Form, key: str, log: Callable[[str], None] | None = None, guard: bool = False) -> None:
        self.form, self.key, self.log, self.guard = form, key, log, guard
        self.counts = counts_of(form.name)
        self.table: dict[tuple, tuple[Callable | None, Callable]] = {}
        self.library: torch.library.Library | None = None

    def install(self) -> None:
        """Capture the native kernel and put the router in front of it."""
        overload = self.form.overload
        if not self.form.op.composite:
            refuse_composites(overload, self.key)
        self.native = native.Native(self.form, torch.library.get_kernel(overload, self.key))
        self.library = torch.library.Library("aten", "IMPL", self.key)

        def written_late(*args: object, **kwargs: object) -> object:
            # Most are never needed; writing 612 took 0.34 s of the 0.54 s of installing (EPYC at work on other things, Python 3.11,
            # November 2026).
            router.fallback = written = signature.router(self.form, self)
            return written(*args, **kwargs)

        # Kernels at a backend key do not look at the keyset; making Python's object of it takes 0.3 us a call.
        keyset = torch._C.DispatchKeySet(torch._C._parse_dispatch_key(self.key))
        router = native_router(
            overload._schema.arguments, self.form.op.keyed, self.decide_values, written_late, self.counts.cells, keyset
        )
        with warnings.catch_warnings():  # torch warns that a kernel is overridden: that is what we are here for
            warnings.simplefilter("ignore")
            name = overload._name.removeprefix("aten::")
            serving = router or signature.router(self.form, self)
            self.library.impl(name, serving, self.key, with_keyset=router is None, allow_override=True)

    def remove(self) -> None:
        """Restore the native kernel."""
        if self.library is not None:
            self.library._destroy()
            self.library = None

    def decide(self, key: tuple, args: tuple, outs: tuple) -> tuple[Callable | None, Callable]:
        """What the Python router shall do with calls of this key: (plan, native kernel)."""
        *decision, keeps = self.decision(args, outs)
        if keeps:
            if len(self.table) >= TABLE_LIMIT:
                self.table.clear()
            self.table[key] = tuple(decision)
        return tuple(decision)

    def decide_values(self, values: tuple) -> tuple[Callable | None, Callable, bool]:
        """`decision` for values in schema order, where outputs come last."""
        n = len(self.form.arguments)
        return self.decision(values[:n], values[n:])

    def decision(self, args: tuple, outs: tuple) -> tuple[Callable | None, Callable, bool]:
        """(plan, native kernel, whether that holds for later calls too); no plan means that native serves them."""
        if self.guard:
            return None, self.native.for_arguments(args), True
        if self.log is not None:
            self.log(f"GEMS {self.form.op.function_name.upper()}: {self.form.name}")
        if device.is_capturing():  # nothing may compile or tune now; the next call outside decides anew
            return None, self.native.call, False
        if aside.is_active():  # planning would import and compute for a call that is not the user's
            return None, self.native.for_arguments(args), False
        try:
            plan = plan_call(self.form, args, outs)
        except Declined as reason:
            self.counts.reasons[str(reason)] += 1
            plan = None
        return plan, self.native.for_arguments(args), True


@contextlib.contextmanager
def _stepping_aside() -> Iterator[None]:
    """This thread's calls go to the native kernels."""
    switch = state()
    before, switch.busy = switch.busy, True
    try:
        yield
    finally:
        switch.busy = before


aside.register(_stepping_aside)


def refuse_composites(overload: torch._ops.OpOverload, key: str) -> None:
    """Raise UnsupportedOperator for an overload whose decomposition, and with it autograd, a kernel would displace."""
    name = overload._name
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    if has(name, "CompositeImplicitAutograd") and not has(name, key):
        raise UnsupportedOperator(f"{name} is CompositeImplicitAutograd: override what it decomposes into instead")


def plan_call(form: Form, args: tuple, outs: tuple) -> Callable[..., object]:
    """A closure over nothing but decisions, that serves calls of this signature. Raises Declined with the reason."""
    op = form.op
    check_arguments(op, form, args)
    for out in outs:
        check_output(op, out)
    check_overlap(form, args, outs)
    written = args[:1] if form.kind is Kind.IN_PLACE else outs
    if op.plan is not None:
        # only plans of operators that have an in-place or out= form know these words
        words: dict[str, object] = {"in_place": True} if form.kind is Kind.IN_PLACE else {}
        if written:
            words["out"] = written[0] if len(written) == 1 else written
        plan = op.plan(*args, **words)
    else:
        plan = signature.adapter(form)
    if form.kind is not Kind.FUNCTIONAL:
        plan = _checking_overlap(form, args, outs, plan)
    return on_device_of((*args, *outs), plan)


def check_arguments(op: Op, form: Form, args: tuple) -> None:
    """Decline what no implementation is asked to take."""
    here = device.torch_device()
    for argument, value in zip(form.arguments, args, strict=True):
        allowed = op.argument_dtypes.get(argument.name, op.dtypes)
        for t in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(t, Tensor):
                _check_tensor(op, argument.name, t, allowed, here)
            elif str(argument.type) == "Tensor" and not (op.scalars and isinstance(t, (bool, int, float))):
                raise Declined(f"{argument.name} is a Python {type(t).__name__}")
            elif isinstance(t, torch.device) and t.type != here.type:
                raise Declined(f"device is {t}, kernels run on {here.type}")


def _check_tensor(op: Op, name: str, t: Tensor, allowed: frozenset[torch.dtype], here: torch.device) -> None:
    if type(t) not in signature.EXACT:
        raise Declined(f"{name} is a {type(t).__name__}, not a plain Tensor")
    if t.dtype not in allowed:
        raise Declined(f"{name} has dtype {t.dtype}")
    if t.device.type != here.type and not (op.scalars and t.device.type == "cpu" and t.dim() == 0):
        raise Declined(f"{name} is on {t.device}, kernels run on {here.type}")
    if t.numel() == 0 and name not in op.may_be_empty:
        raise Declined(f"{name} is empty")
    if t.is_neg():
        raise Declined(f"{name} has its neg bit set")
    if not op.wide and extent(t.shape, t.stride()) > INT32_EXTENT:
        raise Declined(f"{name} spans {extent(t.shape, t.stride())} elements, the kernel indexes {INT32_EXTENT}")


def check_output(op: Op, out: Tensor) -> None:
    """Decline an out= whose indices do not each have an element of their own, or that alone says a dtype we do not have."""
    if op.resizes_out:
        if out.dtype not in op.dtypes:
            raise Declined(f"out= has dtype {out.dtype}")
        if out.numel() == 0:
            return
    if type(out) not in signature.EXACT or out.device.type != device.torch_device().type:
        raise Declined(f"out= is a {type(out).__name__} on {out.device}")
    if out.numel() == 0 or has_overlap(out.shape, out.stride()):
        raise Declined("out= is empty or overlaps itself")


def pairs(form: Form, args: tuple, outs: tuple) -> Iterator[tuple[Code, Tensor, Code, Tensor]]:
    """Every tensor that a call writes with every one that it reads beside it, each after its name in `plan_values`."""
    named = list(zip(plan_values(form), (*args, *outs), strict=True))
    targets, rest = (named[:1], named[1:]) if form.kind is Kind.IN_PLACE else (named[len(args) :], named[: len(args)])
    read = [(name, v) for name, v in rest if isinstance(v, Tensor)]
    read += [(f"{name}[{i}]", t) for name, v in rest if isinstance(v, (list, tuple)) for i, t in enumerate(v)]
    for name, target in targets:
        yield from ((Code(name), target, Code(n), t) for n, t in read if isinstance(t, Tensor) and t.device == target.device)


def plan_values(form: Form) -> list[str]:
    """Names for what a router passes to a plan."""
    return [f"value{i}" for i in range(len(form.arguments) + len(form.outputs))]


def check_overlap(form: Form, args: tuple, outs: tuple) -> None:
    """Decline a call that writes memory it reads, unless element for element where the operator allows that."""
    if form.kind is Kind.FUNCTIONAL:
        return
    if form.kind is Kind.IN_PLACE and has_overlap(args[0].shape, args[0].stride()):
        raise Declined("self overlaps itself")
    for _, target, _, t in pairs(form, args, outs):
        if touches(t, target) and not (form.op.aliasing and same_elements(t, target)):
            raise Declined(_SHARES)


def _checking_overlap(form: Form, args: tuple, outs: tuple, planned: Planned) -> Planned:
    """The key holds no addresses, so their distances are looked at in each call."""
    names = plan_values(form)
    plan, found = Plan(*names), False
    for target_name, target, name, t in pairs(form, args, outs):
        found = True
        same = form.op.aliasing and (t.shape, t.stride(), t.dtype) == (target.shape, target.stride(), target.dtype)
        plan.do(
            "if {low} < {t}.data_ptr() - {target}.data_ptr() < {high}"
            + (" and {t}.data_ptr() != {target}.data_ptr()" if same else "") + ": raise {declined}({reason})",
            low=-_bytes(t), high=_bytes(target), t=name, target=target_name, declined=Declined, reason=_SHARES,
        )  # fmt: skip
    return plan.build(f"{plan.bind(planned)}({', '.join(names)})") if found else planned


def _bytes(t: Tensor) -> int:
    return extent(t.shape, t.stride()) * t.element_size()


def on_device_of(args: tuple, plan: Callable[..., object]) -> Callable[..., object]:
    """On a machine with several GPUs, run the plan with the tensors' device current."""
    asked = [v for v in args if isinstance(v, torch.device)]  # where a result shall be, whatever it is made like
    index = next((v.index for v in asked or (t.device for t in args if isinstance(t, Tensor)) if v.type == "cuda"), None)
    if index is None or device.count() < 2:
        return plan

    def guarded(*values: object) -> object:
        with device.using(index):
            return plan(*values)

    return guarded


def installed() -> frozenset[str]:
    """Names of the overloads that are routed now."""
    return frozenset(name for name, route in _routes.items() if not route.guard)


def is_routed(form: Form, key: str) -> bool:
    """False for an overload that this torch computes on such a device from other operators."""
    return not form.op.needs_native or torch._C._dispatch_has_kernel_for_dispatch_key(form.name, key)


def install(ops: Iterable[Op], log: Callable[[str], None] | None = None) -> None:
    """Make exactly these operators the routed ones: install what is missing, remove the rest."""
    every = [form for op in ops if op.name.startswith("aten::") for form in forms(op)]
    key = device.dispatch_key() if every else ""
    wanted = {form.name: (form, False) for form in every if is_routed(form, key)}
    guards = [form for op in all_ops() if op.native for form in forms(op)] if _COPIES & wanted.keys() else []
    wanted = {**{form.name: (form, True) for form in guards if is_routed(form, key)}, **wanted}
    with _lock:
        for name in [n for n, r in _routes.items() if n not in wanted or (r.key, r.log, r.guard) != (key, log, wanted[n][1])]:
            _routes.pop(name).remove()
        for name, (form, guard) in wanted.items():
            if name not in _routes:
                route = Route(form, key, log, guard)
                route.install()
                _routes[name] = route
